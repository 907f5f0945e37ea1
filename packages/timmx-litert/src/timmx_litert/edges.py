"""The inputs and outputs of a `.tflite` as its first graph states them."""

from __future__ import annotations

from typing import Any

from timmx_litert.model_file import names_of


def edges(model: Any) -> dict[str, list[dict[str, Any]]]:
    """`inputs` and `outputs`, by the names of the first signature where there is one.

    Args:
        model: the file's `schema_py_generated.Model`.
    """
    graph = model.Subgraphs(0)
    sides = {
        "inputs": [(graph.Inputs(index), "") for index in range(graph.InputsLength())],
        "outputs": [(graph.Outputs(index), "") for index in range(graph.OutputsLength())],
    }
    if model.SignatureDefsLength() == 1 and model.SignatureDefs(0).SubgraphIndex() == 0:
        signature = model.SignatureDefs(0)
        sides = {
            "inputs": [_named(signature.Inputs(index)) for index in range(signature.InputsLength())],
            "outputs": [_named(signature.Outputs(index)) for index in range(signature.OutputsLength())],
        }
    return {
        side: [_edge(graph.Tensors(index), name) for index, name in found] for side, found in sides.items()
    }


def _named(entry: Any) -> tuple[int, str]:
    return entry.TensorIndex(), entry.Name().decode()


def _edge(tensor: Any, name: str) -> dict[str, Any]:
    from ai_edge_litert import schema_py_generated as schema

    if tensor.ShapeSignatureLength():  # which has -1 for an open size
        shape = [tensor.ShapeSignature(axis) for axis in range(tensor.ShapeSignatureLength())]
    else:
        shape = [tensor.Shape(axis) for axis in range(tensor.ShapeLength())]
    edge = {
        "name": name or (tensor.Name() or b"?").decode(),
        "shape": ["?" if size < 0 else size for size in shape],
        "dtype": names_of(schema.TensorType).get(tensor.Type(), "other").lower(),
    }
    stored = tensor.Quantization()
    if stored is not None and stored.ScaleLength() == 1:
        edge["quantization"] = {"scale": stored.Scale(0), "zero_point": stored.ZeroPoint(0)}
    return edge

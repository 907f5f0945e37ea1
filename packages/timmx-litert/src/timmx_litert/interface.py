"""The inputs and outputs of a `.tflite`, read from its first graph."""

from __future__ import annotations

from typing import Any

from timmx_litert.model_file import at_most, names_of


def read_interface(model: Any) -> dict[str, list[dict[str, Any]]]:
    """`inputs` and `outputs`, with the names of the signature if there is exactly one.

    Args:
        model: the file's `schema_py_generated.Model`.
    """
    graph = model.Subgraphs(0)
    sides = {
        "inputs": [(graph.Inputs(index), "") for index in range(_inputs_or_outputs(graph.InputsLength()))],
        "outputs": [(graph.Outputs(index), "") for index in range(_inputs_or_outputs(graph.OutputsLength()))],
    }
    if model.SignatureDefsLength() == 1 and model.SignatureDefs(0).SubgraphIndex() == 0:
        signature = model.SignatureDefs(0)
        sides = {
            "inputs": [
                _index_and_name(signature.Inputs(index))
                for index in range(_inputs_or_outputs(signature.InputsLength()))
            ],
            "outputs": [
                _index_and_name(signature.Outputs(index))
                for index in range(_inputs_or_outputs(signature.OutputsLength()))
            ],
        }
    return {
        side: [_describe(graph.Tensors(index), name) for index, name in tensors]
        for side, tensors in sides.items()
    }


def _inputs_or_outputs(count: int) -> int:
    return at_most(count, 1000, "inputs or outputs")


def _index_and_name(entry: Any) -> tuple[int, str]:
    return entry.TensorIndex(), entry.Name().decode()


def _describe(tensor: Any, name: str) -> dict[str, Any]:
    from ai_edge_litert import schema_py_generated as schema

    if tensor.ShapeSignatureLength():  # -1 stands for a dynamic size
        shape = [tensor.ShapeSignature(axis) for axis in range(tensor.ShapeSignatureLength())]
    else:
        shape = [tensor.Shape(axis) for axis in range(tensor.ShapeLength())]
    description = {
        "name": name or (tensor.Name() or b"?").decode(),
        "shape": ["?" if size < 0 else size for size in shape],
        "dtype": names_of(schema.TensorType).get(tensor.Type(), "other").lower(),
    }
    quantization = tensor.Quantization()
    if quantization is not None and quantization.ScaleLength() == 1:
        description["quantization"] = {
            "scale": quantization.Scale(0),
            "zero_point": quantization.ZeroPoint(0),
        }
    return description

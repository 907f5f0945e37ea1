"""Converts a captured model to an `openvino.Model` with OpenVINO's PyTorch front end."""

from __future__ import annotations

import contextlib
import re
from typing import TYPE_CHECKING

import openvino
import torch
from openvino import opset1
from openvino.frontend import FrontEndManager, GeneralFailure, OpConversionFailure, OpValidationFailure
from openvino.frontend.pytorch.fx_decoder import TorchFXPythonDecoder
from openvino.frontend.pytorch.torchdynamo.export_decompositions import ops_to_not_decompose
from openvino.passes import ConstantFolding, Manager
from openvino.preprocess import PrePostProcessor
from timmx.plugin import UnsupportedError, decompose, move_to_cpu
from torch.export.decomp_utils import CustomDecompTable

if TYPE_CHECKING:
    from timmx.plugin import ExportJob

_FAILURES = (RuntimeError, GeneralFailure, OpConversionFailure, OpValidationFailure)
"""What the front end raises."""

_NUMBERED = re.compile(r"\w+_\d+")
"""The name that OpenVINO gives to a node: its kind, and the number of nodes that the process has created."""


def convert(job: ExportJob) -> openvino.Model:
    """Convert the captured model to a float32 graph, from `input` (N, C, H, W) to `job.output_names`.

    This is what `openvino.convert_model` does, but with `decompose`, which takes a fraction of the time, with the
    sizes of the input, which `convert_model` forgets (2026.4), and without its telemetry. Nor are operations fused:
    the runtime does that when it compiles the file, as fast, and only operations as the model has them can be verified
    one by one (a levit_128s, whose attention was fused, was refused).

    Raises:
        UnsupportedError: the front end cannot translate an operation.
    """
    program = job.capture()
    job.progress("Converting to OpenVINO")
    program = move_to_cpu(program)
    with torch.no_grad():
        program = decompose(program, _decompositions())
    front_end = FrontEndManager().load_by_framework("pytorch")
    decoder = TorchFXPythonDecoder(program.module(check_guards=False), dynamic_shapes=False)
    try:
        model = front_end.convert(front_end.load(decoder))
    except _FAILURES as exc:
        raise UnsupportedError(
            f"OpenVINO's PyTorch front end cannot convert this model: {_reason(exc)}",
            hint="use timmx onnx, whose files OpenVINO reads too",
        ) from exc
    folding = Manager()
    folding.register_pass(ConstantFolding())
    folding.run_passes(model)
    _drop_copies_of_weights(model)
    name_nodes(model, job.output_names)
    return model


def take_bytes(model: openvino.Model) -> openvino.Model:
    """Change the input from float32 (N, C, H, W) with pixels in [0, 1] to uint8 (N, H, W, C)."""
    steps = PrePostProcessor(model)
    entry = steps.input()
    entry.tensor().set_element_type(openvino.Type.u8).set_layout(openvino.Layout("NHWC"))
    entry.model().set_layout(openvino.Layout("NCHW"))
    entry.preprocess().convert_element_type(openvino.Type.f32).scale(255.0)
    return steps.build()


def _decompositions() -> CustomDecompTable:
    """What the front end wants to be decomposed."""
    table = CustomDecompTable()
    for operation in ops_to_not_decompose():
        with contextlib.suppress(KeyError):  # of operators that torch keeps anyway
            table.pop(operation)
    return table


def _drop_copies_of_weights(model: openvino.Model) -> None:
    """Let matrix products broadcast one weight, in place of a constant with a copy of it for each matrix.

    torch decomposes a product of several matrices with one weight to `bmm`, for which it expands the weight: the file
    of a halonet_h1 is twice as large. The numbers are the same.
    """
    for node in model.get_ordered_ops():
        if node.get_type_name() != "MatMul" or node.input_value(1).get_node().get_type_name() != "Constant":
            continue
        copies = node.input_value(1).get_node().data
        first = copies[(0,) * (copies.ndim - 2)]
        left = node.get_input_partial_shape(0).to_string()[1:-1].split(",")
        alike = copies.ndim == len(left) > 2 and left[:-2] == list(map(str, copies.shape[:-2]))
        if alike and (copies == first).all():
            node.input(1).replace_source_output(opset1.constant(first).output(0))
    model.validate_nodes_and_infer_types()


def _reason(exc: Exception) -> str:
    """The summary of OpenVINO's error, on one line; what comes before it names files of its source."""
    summary = str(exc).rpartition("Summary:")[2]
    return " ".join(line.strip(" -") for line in summary.splitlines() if line.strip())[:400].rstrip(".")


def name_nodes(model: openvino.Model, outputs: tuple[str, ...]) -> None:
    """Name the input and outputs, and number the nodes that OpenVINO has numbered in the order of its process.

    The names of inner tensors are removed: they are numbers too, and nobody fetches them.
    """
    model.set_friendly_name("model")  # otherwise it is numbered too
    for index, node in enumerate(model.get_ordered_ops()):
        kind = node.get_type_name()
        if kind == "Constant" or _NUMBERED.fullmatch(node.get_friendly_name()):
            node.set_friendly_name(f"{kind}_{index}")
        for output in node.outputs():
            output.get_tensor().set_names(set())
    (entry,) = model.inputs
    entry.get_tensor().set_names({"input"})
    entry.node.set_friendly_name("input")
    for output, name in zip(model.outputs, outputs, strict=True):
        output.get_tensor().set_names({name})
        output.node.set_friendly_name(name)

"""Reads an `openvino.Model`, and finds the values that depend on its input."""

from __future__ import annotations

from functools import cache
from typing import TYPE_CHECKING

import openvino
from timmx.plugin import ArtifactError, RuntimeUnavailable

from timmx_openvino.ir import WEIGHTS_SUFFIX

if TYPE_CHECKING:
    from pathlib import Path


@cache
def shared_core() -> openvino.Core:
    """The one `Core` of this process, which is never destroyed.

    For the CPU, each sets a stack for signals of its own. If two are destroyed in the order of their creation, the one
    of the first stays set although it is freed, and the next signal, such as Ctrl-C, crashes the process (OpenVINO
    2026.4).
    """
    return openvino.Core()


def read_model(path: Path) -> openvino.Model:
    """Read the `.xml` and its `.bin`.

    Raises:
        ArtifactError: OpenVINO refuses them.
        RuntimeUnavailable: they have an operation that this OpenVINO does not have.
    """
    try:
        return shared_core().read_model(path, path.with_suffix(WEIGHTS_SUFFIX))
    except RuntimeError as exc:
        reason = one_line(exc)
        if reason.endswith("unsupported opset:"):  # what OpenVINO says of a layer without a type
            reason = "a connection names a layer that it does not have"
        elif "Cannot create" in reason:
            raise RuntimeUnavailable(
                f"OpenVINO {openvino.__version__} does not have an operation of {path}: {reason}",
                hint="uv pip install --upgrade openvino",
            ) from exc
        raise ArtifactError(
            f"OpenVINO cannot read {path}, which is damaged: {reason}", hint="export it again"
        ) from exc


def one_line(exc: Exception) -> str:
    """OpenVINO's message without the lines that name files of its source."""
    lines = [line.strip() for line in str(exc).splitlines()]
    kept = [line for line in lines if line and not line.startswith(("Exception from", "Check '"))]
    return " ".join(kept or lines)[:300].rstrip(".")


def varying_nodes(model: openvino.Model) -> list[openvino.Node]:
    """The operations that depend on the input, in order of execution; the others compute constants."""
    varying = {port.node for port in model.inputs}
    found = []
    for node in model.get_ordered_ops():
        if any(port.get_source_output().get_node() in varying for port in node.inputs()):
            varying.add(node)
            if node.get_type_name() != "Result":
                found.append(node)
    return found


def values(model: openvino.Model) -> dict[str, openvino.Output]:
    """The outputs of `varying_nodes` by a name: that of the node, with the number of the output if it has several."""
    found = {}
    for node in varying_nodes(model):
        ports = node.outputs()
        for index, port in enumerate(ports):
            name = node.get_friendly_name()
            found[f"{name}:{index}" if len(ports) > 1 else name] = port
    return found

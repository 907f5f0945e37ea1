"""Value ranges of the activations of a float32 graph, observed on calibration inputs."""

from __future__ import annotations

from typing import TYPE_CHECKING

from timmx.plugin import CalibrationMethod, Observed

from timmx_onnx.running import graph_session

if TYPE_CHECKING:
    from collections.abc import Sequence

    import onnx_ir as ir
    from timmx.plugin import Calibration

_BITS = 8


def observe(
    model: ir.Model, names: Sequence[str], calibration: Calibration, method: CalibrationMethod
) -> dict[str, tuple[float, float]]:
    """The range (low, high) of each value, by name.

    Args:
        model: float32; restored afterwards.
        names: the names of values in its main graph.
        calibration: iterated twice unless the method is minmax.
        method: how ranges are chosen from the observed values.
    """
    graph = model.graph
    entry, outputs = str(graph.inputs[0].name), list(graph.outputs)
    values = {str(value.name): value for node in graph for value in node.outputs}
    inner = [name for name in names if name != entry]
    try:
        graph.outputs.extend(values[name] for name in inner if values[name] not in outputs)
        session = graph_session(model)
    finally:
        graph.outputs[:] = outputs
    size = session.get_inputs()[0].shape[0]
    batch = size if isinstance(size, int) else 1
    observed = {name: Observed() for name in names}
    for second_pass in (False, True) if method is not CalibrationMethod.MINMAX else (False,):
        for array in calibration.batches(batch):
            arrays = dict(zip(inner, session.run(inner, {entry: array}), strict=True)) | {entry: array}
            for name, statistics in observed.items():
                (statistics.count if second_pass else statistics.widen)(arrays[name])
    return {name: statistics.range(method, _BITS) for name, statistics in observed.items()}

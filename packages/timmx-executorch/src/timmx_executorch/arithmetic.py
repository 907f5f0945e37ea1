"""Gives a lowered program the arithmetic of a mode, and says what was done."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
from timmx.plugin import (
    Calibration,
    CalibrationMethod,
    IntegerScheme,
    LayerKind,
    LayerState,
    Observed,
    Precision,
    exempt_layers,
    float32_nodes,
    moving_nodes,
    plan_notes,
    worst_db,
)

from timmx_executorch.core_ml_float32 import keep_float32
from timmx_executorch.half import to_half
from timmx_executorch.matrices import as_matrices
from timmx_executorch.options import Delegate, Mode
from timmx_executorch.quantize import (
    LayerQuantizer,
    StaticQuantizer,
    entry_name,
    inner_outputs,
    layers,
    quantize,
    run,
    trace,
    with_sums,
)
from timmx_executorch.simulation import StoredWeights

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

    from timmx.plugin import ExportJob, QuantizationPlan

    from timmx_executorch.options import ExecuTorchOptions

_SAMPLES = 8
"""The inputs by which layers with 8-bit weights are judged, of those of the verification."""
_MOST_LOSS_DB = 1.0
"""What sums, products and averages in integers may cost compared with only the layers."""


@dataclass
class Arithmetic:
    """A program in the arithmetic of a mode.

    Attributes:
        program: ready for ExecuTorch.
        facts: for the metadata.
        notes: for the user.
    """

    program: torch.export.ExportedProgram
    facts: dict[str, Any] = field(default_factory=dict)
    notes: list[str] = field(default_factory=list)


def apply(
    job: ExportJob,
    options: ExecuTorchOptions,
    program: torch.export.ExportedProgram,
    calibration: Calibration | None,
    batch_max: int | None,
) -> Arithmetic:
    """Convert a float32 program to `options.mode`.

    Args:
        program: from `lower`.
        calibration: inputs for `--mode int8`.
        batch_max: the largest batch size, if it is dynamic.
    """
    example = job.example_input.cpu()
    if options.mode is Mode.FP32:
        return Arithmetic(program)
    if options.mode is Mode.FP16:
        chosen = float32_nodes(program, job.repair) if job.repair else frozenset[str]()
        float32 = chosen | moving_nodes(program, chosen)
        if options.delegate is Delegate.COREML:  # coremltools converts to float16 itself
            keep_float32(program, float32)
            result = Arithmetic(program)
        else:
            result = Arithmetic(trace(to_half(program, float32), example, batch_max))
        if chosen:
            result.facts["float32_operations"] = len(chosen)
            result.notes.append(
                f"{len(chosen)} operations compute in float32: in float16 they lose too much accuracy."
            )
        return result
    if options.mode is Mode.INT8:
        assert calibration is not None
        return _integers(job, options, program, calibration, batch_max)
    return _stored(job, options.mode, program, batch_max)


def _stored(
    job: ExportJob, mode: Mode, program: torch.export.ExportedProgram, batch_max: int | None
) -> Arithmetic:
    """8-bit weights, in as many layers as keep the accuracy."""
    example, samples = job.example_input.cpu(), job.samples(_SAMPLES)
    if mode is Mode.WEIGHT_INT8:
        program = trace(as_matrices(program), example, batch_max)
    activations = mode is Mode.DYNAMIC_INT8
    names = [
        layer.node
        for layer in layers(program)
        if (layer.dynamic if activations else layer.kind is LayerKind.LINEAR)
    ]
    module = program.module()
    exact = _outputs(module, samples, len(example))
    job.progress("Quantizing the weights")
    stored = StoredWeights(module, activations=activations)
    kept, _ = exempt_layers(
        names,
        lambda some: worst_db(exact, _outputs(stored.of(set(names) - some), samples, len(example))),
        job.progress,
    )
    quantizer = LayerQuantizer(set(names) - kept, activations=activations)
    result = Arithmetic(trace(quantize(program, quantizer, example), example, batch_max))
    result.facts["stored_operations"] = len(names) - len(kept)
    if kept:
        many = len(kept) > 1
        result.notes.append(
            f"{len(kept)} layer{'s keep' if many else ' keeps'} float weights: 8 bits cost too much accuracy there."
        )
    return result


def _integers(
    job: ExportJob,
    options: ExecuTorchOptions,
    program: torch.export.ExportedProgram,
    calibration: Calibration,
    batch_max: int | None,
) -> Arithmetic:
    """Integers in the layers that the core's plan chooses, and in the sums of their results."""
    example = job.example_input.cpu()
    method = options.calibration_method or CalibrationMethod.MINMAX
    planner = job.quantization_planner(calibration, IntegerScheme(method=method))
    found, floats = layers(program), inner_outputs(program)
    names = {
        layer.node: name
        for layer, name in zip(found, planner.match([layer.weight for layer in found]), strict=True)
        if name is not None and layer.node not in floats
    }
    job.progress("Choosing layers for integers")
    low, high = job.metadata(Precision.FP32).input.value_range
    ranges = _observe(program, calibration, method, len(example)) | {entry_name(program): (low, high)}
    samples = next(iter(calibration.batches(max(_SAMPLES, len(example)))))
    exact = _outputs(program.module(), samples, len(example))

    def build(
        plan: QuantizationPlan,
    ) -> tuple[torch.fx.GraphModule, Callable[[np.ndarray], Sequence[np.ndarray]]]:
        integers = [node for node, name in names.items() if name not in plan.kept]
        alone, summed = (
            quantize(program, StaticQuantizer(chosen, ranges), example)
            for chosen in (frozenset(integers), with_sums(program, integers))
        )
        loss = _ratio(exact, alone, samples, len(example)) - _ratio(exact, summed, samples, len(example))
        module = summed if loss <= _MOST_LOSS_DB else alone
        return module, lambda batch: run(module, batch)

    wish = job.wish(Precision.INT8, options.max_drop)
    plan, module, measured = planner.choose(list(names.values()), wish, build)
    states = {name: LayerState.INTEGER for name in names.values() if name not in plan.kept}
    shown = planner.facts(plan, measured, states)
    result = Arithmetic(trace(module, example, batch_max))
    result.facts |= {
        "calibration": calibration.origin,
        "calibration_method": str(method),
        "quantization_plan": shown,
    }
    result.notes += plan_notes(shown)
    return result


class _Observer(torch.fx.Interpreter):
    """Runs a module and passes each float value to a function."""

    def __init__(self, module: torch.fx.GraphModule, observe: Callable[[str, np.ndarray], None]) -> None:
        super().__init__(module)
        self._observe = observe

    def run_node(self, n: torch.fx.Node) -> Any:
        value = super().run_node(n)
        if n.op == "call_function" and isinstance(value, torch.Tensor) and value.dtype is torch.float32:
            self._observe(n.name, value.numpy())
        return value


def _observe(
    program: torch.export.ExportedProgram, calibration: Calibration, method: CalibrationMethod, size: int
) -> dict[str, tuple[float, float]]:
    """The range (low, high) of the value of each node."""
    observed: dict[str, Observed] = {}
    module = program.module()
    for second_pass in (False, True) if method is not CalibrationMethod.MINMAX else (False,):

        def add(name: str, values: np.ndarray, second_pass: bool = second_pass) -> None:
            statistics = observed.setdefault(name, Observed())
            (statistics.count if second_pass else statistics.widen)(values)

        observer = _Observer(module, add)
        with torch.no_grad():
            for batch in calibration.batches(size):
                observer.run(torch.from_numpy(batch))
    return {name: statistics.range(method, 8) for name, statistics in observed.items()}


def _outputs(module: Callable[[torch.Tensor], Any], inputs: np.ndarray, size: int) -> list[np.ndarray]:
    """Each output for all inputs, in batches of a size; inputs are repeated to fill the last one."""
    count = len(inputs)
    parts = [
        run(module, inputs[[index % count for index in range(start, start + size)]])
        for start in range(0, count, size)
    ]
    return [np.concatenate(arrays)[:count] for arrays in zip(*parts, strict=True)]


def _ratio(
    exact: Sequence[np.ndarray], module: Callable[[torch.Tensor], Any], inputs: np.ndarray, size: int
) -> float:
    return worst_db(exact, _outputs(module, inputs, size))

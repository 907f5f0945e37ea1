"""Judges an artifact below its floor by what the arithmetic can resolve (docs/verification.md).

Some networks amplify rounding: PyTorch's own float32 then differs from float64 by more than the floor allows. The
figures are measured only when an artifact is about to be refused, on few inputs.
"""

from __future__ import annotations

import math
import time
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Protocol

import numpy as np

from timmx.base import memory_bytes, reporter, size_text, worst_db
from timmx.contract import Precision
from timmx.errors import TimmxError
from timmx.inputs import LEAST_INPUTS, run_batches
from timmx.verification.comparison import Status

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable

    import torch

    from timmx.contract import Runner
    from timmx.verification.comparison import Reference, VerificationReport
    from timmx.verification.operations import OperationReport

TOLERANCE_DB = 6.0
"""An fp32 artifact this close to what float32 can resolve is as exact as float32 can be."""

LEAST_RESOLVABLE_DB = 30.0
"""Below this, the whole output says too little, and operations are compared one by one."""

_MOST_SECONDS = 60.0
"""Wall time of one measurement. A float64 run takes 2 to 4 times as long as a float32 run on a CPU."""

_FLOAT64_FACTOR = 4.0
_MOST_VALUES_BYTES = 2**31
"""Of all intermediate values of one batch in float32."""

_MOST_NUDGES = 16
"""Runs with the last bit of the inputs changed. One run of a model that amplifies rounding depends on chance: a
levit_128s has 53 dB, and with other last bits 28 to 51; a hardcorenas_f 61, and 54 to 69."""

_MOST_BATCHES = 4
"""A weight of an input that is zero in one image may show in another, or in the same pixels in another order."""

_HALF_TYPES = {Precision.FP16: "float16", Precision.BF16: "bfloat16"}


class Model(Protocol):
    """The PyTorch model of an artifact, as far as its arithmetic is measured."""

    @property
    def device(self) -> str:
        """torch's name of the device of both modules."""

    def weights(self) -> Iterable[torch.Tensor]:
        """The weights that are in memory."""

    def original(self) -> torch.nn.Module:
        """The model before its preparation, in float32."""

    def graph(self, batch_size: int) -> torch.fx.GraphModule:
        """The prepared model as a graph for a batch of this size."""


class Skipped(Exception):  # noqa: N818 - it is not an error
    """A measurement is left out; the text says why."""


@dataclass(frozen=True, kw_only=True)
class Judgment:
    """A report after the arithmetic was measured.

    Attributes:
        report: with the figures, and the status that follows from them.
        cause: `precision`, `conversion` or `rounding` if the artifact fails or is unproven because of it; empty if
            unknown.
    """

    report: VerificationReport
    cause: str = ""

    @property
    def hint(self) -> str:
        """What to do instead of changing the floor, to be continued."""
        return {
            "precision": "use fp32, or another precision, ",
            "conversion": "report this model to timmx, use another format, ",
            "rounding": "",
        }.get(self.cause, "try another precision, ")


def below_floor(report: VerificationReport) -> bool:
    """Whether the artifact failed only because its ratio is below its floor."""
    return (
        report.status is Status.FAILED
        and not report.disagrees
        and report.snr_db is not None
        and not any(item.vacuous for item in report.outputs)
    )


def judge_arithmetic(
    report: VerificationReport,
    runner: Runner,
    reference: Reference,
    model: Model | None,
    *,
    precision: Precision,
    fixed_floor: bool,
) -> Judgment:
    """Judge an artifact that is below its floor by what the arithmetic can resolve.

    Reports of other artifacts are returned as they are; with `--verbose`, those of fp32 ones with the figures.

    Args:
        report: of `verify`.
        runner: the artifact, still open.
        reference: the original model's float32 outputs.
        model: the original model; None if there is none, and the report stays as it is.
        precision: the artifact's precision.
        fixed_floor: the user set the floor, which then applies whatever the arithmetic can resolve.
    """
    if model is None:
        return Judgment(report=report)
    if not below_floor(report) or not math.isfinite(report.snr_db or 0.0):
        if reporter().verbose and report.status is Status.VERIFIED and precision is Precision.FP32:
            report = _with_figures(report, runner, reference, model)
        return Judgment(report=report)
    if precision is not Precision.FP32 and precision not in _HALF_TYPES:
        return Judgment(report=report)
    reporter().step("Measuring what the arithmetic can resolve")
    try:
        report = measure(report, runner, reference, model, precision)
    except Skipped as exc:
        return Judgment(
            report=_because(report, f"what {_name(precision)} can resolve was not measured: {exc}")
        )
    resolvable, own = report.resolvable_db, report.exact_db
    assert resolvable is not None
    assert own is not None
    close = own >= resolvable - TOLERANCE_DB
    figures = (
        f"against float64 it has {own:.1f} dB, where PyTorch's own {_name(precision)} has {resolvable:.1f} dB"
    )
    if precision is not Precision.FP32:
        if close:
            text = f"the precision is the cause, not the conversion: {figures}"
            return Judgment(report=_because(report, text), cause="precision")
        return _located(_because(report, figures), runner, reference, model, precision)
    if fixed_floor:
        return Judgment(report=_because(report, figures), cause="rounding" if close else "")
    if resolvable >= LEAST_RESOLVABLE_DB:
        if close:
            return Judgment(report=replace(report, status=Status.VERIFIED, reason=""))
        return _located(_because(report, figures), runner, reference, model, precision)
    amplifies = f"the model amplifies rounding: PyTorch's own float32 has {resolvable:.1f} dB against float64"
    reporter().step("Comparing operation by operation")
    try:
        operations = compare_by_operation(runner, reference, model, precision)
    except Skipped as exc:
        status = Status.UNPROVEN if close else Status.FAILED
        reason = f"{amplifies}, and operations were not compared one by one: {exc}"
        return Judgment(report=replace(report, status=status, reason=reason), cause="rounding")
    report = with_operations(report, operations)
    if operations.exact:
        return Judgment(report=replace(report, status=Status.VERIFIED, reason="operation by operation"))
    return Judgment(report=_because(report, f"{amplifies}, but {blame(operations)}"), cause="conversion")


def _with_figures(
    report: VerificationReport, runner: Runner, reference: Reference, model: Model
) -> VerificationReport:
    try:
        return measure(report, runner, reference, model, Precision.FP32)
    except Skipped as exc:
        reporter().detail(f"What float32 can resolve was not measured: {exc}.")
        return report


def measure(
    report: VerificationReport, runner: Runner, reference: Reference, model: Model, precision: Precision
) -> VerificationReport:
    """The report with `resolvable_db` and `exact_db`, on the inputs on which the artifact differs most.

    Raises:
        Skipped: it would take too much time or memory, or the model does not run in float64.
    """
    _check_memory(model)
    try:
        module = model.original()
    except TimmxError as exc:
        raise Skipped(exc.message) from exc
    indices = list(report.noisiest[: _count(module, reference, model.device)])
    samples = reference.samples.take(indices)
    exact = _exact_outputs(module, samples, model.device)
    if precision in _HALF_TYPES:
        own = _rounded_outputs(module, samples, model.device, _HALF_TYPES[precision])
    else:
        own = [array[indices] for array in reference.outputs]
    try:
        outputs = run_batches(runner, samples, reference.names, _batch_size(runner))
    except TimmxError as exc:
        raise Skipped(exc.message) from exc
    resolvable_db = worst_db(exact, own)
    exact_db = worst_db(exact, [outputs[name] for name in reference.names])
    start, nudges = time.perf_counter(), 0
    while (
        precision is Precision.FP32
        and exact_db < resolvable_db - TOLERANCE_DB
        and nudges < _MOST_NUDGES
        and time.perf_counter() - start < _MOST_SECONDS
    ):
        nudged = _outputs(module, _nudged(samples, nudges), model.device)
        resolvable_db, nudges = min(resolvable_db, worst_db(exact, nudged)), nudges + 1
    return replace(report, resolvable_db=resolvable_db, exact_db=exact_db)


def _nudged(inputs: np.ndarray, seed: int) -> np.ndarray:
    """The inputs with each number replaced by the next larger or smaller one, at random."""
    infinity = inputs.dtype.type(np.inf)
    return np.nextafter(inputs, np.random.default_rng(seed).choice([-infinity, infinity], inputs.shape))


def compare_by_operation(
    runner: Runner, reference: Reference, model: Model, precision: Precision, *, near: bool = False
) -> OperationReport:
    """Compare the operations of an artifact one by one with the captured model, on a few batches.

    Args:
        near: see `compare_operations`.

    Raises:
        Skipped: the runner does not run operations separately, or it would take too much memory.
    """
    operations = runner.operations
    if not operations:
        raise Skipped(f"{runner.engine or 'the runtime'} does not run operations separately")
    from timmx.verification.exact import ExactGraph
    from timmx.verification.operations import compare_operations

    size = _batch_size(runner)
    graph = model.graph(size)
    values_bytes = _values_bytes(graph)
    if values_bytes > _MOST_VALUES_BYTES:
        raise Skipped(
            f"the model's intermediate values take {size_text(values_bytes)}, more than the limit of "
            f"{size_text(_MOST_VALUES_BYTES)}"
        )
    import torch

    exact, start, report = ExactGraph(graph), time.perf_counter(), None
    for number in range(_MOST_BATCHES):
        indices = [(number // 2 * size + index) % len(reference) for index in range(size)]
        inputs = reference.samples.take(indices)
        if number % 2:
            inputs = _shuffled(inputs, number)
        values, outputs = exact.values(torch.from_numpy(inputs).to(model.device))
        by_name = dict(zip(reference.names, outputs, strict=True))
        one = compare_operations(runner, inputs, values, by_name, precision, near=near)
        report = one if report is None else report.merge(one)
        if not report.exact or time.perf_counter() - start > _MOST_SECONDS / _MOST_BATCHES:
            break
    assert report is not None
    return report


def _shuffled(inputs: np.ndarray, seed: int) -> np.ndarray:
    """The pixels of each image in random order: noise, with values that the artifact takes."""
    count, channels = inputs.shape[:2]
    order = np.random.default_rng(seed).permutation(int(np.prod(inputs.shape[2:])))
    return np.ascontiguousarray(inputs.reshape(count, channels, -1)[:, :, order].reshape(inputs.shape))


def with_operations(report: VerificationReport, operations: OperationReport) -> VerificationReport:
    """The report with the figures of `compare_by_operation`."""
    return replace(report, operations=len(operations.operations), operation_db=operations.worst_db)


def blame(operations: OperationReport) -> str:
    """The first operation that is not exact, in words."""
    wrong = operations.wrong
    assert wrong is not None
    where = f" of {wrong.module}" if wrong.module else ""
    return (
        f"{wrong.name} ({wrong.kind}), the {wrong.value}{where}, has {wrong.snr_db:.1f} dB for the model's own values, "
        f"where rounding leaves {wrong.floor_db:.0f} dB or more"
    )


def _located(
    report: VerificationReport, runner: Runner, reference: Reference, model: Model, precision: Precision
) -> Judgment:
    """The conversion is at fault: name the first wrong operation, if the runner can show it."""
    reporter().step("Comparing operation by operation")
    try:
        operations = compare_by_operation(runner, reference, model, precision)
    except Skipped as exc:
        text = f"the conversion is the cause; the operation was not located: {exc}"
        return Judgment(report=_because(report, text), cause="conversion")
    report = with_operations(report, operations)
    if operations.exact:
        text = "each operation separately is exact to rounding, so their sequence adds up more rounding than PyTorch's"
        return Judgment(report=_because(report, text), cause="precision")
    return Judgment(
        report=_because(report, f"the conversion is the cause: {blame(operations)}"), cause="conversion"
    )


def _because(report: VerificationReport, text: str) -> VerificationReport:
    return replace(report, reason=f"{report.reason}; {text}" if report.reason else text)


def _name(precision: Precision) -> str:
    return _HALF_TYPES.get(precision, "float32")


def _batch_size(runner: Runner) -> int:
    """The artifact's batch size; the smallest one that it is verified with if it is dynamic."""
    batch = runner.inputs[0].shape[0]
    return batch if isinstance(batch, int) else min(runner.batch_sizes)


def _check_memory(model: Model) -> None:
    """Check that the weights fit into memory once more, and those of one operation in float64.

    One input in float64 takes less memory than the batch in float32 that the reference was run with.
    """
    limit = memory_bytes()
    sizes = [tensor.nbytes for tensor in model.weights()]
    needed = 2 * sum(sizes) + 2 * max(sizes, default=0)
    if limit is not None and needed > limit / 2:
        raise Skipped(
            f"it needs about {size_text(needed)} of memory, and this machine has {size_text(limit)}"
        )


def _count(module: torch.nn.Module, reference: Reference, device: str) -> int:
    """How many inputs the time allows in float64, at least 2."""
    import torch

    first = reference.samples.take([0])
    start = time.perf_counter()
    with torch.inference_mode():
        module(torch.from_numpy(first).to(device))
    expected = _FLOAT64_FACTOR * (time.perf_counter() - start)
    if 2 * expected > _MOST_SECONDS:
        raise Skipped(
            f"in float64 it takes about {2 * expected:.0f} s, more than the limit of {_MOST_SECONDS:g} s"
        )
    return min(LEAST_INPUTS, len(reference), max(2, int(_MOST_SECONDS / max(expected, 1e-3))))


def _exact_outputs(module: torch.nn.Module, samples: np.ndarray, device: str) -> list[np.ndarray]:
    from timmx.verification.exact import ExactArithmetic

    def run(inputs: torch.Tensor) -> torch.Tensor:
        with ExactArithmetic():
            return module(inputs.double())

    return _outputs(run, samples, device)


def _rounded_outputs(
    module: torch.nn.Module, samples: np.ndarray, device: str, half_type: str
) -> list[np.ndarray]:
    import torch

    from timmx.verification.exact import RoundedArithmetic

    def run(inputs: torch.Tensor) -> torch.Tensor:
        with RoundedArithmetic(getattr(torch, half_type)):
            return module(inputs)

    return _outputs(run, samples, device)


def _outputs(run: Callable[[torch.Tensor], object], samples: np.ndarray, device: str) -> list[np.ndarray]:
    """All outputs, one input at a time to bound the memory."""
    import torch

    from timmx.model import output_tensors

    parts = []
    with torch.inference_mode():
        for row in samples:
            try:
                results = run(torch.from_numpy(row[None]).to(device))
            except (RuntimeError, TypeError, NotImplementedError) as exc:
                reason = " ".join(str(exc).split())[:200]
                raise Skipped(f"the model does not run in this arithmetic: {reason}") from exc
            parts.append([tensor.cpu().numpy() for tensor in output_tensors(results)])
    return [np.concatenate(arrays) for arrays in zip(*parts, strict=True)]


def _values_bytes(graph: torch.fx.GraphModule) -> int:
    """The size of all values in a graph, views left out."""
    import torch

    total = 0
    for node in graph.graph.nodes:
        value = node.meta.get("val")
        is_view = getattr(node.target, "is_view", False)
        if node.op == "call_function" and isinstance(value, torch.Tensor) and not is_view:
            total += 4 * int(value.numel())
    return total

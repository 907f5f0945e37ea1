"""Compares an artifact with the PyTorch model on the same inputs (docs/verification.md).

The measure is a signal-to-noise ratio: how much the output varies between inputs, over how much the artifact
differs from the model. A cosine accepts wrong outputs, because most of an output's energy is its constant part.
"""

from __future__ import annotations

import itertools
import math
from dataclasses import asdict, dataclass, field, fields
from enum import StrEnum
from typing import TYPE_CHECKING, Any

import numpy as np

from timmx.base import SignalToNoise
from timmx.contract import LEAST_AGREEMENT, Precision
from timmx.errors import ConfigurationError, TimmxError, VerificationError
from timmx.inputs import ImageSamples, interface_mismatch, run_batches

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping, Sequence

    import torch

    from timmx.contract import Runner
    from timmx.inputs import Samples

FLOORS_DB = {
    Precision.FP32: 60.0,
    Precision.FP16: 22.0,
    Precision.INT8_WEIGHTS: 12.0,
    Precision.INT8: 12.0,
    Precision.FP8: 10.0,
    Precision.INT16X8: 20.0,
    Precision.BF16: 6.0,
    Precision.INT6_WEIGHTS: 6.0,
    Precision.INT4_WEIGHTS: 3.0,
}
"""The smallest signal-to-noise ratio in dB with which an artifact is published, by precision."""

_EIGHT_BITS = (Precision.INT8, Precision.FP8)
_ENOUGH_IMAGES = 64
"""Of fewer images, or of synthetic ones, the agreement says too little."""

_LATER_FIELDS = ("resolvable_db", "exact_db", "operations", "operation_db")
"""Of a report; the records of earlier versions lack them."""

_REFERENCE_BATCH = 8
_REFERENCE_BYTES = 256 * 2**20
"""Maximum size of the stored reference outputs; fewer inputs are used if outputs are large."""


class Status(StrEnum):
    VERIFIED = "verified"
    FAILED = "failed"
    UNPROVEN = "unproven"
    SKIPPED = "skipped"


@dataclass(frozen=True, kw_only=True)
class OutputFigures:
    """Figures of one output of the artifact against the model's.

    Attributes:
        snr_db: signal-to-noise ratio in dB; infinite if they are equal.
        cosine_min: the smallest cosine similarity over the inputs.
        max_abs_diff: the largest absolute difference.
        top1_agreement: the share of inputs with the same top-1 class; None for outputs without classes.
        label_agreement: if classes do not exclude each other, the share of equal decisions (a probability of at least
            0.5, or less) over all inputs and classes, in place of `top1_agreement`.
        vacuous: the model's output does not depend on its input, so the comparison has no signal.
    """

    name: str
    snr_db: float
    cosine_min: float
    max_abs_diff: float
    top1_agreement: float | None
    vacuous: bool
    label_agreement: float | None = None


@dataclass(frozen=True, kw_only=True)
class VerificationReport:
    """The result of a verification.

    Attributes:
        status: whether the artifact matches the model.
        reason: why the status is not VERIFIED, or that it was judged operation by operation; otherwise empty.
        outputs: figures of each output; the worst one decides.
        floor_db: the required ratio in dB; None if none is required.
        inputs: number of compared inputs.
        origin: source of the inputs.
        batch_sizes: batch sizes that the artifact was run with.
        engine: what ran the artifact, if it is not the format's own runtime.
        notes: findings of the runner, such as operations that overflow.
        accuracy: the artifact's top-1 accuracy, 0 to 1; None if the true classes are unknown.
        model_accuracy: the PyTorch model's top-1 accuracy, 0 to 1; None if the true classes are unknown.
        resolvable_db: what the arithmetic can resolve: the PyTorch model in the artifact's precision against float64;
            None if it was not measured.
        exact_db: the artifact against the PyTorch model in float64, on the inputs of `resolvable_db`.
        operations: number of operations that were compared one by one; 0 if they were not.
        operation_db: of these, the smallest ratio to the exact result for the same inputs.
        noisiest: numbers of the inputs, those on which the artifact differs most from the model first; not in the
            records.
    """

    status: Status
    reason: str = ""
    outputs: tuple[OutputFigures, ...] = ()
    floor_db: float | None = None
    inputs: int = 0
    origin: str = ""
    batch_sizes: tuple[int, ...] = ()
    engine: str = ""
    notes: tuple[str, ...] = ()
    accuracy: float | None = None
    model_accuracy: float | None = None
    resolvable_db: float | None = None
    exact_db: float | None = None
    operations: int = 0
    operation_db: float | None = None
    noisiest: tuple[int, ...] = field(default=(), compare=False)

    @property
    def snr_db(self) -> float | None:
        """The worst output's ratio in dB; None if nothing was run."""
        return min((figures.snr_db for figures in self.outputs), default=None)

    @property
    def disagrees(self) -> bool:
        """Whether it failed although the ratio reaches its floor: the agreement is too small."""
        reached = self.floor_db is None or (self.snr_db is not None and self.snr_db >= self.floor_db)
        vacuous = any(item.vacuous for item in self.outputs)
        return self.status is Status.FAILED and reached and not vacuous

    @property
    def top1_agreement(self) -> float | None:
        shares = [item.top1_agreement for item in self.outputs if item.top1_agreement is not None]
        return min(shares, default=None)

    @property
    def label_agreement(self) -> float | None:
        shares = [item.label_agreement for item in self.outputs if item.label_agreement is not None]
        return min(shares, default=None)

    @property
    def agreement(self) -> float | None:
        """The share of equal answers: top-1 classes, or decisions on each label; None for outputs without classes."""
        return self.top1_agreement if self.label_agreement is None else self.label_agreement

    def to_dict(self) -> dict[str, Any]:
        """JSON values; infinite and undefined figures become strings such as `inf`."""
        data = asdict(self) | {
            "snr_db": self.snr_db,
            "top1_agreement": self.top1_agreement,
            "label_agreement": self.label_agreement,
        }
        del data["noisiest"]
        return _json_ready(data)

    @classmethod
    def from_dict(cls, data: Mapping[str, Any]) -> VerificationReport:
        """The report of a `to_dict` result.

        Raises:
            LookupError, TypeError, ValueError: the data is not from `to_dict`.
        """
        values: dict[str, Any] = {
            item.name: data.get(item.name) if item.name in _LATER_FIELDS else data[item.name]
            for item in fields(cls)
            if item.name != "noisiest"
        }
        ratios = {name: values[name] for name in ("resolvable_db", "exact_db", "operation_db")}
        figures = tuple(
            OutputFigures(
                **item | {key: float(item[key]) for key in ("snr_db", "cosine_min", "max_abs_diff")}
            )
            for item in values["outputs"]
        )
        return cls(
            **values
            | {
                "status": Status(values["status"]),
                "outputs": figures,
                "batch_sizes": tuple(values["batch_sizes"]),
                "notes": tuple(values["notes"]),
                "operations": values["operations"] or 0,
            }
            | {name: None if ratio is None else float(ratio) for name, ratio in ratios.items()}
        )


@dataclass(frozen=True, kw_only=True)
class Reference:
    """The original model's outputs for the verification inputs, stored so that the model runs only once.

    Attributes:
        samples: the inputs.
        outputs: one array per output, (number of inputs, ...), float32.
        names: the outputs' names.
        classes: whether the only output has one number per class.
        truth: the true class of each input; None if they are unknown.
        threshold: if classes do not exclude each other, the output at which the probability is 0.5; otherwise None.
    """

    samples: Samples
    outputs: tuple[np.ndarray, ...]
    names: tuple[str, ...]
    classes: bool
    truth: np.ndarray | None = None
    threshold: float | None = None

    def __len__(self) -> int:
        return len(self.outputs[0])


def verify(
    runner: Runner,
    reference: Reference,
    *,
    precision: Precision,
    batch_size: int | None,
    conclusive: bool,
    trained: bool = True,
    min_snr_db: float | None = None,
    min_agreement: float | None = None,
) -> VerificationReport:
    """Run the artifact on the reference's inputs and compare the outputs.

    Args:
        runner: the artifact.
        reference: the original model's outputs.
        precision: the artifact's precision, which sets the floor.
        batch_size: the artifact's batch size; None if it is dynamic, to use the runner's `batch_sizes`.
        conclusive: whether the weights are sufficient for verification. The precision's floor is not applied to others,
            such as untrained ones.
        trained: whether the weights are trained, so that the classes have a meaning.
        min_snr_db: a floor in dB that always applies.
        min_agreement: the smallest `agreement` of the report, 0 to 1, that always applies; by default
            `LEAST_AGREEMENT` for 8-bit activations, trained weights and at least 64 images.

    Raises:
        ConfigurationError: `min_agreement` is given, and the outputs are not classes.
        VerificationError: the artifact fails, or its inputs and outputs do not match the reference.
    """
    if min_agreement is not None and not reference.classes:
        raise ConfigurationError(
            "--min-agreement needs a model whose only output is classes", hint="leave --min-agreement out"
        )
    sizes = (batch_size,) if batch_size else tuple(sorted(set(runner.batch_sizes)))
    measures = [SignalToNoise(reference.threshold) for _ in reference.names]
    shapes = {name: array.shape for name, array in zip(reference.names, reference.outputs, strict=True)}
    if mismatch := interface_mismatch(runner, reference.samples.take([0]).shape[1:], shapes):
        raise VerificationError(f"the artifact's inputs and outputs do not match the model: {mismatch}")
    top1, noise = np.full(len(reference), -1), np.zeros((len(measures), len(reference)))
    for indices in _schedule(len(reference), sizes):
        outputs = _run(runner, reference, indices)
        for measure, row, name, expected in zip(
            measures, noise, reference.names, reference.outputs, strict=True
        ):
            measure.update(expected[indices], outputs[name])
            row[indices] = np.maximum(row[indices], _squared_errors(expected[indices], outputs[name]))
            if reference.truth is not None:
                top1[indices] = outputs[name].argmax(axis=1)
    figures = tuple(
        OutputFigures(
            name=name,
            snr_db=measure.snr_db,
            cosine_min=measure.cosine_min,
            max_abs_diff=measure.max_abs_diff,
            top1_agreement=measure.top1_agreement
            if reference.classes and reference.threshold is None
            else None,
            vacuous=measure.vacuous,
            label_agreement=measure.label_agreement if reference.classes else None,
        )
        for name, measure in zip(reference.names, measures, strict=True)
    )
    floor = min_snr_db if min_snr_db is not None else FLOORS_DB[precision] if conclusive else None
    status, reason = _judge(figures, floor)
    notes = tuple(runner.notes)
    first = figures[0]
    agreement = first.top1_agreement if first.label_agreement is None else first.label_agreement
    if agreement is not None and status is not Status.FAILED:
        if (
            min_agreement is None
            and trained
            and precision in _EIGHT_BITS
            and isinstance(reference.samples, ImageSamples)
        ):
            min_agreement = LEAST_AGREEMENT if len(reference) >= _ENOUGH_IMAGES else None
        has = (
            f"has the model's top-1 class for {100 * agreement:.1f} % of {reference.samples.origin}"
            if first.label_agreement is None
            else f"agrees with the model on {100 * agreement:.1f} % of the labels of {reference.samples.origin}"
        )
        if min_agreement is not None and agreement < min_agreement:
            status = Status.FAILED
            reason = f"{first.name} {has}, the floor is {100 * min_agreement:g} %"
        elif trained and agreement < LEAST_AGREEMENT:
            notes = (*notes, f"The file {has}.")
    return VerificationReport(
        status=status,
        reason=reason,
        outputs=figures,
        floor_db=floor,
        inputs=len(reference),
        origin=reference.samples.origin,
        batch_sizes=sizes,
        engine=runner.engine,
        notes=notes,
        accuracy=_accuracy(top1, reference.truth),
        model_accuracy=_accuracy(reference.outputs[0].argmax(axis=1), reference.truth)
        if reference.truth is not None
        else None,
        noisiest=_noisiest(noise, [measure.energy or 1.0 for measure in measures]),
    )


def _squared_errors(expected: np.ndarray, output: np.ndarray) -> np.ndarray:
    """The sum of squared differences for each input; infinite if a value is not finite."""
    with np.errstate(invalid="ignore", over="ignore"):
        squares = np.square(output - expected, dtype=np.float64).sum(axis=tuple(range(1, expected.ndim)))
    return np.nan_to_num(squares, nan=np.inf)


def _noisiest(noise: np.ndarray, energies: Sequence[float]) -> tuple[int, ...]:
    """Numbers of the inputs by their largest share of an output's noise, (outputs, inputs), in its energy."""
    shares = noise / np.array(energies)[:, None]
    return tuple(np.argsort(-shares.max(axis=0), kind="stable").tolist())


def _accuracy(top1: np.ndarray, truth: np.ndarray | None) -> float | None:
    return None if truth is None else float((top1 == truth[: len(top1)]).mean())


def run_reference(module: torch.nn.Module, samples: Samples, device: str) -> tuple[np.ndarray, ...]:
    """The model's outputs for all samples, or for as many as `_REFERENCE_BYTES` allow.

    Returns:
        One array per output, (number of inputs, ...), float32.
    """
    import torch

    from timmx.model import output_tensors

    parts: list[list[np.ndarray]] = []
    count, start = len(samples), 0
    with torch.inference_mode():
        while start < count:
            indices = range(start, min(start + _REFERENCE_BATCH, count))
            outputs = output_tensors(module(torch.from_numpy(samples.take(indices)).to(device)))
            parts.append([output.float().cpu().numpy() for output in outputs])
            per_input = sum(array[:1].nbytes for array in parts[-1])
            count = min(count, max(_REFERENCE_BATCH, _REFERENCE_BYTES // max(1, per_input)))
            start = indices.stop
    return tuple(np.concatenate(arrays) for arrays in zip(*parts, strict=True))


def _schedule(count: int, sizes: tuple[int, ...]) -> Iterator[list[int]]:
    """Batches of indices that use every size and every input at least once, starting again at the first input."""
    start = 0
    for turn, size in enumerate(itertools.cycle(sizes)):
        if start >= count and turn >= len(sizes):
            return
        yield [(start + offset) % count for offset in range(size)]
        start += size


def _judge(figures: tuple[OutputFigures, ...], floor: float | None) -> tuple[Status, str]:
    vacuous = [item.name for item in figures if item.vacuous]
    worst = min(figures, key=lambda item: item.snr_db)
    if floor is None:
        note = f"; {', '.join(vacuous)} does not depend on the input at all" if vacuous else ""
        return Status.UNPROVEN, f"untrained weights{note}"
    if vacuous:
        return Status.FAILED, (
            f"vacuous: {', '.join(vacuous)} does not depend on the input, so nothing can be verified (untrained "
            "weights or identical images in --verify-data can cause this)"
        )
    if not worst.snr_db >= floor:
        snr_db = math.floor(10 * worst.snr_db) / 10 if math.isfinite(worst.snr_db) else worst.snr_db
        return Status.FAILED, f"{worst.name} has {snr_db:.1f} dB, the floor is {floor:g} dB"
    return Status.VERIFIED, ""


def _run(runner: Runner, reference: Reference, indices: Sequence[int]) -> dict[str, np.ndarray]:
    """The artifact's outputs for these inputs, checked to be float32 and of the reference's shapes."""
    try:
        outputs = run_batches(runner, reference.samples.take(indices), reference.names)
    except TimmxError as exc:
        raise VerificationError(exc.message, hint=exc.hint) from exc
    specs = {spec.name: spec for spec in runner.outputs}
    for name, expected in zip(reference.names, reference.outputs, strict=True):
        shape, output, spec = (len(indices), *expected.shape[1:]), outputs[name], specs[name]
        if output.shape != shape:
            raise VerificationError(
                f"output {name!r} has shape {output.shape}, and the model's is {shape}: "
                "the artifact fixed a size that should be dynamic, or changed its layout"
            )
        if output.dtype != np.float32:
            dtype = "float32" if spec.quantization is None else f"{spec.dtype} as in its quantization"
            raise VerificationError(f"output {name!r} is {output.dtype}, expected {dtype}")
    return outputs


def _json_ready(value: Any) -> Any:
    if isinstance(value, dict):
        return {key: _json_ready(item) for key, item in value.items()}
    if isinstance(value, (list, tuple)):
        return [_json_ready(item) for item in value]
    if isinstance(value, float) and not np.isfinite(value):
        return str(value)
    return value

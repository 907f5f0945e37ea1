"""The evaluation of a file whose classes do not exclude each other: average precisions, and decisions at 0.5."""

from __future__ import annotations

from dataclasses import asdict, dataclass
from typing import TYPE_CHECKING, Any

import numpy as np

from timmx.tools.eval.accuracy import Interval, wilson
from timmx.tools.eval.labels import SEPARATOR

if TYPE_CHECKING:
    from collections.abc import Sequence
    from pathlib import Path

    from timmx.contract import Metadata
    from timmx.tools.eval.dataset import Dataset, LabelledImage
    from timmx.tools.eval.evaluation import Side
    from timmx.tools.eval.journal import Reading

THRESHOLD = 0.5
"""A class applies to an image from this probability on."""


def average_precision(truth: np.ndarray, scores: np.ndarray) -> float | None:
    """The area under the steps of precision over recall: the sum of (R_n - R_(n-1)) P_n over all scores, descending.

    The definition of scikit-learn's `average_precision_score`, without interpolation; equal scores are one step.

    Args:
        truth: (N,) bool, whether the class applies.
        scores: (N,) of its probabilities, in any range.

    Returns:
        0 to 1; None if the class applies to no image.
    """
    if not truth.any():
        return None
    order = np.argsort(-scores, kind="stable")
    last = np.flatnonzero(np.append(np.diff(scores[order]) != 0, True))
    hits = np.cumsum(truth[order])[last]
    precision, recall = hits / (last + 1), hits / hits[-1]
    return float((np.diff(recall, prepend=0.0) * precision).sum())


@dataclass(frozen=True, kw_only=True)
class LabelFigures:
    """The figures of one class.

    Attributes:
        count: number of its images that can be read.
        average_precision: see `average_precision`.
        precision: share of the images for which it is predicted that have it; None if it is never predicted.
        recall: share of its images for which it is predicted; None if it has no images.
    """

    name: str
    count: int
    average_precision: float | None
    precision: float | None
    recall: float | None


@dataclass(frozen=True, kw_only=True)
class Scores:
    """The figures of one classifier.

    Attributes:
        mean_average_precision: the mean over the classes that have images; None if none has.
        exact: share of the images with all labels right, and no others.
        exact_interval: 95 % interval, by Wilson's method.
        decisions: share of the right decisions over all images and classes.
    """

    mean_average_precision: float | None
    exact: float
    exact_interval: Interval
    decisions: float


@dataclass(frozen=True, kw_only=True)
class LabelDisagreement:
    """An image on which the decisions of the two differ; None if an output was not finite."""

    image: str
    labels: str
    read: str | None
    against_read: str | None


@dataclass(frozen=True, kw_only=True)
class LabelComparison:
    """The figures of the second classifier.

    Attributes:
        name: of the second classifier, a model or another artifact.
        drop: its mean average precision minus the artifact's; above 0 the artifact is worse.
        agreement: share of equal decisions, over all images and classes.
    """

    name: str
    scores: Scores
    drop: float | None
    agreement: float
    disagreements: tuple[LabelDisagreement, ...]
    readings: tuple[Reading, ...]
    seconds: float
    images_per_s: float | None


@dataclass(frozen=True, kw_only=True)
class MultiLabelEvaluation:
    """The evaluation of one artifact on images with any number of labels.

    Attributes:
        path: of the artifact.
        data: the folder or the CSV.
        classes: all class names, by index.
        images: the evaluated images.
        readings: one per image, in the same order.
        total: number of images in the data; more than `images` if a limit was set.
        count: number of `images` that can be read.
        scores: the figures of all classes.
        per_class: figures of each class, by index.
        unreadable: names of the images that cannot be read, each with the reason.
        not_numbers: number of images with NaN or infinity in the output. All decisions on them count as wrong.
        seconds: time of the run, including decoding.
        images_per_s: throughput; None if all answers were in the journal.
        resumed: number of images whose answers were in the journal.
        metadata: of the artifact.
        against: the comparison with the second classifier, if there is one.
    """

    path: Path
    data: Path
    classes: tuple[str, ...]
    images: tuple[LabelledImage, ...]
    readings: tuple[Reading, ...]
    total: int
    count: int
    scores: Scores
    per_class: tuple[LabelFigures, ...]
    unreadable: tuple[tuple[str, str], ...]
    not_numbers: int
    seconds: float
    images_per_s: float | None
    resumed: int
    metadata: Metadata
    against: LabelComparison | None = None

    @classmethod
    def of(
        cls,
        path: Path,
        metadata: Metadata,
        dataset: Dataset,
        side: Side,
        second: Side | None = None,
    ) -> MultiLabelEvaluation:
        """Compute the evaluation from the probabilities of one or two classifiers for the same images."""
        pairs = list(zip(dataset.images, side.readings, strict=True))
        unreadable = tuple((image.name, reading.error) for image, reading in pairs if reading.unreadable)
        per_class, scores = _figures(dataset, side)
        return cls(
            path=path,
            data=dataset.origin,
            classes=dataset.classes,
            images=dataset.images,
            readings=side.readings,
            total=dataset.total,
            count=len(pairs) - len(unreadable),
            scores=scores,
            per_class=per_class,
            unreadable=unreadable,
            not_numbers=sum(bool(item.error) and not item.unreadable for item in side.readings),
            seconds=side.seconds,
            images_per_s=side.images_per_s,
            resumed=len(side.readings) - side.asked,
            metadata=metadata,
            against=None if second is None else _compare(dataset, side, second, scores),
        )

    @property
    def mean_average_precision(self) -> float | None:
        return self.scores.mean_average_precision

    @property
    def right(self) -> int:
        """Number of images with all labels right, and no others."""
        return sum(self._is_right(image, item) is True for image, item in self._pairs())

    def to_dict(self) -> dict[str, Any]:
        """JSON-ready, with all images."""
        return {
            "file": str(self.path),
            "model": self.metadata.model.name,
            "precision": self.metadata.precision,
            "data": str(self.data),
            "images": len(self.images),
            "images_in_data": self.total,
            "count": self.count,
            **asdict(self.scores),
            "threshold": THRESHOLD,
            "unreadable": [{"path": name, "error": error} for name, error in self.unreadable],
            "not_numbers": self.not_numbers,
            "seconds": self.seconds,
            "images_per_s": self.images_per_s,
            "resumed": self.resumed,
            "classes": list(self.classes),
            "per_class": [asdict(item) for item in self.per_class],
            "against": None if self.against is None else _against_dict(self.against),
            "predictions": [
                {
                    "path": image.name,
                    "labels": [self.classes[number] for number in image.truths],
                    "read": None if item.error else [self.classes[number] for number in _applying(item)],
                    "probabilities": [float(f"{share:.6g}") for share in item.scores] or None,
                    "right": self._is_right(image, item),
                    "error": item.error,
                }
                for image, item in self._pairs()
            ],
        }

    def rows(self) -> list[dict[str, Any]]:
        """One row per image: path, label, read, right, error, and probabilities; with `against` also its read."""
        seconds = self.against.readings if self.against else [None] * len(self.images)
        rows = []
        for (image, item), second in zip(self._pairs(), seconds, strict=True):
            row: dict[str, Any] = {
                "path": image.name,
                "label": SEPARATOR.join(self.classes[number] for number in image.truths),
                "read": _text(self.classes, item),
                "right": self._is_right(image, item),
                "error": item.error,
            }
            shares = item.scores or [None] * len(self.classes)
            row |= {
                f"probability of {name}": None if share is None else float(f"{share:.6g}")
                for name, share in zip(self.classes, shares, strict=True)
            }
            if second is not None:
                row["against_read"] = _text(self.classes, second)
            rows.append(row)
        return rows

    def _pairs(self) -> Sequence[tuple[LabelledImage, Reading]]:
        return list(zip(self.images, self.readings, strict=True))

    def _is_right(self, image: LabelledImage, reading: Reading) -> bool | None:
        return None if reading.unreadable else not reading.error and _applying(reading) == image.truths


def _applying(reading: Reading) -> tuple[int, ...]:
    """The classes that apply to an image, as indices."""
    return tuple(number for number, share in enumerate(reading.scores) if share >= THRESHOLD)


def _text(names: tuple[str, ...], reading: Reading) -> str | None:
    return None if reading.error else SEPARATOR.join(names[number] for number in _applying(reading))


def _arrays(dataset: Dataset, side: Side) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Of the images that can be read: truth (N, classes), scores, and decisions; all wrong if the output is NaN."""
    pairs = [pair for pair in zip(dataset.images, side.readings, strict=True) if not pair[1].unreadable]
    truth = np.zeros((len(pairs), len(dataset.classes)), bool)
    scores = np.zeros(truth.shape)
    for number, (image, reading) in enumerate(pairs):
        truth[number, list(image.truths)] = True
        scores[number] = reading.scores or np.where(truth[number], -1.0, 2.0)
    return truth, scores, scores >= THRESHOLD


def _figures(dataset: Dataset, side: Side) -> tuple[tuple[LabelFigures, ...], Scores]:
    truth, scores, decisions = _arrays(dataset, side)
    both, counts, chosen = (truth & decisions).sum(0), truth.sum(0), decisions.sum(0)
    per_class = tuple(
        LabelFigures(
            name=name,
            count=int(counts[number]),
            average_precision=average_precision(truth[:, number], scores[:, number]),
            precision=float(both[number] / chosen[number]) if chosen[number] else None,
            recall=float(both[number] / counts[number]) if counts[number] else None,
        )
        for number, name in enumerate(dataset.classes)
    )
    averages = [item.average_precision for item in per_class if item.average_precision is not None]
    exact = int((truth == decisions).all(1).sum())
    return per_class, Scores(
        mean_average_precision=float(np.mean(averages)) if averages else None,
        exact=exact / len(truth),
        exact_interval=wilson(exact, len(truth)),
        decisions=float((truth == decisions).mean()),
    )


def _compare(dataset: Dataset, side: Side, second: Side, scores: Scores) -> LabelComparison:
    names = dataset.classes
    both = [
        (image, one, two)
        for image, one, two in zip(dataset.images, side.readings, second.readings, strict=True)
        if not one.unreadable and not two.unreadable
    ]
    apart = tuple(
        LabelDisagreement(
            image=image.name,
            labels=SEPARATOR.join(names[number] for number in image.truths),
            read=_text(names, one),
            against_read=_text(names, two),
        )
        for image, one, two in both
        if (bool(one.error), _applying(one)) != (bool(two.error), _applying(two))
    )
    different = sum(
        len(names) if one.error or two.error else len({*_applying(one)} ^ {*_applying(two)})
        for _, one, two in both
    )
    _, other = _figures(dataset, second)
    mine, theirs = scores.mean_average_precision, other.mean_average_precision
    return LabelComparison(
        name=second.name,
        scores=other,
        drop=None if mine is None or theirs is None else theirs - mine,
        agreement=1 - different / (len(both) * len(names)),
        disagreements=apart,
        readings=second.readings,
        seconds=second.seconds,
        images_per_s=second.images_per_s,
    )


def _against_dict(comparison: LabelComparison) -> dict[str, Any]:
    return {
        "name": comparison.name,
        **asdict(comparison.scores),
        "drop": comparison.drop,
        "agreement": comparison.agreement,
        "seconds": comparison.seconds,
        "images_per_s": comparison.images_per_s,
        "disagreements": [
            {
                "path": item.image,
                "label": item.labels,
                "read": item.read,
                "against_read": item.against_read,
            }
            for item in comparison.disagreements
        ],
    }

"""The result of an evaluation: accuracy, also per class, confusions, and the comparison with a second classifier."""

from __future__ import annotations

from collections import Counter
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from timmx.tools.eval.accuracy import Interval, Paired, wilson

if TYPE_CHECKING:
    from pathlib import Path

    from timmx.contract import Metadata
    from timmx.tools.eval.dataset import Dataset, LabelledImage
    from timmx.tools.eval.journal import Reading


@dataclass(frozen=True)
class Side:
    """The predictions of one classifier for all images.

    Attributes:
        name: of the classifier.
        seconds: time for `asked` images, including decoding.
        asked: number of images that were run; the others were in a journal.
    """

    name: str
    readings: tuple[Reading, ...]
    seconds: float
    asked: int

    @property
    def images_per_s(self) -> float | None:
        """Throughput; None if no image was run."""
        return self.asked / self.seconds if self.asked and self.seconds > 0 else None


@dataclass(frozen=True, kw_only=True)
class ClassFigures:
    """The accuracy of one class.

    Attributes:
        count: number of its images that can be read.
        right: number of images classified correctly.
        interval: 95 % interval of the accuracy.
        confused_with: the class that its images are most often confused with, and how often; None if never.
    """

    name: str
    count: int
    right: int
    interval: Interval
    confused_with: tuple[str, int] | None

    @property
    def accuracy(self) -> float:
        return self.right / self.count


@dataclass(frozen=True, kw_only=True)
class Disagreement:
    """An image that the two classify differently; None if an output was not finite."""

    image: str
    truth: str
    read: str | None
    probability: float | None
    against_read: str | None
    against_probability: float | None


@dataclass(frozen=True, kw_only=True)
class Comparison:
    """The accuracy of the second classifier, and how the artifact differs.

    Attributes:
        name: of the second classifier, a model or another artifact.
        drop: its top-1 accuracy minus the artifact's; above 0 the artifact is worse.
        drop_interval: 95 % interval of the paired difference; see `Paired.interval`.
        p_value: of McNemar's exact test.
        agreement: fraction of images that both classify alike.
    """

    name: str
    top1: float
    top1_interval: Interval
    top5: float | None
    top5_interval: Interval | None
    drop: float
    drop_interval: Interval
    p_value: float
    agreement: float
    agreement_interval: Interval
    disagreements: tuple[Disagreement, ...]
    readings: tuple[Reading, ...]
    seconds: float
    images_per_s: float | None


@dataclass(frozen=True, kw_only=True)
class Evaluation:
    """The evaluation of one artifact on one dataset.

    Attributes:
        path: of the artifact.
        data: the folder or the CSV.
        classes: all class names, by index.
        images: the evaluated images.
        readings: one per image, in the same order.
        total: number of images in the data; more than `images` if a limit was set.
        count: number of `images` that can be read; all accuracies are relative to it.
        top1: top-1 accuracy, 0 to 1.
        top1_interval: 95 % interval, by Wilson's method.
        top5: top-5 accuracy, 0 to 1; None if there are at most five classes.
        unreadable: names of the images that cannot be read, each with the reason.
        per_class: accuracy of the classes with readable images, by index.
        confusion: number of images by (true class, predicted class), as indices.
        not_numbers: number of images with NaN or infinity in the output; they count as wrong.
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
    top1: float
    top1_interval: Interval
    top5: float | None
    top5_interval: Interval | None
    unreadable: tuple[tuple[str, str], ...]
    per_class: tuple[ClassFigures, ...]
    confusion: dict[tuple[int, int], int]
    not_numbers: int
    seconds: float
    images_per_s: float | None
    resumed: int
    metadata: Metadata
    against: Comparison | None = None

    @classmethod
    def of(
        cls,
        path: Path,
        metadata: Metadata,
        dataset: Dataset,
        side: Side,
        second: Side | None = None,
    ) -> Evaluation:
        """Compute the evaluation from the predictions of one or two classifiers for the same images."""
        pairs = list(zip(dataset.images, side.readings, strict=True))
        good = [(image, reading) for image, reading in pairs if not reading.unreadable]
        top1, top1_interval, top5, top5_interval = _shares(dataset, side)
        confusion = Counter((image.truth, item.read) for image, item in good if item.read is not None)
        return cls(
            path=path,
            data=dataset.origin,
            classes=dataset.classes,
            images=dataset.images,
            readings=side.readings,
            total=dataset.total,
            count=len(good),
            top1=top1,
            top1_interval=top1_interval,
            top5=top5,
            top5_interval=top5_interval,
            unreadable=tuple((image.name, reading.error) for image, reading in pairs if reading.unreadable),
            per_class=_per_class(dataset, Counter(image.truth for image, _ in good), confusion),
            confusion=dict(sorted(confusion.items())),
            not_numbers=sum(reading.read is None for _, reading in good),
            seconds=side.seconds,
            images_per_s=side.images_per_s,
            resumed=len(side.readings) - side.asked,
            metadata=metadata,
            against=None if second is None else _compare(dataset, side, second),
        )

    @property
    def right(self) -> int:
        """Number of images classified correctly."""
        return sum(item.rank == 0 for item in self.readings)

    def confused(self) -> list[tuple[str, str, int]]:
        """Confusions as (true class, predicted class, count), most frequent first."""
        names = self.classes
        wrong = [(names[a], names[b], count) for (a, b), count in self.confusion.items() if a != b]
        return sorted(wrong, key=lambda item: -item[2])

    def to_dict(self) -> dict[str, Any]:
        """JSON-ready, with all images."""
        names = self.classes
        return {
            "file": str(self.path),
            "model": self.metadata.model.name,
            "precision": self.metadata.precision,
            "data": str(self.data),
            "images": len(self.images),
            "images_in_data": self.total,
            "count": self.count,
            "right": self.right,
            "top1": self.top1,
            "top1_interval": self.top1_interval,
            "top5": self.top5,
            "top5_interval": self.top5_interval,
            "unreadable": [{"path": name, "error": error} for name, error in self.unreadable],
            "not_numbers": self.not_numbers,
            "seconds": self.seconds,
            "images_per_s": self.images_per_s,
            "resumed": self.resumed,
            "classes": list(names),
            "per_class": [
                {
                    "class": item.name,
                    "count": item.count,
                    "right": item.right,
                    "accuracy": item.accuracy,
                    "interval": item.interval,
                    "confused_with": item.confused_with and item.confused_with[0],
                    "confused_count": item.confused_with[1] if item.confused_with else 0,
                }
                for item in self.per_class
            ],
            "confusion": [
                {"label": names[a], "read": names[b], "count": count}
                for (a, b), count in self.confusion.items()
            ],
            "against": self.against and _against_dict(self.against),
            "predictions": self.rows(),
        }

    def rows(self) -> list[dict[str, Any]]:
        """One row per image: path, label, read, probability, right, error; with `against` also its predictions."""
        rows = []
        seconds = self.against.readings if self.against else [None] * len(self.images)
        for image, item, second in zip(self.images, self.readings, seconds, strict=True):
            row = {
                "path": image.name,
                "label": self.classes[image.truth],
                "read": _named(self.classes, item.read),
                "probability": _rounded(item.probability),
                "right": None if item.unreadable else item.rank == 0,
                "error": item.error,
            }
            if second is not None:
                row["against_read"] = _named(self.classes, second.read)
                row["against_probability"] = _rounded(second.probability)
            rows.append(row)
        return rows


def _shares(dataset: Dataset, side: Side) -> tuple[float, Interval, float | None, Interval | None]:
    ranks = [item.rank for item in side.readings if not item.unreadable]
    count = len(ranks)
    top1, top5 = (sum(rank is not None and rank < most for rank in ranks) for most in (1, 5))
    if len(dataset.classes) <= 5:
        return top1 / count, wilson(top1, count), None, None
    return top1 / count, wilson(top1, count), top5 / count, wilson(top5, count)


def _per_class(
    dataset: Dataset, counts: Counter[int], confusion: Counter[tuple[int, int]]
) -> tuple[ClassFigures, ...]:
    most: dict[int, tuple[str, int]] = {}
    for (truth, read), count in sorted(confusion.items()):
        if truth != read and count > most.get(truth, ("", 0))[1]:
            most[truth] = dataset.classes[read], count
    return tuple(
        ClassFigures(
            name=dataset.classes[truth],
            count=count,
            right=confusion[truth, truth],
            interval=wilson(confusion[truth, truth], count),
            confused_with=most.get(truth),
        )
        for truth, count in sorted(counts.items())
    )


def _compare(dataset: Dataset, side: Side, second: Side) -> Comparison:
    names = dataset.classes
    both = [
        (image, one, two)
        for image, one, two in zip(dataset.images, side.readings, second.readings, strict=True)
        if not one.unreadable and not two.unreadable
    ]
    outcomes = Counter((two.rank == 0, one.rank == 0) for _, one, two in both)
    paired = Paired(
        outcomes[True, True], outcomes[True, False], outcomes[False, True], outcomes[False, False]
    )
    apart = tuple(
        Disagreement(
            image=image.name,
            truth=names[image.truth],
            read=_named(names, one.read),
            probability=one.probability,
            against_read=_named(names, two.read),
            against_probability=two.probability,
        )
        for image, one, two in both
        if one.read != two.read
    )
    same = len(both) - len(apart)
    top1, top1_interval, top5, top5_interval = _shares(dataset, second)
    return Comparison(
        name=second.name,
        top1=top1,
        top1_interval=top1_interval,
        top5=top5,
        top5_interval=top5_interval,
        drop=paired.difference,
        drop_interval=paired.interval,
        p_value=paired.p_value,
        agreement=same / len(both),
        agreement_interval=wilson(same, len(both)),
        disagreements=apart,
        readings=second.readings,
        seconds=second.seconds,
        images_per_s=second.images_per_s,
    )


def _named(names: tuple[str, ...], number: int | None) -> str | None:
    return None if number is None else names[number]


def _rounded(probability: float | None) -> float | None:
    return None if probability is None else float(f"{probability:.6g}")


def _against_dict(comparison: Comparison) -> dict[str, Any]:
    return {
        "name": comparison.name,
        "top1": comparison.top1,
        "top1_interval": comparison.top1_interval,
        "top5": comparison.top5,
        "top5_interval": comparison.top5_interval,
        "drop": comparison.drop,
        "drop_interval": comparison.drop_interval,
        "p_value": comparison.p_value,
        "agreement": comparison.agreement,
        "agreement_interval": comparison.agreement_interval,
        "seconds": comparison.seconds,
        "images_per_s": comparison.images_per_s,
        "disagreements": [
            {
                "path": item.image,
                "label": item.truth,
                "read": item.read,
                "probability": _rounded(item.probability),
                "against_read": item.against_read,
                "against_probability": _rounded(item.against_probability),
            }
            for item in comparison.disagreements
        ],
    }

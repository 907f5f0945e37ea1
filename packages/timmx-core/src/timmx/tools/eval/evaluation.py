"""What an evaluation found: shares of right answers, by class too, what is confused, and beside a second reader."""

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
    """One reader's answers to all images.

    Attributes:
        name: of the reader.
        seconds: what they took, images decoded and all.
        asked: how many were asked in that time; the others were in a journal.
    """

    name: str
    readings: tuple[Reading, ...]
    seconds: float
    asked: int

    @property
    def images_per_s(self) -> float | None:
        """None where nothing was asked."""
        return self.asked / self.seconds if self.asked and self.seconds > 0 else None


@dataclass(frozen=True, kw_only=True)
class ClassFigures:
    """How one class's images are read.

    Attributes:
        count: of its images that can be read.
        right: of them read right.
        interval: 95 %, of the accuracy.
        confused_with: the class that they are taken for most often beside it, and how often; None where never.
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
    """An image that the two readers take for different classes; None where a reader gave no number."""

    image: str
    truth: str
    read: str | None
    probability: float | None
    against_read: str | None
    against_probability: float | None


@dataclass(frozen=True, kw_only=True)
class Comparison:
    """The second reader's figures, and how the artifact differs.

    Attributes:
        name: of the second reader, a model or another artifact.
        drop: its top-1 minus the artifact's; above 0 the artifact is worse.
        drop_interval: 95 %, of the paired difference; see `Paired.interval`.
        p_value: of McNemar's exact test.
        agreement: the share of images that both take for the same class.
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
    """One artifact on one set of images.

    Attributes:
        path: of the artifact.
        data: the folder or the CSV.
        classes: all classes' names, by number.
        images: what was evaluated, in order, with the `readings` beside them.
        total: images in the data; more than `images` where a limit was set.
        count: of `images` that can be read; all shares are of them.
        top1: the share read right.
        top1_interval: 95 %, by Wilson's method.
        top5: the share whose class is among the five likeliest; None where there are five classes or fewer.
        unreadable: names of the images that cannot be read, each with the reason.
        per_class: of the classes that have readable images, by number.
        confusion: how often images of one class (first) are taken for another or for it (second), by numbers.
        not_numbers: images answered with NaN or infinity; they count as wrong.
        seconds: what the answers took, images decoded and all.
        images_per_s: of the images asked in that time; None where all were in the journal.
        resumed: images whose answers were in the journal.
        metadata: what the artifact says about itself.
        against: the second reader, where there is one.
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
        """The figures of one reader's answers, and of a second's to the same images."""
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
        """How many images are read right."""
        return sum(item.rank == 0 for item in self.readings)

    def confused(self) -> list[tuple[str, str, int]]:
        """Pairs of true and read class that are not the same, the most frequent first."""
        names = self.classes
        wrong = [(names[a], names[b], count) for (a, b), count in self.confusion.items() if a != b]
        return sorted(wrong, key=lambda item: -item[2])

    def to_dict(self) -> dict[str, Any]:
        """JSON values, all there is."""
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
        """One image a row: path, label, read, probability, right, error; with `against` what it reads too."""
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
    right, near = (sum(rank is not None and rank < most for rank in ranks) for most in (1, 5))
    if len(dataset.classes) <= 5:
        return right / count, wilson(right, count), None, None
    return right / count, wilson(right, count), near / count, wilson(near, count)


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


def _against_dict(found: Comparison) -> dict[str, Any]:
    return {
        "name": found.name,
        "top1": found.top1,
        "top1_interval": found.top1_interval,
        "top5": found.top5,
        "top5_interval": found.top5_interval,
        "drop": found.drop,
        "drop_interval": found.drop_interval,
        "p_value": found.p_value,
        "agreement": found.agreement,
        "agreement_interval": found.agreement_interval,
        "seconds": found.seconds,
        "images_per_s": found.images_per_s,
        "disagreements": [
            {
                "path": item.image,
                "label": item.truth,
                "read": item.read,
                "probability": _rounded(item.probability),
                "against_read": item.against_read,
                "against_probability": _rounded(item.against_probability),
            }
            for item in found.disagreements
        ],
    }

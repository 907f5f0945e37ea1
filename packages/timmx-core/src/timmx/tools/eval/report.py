"""The report of an evaluation: accuracy, accuracy per class, confusion matrix and misclassified images."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from timmx.report import Bars, Column, Matrix, Report, Section, Table

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

    from timmx.tools.eval.evaluation import ClassFigures, Comparison, Evaluation

_MOST_BARS = 40
_MOST_IN_MATRIX = 25
_MOST_WRONG = 1000


def evaluation_report(
    evaluation: Evaluation, environment: Mapping[str, str], commands: Sequence[str]
) -> Report:
    """The report of one evaluation.

    Args:
        environment: machine and versions; the model and the data are added.
        commands: that reproduce it.
    """
    sections: list[Section] = [
        _readers(evaluation),
        _bars(evaluation.per_class),
        _classes(evaluation),
        _matrix(evaluation),
    ]
    if evaluation.against is not None:
        sections.append(_disagreements(evaluation, evaluation.against))
    sections.append(_wrong(evaluation))
    if evaluation.unreadable:
        rows = [{"path": name, "error": error} for name, error in evaluation.unreadable]
        sections.append(
            Table("Images that cannot be read", [Column("path", "image"), Column("error", "reason")], rows)
        )
    low, high = evaluation.top1_interval
    summary = (
        f"{evaluation.path.name} classifies {evaluation.right:,} of {evaluation.count:,} images correctly: "
        f"{100 * evaluation.top1:.1f} %, with a 95 % interval of {100 * low:.1f} to {100 * high:.1f} %."
    )
    if evaluation.against is not None:
        low, high = evaluation.against.drop_interval
        summary += (
            f" The accuracy of {evaluation.against.name} is {100 * evaluation.against.top1:.1f} %: a drop of "
            f"{100 * evaluation.against.drop:.2f} points ({100 * low:.2f} to {100 * high:.2f}); they agree on "
            f"{100 * evaluation.against.agreement:.1f} % of the images."
        )
    chosen = (
        f"{len(evaluation.images):,} of {evaluation.total:,} images"
        if len(evaluation.images) < evaluation.total
        else ""
    )
    model = f"{evaluation.metadata.model.name}, {evaluation.metadata.precision}"
    data = {
        "model": model,
        "data": f"{evaluation.data}, {chosen or f'{evaluation.total:,} images'}, {len(evaluation.classes):,} classes",
    }
    return Report(
        title=f"Accuracy of {evaluation.path.name}",
        summary=summary,
        sections=sections,
        environment={**data, **environment},
        commands=commands,
    )


def _readers(evaluation: Evaluation) -> Table:
    columns = [
        Column("name", "file or model"),
        Column("top1", "top-1", "percent"),
        Column("low", "95 % from", "percent"),
        Column("high", "to", "percent"),
        *([Column("top5", "top-5", "percent")] if evaluation.top5 is not None else []),
        Column("speed", "images/s", "number"),
    ]
    rows: list[dict[str, Any]] = [_reader(evaluation.path.name, evaluation)]
    if evaluation.against is not None:
        rows.append(_reader(evaluation.against.name, evaluation.against))
    return Table(
        "Accuracy",
        columns,
        rows,
        "Intervals are Wilson score intervals. Images/s includes decoding."
        + (
            " The interval of the drop is Newcombe's method 10 for paired proportions (1998); McNemar's exact "
            "test: p = "
            f"{evaluation.against.p_value:.2g}."
            if evaluation.against
            else ""
        ),
    )


def _reader(name: str, item: Evaluation | Comparison) -> dict[str, Any]:
    low, high = item.top1_interval
    return {
        "name": name,
        "top1": item.top1,
        "low": low,
        "high": high,
        "top5": item.top5,
        "speed": item.images_per_s,
    }


def worst_first(classes: Sequence[ClassFigures]) -> list[ClassFigures]:
    """Sort by ascending accuracy; at equal accuracy, classes with more images first."""
    return sorted(classes, key=lambda item: (item.accuracy, -item.count))


def _bars(classes: Sequence[ClassFigures]) -> Bars:
    shown = worst_first(classes)[:_MOST_BARS] if len(classes) > _MOST_BARS else classes
    note = f"The {len(shown)} worst of {len(classes)} classes. " if len(shown) < len(classes) else ""
    return Bars(
        title="Accuracy per class",
        y_title="accuracy",
        values={item.name: item.accuracy for item in shown},
        intervals={item.name: item.interval for item in shown},
        note=f"{note}Whiskers are 95 % intervals.",
        kind="percent",
    )


def _classes(evaluation: Evaluation) -> Table:
    rows = [
        {
            "name": item.name,
            "count": item.count,
            "accuracy": item.accuracy,
            "low": item.interval[0],
            "high": item.interval[1],
            "confused": item.confused_with and item.confused_with[0],
            "times": item.confused_with and item.confused_with[1],
        }
        for item in evaluation.per_class
    ]
    columns = [
        Column("name", "class"),
        Column("count", "images", "number"),
        Column("accuracy", "accuracy", "percent"),
        Column("low", "95 % from", "percent"),
        Column("high", "to", "percent"),
        Column("confused", "most often confused with"),
        Column("times", "times", "number"),
    ]
    return Table("Classes", columns, rows)


def _matrix(evaluation: Evaluation) -> Matrix:
    """The confusion matrix of all classes, or of those with the most frequent confusions."""
    present = sorted({number for pair in evaluation.confusion for number in pair})
    note = ""
    if len(present) > _MOST_IN_MATRIX:
        wrong = sorted((-count, *pair) for pair, count in evaluation.confusion.items() if pair[0] != pair[1])
        chosen: dict[int, None] = {}
        for _, truth, read in wrong:
            if len({*chosen, truth, read}) <= _MOST_IN_MATRIX:
                chosen |= {truth: None, read: None}
        note = f"The {len(chosen)} classes with the most frequent confusions, of {len(evaluation.classes):,}."
        present = sorted(chosen) or present[:_MOST_IN_MATRIX]
    counts = [[evaluation.confusion.get((truth, read), 0) for read in present] for truth in present]
    return Matrix("Confusion matrix", [evaluation.classes[number] for number in present], counts, note)


def _disagreements(evaluation: Evaluation, other: Comparison) -> Table:
    columns = [
        Column("image", "image"),
        Column("truth", "class"),
        Column("read", f"predicted by {evaluation.path.name}"),
        Column("probability", "probability", "percent"),
        Column("against_read", f"predicted by {other.name}"),
        Column("against_probability", "probability", "percent"),
    ]
    rows = [
        {
            "image": item.image,
            "truth": item.truth,
            "read": item.read,
            "probability": item.probability,
            "against_read": item.against_read,
            "against_probability": item.against_probability,
        }
        for item in other.disagreements
    ]
    note = "" if rows else "None."
    return Table("Images classified differently", columns, rows, note)


def _wrong(evaluation: Evaluation) -> Table:
    wrong = [row for row in evaluation.rows() if row["right"] is False]
    wrong.sort(key=lambda row: -(row["probability"] or 0))
    columns = [
        Column("path", "image"),
        Column("label", "class"),
        Column("read", "predicted"),
        Column("probability", "probability", "percent"),
    ]
    note = "Sorted by probability." if wrong else "None."
    if len(wrong) > _MOST_WRONG:
        note = f"The {_MOST_WRONG:,} with the highest probability, of {len(wrong):,}."
    return Table("Misclassified images", columns, wrong[:_MOST_WRONG], note)

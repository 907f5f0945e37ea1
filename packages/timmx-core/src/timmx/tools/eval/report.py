"""An evaluation as a report: figures, each class, what is confused with what, and the images that went wrong."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from timmx.report import Bars, Column, Matrix, Report, Section, Table

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

    from timmx.tools.eval.evaluation import ClassFigures, Comparison, Evaluation

_MOST_BARS = 40
_MOST_IN_MATRIX = 25
_MOST_WRONG = 1000


def evaluation_report(found: Evaluation, environment: Mapping[str, str], commands: Sequence[str]) -> Report:
    """The report of one evaluation.

    Args:
        environment: where it was made; the data is added.
        commands: that made it.
    """
    sections: list[Section] = [_readers(found), _bars(found.per_class), _classes(found), _matrix(found)]
    if found.against is not None:
        sections.append(_disagreements(found, found.against))
    sections.append(_wrong(found))
    if found.unreadable:
        rows = [{"path": name, "error": error} for name, error in found.unreadable]
        sections.append(
            Table("Images that cannot be read", [Column("path", "image"), Column("error", "reason")], rows)
        )
    low, high = found.top1_interval
    summary = (
        f"{found.path.name} reads {found.right:,} of {found.count:,} images right: {100 * found.top1:.1f} %, with a "
        f"95 % interval from {100 * low:.1f} to {100 * high:.1f} %."
    )
    if found.against is not None:
        low, high = found.against.drop_interval
        summary += (
            f" {found.against.name} reads {100 * found.against.top1:.1f} % right, a "
            f"drop of {100 * found.against.drop:.2f} points ({100 * low:.2f} to {100 * high:.2f}); they agree on "
            f"{100 * found.against.agreement:.1f} %."
        )
    chosen = f"{len(found.images):,} of {found.total:,} images" if len(found.images) < found.total else ""
    model = f"{found.metadata.model.name}, {found.metadata.precision}"
    data = {
        "model": model,
        "data": f"{found.data}, {chosen or f'{found.total:,} images'}, {len(found.classes):,} classes",
    }
    return Report(
        title=f"Accuracy of {found.path.name}",
        summary=summary,
        sections=sections,
        environment={**data, **environment},
        commands=commands,
    )


def _readers(found: Evaluation) -> Table:
    columns = [
        Column("name", "reader"),
        Column("top1", "top-1", "percent"),
        Column("low", "95 % from", "percent"),
        Column("high", "to", "percent"),
        *([Column("top5", "top-5", "percent")] if found.top5 is not None else []),
        Column("speed", "images/s", "number"),
    ]
    rows: list[dict[str, Any]] = [_reader(found.path.name, found)]
    if found.against is not None:
        rows.append(_reader(found.against.name, found.against))
    return Table(
        "Accuracy",
        columns,
        rows,
        "Intervals are Wilson's. The speed includes decoding the images."
        + (
            " The drop's interval is Newcombe's for paired shares (1998, method 10); McNemar's exact test gives p = "
            f"{found.against.p_value:.2g}."
            if found.against
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
    """By accuracy; of equal ones, that of more images first, whose figure is surer."""
    return sorted(classes, key=lambda item: (item.accuracy, -item.count))


def _bars(classes: Sequence[ClassFigures]) -> Bars:
    shown = worst_first(classes)[:_MOST_BARS] if len(classes) > _MOST_BARS else classes
    note = f"The {len(shown)} worst of {len(classes)} classes. " if len(shown) < len(classes) else ""
    return Bars(
        title="Accuracy by class",
        y_title="share read right",
        values={item.name: item.accuracy for item in shown},
        intervals={item.name: item.interval for item in shown},
        note=f"{note}Whiskers are 95 % intervals.",
        kind="percent",
    )


def _classes(found: Evaluation) -> Table:
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
        for item in found.per_class
    ]
    columns = [
        Column("name", "class"),
        Column("count", "images", "number"),
        Column("accuracy", "read right", "percent"),
        Column("low", "95 % from", "percent"),
        Column("high", "to", "percent"),
        Column("confused", "most often taken for"),
        Column("times", "times", "number"),
    ]
    return Table("Classes", columns, rows)


def _matrix(found: Evaluation) -> Matrix:
    """All classes, or those that take part in the most frequent confusions."""
    present = sorted({number for pair in found.confusion for number in pair})
    note = ""
    if len(present) > _MOST_IN_MATRIX:
        wrong = sorted((-count, *pair) for pair, count in found.confusion.items() if pair[0] != pair[1])
        chosen: dict[int, None] = {}
        for _, truth, read in wrong:
            if len({*chosen, truth, read}) <= _MOST_IN_MATRIX:
                chosen |= {truth: None, read: None}
        note = f"The {len(chosen)} classes that are confused most often, of {len(found.classes):,}."
        present = sorted(chosen) or present[:_MOST_IN_MATRIX]
    counts = [[found.confusion.get((truth, read), 0) for read in present] for truth in present]
    return Matrix("What is read as what", [found.classes[number] for number in present], counts, note)


def _disagreements(found: Evaluation, other: Comparison) -> Table:
    columns = [
        Column("image", "image"),
        Column("truth", "class"),
        Column("read", f"{found.path.name} reads"),
        Column("probability", "with", "percent"),
        Column("against_read", f"{other.name} reads"),
        Column("against_probability", "with", "percent"),
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
    note = "" if rows else "There are none."
    return Table("Images that the two read differently", columns, rows, note)


def _wrong(found: Evaluation) -> Table:
    wrong = [row for row in found.rows() if row["right"] is False]
    wrong.sort(key=lambda row: -(row["probability"] or 0))
    columns = [
        Column("path", "image"),
        Column("label", "class"),
        Column("read", "read"),
        Column("probability", "with", "percent"),
    ]
    note = "The surest first." if wrong else "There are none."
    if len(wrong) > _MOST_WRONG:
        note = f"The surest {_MOST_WRONG:,} of {len(wrong):,}."
    return Table("Images read wrong", columns, wrong[:_MOST_WRONG], note)

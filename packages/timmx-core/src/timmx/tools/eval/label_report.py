"""The report of an evaluation with any number of labels per image."""

from __future__ import annotations

from typing import TYPE_CHECKING

from timmx.report import Bars, Column, Report, Section, Table
from timmx.tools.eval.multi_label import THRESHOLD

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

    from timmx.tools.eval.multi_label import LabelComparison, MultiLabelEvaluation, Scores

_MOST_BARS = 40
_MOST_WRONG = 1000


def multi_label_report(
    evaluation: MultiLabelEvaluation, environment: Mapping[str, str], commands: Sequence[str]
) -> Report:
    """The report of one evaluation.

    Args:
        environment: machine and versions; the model and the data are added.
        commands: that reproduce it.
    """
    sections: list[Section] = [_readers(evaluation), _bars(evaluation), _classes(evaluation)]
    if evaluation.against is not None:
        sections.append(_disagreements(evaluation, evaluation.against))
    sections.append(_wrong(evaluation))
    if evaluation.unreadable:
        rows = [{"path": name, "error": error} for name, error in evaluation.unreadable]
        sections.append(
            Table("Images that cannot be read", [Column("path", "image"), Column("error", "reason")], rows)
        )
    model = f"{evaluation.metadata.model.name}, {evaluation.metadata.precision}"
    images = f"{len(evaluation.images):,} images"
    if len(evaluation.images) < evaluation.total:
        images = f"{len(evaluation.images):,} of {evaluation.total:,} images"
    data = f"{evaluation.data}, {images}, {len(evaluation.classes):,} classes"
    return Report(
        title=f"Average precision of {evaluation.path.name}",
        summary=_summary(evaluation),
        sections=sections,
        environment={"model": model, "data": data, **environment},
        commands=commands,
    )


def _summary(evaluation: MultiLabelEvaluation) -> str:
    mean, name = evaluation.mean_average_precision, evaluation.path.name
    text = f"The mean average precision of {name} is {_percent(mean)}; "
    text += f"all labels are right for {evaluation.right:,} of {evaluation.count:,} images."
    if evaluation.against is not None:
        other = evaluation.against
        text += (
            f" That of {other.name} is {_percent(other.scores.mean_average_precision)}; they agree on "
            f"{_percent(other.agreement)} of the decisions."
        )
    return text


def _percent(share: float | None) -> str:
    return "unknown" if share is None else f"{100 * share:.1f} %"


def _readers(evaluation: MultiLabelEvaluation) -> Table:
    columns = [
        Column("name", "file or model"),
        Column("map", "mean average precision", "percent"),
        Column("exact", "all labels right", "percent"),
        Column("decisions", "decisions right", "percent"),
        Column("speed", "images/s", "number"),
    ]
    rows = [_reader(evaluation.path.name, evaluation.scores, evaluation.images_per_s)]
    if evaluation.against is not None:
        other = evaluation.against
        rows.append(_reader(other.name, other.scores, other.images_per_s))
    return Table(
        "Average precision",
        columns,
        rows,
        "The mean is over the classes that have images. The interval is Wilson's score interval, 95 %. A decision is "
        f"right if the probability is at least {THRESHOLD:g} for a label of the image, and less for the other classes. "
        "Images/s includes decoding.",
    )


def _reader(name: str, scores: Scores, images_per_s: float | None) -> dict[str, object]:
    return {
        "name": name,
        "map": scores.mean_average_precision,
        "exact": (scores.exact, *scores.exact_interval),
        "decisions": scores.decisions,
        "speed": images_per_s,
    }


def _bars(evaluation: MultiLabelEvaluation) -> Bars:
    values = {
        item.name: item.average_precision
        for item in evaluation.per_class
        if item.average_precision is not None
    }
    worst = dict(sorted(values.items(), key=lambda item: item[1])[:_MOST_BARS])
    shown = values if len(values) <= _MOST_BARS else worst
    note = f"The {len(shown)} worst of {len(values)} classes." if len(shown) < len(values) else ""
    return Bars(
        title="Average precision per class",
        y_title="average precision",
        values=shown,
        note=note,
        kind="percent",
    )


def _classes(evaluation: MultiLabelEvaluation) -> Table:
    columns = [
        Column("name", "class"),
        Column("count", "images", "number"),
        Column("average_precision", "average precision", "percent"),
        Column("precision", f"precision at {THRESHOLD:g}", "percent"),
        Column("recall", f"recall at {THRESHOLD:g}", "percent"),
    ]
    return Table("Classes", columns, [vars(item) for item in evaluation.per_class])


def _disagreements(evaluation: MultiLabelEvaluation, other: LabelComparison) -> Table:
    columns = [
        Column("image", "image"),
        Column("labels", "labels"),
        Column("read", f"predicted by {evaluation.path.name}"),
        Column("against_read", f"predicted by {other.name}"),
    ]
    rows = [vars(item) for item in other.disagreements]
    return Table("Images with different predictions", columns, rows, "" if rows else "None.")


def _wrong(evaluation: MultiLabelEvaluation) -> Table:
    wrong = [row for row in evaluation.rows() if row["right"] is False]
    columns = [Column("path", "image"), Column("label", "labels"), Column("read", "predicted")]
    rows = [{column.key: row[column.key] for column in columns} for row in wrong[:_MOST_WRONG]]
    note = "" if wrong else "None."
    if len(wrong) > _MOST_WRONG:
        note = f"The first {_MOST_WRONG:,} of {len(wrong):,}."
    return Table("Images with a wrong label", columns, rows, note)

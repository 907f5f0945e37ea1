"""`timmx eval FILE --data DIR`: the accuracy of an exported file on labeled images."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from timmx.base import counted, format_table, shown
from timmx.cli.options import (
    BatchSizeOption,
    DebugOption,
    ExifOption,
    FileArgument,
    ImageBitsOption,
    MaxPixelsOption,
    ReportOption,
    RuntimeDeviceOption,
    TrustOption,
    VerboseOption,
    WorkersOption,
)
from timmx.cli.output import write, write_json
from timmx.contract import JsonOption
from timmx.inputs import MOST_PIXELS

if TYPE_CHECKING:
    from timmx.tools.eval import Comparison, Evaluation, LabelComparison, MultiLabelEvaluation

_ALL_CLASSES, _WORST, _FIRST = 20, 10, 10
"""Show all classes if there are at most `_ALL_CLASSES`, else the `_WORST` worst ones; and `_FIRST` images."""


def evaluate(
    file: FileArgument,
    data: Annotated[
        Path,
        typer.Option(
            "--data",
            metavar="DIR|CSV",
            help="Labeled images: a folder with one subfolder per class, named after it, or a CSV with the columns "
            "path and label; several labels of an image are separated by |.",
        ),
    ],
    class_map: Annotated[
        Path | None,
        typer.Option(
            "--class-map",
            help="Dataset class names in model order, one per line, if they differ from the labels.",
        ),
    ] = None,
    limit: Annotated[
        int | None,
        typer.Option("--limit", help="Maximum number of images, taken evenly from all classes."),
    ] = None,
    resume: Annotated[
        Path | None,
        typer.Option(
            "--resume",
            metavar="JOURNAL",
            help="Record each prediction in this file. If it exists, resume an interrupted run from it.",
        ),
    ] = None,
    csv: Annotated[
        Path | None,
        typer.Option("--csv", metavar="FILE", help="Also write a CSV with one line per image."),
    ] = None,
    report: ReportOption = None,
    batch_size: BatchSizeOption = None,
    workers: WorkersOption = None,
    exif: ExifOption = None,
    image_bits: ImageBitsOption = None,
    max_pixels: MaxPixelsOption = MOST_PIXELS,
    against: Annotated[
        str | None,
        typer.Option(
            "--against",
            metavar="MODEL",
            help="PyTorch model to compare with, named as for the export, or another file.",
        ),
    ] = None,
    model_options: Any = None,
    runtime_device: RuntimeDeviceOption = None,
    trust: TrustOption = False,
    as_json: JsonOption = False,
    verbose: VerboseOption = False,
    debug: DebugOption = False,
) -> None:
    """Measure the accuracy of an exported file on labeled images."""
    from timmx.artifact import keep_inputs
    from timmx.cli.terminal import working
    from timmx.inputs import ImageSettings
    from timmx.report import check_report_path
    from timmx.tools.eval import Evaluation, check_csv_path, evaluate as run, write_csv

    with working(verbose):
        if report is not None:
            check_report_path(report)
        if csv is not None:
            check_csv_path(csv)
        keep_inputs(
            {"--csv": csv, "--report": report, "--resume": resume},
            {
                "--data": data,
                "--class-map": class_map,
                "--checkpoint": (model_options or {}).get("checkpoint"),
            },
            {"FILE": file, "--against": against},
        )
        evaluation = run(
            file,
            data,
            class_map=class_map,
            batch_size=batch_size,
            workers=workers,
            limit=limit,
            resume=resume,
            against=against,
            model_options=model_options,
            settings=ImageSettings(exif=exif, bits=image_bits, max_pixels=max_pixels),
            trust=trust,
            runtime_device=runtime_device,
        )
        if csv is not None:
            write_csv(evaluation, csv)
        if report is not None:
            _write_report(evaluation, report)
    if as_json:
        write_json(evaluation.to_dict())
    elif isinstance(evaluation, Evaluation):
        write(summary(evaluation))
    else:
        write(multi_label_summary(evaluation))


def summary(evaluation: Evaluation) -> str:
    """The accuracy, and that of each class, or of the worst ones if there are many."""
    lines = [
        _head(evaluation),
        "  ".join(
            (
                "top-1",
                _share(evaluation.top1, evaluation.top1_interval),
                f"{evaluation.right:,} of {evaluation.count:,} correct",
            )
        ),
    ]
    if evaluation.top5 is not None and evaluation.top5_interval is not None:
        lines.append("  ".join(("top-5", _share(evaluation.top5, evaluation.top5_interval))))
    lines += [*_run_lines(evaluation), "", *_class_lines(evaluation)]
    if evaluation.against is not None:
        lines += ["", *_against_lines(evaluation, evaluation.against)]
    return "\n".join(lines)


def multi_label_summary(evaluation: MultiLabelEvaluation) -> str:
    """The mean average precision, and the figures of each class, or of the worst ones if there are many."""
    scores = evaluation.scores
    lines = [
        _head(evaluation),
        f"mAP     {_percent(scores.mean_average_precision):>7}  mean average precision of the classes",
        "  ".join(
            (
                "exact ",
                _share(scores.exact, scores.exact_interval),
                f"{evaluation.right:,} of {evaluation.count:,} images with all labels right at 0.5",
            )
        ),
        f"labels  {_percent(scores.decisions):>7}  of the decisions on single labels right at 0.5",
        *_run_lines(evaluation),
        "",
        *_label_lines(evaluation),
    ]
    if evaluation.against is not None:
        lines += ["", *_label_against_lines(evaluation, evaluation.against)]
    return "\n".join(lines)


def _head(evaluation: Evaluation | MultiLabelEvaluation) -> str:
    some = f" of {evaluation.total:,} (--limit)" if len(evaluation.images) < evaluation.total else ""
    return (
        f"{shown(evaluation.path)} on {shown(evaluation.data)}: {len(evaluation.images):,} images{some}, "
        f"{counted(len(evaluation.classes), 'class', 'classes')}"
    )


def _run_lines(evaluation: Evaluation | MultiLabelEvaluation) -> list[str]:
    """Throughput, and what was not run."""
    lines = []
    if evaluation.images_per_s:
        lines.append(f"speed  {evaluation.images_per_s:,.0f} images/s, {evaluation.seconds:.1f} s")
    if evaluation.resumed:
        lines.append(f"{evaluation.resumed:,} predictions are from the journal")
    if evaluation.unreadable:
        lines.append(f"{counted(len(evaluation.unreadable), 'image')} cannot be read (not counted):")
        lines += [f"  {shown(name)}" for name, _ in evaluation.unreadable[:_FIRST]]
        lines += _more(len(evaluation.unreadable), "--json lists all")
    return lines


def _label_lines(evaluation: MultiLabelEvaluation) -> list[str]:
    classes, head = list(evaluation.per_class), "class"
    if len(classes) > _ALL_CLASSES:
        classes = sorted(
            (item for item in classes if item.average_precision is not None),
            key=lambda item: item.average_precision or 0.0,
        )[:_WORST]
        head = f"the {_WORST} worst classes"
    rows = [
        (
            item.name,
            f"{item.count:,}",
            *(_percent(share) for share in (item.average_precision, item.precision, item.recall)),
        )
        for item in classes
    ]
    return format_table([(head, "images", "average precision", "precision", "recall"), *rows])


def _label_against_lines(evaluation: MultiLabelEvaluation, other: LabelComparison) -> list[str]:
    lines = [
        f"against {shown(other.name)}",
        f"mAP     {_percent(other.scores.mean_average_precision):>7}",
        f"drop    {'-' if other.drop is None else f'{100 * other.drop:.2f}':>5} points",
        f"agree   {_percent(other.agreement):>7}  of the decisions on single labels",
    ]
    if not other.disagreements:
        return [*lines, "All decisions at 0.5 are the same."]
    rows = [
        (item.image, *("-" if cell == "" else cell or "NaN or infinity" for cell in cells))
        for item in other.disagreements[:_FIRST]
        for cells in [(item.labels, item.read, item.against_read)]
    ]
    head = ("different labels", "labels", evaluation.path.name, other.name)
    lines += ["", *format_table([head, *rows], left=range(4))]
    return [*lines, *_more(len(other.disagreements), "--json, --csv and --report list all")]


def _class_lines(evaluation: Evaluation) -> list[str]:
    from timmx.tools.eval import worst_first

    classes, head = list(evaluation.per_class), "class"
    if len(classes) > _ALL_CLASSES:
        classes, head = worst_first(evaluation.per_class)[:_WORST], f"the {_WORST} worst classes"
    rows = [
        (
            item.name,
            f"{item.count:,}",
            _percent(item.accuracy),
            f"{item.confused_with[0]} ({item.confused_with[1]:,})" if item.confused_with else "",
        )
        for item in classes
    ]
    lines = [(head, "images", "accuracy", "most often confused with"), *rows]
    if not any(row[-1] for row in rows):
        return format_table([line[:-1] for line in lines])
    return format_table(lines, left=(0, 3))


def _against_lines(evaluation: Evaluation, other: Comparison) -> list[str]:
    low, high = (100 * value for value in other.drop_interval)
    lines = [
        f"against {shown(other.name)}",
        "  ".join(("top-1", _share(other.top1, other.top1_interval))),
        f"drop   {100 * other.drop:.2f} points (95 %: {low:.2f} to {high:.2f}; McNemar's p = {other.p_value:.2g})",
        "  ".join(("agree", _share(other.agreement, other.agreement_interval))),
    ]
    if not other.disagreements:
        return [*lines, "Both classify all images the same way."]
    rows = [
        (
            item.image,
            item.truth,
            _prediction(item.read, item.probability),
            _prediction(item.against_read, item.against_probability),
        )
        for item in other.disagreements[:_FIRST]
    ]
    head = ("classified differently", "class", evaluation.path.name, other.name)
    lines += ["", *format_table([head, *rows], left=range(4))]
    return [*lines, *_more(len(other.disagreements), "--json, --csv and --report list all")]


def _write_report(evaluation: Evaluation | MultiLabelEvaluation, path: Path) -> None:
    from timmx.report import environment, this_command, write_report
    from timmx.tools.eval import Evaluation, evaluation_report, multi_label_report

    machine = environment(
        name for name in evaluation.metadata.versions if name not in ("timmx-core", "timm", "torch")
    )
    report = (
        evaluation_report(evaluation, machine, [this_command()])
        if isinstance(evaluation, Evaluation)
        else multi_label_report(evaluation, machine, [this_command()])
    )
    write_report(report, path)


def _share(share: float, interval: tuple[float, float]) -> str:
    return f"{_percent(share):>7}  (95 %: {100 * interval[0]:.1f} to {100 * interval[1]:.1f})"


def _percent(share: float | None) -> str:
    return "-" if share is None else f"{100 * share:.1f} %"


def _prediction(name: str | None, probability: float | None) -> str:
    return "NaN or infinity" if name is None or probability is None else f"{name} ({_percent(probability)})"


def _more(count: int, where: str) -> list[str]:
    return [f"  and {count - _FIRST:,} more; {where}"] if count > _FIRST else []

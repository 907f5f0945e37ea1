"""`timmx eval FILE --data DIR`: how many images of known classes an exported file reads right."""

from __future__ import annotations

import json
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from timmx.base import format_table, shown
from timmx.cli.options import (
    BatchSizeOption,
    DebugOption,
    FileArgument,
    ReportOption,
    VerboseOption,
    WorkersOption,
)
from timmx.contract import JsonOption

if TYPE_CHECKING:
    from timmx.tools.eval import Comparison, Evaluation

_ALL_CLASSES, _WORST, _FIRST = 20, 10, 10
"""Up to how many classes all are shown, how many of more, and how many images."""


def evaluate(
    file: FileArgument,
    data: Annotated[
        Path,
        typer.Option(
            "--data",
            metavar="DIR|CSV",
            help="Images of known classes: a folder with one folder a class, called as the class is, or a CSV with the "
            "columns path and label.",
        ),
    ],
    class_map: Annotated[
        Path | None,
        typer.Option(
            "--class-map",
            help="Where the data calls classes otherwise: its names in the order of the classes, one a line.",
        ),
    ] = None,
    limit: Annotated[
        int | None,
        typer.Option("--limit", help="Only so many images, evenly taken from the classes."),
    ] = None,
    resume: Annotated[
        Path | None,
        typer.Option(
            "--resume",
            metavar="JOURNAL",
            help="Keep each answer in this file, and where it exists go on from there: after Ctrl-C, or a kill.",
        ),
    ] = None,
    csv: Annotated[
        Path | None,
        typer.Option("--csv", metavar="FILE", help="Write a CSV with a line for each image."),
    ] = None,
    report: ReportOption = None,
    batch_size: BatchSizeOption = None,
    workers: WorkersOption = None,
    against: Annotated[
        str | None,
        typer.Option(
            "--against",
            metavar="MODEL",
            help="Compare image by image with this PyTorch model, named as for an export, or with another file.",
        ),
    ] = None,
    model_options: Any = None,
    as_json: JsonOption = False,
    verbose: VerboseOption = False,
    debug: DebugOption = False,
) -> None:
    """Measure an exported file's accuracy on images of known classes."""
    from timmx.artifact import keep_inputs
    from timmx.cli.terminal import working
    from timmx.report import check_report_path
    from timmx.tools.eval import check_csv_path, evaluate as run, write_csv

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
        found = run(
            file,
            data,
            class_map=class_map,
            batch_size=batch_size,
            workers=workers,
            limit=limit,
            resume=resume,
            against=against,
            model_options=model_options,
        )
        if csv is not None:
            write_csv(found, csv)
        if report is not None:
            _write_report(found, report)
    print(json.dumps(found.to_dict(), indent=2) if as_json else summary(found))


def summary(found: Evaluation) -> str:
    """The figures, and each class or the worst of many."""
    some = f" of {found.total:,} (--limit)" if len(found.images) < found.total else ""
    lines = [
        f"{shown(found.path)} on {shown(found.data)}: {len(found.images):,} images{some}, "
        f"{len(found.classes):,} classes",
        "  ".join(
            ("top-1", _share(found.top1, found.top1_interval), f"{found.right:,} of {found.count:,} right")
        ),
    ]
    if found.top5 is not None and found.top5_interval is not None:
        lines.append("  ".join(("top-5", _share(found.top5, found.top5_interval))))
    speed = f"speed  {found.images_per_s:,.0f} images/s, {found.seconds:.1f} s" if found.images_per_s else ""
    lines += [speed] if speed else []
    if found.resumed:
        lines.append(f"{found.resumed:,} answers were in the journal already")
    if found.unreadable:
        one = len(found.unreadable) == 1
        what = (
            "1 image cannot be read, and does"
            if one
            else f"{len(found.unreadable):,} images cannot be read, and do"
        )
        lines.append(f"{what} not count:")
        lines += [f"  {shown(name)}" for name, _ in found.unreadable[:_FIRST]]
        lines += _more(len(found.unreadable), "--json names all")
    lines += ["", *_class_lines(found)]
    if found.against is not None:
        lines += ["", *_against_lines(found, found.against)]
    return "\n".join(lines)


def _class_lines(found: Evaluation) -> list[str]:
    from timmx.tools.eval import worst_first

    told, head = list(found.per_class), "class"
    if len(told) > _ALL_CLASSES:
        told, head = worst_first(found.per_class)[:_WORST], f"the {_WORST} worst classes"
    rows = [
        (
            item.name,
            f"{item.count:,}",
            _percent(item.accuracy),
            f"{item.confused_with[0]} ({item.confused_with[1]:,})" if item.confused_with else "",
        )
        for item in told
    ]
    lines = [(head, "images", "right", "most often taken for"), *rows]
    if not any(row[-1] for row in rows):
        return format_table([line[:-1] for line in lines])
    return format_table(lines, left=(0, 3))


def _against_lines(found: Evaluation, other: Comparison) -> list[str]:
    low, high = (100 * value for value in other.drop_interval)
    lines = [
        f"against {shown(other.name)}",
        "  ".join(("top-1", _share(other.top1, other.top1_interval))),
        f"drop   {100 * other.drop:.2f} points (95 %: {low:.2f} to {high:.2f}; McNemar's p = {other.p_value:.2g})",
        "  ".join(("agree", _share(other.agreement, other.agreement_interval))),
    ]
    if not other.disagreements:
        return [*lines, "No image is read differently."]
    rows = [
        (
            item.image,
            item.truth,
            _read(item.read, item.probability),
            _read(item.against_read, item.against_probability),
        )
        for item in other.disagreements[:_FIRST]
    ]
    head = ("read differently", "class", found.path.name, other.name)
    lines += ["", *format_table([head, *rows], left=range(4))]
    return [*lines, *_more(len(other.disagreements), "--json, --csv and --report have all")]


def _write_report(found: Evaluation, path: Path) -> None:
    from timmx.report import environment, this_command, write_report
    from timmx.tools.eval import evaluation_report

    machine = environment(
        name for name in found.metadata.versions if name not in ("timmx-core", "timm", "torch")
    )
    write_report(evaluation_report(found, machine, [this_command()]), path)


def _share(share: float, interval: tuple[float, float]) -> str:
    return f"{_percent(share):>7}  (95 %: {100 * interval[0]:.1f} to {100 * interval[1]:.1f})"


def _percent(share: float) -> str:
    return f"{100 * share:.1f} %"


def _read(name: str | None, probability: float | None) -> str:
    return "no number" if name is None or probability is None else f"{name} ({_percent(probability)})"


def _more(count: int, where: str) -> list[str]:
    return [f"  and {count - _FIRST:,} more; {where}"] if count > _FIRST else []

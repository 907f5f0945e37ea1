"""`timmx eval FILE --data DIR`: how many images of known classes an exported file reads right."""

from __future__ import annotations

import json
import os
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from timmx.base import atomic_write, columns, shown
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
    from collections.abc import Mapping

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
    from timmx.cli.terminal import working
    from timmx.tools.eval import evaluate as run

    with working(verbose):
        _check_outputs(csv, report)
        _keep_inputs(
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
            _write_csv(found, csv)
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
        return columns([line[:-1] for line in lines])
    return columns(lines, left=frozenset({0, 3}))


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
    lines += ["", *columns([head, *rows], left=frozenset(range(4)))]
    return [*lines, *_more(len(other.disagreements), "--json, --csv and --report have all")]


def _check_outputs(csv: Path | None, report: Path | None) -> None:
    """Refuse before the work what cannot be written after it, and what would be lost by it."""
    from timmx.errors import ConfigurationError
    from timmx.report import check_report_path

    if report is not None:
        check_report_path(report)
    if csv is None:
        return
    if csv.is_dir() or not os.access(Path(os.path.realpath(csv)).parent, os.W_OK | os.X_OK):
        raise ConfigurationError(
            f"--csv {csv} cannot be written: it is a folder, or its folder is missing or not writable",
            hint="name a file in a folder that can be written to",
        )
    if not _begins(csv, b"path,label,read,"):
        raise ConfigurationError(
            f"--csv {csv} exists and is not a CSV of timmx eval; it is left unchanged", hint="name a new file"
        )


def _begins(path: Path, start: bytes) -> bool:
    """Whether a file is there not yet, or empty, or begins as one that may be replaced. A device may be written to."""
    from timmx.errors import ConfigurationError

    if not path.is_file():
        return True
    try:
        with path.open("rb") as stream:
            head = stream.read(256).lstrip().lower()
    except OSError as exc:
        raise ConfigurationError(
            f"{path} exists and cannot be read: {exc.strerror or exc}", hint="name a new file"
        ) from exc
    return not head or head.startswith(start)


def _keep_inputs(
    outputs: Mapping[str, Path | None], inputs: Mapping[str, Any], artifacts: Mapping[str, Any]
) -> None:
    """Refuse outputs that are inputs, lie inside an artifact that is a folder, or are one another; links or not."""
    from timmx.errors import ConfigurationError

    read = [(flag, Path(value).expanduser()) for flag, value in inputs.items() if value is not None]
    for flag, value in artifacts.items():
        read += [(flag, path) for path in _files(value)]
    written = [(flag, path) for flag, path in outputs.items() if path is not None]
    for number, (flag, path) in enumerate(written):
        for other, place in [*read, *written[:number]]:
            inside = (
                other in artifacts and Path(os.path.realpath(place)) in Path(os.path.realpath(path)).parents
            )
            if inside or _same(path, place):
                what = f"lies in {other} {place}" if inside else f"is the same as {other} {place}"
                raise ConfigurationError(
                    f"{flag} {path} {what}, which it would damage", hint=f"name another file for {flag}"
                )


def _files(artifact: Any) -> tuple[Path, ...]:
    """All that belongs to an artifact; nothing where it is no file, such as a model of timm."""
    from timmx.artifact import backend_for
    from timmx.errors import TimmxError

    path = Path(str(artifact)).expanduser()
    if artifact is None or not path.suffix or not path.exists():
        return ()
    try:
        return (path, *backend_for(path).files(path))
    except TimmxError:  # which opening it tells
        return (path,)


def _same(one: Path, other: Path) -> bool:
    try:
        return one.samefile(other)
    except OSError:  # one of them is not there yet
        return os.path.realpath(one) == os.path.realpath(other)


def _write_csv(found: Evaluation, path: Path) -> None:
    import csv

    from timmx.errors import ArtifactError

    rows = found.rows()
    try:
        with atomic_write(path, newline="", errors="surrogateescape") as stream:
            writer = csv.DictWriter(stream, rows[0], lineterminator="\n")
            writer.writeheader()
            writer.writerows(row | {"right": {True: 1, False: 0, None: ""}[row["right"]]} for row in rows)
    except OSError as exc:
        raise ArtifactError(
            f"cannot write --csv {path}: {exc.strerror or exc}", hint="fix that, or choose another --csv"
        ) from exc


def _write_report(found: Evaluation, path: Path) -> None:
    from timmx.report import environment, this_command, write_report
    from timmx.tools.eval import evaluation_report

    machine = environment(
        name for name in found.metadata["versions"] if name not in ("timmx-core", "timm", "torch")
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

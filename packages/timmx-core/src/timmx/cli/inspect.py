"""`timmx inspect FILE`: what a file contains and how to feed it."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from timmx.base import format_table, size_text
from timmx.cli.options import DebugOption, VerboseOption
from timmx.cli.output import write, write_json
from timmx.cli.results import verdict
from timmx.contract import JsonOption

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping

    from timmx.contract import ModelMetadata
    from timmx.tools.inspect import Inspection

_WIDEST = 160
"""Maximum number of characters per line in the details of a backend."""
_SHOWN = 8
"""Maximum number of operations and labels shown; `--json` has all."""


def inspect(
    file: Annotated[Path, typer.Argument(metavar="FILE", help="A file of any installed format.")],
    snippet: Annotated[
        str | None,
        typer.Option(
            "--snippet",
            metavar="LANGUAGE",
            help="Print code that loads and runs the file instead: python, swift, kotlin, js or cpp.",
        ),
    ] = None,
    as_json: JsonOption = False,
    verbose: VerboseOption = False,
    debug: DebugOption = False,
) -> None:
    """Show a file's inputs, outputs, preprocessing, labels, model and verification."""
    from timmx.cli.terminal import working

    if snippet is not None:
        from timmx.cli.output import stdout_is_utf8
        from timmx.contract import in_ascii
        from timmx.tools.snippets import make_snippet

        with working(verbose):
            code = make_snippet(file, snippet)
        if as_json:
            write_json({"language": snippet, "code": code})
        else:
            write((code if stdout_is_utf8() else in_ascii(code, snippet)).removesuffix("\n"))
        return
    from timmx.tools.inspect import inspect_file

    with working(verbose):
        inspection = inspect_file(file)
    if as_json:
        write_json(inspection.to_dict())
    else:
        write(_text(inspection))


def _text(inspection: Inspection) -> str:
    format_name = inspection.backend
    if inspection.metadata:
        format_name += f" {inspection.metadata.precision}"
    head = f"{inspection.path}  {size_text(inspection.size_bytes)}  {format_name}"
    rows = [(name, line) for name, lines in _rows(inspection) for name, line in _indented(name, lines)]
    files = (f"  with {path.name}" for path in inspection.files[1:])
    return "\n".join([head, *files, *format_table(rows, left=(0, 1))])


def _indented(name: str, lines: list[str]) -> Iterator[tuple[str, str]]:
    for index, line in enumerate(lines):
        yield ("" if index else name), line


def _rows(inspection: Inspection) -> Iterator[tuple[str, list[str]]]:
    metadata = inspection.metadata
    if metadata:
        yield "model", [_model(metadata.model)]
    yield "input", [_tensor(entry) for entry in inspection.inputs] or ["not stated by the format"]
    yield "output", [_tensor(entry) for entry in inspection.outputs] or ["not stated by the format"]
    if metadata:
        yield "image", list(inspection.preprocessing)
        yield "labels", [_labels(metadata.labels)]
    else:
        yield (
            "image",
            ["unknown: timmx did not write this file, so it does not state the preprocessing"],
        )
    if inspection.operations:
        yield "operations", [_operations(inspection.operations)]
    if inspection.parameters is not None:
        yield "parameters", [f"{inspection.parameters:,}"]
    if metadata and (plan := metadata.format.get("quantization_plan")):
        yield "integers", [_cut(line) for line in _plan(plan)]
    for name, value in inspection.details.items():
        if lines := _plain(value):
            yield name.replace("_", " "), [_cut(line) for line in lines]
    if metadata:
        yield "versions", [", ".join(f"{name} {version}" for name, version in metadata.versions.items())]
    yield "verification", _verification(inspection)


def _model(model: ModelMetadata) -> str:
    name, architecture = model.name, model.architecture
    what = name if name.split(".")[0] == architecture else f"{name} ({architecture})"
    kind = "" if model.trained else "awakened random " if model.awakened else "untrained "
    weights = f"{kind}weights sha256 {model.weights_sha256[:12]}"
    return f"{what}, {model.source}; {weights}; license {model.license or 'not stated'}"


def _tensor(entry: Mapping[str, Any]) -> str:
    shape = f"({', '.join(map(str, entry['shape']))})" if entry["shape"] else ""
    words = [entry["name"], entry["dtype"], shape, entry.get("layout", ""), entry.get("kind", "")]
    if entry.get("picture"):
        words.append(f"image, {entry['picture']}")
    if entry.get("activation", "none") != "none":
        words.append(f"by {entry['activation']}")
    if not entry.get("exclusive", True):
        words.append("classes do not exclude each other")
    if stored := entry.get("quantization"):
        number = f"(stored - {stored['zero_point']})" if stored["zero_point"] else "stored"
        words.append(f"real = {stored['scale']:.7g} * {number}")
    return "  ".join(filter(None, words))


def _labels(labels: tuple[str, ...] | None) -> str:
    if not labels:
        return "unknown"
    return f"{len(labels)}: {', '.join(labels[:_SHOWN])}{', ...' if len(labels) > _SHOWN else ''}"


def _operations(counts: Mapping[str, int]) -> str:
    ordered = sorted(counts.items(), key=lambda item: -item[1])
    rest = sum(count for _, count in ordered[_SHOWN:])
    named = ", ".join(f"{name} {count}" for name, count in ordered[:_SHOWN])
    return f"{sum(counts.values())}: {named}{f', others {rest}' if rest else ''}"


def _plan(plan: Any) -> list[str]:
    """A quantization plan as `timmx.contract.QuantizationPlanner.facts` makes it; anything else as it is."""
    try:
        layers = {name: int(count) for name, count in plan["layers"].items()}
        lines = [
            f"{layers['integer']} of {sum(layers.values())} layers, {100 * plan['integer_share']:.0f} % of the "
            f"multiply-adds; {layers['stored']} with 8-bit weights in float arithmetic, {layers['float']} in float"
        ]
        figures = [f"predicted {plan['predicted_db']:.1f} dB, measured {plan['measured_db']:.1f} dB"]
        if "max_drop" in plan:
            figures.append(
                f"drop of {plan['drop_of']} predicted {plan['predicted_drop']:.2f}, measured "
                f"{plan['measured_drop']:.2f} points, at most {plan['max_drop']:g}"
            )
        lines.append(f"{'; '.join(figures)} (calibration inputs)")
        if kept := plan["kept_for_accuracy"]:
            lines.append(f"in float for accuracy: {', '.join(map(str, kept))}")
        return [*lines, f"CPUs: {plan['assumes']}"] if "assumes" in plan else lines
    except (LookupError, TypeError, ValueError, AttributeError):
        return _plain(plan)


def _plain(value: Any) -> list[str]:
    """A value from a backend as lines; no lines if it is empty."""
    if isinstance(value, dict):
        return (
            [", ".join(f"{name or 'default'} {_inner(item)}" for name, item in value.items())]
            if value
            else []
        )
    if isinstance(value, list):
        return [_inner(item) for item in value]
    if isinstance(value, bool):
        return ["yes" if value else "no"]
    return (
        [f"{value:,}" if isinstance(value, int) and value > 9999 else str(value)]
        if value not in (None, "")
        else []
    )


def _cut(line: str) -> str:
    return line if len(line) <= _WIDEST else f"{line[:_WIDEST]} ... (--json has all)"


def _inner(value: Any) -> str:
    if isinstance(value, dict):
        return f"({', '.join(f'{name} {_inner(item)}' for name, item in value.items())})"
    return ", ".join(map(str, value)) if isinstance(value, list) else str(value)


def _verification(inspection: Inspection) -> list[str]:
    if inspection.verification is None:
        return [
            f"not recorded here; run timmx verify {inspection.path}" if inspection.metadata else "unknown"
        ]
    from timmx.verification import VerificationReport

    try:
        lines = verdict(VerificationReport.from_dict(inspection.verification["verification"]))
    except (LookupError, TypeError, ValueError):
        lines = [str(inspection.verification["verification"]["status"])]
    when = inspection.verification["measured"]
    return [line.strip() for line in lines] + ([f"measured {when}"] if when else [])

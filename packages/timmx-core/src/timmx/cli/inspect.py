"""`timmx inspect FILE`: what a file is and how to feed it."""

from __future__ import annotations

import json
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from timmx.base import format_table, size_text
from timmx.cli.options import DebugOption, VerboseOption
from timmx.cli.results import verdict
from timmx.contract import JsonOption

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping

    from timmx.contract import ModelMetadata
    from timmx.tools.inspect import Inspection

_WIDEST = 160
"""As many characters of what a backend tells are shown in a line."""
_SHOWN = 8
"""As many operations and labels are named; `--json` has all."""


def inspect(
    file: Annotated[Path, typer.Argument(metavar="FILE", help="A file of any installed format.")],
    snippet: Annotated[
        str | None,
        typer.Option(
            "--snippet",
            metavar="LANGUAGE",
            help="Print instead the shortest code that loads and feeds this very file: python, swift, kotlin or js.",
        ),
    ] = None,
    as_json: JsonOption = False,
    verbose: VerboseOption = False,
    debug: DebugOption = False,
) -> None:
    """Show a file's inputs, outputs, preprocessing, labels, model and proof; nothing is run."""
    from timmx.cli.terminal import working

    if snippet is not None:
        from timmx.tools.snippets import make_snippet

        with working(verbose):
            code = make_snippet(file, snippet)
        print(
            json.dumps({"language": snippet, "code": code}, indent=2) if as_json else code,
            end="" if not as_json else "\n",
        )
        return
    from timmx.tools.inspect import inspect_file

    with working(verbose):
        found = inspect_file(file)
    print(json.dumps(found.to_dict(), indent=2) if as_json else _text(found))


def _text(found: Inspection) -> str:
    precision = found.metadata.precision if found.metadata else ""
    head = (
        f"{found.path}  {size_text(found.size_bytes)}  {found.backend}{f' {precision}' if precision else ''}"
    )
    rows = [(name, line) for name, lines in _rows(found) for name, line in _indented(name, lines)]
    files = (f"  with {path.name}" for path in found.files[1:])
    return "\n".join([head, *files, *format_table(rows, left=(0, 1))])


def _indented(name: str, lines: list[str]) -> Iterator[tuple[str, str]]:
    for index, line in enumerate(lines):
        yield ("" if index else name), line


def _rows(found: Inspection) -> Iterator[tuple[str, list[str]]]:
    metadata = found.metadata
    if metadata:
        yield "model", [_model(metadata.model)]
    yield "input", [_edge(edge) for edge in found.inputs] or ["the format does not tell"]
    yield "output", [_edge(edge) for edge in found.outputs] or ["the format does not tell"]
    if metadata:
        yield "image", list(found.preprocessing)
        yield "labels", [_labels(metadata.labels)]
    else:
        yield (
            "image",
            ["unknown: timmx did not write this file, and nothing in it says how an image becomes its input"],
        )
    if found.operations:
        yield "operations", [_operations(found.operations)]
    if found.parameters is not None:
        yield "parameters", [f"{found.parameters:,}"]
    for name, value in found.told.items():
        if lines := _plain(value):
            yield name.replace("_", " "), [_cut(line) for line in lines]
    if metadata:
        yield "versions", [", ".join(f"{name} {version}" for name, version in metadata.versions.items())]
    yield "verification", _proof(found)


def _model(model: ModelMetadata) -> str:
    name, architecture = model.name, model.architecture
    what = name if name.split(".")[0] == architecture else f"{name} ({architecture})"
    weights = f"{'' if model.trained else 'untrained '}weights sha256 {model.weights_sha256[:12]}"
    return f"{what}, {model.source}; {weights}; license {model.license or 'not stated'}"


def _edge(edge: Mapping[str, Any]) -> str:
    shape = f"({', '.join(map(str, edge['shape']))})" if edge["shape"] else ""
    words = [edge["name"], edge["dtype"], shape, edge.get("layout", ""), edge.get("kind", "")]
    if edge.get("picture"):
        words.append(f"a picture, {edge['picture']}")
    if stored := edge.get("quantization"):
        number = f"(stored - {stored['zero_point']})" if stored["zero_point"] else "stored"
        words.append(f"real = {stored['scale']:.7g} * {number}")
    return "  ".join(filter(None, words))


def _labels(labels: tuple[str, ...] | None) -> str:
    if not labels:
        return "not known"
    return f"{len(labels)}: {', '.join(labels[:_SHOWN])}{', ...' if len(labels) > _SHOWN else ''}"


def _operations(counts: Mapping[str, int]) -> str:
    ordered = sorted(counts.items(), key=lambda item: -item[1])
    rest = sum(count for _, count in ordered[_SHOWN:])
    named = ", ".join(f"{name} {count}" for name, count in ordered[:_SHOWN])
    return f"{sum(counts.values())}: {named}{f', others {rest}' if rest else ''}"


def _plain(value: Any) -> list[str]:
    """What a backend tells, as lines; nothing for what is empty."""
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


def _proof(found: Inspection) -> list[str]:
    if found.verification is None:
        return [f"not known here; timmx verify {found.path} measures it" if found.metadata else "not known"]
    from timmx.verification import VerificationReport

    try:
        lines = verdict(VerificationReport.from_dict(found.verification["verification"]))
    except (LookupError, TypeError, ValueError):
        lines = [str(found.verification["verification"]["status"])]
    when = found.verification["measured"]
    return [line.strip() for line in lines] + ([f"measured {when}"] if when else [])

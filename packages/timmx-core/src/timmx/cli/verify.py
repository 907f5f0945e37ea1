"""`timmx verify FILE`: the verification of an export again, later or elsewhere."""

from __future__ import annotations

import json
from collections.abc import Mapping  # Typer resolves the annotations
from pathlib import Path
from typing import Annotated, Any

import typer

from timmx.base import size_text
from timmx.cli.options import DebugOption, FileArgument, VerboseOption
from timmx.cli.results import verdict
from timmx.contract import JsonOption


def verify(
    file: FileArgument,
    model_options: Mapping[str, Any],
    against: Annotated[
        str | None,
        typer.Option(
            "--against",
            metavar="MODEL",
            help="The model that the file was made from, as it was named for the export, or another file. Default: "
            "what the file's metadata names.",
        ),
    ] = None,
    verify_data: Annotated[
        Path | None,
        typer.Option(
            "--verify-data",
            metavar="DIR",
            help="Images to verify on, searched in all subfolders. Default: the samples/ folder of a local-dir: model, "
            "else made ones.",
        ),
    ] = None,
    min_snr: Annotated[
        float | None,
        typer.Option(
            "--min-snr",
            metavar="DB",
            help="Least signal-to-noise ratio, in dB. Default: by precision (60 for fp32).",
        ),
    ] = None,
    as_json: JsonOption = False,
    verbose: VerboseOption = False,
    debug: DebugOption = False,
) -> None:
    """Run a file beside its PyTorch model again, as its export did. Exits with 2 where they differ."""
    from timmx.cli.terminal import working
    from timmx.tools.verify import verify_file

    with working(verbose):
        found = verify_file(file, against, model_options, verify_data=verify_data, min_snr=min_snr)
    if as_json:
        print(json.dumps(found.to_dict(), indent=2))
        return
    print(f"{found.path}  {size_text(found.size_bytes)}  {found.precision}  against {found.against}")
    print("\n".join(verdict(found.verification)))

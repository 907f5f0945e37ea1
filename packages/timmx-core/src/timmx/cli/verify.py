"""`timmx verify FILE`: repeat the verification of an export, later or on another machine."""

from __future__ import annotations

from collections.abc import Mapping  # Typer resolves the annotations
from pathlib import Path
from typing import Annotated, Any

import typer

from timmx.base import size_text
from timmx.cli.options import DebugOption, FileArgument, RuntimeDeviceOption, TrustOption, VerboseOption
from timmx.cli.output import write, write_json
from timmx.cli.results import located_table, verdict
from timmx.contract import JsonOption
from timmx.errors import ConfigurationError


def verify(
    file: FileArgument,
    model_options: Mapping[str, Any],
    against: Annotated[
        str | None,
        typer.Option(
            "--against",
            metavar="MODEL",
            help="PyTorch model to compare with, named as for the export, or another file. Default: the model in "
            "the file's metadata.",
        ),
    ] = None,
    verify_data: Annotated[
        Path | None,
        typer.Option(
            "--verify-data",
            metavar="DIR",
            help="Images for verification, searched recursively. Default: the samples/ folder of a local-dir: model, "
            "otherwise synthetic images.",
        ),
    ] = None,
    min_snr: Annotated[
        float | None,
        typer.Option(
            "--min-snr",
            metavar="DB",
            help="Minimum signal-to-noise ratio in dB. Default: depends on the precision (60 for fp32).",
        ),
    ] = None,
    min_agreement: Annotated[
        float | None,
        typer.Option(
            "--min-agreement",
            metavar="PERCENT",
            help="Minimum share of inputs with the model's top-1 class, such as 90 or 0.9. Default: 95 for 8-bit "
            "activations, if the weights are trained and there are at least 64 images.",
        ),
    ] = None,
    locate: Annotated[
        bool,
        typer.Option(
            "--locate",
            help="Compare the file operation by operation with the model instead, and print a table of their errors.",
        ),
    ] = False,
    runtime_device: RuntimeDeviceOption = None,
    trust: TrustOption = False,
    as_json: JsonOption = False,
    verbose: VerboseOption = False,
    debug: DebugOption = False,
) -> None:
    """Repeat the verification of an export. Exits with 2 if it fails."""
    from timmx.cli.terminal import working
    from timmx.tools.verify import locate_operations, verify_file

    if locate:
        replaced = {
            "--min-snr": min_snr,
            "--min-agreement": min_agreement,
            "--runtime-device": runtime_device,  # each operation runs alone, on the CPU
        }
        for flag, value in replaced.items():
            if value is not None:
                raise ConfigurationError(
                    f"{flag} is for a verification, which --locate replaces",
                    hint=f"leave {flag} or --locate out",
                )
        with working(verbose):
            located = locate_operations(
                file,
                against,
                model_options,
                verify_data=verify_data,
                trust=trust,
            )
        if as_json:
            write_json(located.to_dict())
        else:
            write("\n".join(located_table(located)))
        return
    with working(verbose):
        result = verify_file(
            file,
            against,
            model_options,
            verify_data=verify_data,
            min_snr=min_snr,
            min_agreement=min_agreement,
            trust=trust,
            runtime_device=runtime_device,
        )
    if as_json:
        write_json(result.to_dict())
        return
    write(f"{result.path}  {size_text(result.size_bytes)}  {result.precision}  against {result.against}")
    write("\n".join(verdict(result.verification)))

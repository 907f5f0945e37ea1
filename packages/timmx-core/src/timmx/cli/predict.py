"""`timmx predict FILE IMAGE...`: the classes that an exported file predicts for images."""

from __future__ import annotations

import sys
from typing import TYPE_CHECKING, Annotated

import typer

from timmx.base import format_table, printable
from timmx.cli.options import (
    BatchSizeOption,
    DebugOption,
    ExifOption,
    FileArgument,
    ImageBitsOption,
    MaxPixelsOption,
    RuntimeDeviceOption,
    TrustOption,
    VerboseOption,
    WorkersOption,
)
from timmx.cli.output import PlainRows, write, write_json
from timmx.contract import JsonOption
from timmx.inputs import MOST_PIXELS

if TYPE_CHECKING:
    from timmx.tools.predict import Predictions


def predict(
    file: FileArgument,
    images: Annotated[
        list[str],
        typer.Argument(
            metavar="IMAGE",
            help="Image files, folders (searched recursively), or quoted globs such as 'photos/**/*.jpg'.",
        ),
    ],
    top_k: Annotated[
        int | None,
        typer.Option(
            "--top-k",
            help="Number of classes to show per image. Default: 5, or all if classes do not exclude each other.",
            show_default=False,
        ),
    ] = None,
    batch_size: BatchSizeOption = None,
    workers: WorkersOption = None,
    exif: ExifOption = None,
    image_bits: ImageBitsOption = None,
    max_pixels: MaxPixelsOption = MOST_PIXELS,
    as_csv: Annotated[
        bool, typer.Option("--csv", help="Print CSV: path, rank, class, label, probability.")
    ] = False,
    runtime_device: RuntimeDeviceOption = None,
    trust: TrustOption = False,
    as_json: JsonOption = False,
    verbose: VerboseOption = False,
    debug: DebugOption = False,
) -> None:
    """Classify images with an exported file, using the preprocessing in its metadata."""
    from timmx.cli.terminal import working
    from timmx.errors import ConfigurationError
    from timmx.inputs import ImageSettings
    from timmx.tools.predict import predict as run

    if as_csv and as_json:
        raise ConfigurationError("--csv and --json both write to stdout", hint="give only one of them")
    with working(verbose):
        predictions = run(
            file,
            images,
            top_k=top_k,
            batch_size=batch_size,
            workers=workers,
            settings=ImageSettings(exif=exif, bits=image_bits, max_pixels=max_pixels),
            trust=trust,
            runtime_device=runtime_device,
        )
    if as_json:
        write_json(predictions.to_dict())
    elif as_csv:
        _print_csv(predictions)
    else:
        write(_table(predictions, name_once=sys.stdout.isatty()))


_COLUMNS = ("image", "rank", "class", "label", "probability")


def _rows(predictions: Predictions, decimals: str = ".4f") -> list[tuple[str, ...]]:
    return [
        (
            printable(str(image.path)),
            str(rank),
            str(guess.number),
            printable(guess.label or ""),
            format(guess.probability, decimals),
        )
        for image in predictions.images
        for rank, guess in enumerate(image.guesses, 1)
    ]


def _print_csv(predictions: Predictions) -> None:
    import csv

    writer = csv.writer(PlainRows(), lineterminator="\n")
    writer.writerow(("path", *_COLUMNS[1:]))
    writer.writerows(_rows(predictions, ".6g"))


def _table(predictions: Predictions, name_once: bool) -> str:
    """A table, without the label column if labels are unknown; on a terminal each image is named once."""
    rows = [_COLUMNS, *_rows(predictions)]
    if name_once:
        rows = [
            ("" if rank not in ("rank", "1") else image, number, label, probability)
            for image, rank, number, label, probability in rows
        ]
    filled = [column for column in zip(*rows, strict=True) if any(column[1:])]
    words = [at for at, column in enumerate(filled) if not all(cell[:1].isdigit() for cell in column[1:])]
    return "\n".join(format_table([*zip(*filled, strict=True)], words))

"""What every language has to know of a file: its image, its numbers, its answers."""

from __future__ import annotations

import json
from dataclasses import dataclass
from typing import TYPE_CHECKING

from timmx.inputs import ImagePreprocessor

if TYPE_CHECKING:
    from pathlib import Path

    from timmx.contract import Metadata, OutputKind, Quantization

STORED_RANGES = {"int8": (-128, 127), "uint8": (0, 255), "int16": (-32768, 32767)}
"""The least and the greatest number that an input of integers holds."""

_INLINE = 20
"""As many class names are written into the code; more are read from somewhere."""


@dataclass(frozen=True, kw_only=True)
class Facts:
    """One file's metadata, as snippets need it.

    Attributes:
        name: the file's.
        path: as it was given, with slashes.
        preprocessor: turns an image into its input.
        scaled: (height, width) that an image is resized for, before it is cropped.
        batch: how many images it takes at once; None where that is open.
        input_name, layout, dtype, quantization: of its input; no quantization where it takes the bytes of a picture.
        output_name, kind, output_dtype, output_quantization: of its first output.
        answers: the shape of the first output for one image.
        labels: class names, None where nobody knows them.
    """

    name: str
    path: str
    preprocessor: ImagePreprocessor
    scaled: tuple[int, int]
    batch: int | None
    input_name: str
    layout: str
    dtype: str
    quantization: Quantization | None
    output_name: str
    kind: OutputKind
    output_dtype: str
    output_quantization: Quantization | None
    answers: tuple[int | str, ...]
    labels: tuple[str, ...] | None

    @classmethod
    def of(cls, path: Path, metadata: Metadata) -> Facts:
        """What snippets need of a file's metadata."""
        preprocessor, entry, output = ImagePreprocessor.of(metadata), metadata.input, metadata.outputs[0]
        return cls(
            name=path.name,
            path=path.as_posix(),
            preprocessor=preprocessor,
            scaled=preprocessor.data_config.scaled_size,
            batch=metadata.batch_size,
            input_name=entry.name,
            layout=entry.layout,
            dtype=entry.dtype,
            quantization=None if entry.takes_bytes else entry.quantization,
            output_name=output.name,
            kind=output.kind,
            output_dtype=output.dtype,
            output_quantization=output.quantization,
            answers=output.shape[1:],
            labels=metadata.labels,
        )

    @property
    def size(self) -> tuple[int, int]:
        """(height, width) of the input."""
        return self.preprocessor.data_config.input_size[1:]

    @property
    def channels(self) -> int:
        return self.preprocessor.data_config.input_size[0]

    @property
    def gray(self) -> bool:
        return self.preprocessor.color_order == "L"

    @property
    def takes_bytes(self) -> bool:
        """The bytes of a picture as they are."""
        return self.quantization is None and self.dtype == "uint8"

    @property
    def normalizes(self) -> bool:
        """The file does it: the caller does not."""
        return self.preprocessor.in_graph

    @property
    def ranks_classes(self) -> bool:
        return self.kind.ranks_classes

    @property
    def inline_labels(self) -> tuple[str, ...] | None:
        """The labels where they are few enough to be written into the code."""
        return self.labels if self.labels and len(self.labels) <= _INLINE else None

    @property
    def labels_file_hint(self) -> str:
        """How to make the file that code reads many labels from."""
        return f"timmx inspect {self.name} --json | jq -r '.labels[]' > labels.txt"


def quoted(text: str) -> str:
    """A string as Python, JavaScript, and Swift without escapes beyond it, write it."""
    return json.dumps(text, ensure_ascii=False)


def numbers(values: tuple[float, ...]) -> str:
    """Numbers with commas."""
    return ", ".join(f"{value:.9g}" for value in values)

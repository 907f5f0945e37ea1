"""What the snippets of all languages need from a file's metadata."""

from __future__ import annotations

import shlex
from dataclasses import dataclass
from typing import TYPE_CHECKING

from timmx.base import shown
from timmx.contract import quote_string
from timmx.errors import ArtifactError
from timmx.inputs import ImagePreprocessor

if TYPE_CHECKING:
    from collections.abc import Container
    from pathlib import Path

    from timmx.contract import Activation, Metadata, OutputKind, Quantization

STORED_RANGES = {"int8": (-128, 127), "uint8": (0, 255), "int16": (-32768, 32767)}
"""The range of each integer input type."""

_INLINE = 20
"""Up to this many class names are written into the code; more are read from a file."""


@dataclass(frozen=True, kw_only=True)
class Facts:
    """One file's metadata, as snippets need it.

    Attributes:
        name: the file's, for a comment.
        path: as in the command, with slashes.
        preprocessor: turns an image into its input.
        scaled: (height, width) that an image is resized to before the crop.
        batch: the fixed batch size; None if it is dynamic.
        input_name, layout, dtype, quantization: of its input; no quantization if it takes the bytes of an image.
        output_name, kind, output_dtype, output_quantization: of its first output.
        exclusive: an image has exactly one of its classes; otherwise the code shows a probability for each of them.
        to_probabilities: what the code applies to its first output.
        answers: the shape of the first output for one image.
        labels: class names; None if unknown.
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
    exclusive: bool
    to_probabilities: Activation
    answers: tuple[int | str, ...]
    labels: tuple[str, ...] | None

    @classmethod
    def of(cls, path: Path, metadata: Metadata) -> Facts:
        """The facts from a file's metadata.

        Raises:
            ArtifactError: the output holds classes, and its shape does not say how many; or a type has no range of
                integers for its scale.
        """
        preprocessor, entry, output = ImagePreprocessor.of(metadata), metadata.input, metadata.outputs[0]
        if output.kind.ranks_classes and (len(output.shape) < 2 or not isinstance(output.shape[1], int)):
            raise ArtifactError(
                f"{path} is damaged: its output is classes, but its shape is {list(output.shape)}",
                hint="export it again",
            )
        if entry.quantization and entry.dtype not in STORED_RANGES:
            raise ArtifactError(
                f"{path} is damaged: its input has a scale, and the type {shown(entry.dtype)}",
                hint="export it again",
            )
        return cls(
            name=shown(path.name),
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
            exclusive=output.exclusive,
            to_probabilities=output.to_probabilities,
            answers=output.shape[1:],
            labels=metadata.labels,
        )

    def require_dtype(self, supported: Container[str], language: str) -> None:
        """Raise an error if the language has no array for the element type of the input.

        Raises:
            ArtifactError: it has none.
        """
        if self.dtype not in supported:
            raise ArtifactError(
                f"{self.name} takes {shown(self.dtype)}, which snippets in {language} do not support",
                hint="use --snippet python",
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
        """Whether the input takes the unchanged bytes of an image."""
        return self.quantization is None and self.dtype == "uint8"

    @property
    def normalizes(self) -> bool:
        """Whether the file normalizes, so that the caller does not."""
        return self.preprocessor.in_graph

    @property
    def ranks_classes(self) -> bool:
        return self.kind.ranks_classes

    @property
    def inline_labels(self) -> tuple[str, ...] | None:
        """The labels if they are few enough to be written into the code."""
        return self.labels if self.labels and len(self.labels) <= _INLINE else None

    def label_literals(self, language: str) -> str:
        """The string literals of `inline_labels`, comma-separated."""
        return ", ".join(quote_string(label, language) for label in self.inline_labels or ())

    @property
    def labels_file_hint(self) -> str:
        """The command that writes the file that code reads many labels from, for a comment."""
        return f"timmx inspect {shlex.quote(self.name)} --json | jq -r '.labels[]' > labels.txt"


def numbers(values: tuple[float, ...]) -> str:
    """Comma-separated numbers."""
    return ", ".join(f"{value:.9g}" for value in values)

"""One export as a backend sees it: the job it is given, and what it reports."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Literal, Protocol

from timmx.contract.capabilities import Precision

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping
    from pathlib import Path

    import numpy as np
    import torch

    from timmx.contract.metadata import Metadata
    from timmx.contract.options import ExportRequest
    from timmx.contract.runner import Quantization


@dataclass(frozen=True)
class Exported:
    """What `export` reports of the file that it wrote."""

    precision: Precision
    notes: tuple[str, ...] = ()
    """What the user should know of this file, one line each."""

    def __post_init__(self) -> None:
        if not isinstance(self.precision, Precision) or not isinstance(self.notes, tuple):
            raise TypeError(
                "Exported takes a Precision and a tuple of notes, such as Exported(Precision.FP32, ())"
            )


class Calibration(Protocol):
    """Typical inputs, (1, C, H, W) float32 each, as the artifact takes them before any quantization.

    They are read while they are iterated, never all in memory, and may be iterated as often as needed.
    """

    @property
    def origin(self) -> str:
        """Where they come from, such as `128 images of photos`."""

    def __len__(self) -> int:
        """How many there are; images that turn out to be damaged while they are read no longer count."""

    def __iter__(self) -> Iterator[np.ndarray]:
        """One by one, (1, C, H, W) float32.

        Raises:
            ConfigurationError: too few of them can be read.
        """

    def batches(self, size: int) -> Iterator[np.ndarray]:
        """(size, C, H, W) float32; the last batch is filled up with inputs of its own.

        Raises:
            ConfigurationError: too few of them can be read.
        """


class ExportJob(Protocol):
    """One export, as a backend sees it. The core makes it; a backend only reads it."""

    @property
    def request(self) -> ExportRequest:
        """The shared options, as the user gave them."""

    @property
    def path(self) -> Path:
        """Where to write: the artifact's final name, in a private folder. Its neighbours are published too."""

    @property
    def model(self) -> torch.nn.Module:
        """The prepared model, in eval mode on `request.device`: (N, C, H, W) in, a tensor or a tuple out."""

    @property
    def example_input(self) -> torch.Tensor:
        """An input of the traced size, (N, C, H, W), float32."""

    @property
    def output_names(self) -> tuple[str, ...]:
        """The artifact's output names, in the order of the model's outputs."""

    @property
    def labels(self) -> tuple[str, ...] | None:
        """The classes' names, by class number, or None where nobody knows them."""

    def capture(self, *, strict: bool = False) -> torch.export.ExportedProgram:
        """The prepared model as an ExportedProgram, constants folded; dynamic in N if the request says so.

        Made at the first call and kept. Its input is named `input`. `strict` traces through TorchDynamo.

        Raises:
            UnsupportedError: torch.export cannot trace this model.
        """

    def calibration(self, data: Path | None, samples: int | None = None) -> Calibration:
        """Typical inputs, to find the ranges of activations with. Ask before the conversion: bad data is told here.

        Args:
            data: a folder of images or a file of tensors, the option `timmx.plugin.CalibrationData`; None for made
                pictures, with a warning.
            samples: how many at most, 128 unless given.

        Raises:
            ConfigurationError: the data cannot serve this model, with a hint.
        """

    def metadata(
        self,
        precision: Precision,
        *,
        input_dtype: Literal["float32", "uint8", "int8", "int16"] = "float32",
        input_layout: Literal["NCHW", "NHWC"] = "NCHW",
        input_quantization: Quantization | None = None,
        output_dtypes: Mapping[str, str] | None = None,
        output_quantization: Mapping[str, Quantization] | None = None,
        **format_facts: Any,
    ) -> Metadata:
        """What to put into the artifact as JSON (docs/metadata.md): `.dumps()` is the text, `.to_json()` its values.

        Args:
            precision: the arithmetic inside.
            input_dtype: what the artifact takes. `uint8` without a quantization stands for pixel values from 0 to
                255, which a graph that normalises (`request.normalize`) can be fed with.
            input_layout: the order of the input's axes.
            input_quantization: what the input's whole numbers stand for.
            output_dtypes: by output name, where it is not float32.
            output_quantization: by output name, what its whole numbers stand for.
            format_facts: what only this format has, JSON values; they become `.format`.

        Raises:
            ValueError: an unknown layout or output, or whole numbers of which nobody knows what they stand for.
        """

    def extra_output(self, output: Path) -> Path:
        """Where to write a further file or folder that the user has named; published as `output` with the artifact.

        Raises:
            ArtifactError: it cannot be written there.
        """

    def progress(self, step: str) -> None:
        """Say what is being done now, such as "Converting"."""

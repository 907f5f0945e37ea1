"""One export as a backend sees it: the job that it receives and the result that it returns."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Literal, Protocol, TypeVar

from timmx.contract.capabilities import Precision

if TYPE_CHECKING:
    from collections.abc import Callable, Hashable, Iterator, Mapping
    from pathlib import Path

    import numpy as np
    import torch

    from timmx.contract.metadata import Metadata
    from timmx.contract.options import ExportRequest
    from timmx.contract.planning import IntegerScheme, QuantizationPlanner, Wish
    from timmx.contract.runner import Quantization

Value = TypeVar("Value")


@dataclass(frozen=True)
class Exported:
    """The result of `ExportBackend.export`."""

    precision: Precision
    notes: tuple[str, ...] = ()
    """What the user should know about this file, one line each."""

    def __post_init__(self) -> None:
        if not isinstance(self.precision, Precision) or not isinstance(self.notes, tuple):
            raise TypeError(
                "Exported takes a Precision and a tuple of notes, such as Exported(Precision.FP32, ())"
            )


class Calibration(Protocol):
    """Typical inputs, (1, C, H, W) float32 each, as the artifact takes them before any quantization.

    They are read during iteration, never all in memory, and can be iterated repeatedly.
    """

    @property
    def origin(self) -> str:
        """Their source, such as `128 images of photos`."""

    def __len__(self) -> int:
        """Number of inputs, without images that proved to be damaged when they were read."""

    def __iter__(self) -> Iterator[np.ndarray]:
        """Single inputs, (1, C, H, W) float32.

        Raises:
            ConfigurationError: too few of them can be read.
        """

    def batches(self, size: int) -> Iterator[np.ndarray]:
        """Batches, (size, C, H, W) float32; the last one is filled up by repeating its inputs.

        Raises:
            ConfigurationError: too few inputs can be read.
        """


@dataclass(frozen=True)
class Repair:
    """What a second export in half precision must reach, after the first one missed its floor.

    Attributes:
        target_db: the signal-to-noise ratio to reach, in dB: the floor, or slightly more.
        inputs: (N, C, H, W) float32, N at least 4: inputs of the verification.
    """

    target_db: float
    inputs: np.ndarray


class ExportJob(Protocol):
    """One export, as a backend sees it. The core creates it; a backend only reads it."""

    @property
    def request(self) -> ExportRequest:
        """The shared options of the user."""

    @property
    def path(self) -> Path:
        """Where to write: the artifact's final name in a private folder; other files there are published too."""

    @property
    def model(self) -> torch.nn.Module:
        """The prepared model, in eval mode on `request.device`: (N, C, H, W) in, a tensor or a tuple out."""

    @property
    def example_input(self) -> torch.Tensor:
        """An input of the size to trace with, (N, C, H, W) float32."""

    @property
    def output_names(self) -> tuple[str, ...]:
        """The artifact's output names, in the order of the model's outputs."""

    @property
    def labels(self) -> tuple[str, ...] | None:
        """Class names by class index, or None if they are unknown."""

    @property
    def repair(self) -> Repair | None:
        """None in the first export. If a backend `repairs`, and its half-precision file misses the floor, `export` is
        called again with this, to keep operations in float32 until the file reaches it."""

    def capture(self, *, strict: bool = False) -> torch.export.ExportedProgram:
        """The prepared model as an ExportedProgram, constants folded; N is dynamic if the request says so.

        Traced at the first call and cached. Its input is named `input`. `strict` traces with TorchDynamo.

        Raises:
            UnsupportedError: torch.export cannot trace this model.
        """

    def shared(self, key: Hashable, make: Callable[[], Value]) -> Value:
        """What several exports of one command have in common, such as a float file that each mode quantizes.

        `make` is called once per model, batch size and key; its result stays in memory until the last of these
        exports is done. Other backends do not see it.

        Args:
            key: stands for the options that the value depends on.
            make: computes the value from this job's model. What it returns must not be changed.
        """

    def samples(self, count: int) -> np.ndarray:
        """Some inputs of the verification, (N, C, H, W) float32, for choices that a backend makes by measurement.

        Args:
            count: the most inputs; there are at least 4.
        """

    def calibration(self, data: Path | None, samples: int | None = None) -> Calibration:
        """Calibration inputs, to find the ranges of activations. Call it before the conversion: it checks the data.

        Args:
            data: a folder of images or a file of tensors, the option `CalibrationData`; None for synthetic
                images, with a warning.
            samples: maximum number of inputs. Default: 128.

        Raises:
            ConfigurationError: the data cannot serve this model, with a hint.
        """

    def quantization_planner(self, calibration: Calibration, scheme: IntegerScheme) -> QuantizationPlanner:
        """What chooses the layers that compute in integers; see `timmx.plugin.QuantizationPlanner`.

        Made once per calibration inputs and scheme, for all formats of a command.

        Args:
            calibration: from `calibration`.
            scheme: the format's integer arithmetic.
        """

    def wish(self, precision: Precision, max_drop: float | None) -> Wish:
        """What a file in integers should reach: the floor of its verification, or a drop.

        Args:
            precision: of the file.
            max_drop: value of `MaxDrop`.
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
        """The metadata to write into the artifact (docs/metadata.md): `.dumps()` is its text, `.to_json()` its values.

        Args:
            precision: the arithmetic of the artifact.
            input_dtype: element type of the input. `uint8` without a quantization means pixel values from 0 to
                255, for a graph that normalizes (`request.normalize`).
            input_layout: the order of the input's axes.
            input_quantization: scale and zero point of an integer input.
            output_dtypes: element type by output name, where it is not float32.
            output_quantization: scale and zero point by output name, for integer outputs.
            format_facts: facts of this format only, JSON values; they become `.format`.

        Raises:
            ValueError: an unknown layout or output, or integers without a quantization.
        """

    def extra_output(self, output: Path) -> Path:
        """Where to write another file or folder that the user named; it is published as `output` with the artifact.

        Raises:
            ArtifactError: it cannot be written there.
        """

    def progress(self, step: str) -> None:
        """Report the current step, such as "Converting"."""

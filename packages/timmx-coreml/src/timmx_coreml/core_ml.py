"""Core ML as the engine of a runner; macOS only."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import numpy as np
from timmx.plugin import ArtifactError, RuntimeUnavailable

from timmx_coreml.convert import quiet
from timmx_coreml.features import read_input
from timmx_coreml.options import ComputeUnits
from timmx_coreml.targets import systems_of
from timmx_coreml.validation import REINSTALL

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

    from timmx_coreml.package import CoreMLFile

_UNITS = {
    ComputeUnits.ALL: "ALL",
    ComputeUnits.CPU: "CPU_ONLY",
    ComputeUnits.CPU_GPU: "CPU_AND_GPU",
    ComputeUnits.CPU_NE: "CPU_AND_NE",
}


class CoreML:
    """Compiles and runs a file with Core ML, through coremltools.

    Raises:
        RuntimeUnavailable: coremltools cannot reach Core ML on this machine.
        ArtifactError: Core ML cannot load the file.
    """

    name = ""
    intermediates = ()

    def __init__(self, file: CoreMLFile, units: ComputeUnits) -> None:
        with quiet():
            import coremltools as ct

            self._model: Any = ct.models.MLModel(str(file.path), compute_units=ct.ComputeUnit[_UNITS[units]])
        # If Core ML cannot load a model, coremltools opens it without a proxy.
        if self._model.__proxy__ is None:
            reason = self._model._framework_error
            if reason is None:
                # coremltools 9.0 gives no reason in either case: it does not try to load a later specification.
                systems = systems_of(file.model.specificationVersion)
                raise RuntimeUnavailable(
                    f"Core ML cannot run {file.path} on this machine: coremltools is installed without its bridge to "
                    f"Core ML, or this macOS is older than the file needs ({systems})",
                    hint=f"export with an earlier --target, or reinstall coremltools: {REINSTALL}",
                )
            raise ArtifactError(
                f"Core ML cannot load {file.path}: {reason}",
                hint="export the model again, with an earlier --target if it was exported for a later system",
            )
        self._image_inputs = {
            described.name for described in file.model.description.input if read_input(described).colors
        }

    def separate(self) -> None:
        return None

    def run(self, feeds: Mapping[str, np.ndarray]) -> dict[str, Any]:
        outputs: dict[str, Any] = self._model.predict(
            {name: _image(value) if name in self._image_inputs else value for name, value in feeds.items()}
        )
        return outputs

    def run_intermediates(
        self, feeds: Mapping[str, np.ndarray], names: Sequence[str]
    ) -> dict[str, np.ndarray]:
        raise NotImplementedError("Core ML returns outputs only, no intermediate values")

    def notes(self) -> tuple[str, ...]:
        return ()

    def close(self) -> None:
        self._model = None


def _image(pixels: np.ndarray) -> Any:
    """Convert (1, C, H, W) uint8 to a PIL image, as coremltools expects."""
    from PIL import Image

    return Image.fromarray(
        pixels[0, 0] if pixels.shape[1] == 1 else np.ascontiguousarray(pixels[0].transpose(1, 2, 0))
    )

"""The job that a backend's `export` receives; see `timmx.plugin.ExportJob`."""

from __future__ import annotations

from contextlib import ExitStack
from typing import TYPE_CHECKING, Any, TypeVar

from timmx.artifact import staging
from timmx.base import reporter
from timmx.contract import Wish
from timmx.errors import ConfigurationError
from timmx.exporting.metadata import IoTypes, check_metadata

if TYPE_CHECKING:
    from collections.abc import Callable, Hashable, Mapping
    from pathlib import Path

    import numpy as np
    import torch

    from timmx.artifact import Staging
    from timmx.contract import (
        Calibration,
        ExportBackend,
        IntegerScheme,
        Metadata,
        Precision,
        Quantization,
        QuantizationPlanner,
        Repair,
    )
    from timmx.exporting.artifact_session import ArtifactSession
    from timmx.exporting.session import ModelSession
    from timmx.inputs import CalibrationInputs

Value = TypeVar("Value")

_MARGIN_DB = 1.0
"""By how much a plan exceeds its floor: verification has other inputs."""


class Job:
    """The argument of `ExportBackend.export`; implements `timmx.contract.ExportJob`."""

    def __init__(
        self,
        session: ModelSession | ArtifactSession,
        path: Path,
        backend: ExportBackend,
        open_stages: ExitStack | None = None,
        repair: Repair | None = None,
        least_db: float | None = None,
    ) -> None:
        self._session = session
        self._backend = backend
        self._open = open_stages or ExitStack()
        self.extra_outputs: list[Staging] = []
        self.path = path
        self.repair = repair
        self.planned = False
        self._least_db = least_db
        self.request = session.request
        self._facts: dict[str, Any] = {}
        self._io_types = IoTypes()
        self._calibrations: list[CalibrationInputs] = []

    @property
    def model(self) -> torch.nn.Module:
        return self._session.module

    @property
    def example_input(self) -> torch.Tensor:
        return self._session.example_input()

    @property
    def output_names(self) -> tuple[str, ...]:
        return self._session.reference.names

    @property
    def labels(self) -> tuple[str, ...] | None:
        return self._session.loaded.labels

    def capture(self, *, strict: bool = False) -> torch.export.ExportedProgram:
        return self._session.capture(strict)

    def shared(self, key: Hashable, make: Callable[[], Value]) -> Value:
        return self._session.shared((self._backend.name, key), make)

    def samples(self, count: int) -> np.ndarray:
        reference = self._session.reference
        return reference.samples.take(range(min(count, len(reference))))

    def calibration(self, data: Path | None, samples: int | None = None) -> CalibrationInputs:
        from timmx.inputs import check_representative, choose_calibration

        reporter().step("Reading calibration data")
        config = self._session.loaded.data_config
        self._calibrations.append(choose_calibration(data, samples, config, self.request.normalize))
        if data is not None:
            check_representative(self._calibrations[-1], self._session.fit_of)
        return self._calibrations[-1]

    def quantization_planner(self, calibration: Calibration, scheme: IntegerScheme) -> QuantizationPlanner:
        from timmx.quantization import Planner

        inputs = next(known for known in self._calibrations if known is calibration)
        reference, labels = self._session.reference, self.labels

        def classes() -> np.ndarray | None:
            if not reference.classes or reference.threshold is not None:
                raise ConfigurationError(
                    "--max-drop needs a model with one output of classes that exclude each other",
                    hint="leave --max-drop out; --min-snr sets the signal-to-noise ratio to reach",
                )
            numbers = [str(number) for number in range(reference.outputs[0].shape[1])]
            return inputs.true_classes(labels or numbers)

        def make() -> QuantizationPlanner:
            reporter().step("Observing activations")
            return Planner(self.capture(), inputs, scheme, classes)

        return self._session.shared(("quantization planner", inputs.origin, scheme), make)

    def wish(self, precision: Precision, max_drop: float | None) -> Wish:
        from timmx.verification import FLOORS_DB  # imports numpy

        floor_db = self.request.min_snr
        if floor_db is None:
            floor_db = FLOORS_DB[precision]
        self.planned = max_drop is None
        least_db = max(floor_db + _MARGIN_DB, self._least_db or 0.0)
        return Wish(floor_db=least_db, target_db=max(Wish.target_db, least_db), max_drop=max_drop)

    @property
    def calibrated_on(self) -> str:
        """The origin of the calibration data; empty if the backend did not use any."""
        return ", ".join(inputs.origin for inputs in self._calibrations)

    @property
    def notes(self) -> tuple[str, ...]:
        """Warnings about the calibration data."""
        return tuple(note for inputs in self._calibrations for note in inputs.notes)

    def metadata(
        self,
        precision: Precision,
        *,
        input_dtype: str = "float32",
        input_layout: str = "NCHW",
        input_quantization: Quantization | None = None,
        output_dtypes: Mapping[str, str] | None = None,
        output_quantization: Mapping[str, Quantization] | None = None,
        **format_facts: Any,
    ) -> Metadata:
        self._facts = format_facts
        self._io_types = IoTypes(
            input_dtype=input_dtype,
            input_layout=input_layout,
            input_quantization=input_quantization,
            output_dtypes=output_dtypes or {},
            output_quantization=output_quantization or {},
        )
        return self.final_metadata(precision)

    def final_metadata(self, precision: Precision) -> Metadata:
        """The metadata with the arguments of the last `metadata` call and this precision.

        Raises:
            ConfigurationError: it is not what the commands that open the file accept.
        """
        metadata = self._session.metadata(precision, self._backend, self._facts, self._io_types)
        check_metadata(metadata)
        return metadata

    def extra_output(self, output: Path) -> Path:
        self.extra_outputs.append(self._open.enter_context(staging(output)))
        return self.extra_outputs[-1].path

    def progress(self, step: str) -> None:
        reporter().step(step)

"""A session for a file of an earlier export: its metadata, and its outputs as the reference."""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any, NoReturn

from timmx.errors import ArtifactError
from timmx.exporting.metadata import installed_versions, json_values
from timmx.exporting.session import Session
from timmx.inputs import ImagePreprocessor, check_interface, choose_samples, run_batches
from timmx.model import check_count
from timmx.registry import distribution_of
from timmx.verification import Reference

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping
    from pathlib import Path

    import numpy as np

    from timmx.contract import ExportBackend, ExportRequest, Metadata, Precision, Runner
    from timmx.exporting.metadata import IoTypes
    from timmx.inputs import Samples
    from timmx.model import DataConfig


@dataclass(frozen=True, kw_only=True)
class ArtifactModel:
    """Facts about the model in the file, with the names of `timmx.model.LoadedModel`."""

    trained: bool
    conclusive: bool
    data_config: DataConfig
    labels: tuple[str, ...] | None
    notes: tuple[str, ...] = ()


class ArtifactSession(Session):
    """A session without a PyTorch model.

    Args:
        request: the request; batch size and normalization are taken from the file.
        path: the file.
        metadata: the file's metadata.
        open_file: opens the file in its runtime.
    """

    rewrites = ()

    def __init__(
        self, request: ExportRequest, path: Path, metadata: Metadata, open_file: Callable[[], Runner]
    ) -> None:
        self._metadata, self._path = metadata, path
        super().__init__(_with_settings_of(request, metadata))
        self.loaded = _model_inside(metadata)
        config = self.loaded.data_config
        with self.step("Running the reference"):
            samples = choose_samples(request.verify_data, None, config, self.request.normalize)
            with open_file() as runner:
                self.reference = self._run(runner, samples)

    @property
    def module(self) -> NoReturn:
        raise self._no_model()

    def fit_of(self, _inputs: list[np.ndarray]) -> None:
        """Nothing is known of the statistics of an exported file."""

    def capture(self, strict: bool = False) -> NoReturn:
        raise self._no_model()

    def metadata(
        self,
        precision: Precision,
        backend: ExportBackend,
        format_facts: Mapping[str, Any],
        io_types: IoTypes,
    ) -> Metadata:
        """The file's metadata with the facts of the new format; `io_types` are the file's own."""
        versions = installed_versions("timmx-core", distribution_of(backend), *backend.toolchain)
        return replace(
            self._metadata,
            precision=precision,
            format=json_values(format_facts),
            versions={**self._metadata.versions, **versions},
        )

    def _no_model(self) -> ArtifactError:
        return ArtifactError(f"{self._path} is an exported file, without a PyTorch model")

    def _run(self, runner: Runner, samples: Samples) -> Reference:
        import numpy as np

        check_interface(self._path, runner, self._metadata)
        batch = runner.inputs[0].shape[0]
        size = batch if isinstance(batch, int) else 1
        names = tuple(output.name for output in self._metadata.outputs)
        parts = [
            run_batches(
                runner,
                samples.take(range(start, min(start + size, len(samples)))),
                names,
                batch_size=size,
                what=self._path,
            )
            for start in range(0, len(samples), size)
        ]
        outputs = tuple(np.concatenate([part[name] for part in parts]) for name in names)
        first = self._metadata.outputs[0]
        classes = first.kind.ranks_classes
        if self.loaded.labels and classes:
            check_count(self.loaded.labels, outputs[0].shape[1])
        return Reference(
            samples=samples,
            outputs=outputs,
            names=names,
            classes=classes,
            threshold=None if first.exclusive else first.threshold,
        )


def _with_settings_of(request: ExportRequest, metadata: Metadata) -> ExportRequest:
    """The request with the file's normalization and batch size."""
    return replace(
        request,
        normalize=metadata.input.normalized_in_graph,
        dynamic_batch=metadata.dynamic_batch,
        batch_size=request.batch_size or metadata.batch_size,
    )


def _model_inside(metadata: Metadata) -> ArtifactModel:
    return ArtifactModel(
        trained=metadata.model.trained,
        conclusive=metadata.model.conclusive,
        data_config=ImagePreprocessor.of(metadata).data_config,
        labels=metadata.labels,
    )

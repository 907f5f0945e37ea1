"""A file of an earlier export in a model's place: what it says of itself, and its answers as the reference."""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any, NoReturn

import importlib_metadata

from timmx.contract import CLASS_KINDS, check_metadata
from timmx.errors import ArtifactError
from timmx.exporting.session import Session
from timmx.inputs import ImagePreprocessor, check_interface, choose_samples, run_batches
from timmx.model import check_count
from timmx.verification import Reference

if TYPE_CHECKING:
    from collections.abc import Callable
    from pathlib import Path

    from timmx.contract import ExportRequest, Precision, Runner
    from timmx.exporting.metadata import Edges
    from timmx.inputs import Samples
    from timmx.model import DataConfig


@dataclass(frozen=True)
class PreparedModel:
    """What is known of the model inside; named as in `timmx.model.load.LoadedModel`."""

    trained: bool
    data_config: DataConfig
    labels: tuple[str, ...] | None
    notes: tuple[str, ...] = ()


class PreparedSession(Session):
    """Stands where a `ModelSession` does, without a model.

    Args:
        request: as given; batch and normalisation are taken from the file.
        path: the file.
        metadata: what is in it.
        open_file: runs it.

    Raises:
        ArtifactError: timmx did not write the file, or a later timmx did.
    """

    rewrites = ()

    def __init__(
        self, request: ExportRequest, path: Path, metadata: dict[str, Any], open_file: Callable[[], Runner]
    ) -> None:
        check_metadata(path, metadata)
        self._metadata, self._path = metadata, path
        super().__init__(_with_what_is_decided(request, metadata))
        self.loaded = _model_inside(metadata)
        config = self.loaded.data_config
        with self.step("Running the reference"):
            samples = choose_samples(request.verify_data, None, config, self.request.normalize)
            with open_file() as runner:
                self.reference = self._run(runner, samples)

    @property
    def module(self) -> NoReturn:
        raise self._no_model()

    def capture(self, strict: bool = False) -> NoReturn:
        raise self._no_model()

    def metadata(
        self, precision: Precision, distribution: str | None, format_facts: dict[str, Any], edges: Edges
    ) -> dict[str, Any]:
        """That of the file, with what is said of the new format; `edges` are the file's own."""
        names = [name for name in ("timmx-core", distribution) if name]
        versions = {name: importlib_metadata.version(name) for name in names}
        return self._metadata | {
            "precision": str(precision),
            "format": format_facts,
            "versions": self._metadata["versions"] | versions,
        }

    def _no_model(self) -> ArtifactError:
        return ArtifactError(f"{self._path} is an exported file: it has no PyTorch model in it")

    def _run(self, runner: Runner, samples: Samples) -> Reference:
        import numpy as np

        check_interface(self._path, runner, self._metadata)
        batch = runner.inputs[0].shape[0]
        size = batch if isinstance(batch, int) else 1
        names = tuple(output["name"] for output in self._metadata["outputs"])
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
        classes = self._metadata["outputs"][0]["kind"] in CLASS_KINDS
        if self.loaded.labels and classes:
            check_count(self.loaded.labels, outputs[0].shape[1])
        return Reference(samples=samples, outputs=outputs, names=names, classes=classes)


def _with_what_is_decided(request: ExportRequest, metadata: dict[str, Any]) -> ExportRequest:
    """The request with the normalisation and the batch that the file has."""
    batch = metadata["batch"]
    return replace(
        request,
        normalize={"graph": True, "caller": False}[metadata["input"]["normalization"]],
        dynamic_batch=bool(batch.get("dynamic", False)),
        batch_size=request.batch_size or batch.get("size"),
    )


def _model_inside(metadata: dict[str, Any]) -> PreparedModel:
    labels, config = metadata["labels"], ImagePreprocessor.of(metadata).data_config
    return PreparedModel(metadata["model"]["trained"], config, tuple(labels) if labels else None)

"""A file of an earlier export in a model's place: what it says of itself, and its answers as the reference."""

from __future__ import annotations

import contextlib
import time
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any, NoReturn

import importlib_metadata

from timmx.edges import feed, fetch
from timmx.errors import ArtifactError
from timmx.metadata import SCHEMA
from timmx.model.data_config import DataConfig
from timmx.progress import reporter
from timmx.samples import choose_samples
from timmx.verify import Reference

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator
    from pathlib import Path

    import numpy as np
    import torch

    from timmx.contract import Precision, Runner
    from timmx.metadata import Edges
    from timmx.options import ExportRequest
    from timmx.samples import Samples


@dataclass(frozen=True)
class PreparedModel:
    """What is known of the model inside; named as in `timmx.model.load.LoadedModel`."""

    trained: bool
    data_config: DataConfig
    labels: tuple[str, ...] | None
    notes: tuple[str, ...] = ()


class PreparedSession:
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
        self._metadata, entry = metadata, metadata["input"]
        self._path = path
        self.seconds: dict[str, float] = {}
        self.request = replace(
            request,
            normalize=entry["normalization"] == "graph",
            dynamic_batch=metadata["batch"].get("dynamic", False),
            batch_size=request.batch_size or metadata["batch"].get("size"),
        )
        channels, height, width = entry["size"]
        config = DataConfig(
            (channels, height, width),
            tuple(entry["mean"]),
            tuple(entry["std"]),
            entry["interpolation"],
            entry["crop_pct"],
            entry["crop_mode"],
        )
        labels = metadata["labels"]
        self.loaded = PreparedModel(metadata["model"]["trained"], config, tuple(labels) if labels else None)
        with self.step("Running the reference"):
            samples = choose_samples(request.verify_data, None, config, self.request.normalize)
            with open_file() as runner:
                self.reference = self._run(runner, samples)

    @contextlib.contextmanager
    def step(self, text: str) -> Iterator[None]:
        """Report a step and keep its time."""
        reporter().step(text)
        start = time.perf_counter()
        yield
        self.seconds[text.lower()] = round(time.perf_counter() - start, 3)

    @property
    def module(self) -> NoReturn:
        raise self._no_model()

    def example_input(self) -> torch.Tensor:
        """(N, C, H, W) float32 on the requested device, N the batch that the file is traced at."""
        import torch

        count = self.request.trace_batch
        inputs = self.reference.samples.take([index % len(self.reference) for index in range(count)])
        return torch.from_numpy(inputs).to(self.request.device.torch_name)

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
        return ArtifactError(f"{self._path} is a file that was exported: there is no PyTorch model in it.")

    def _run(self, runner: Runner, samples: Samples) -> Reference:
        (entry,) = runner.inputs
        size = entry.shape[0] if isinstance(entry.shape[0], int) else 1
        names = tuple(output["name"] for output in self._metadata["outputs"])
        specs = {spec.name: spec for spec in runner.outputs}
        answers: dict[str, list[np.ndarray]] = {name: [] for name in names}
        for start in range(0, len(samples), size):
            indices = [(start + offset) % len(samples) for offset in range(size)]
            found = runner.run({entry.name: feed(entry, samples.take(indices))})
            for name in names:
                answers[name] += list(fetch(specs[name], found[name]))
        import numpy as np

        outputs = tuple(np.stack(answers[name][: len(samples)]) for name in names)
        kinds = [output["kind"] for output in self._metadata["outputs"]]
        return Reference(samples, outputs, names, kinds[0] in ("logits", "probabilities"))


def check_metadata(path: Path, metadata: dict[str, Any]) -> None:
    """Refuse a file whose metadata does not say what the model is and how it is fed.

    Raises:
        ArtifactError: timmx did not write the file, or a later timmx did.
    """
    if not metadata:
        raise ArtifactError(
            f"{path} was not written by timmx: nothing in it says how to feed it. Export it anew."
        )
    if metadata.get("schema") != SCHEMA:
        raise ArtifactError(
            f"{path} has metadata of schema {metadata.get('schema')}, and this timmx reads {SCHEMA}: install the timmx "
            "that wrote it, or export it anew."
        )

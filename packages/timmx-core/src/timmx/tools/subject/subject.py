"""What the tools run: an artifact by its own metadata, or a PyTorch model in the same place."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np

from timmx.artifact import described
from timmx.base import counted
from timmx.contract import OpenSettings, OutputKind, Runner
from timmx.errors import ArtifactError, ConfigurationError
from timmx.inputs import ImagePreprocessor, check_interface, run_batches

if TYPE_CHECKING:
    from pathlib import Path

    from timmx.contract import ExportBackend, Metadata

_MOST_AT_ONCE = 8
"""Images in a batch where the batch is open and nobody says how many."""


@dataclass(frozen=True, kw_only=True)
class Described:
    """What answers images, as far as that is known before it is opened.

    Attributes:
        name: as a person would name it: the file's name, or the model's.
        preprocessor: turns an image into its input.
        labels: the classes' names by number, or None where nobody knows them.
        kind: of the first output.
        output_names: in the order of the metadata.
        metadata: what the file says about itself; for a model, that of the file that it stands beside.
        path: of the file; None for a model.
        backend: that opens it; None for a model.
    """

    name: str
    preprocessor: ImagePreprocessor
    labels: tuple[str, ...] | None
    kind: OutputKind
    output_names: tuple[str, ...]
    metadata: Metadata
    path: Path | None = None
    backend: ExportBackend | None = None

    @property
    def ranks_classes(self) -> bool:
        """Whether the first output has one number a class."""
        return self.kind.ranks_classes

    @property
    def num_classes(self) -> int:
        """How many the first output ranks."""
        return int(self.metadata.outputs[0].shape[-1])

    def require_classes(self) -> None:
        """Refuse what does not rank classes.

        Raises:
            ArtifactError: it gives embeddings, features or other tensors.
        """
        if not self.ranks_classes:
            raise ArtifactError(
                f"{self.name} outputs {self.kind}, not classes",
                hint="use timmx.open in Python, which returns its raw outputs",
            )

    def open(self, batch_size: int | None = None, threads: int | None = None) -> Subject:
        """The file, ready to run; for arguments and errors see `open_subject`."""
        path, fixed = self.path, self.metadata.batch_size
        assert path is not None, "a model is opened by open_model"
        assert self.backend is not None, "whoever read the metadata is the backend"
        if batch_size is not None and batch_size < 1:
            raise ConfigurationError(f"--batch-size {batch_size} is less than 1", hint="give 1 or more")
        if fixed is not None and batch_size not in (None, fixed):
            raise ConfigurationError(
                f"{path} takes {counted(fixed, 'image')} at once, not {batch_size}",
                hint="leave --batch-size out, or export it again with --dynamic-batch",
            )
        runner = self.backend.open(path, OpenSettings(threads=threads))
        try:
            check_interface(path, runner, self.metadata)
            size = fixed or batch_size or _batch_of(runner)
        except BaseException:
            runner.close()
            raise
        return Subject(**vars(self), runner=runner, batch_size=size)


@dataclass(frozen=True, kw_only=True)
class Subject(Described):
    """Something that answers images: opened. Usable in `with`, which closes the runner.

    Attributes:
        runner: arrays in, arrays out.
        batch_size: how many images are run at once.
    """

    runner: Runner
    batch_size: int

    def __enter__(self) -> Subject:
        return self

    def __exit__(self, *exc_info: object) -> None:
        self.runner.close()

    def run(self, inputs: np.ndarray) -> dict[str, np.ndarray]:
        """The answers to any number of inputs, in batches as the artifact takes them.

        Args:
            inputs: (N, C, H, W) float32, as `preprocessor` makes them.

        Returns:
            By output name, (N, ...) in real numbers. A batch that is not full is filled with its last input, whose
            further answers are dropped.
        """
        return run_batches(self.runner, inputs, self.output_names, self.batch_size, what=self.name)

    def probabilities(self, inputs: np.ndarray) -> np.ndarray:
        """The classes' probabilities, (N, classes) float32.

        Args:
            inputs: (N, C, H, W) float32, as `preprocessor` makes them.

        Raises:
            ArtifactError: see `require_classes`.
        """
        self.require_classes()
        answers = self.run(inputs)[self.output_names[0]].astype(np.float32)
        return answers if self.kind is OutputKind.PROBABILITIES else _softmax(answers)


def describe(path: Path) -> Described:
    """A file that timmx wrote; nothing is run.

    Raises:
        ArtifactError: there is no such file, it is damaged, or timmx did not write it.
        BackendError: no installed backend opens it.
    """
    path = path.expanduser()
    backend, metadata = described(path)
    return Described(
        name=path.name,
        preprocessor=ImagePreprocessor.of(metadata),
        labels=metadata.labels,
        kind=metadata.outputs[0].kind,
        output_names=tuple(output.name for output in metadata.outputs),
        metadata=metadata,
        path=path,
        backend=backend,
    )


def open_subject(path: Path, batch_size: int | None = None, threads: int | None = None) -> Subject:
    """Open a file that timmx wrote.

    Args:
        path: of any installed backend's suffix.
        batch_size: images at once; by default the file's own, or where that is open up to 8.
        threads: of the runtime; None to let it choose.

    Raises:
        ArtifactError: there is no such file, it is damaged, or timmx did not write it.
        BackendError: no installed backend opens it.
        ConfigurationError: the file has another batch.
        RuntimeUnavailable: it cannot run here.
    """
    return describe(path).open(batch_size, threads)


def _batch_of(runner: Runner) -> int:
    """Up to 8 of an open batch."""
    if tuple(runner.batch_sizes) == Runner.batch_sizes:  # which stands for no limit
        return _MOST_AT_ONCE
    return max(
        (size for size in runner.batch_sizes if size <= _MOST_AT_ONCE), default=min(runner.batch_sizes)
    )


def _softmax(logits: np.ndarray) -> np.ndarray:
    shifted = np.exp(logits - logits.max(axis=-1, keepdims=True))
    return shifted / shifted.sum(axis=-1, keepdims=True)

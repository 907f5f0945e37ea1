"""What the tools run: an artifact, fed as its metadata says, or a PyTorch model instead of it."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np

from timmx.artifact import open_with, read_artifact
from timmx.base import memory_bytes
from timmx.contract import MOST_ELEMENTS, Activation, OpenSettings, OutputKind, Runner
from timmx.errors import ArtifactError, ConfigurationError
from timmx.inputs import ImagePreprocessor, check_interface, run_batches

if TYPE_CHECKING:
    from collections.abc import Sequence
    from pathlib import Path
    from types import TracebackType

    from timmx.artifact import ChangeCheck
    from timmx.contract import ExportBackend, Metadata, RuntimeDevice
    from timmx.inputs import ImageSettings

_MOST_AT_ONCE = 8
"""Default batch size of files with a dynamic batch size."""


@dataclass(frozen=True, kw_only=True)
class Described:
    """A file or a model that classifies images, before it is opened.

    Attributes:
        name: of the file or the model, for display.
        preprocessor: turns an image into its input.
        labels: class names by index; None if unknown.
        kind: of the first output.
        output_names: in the order of the metadata.
        metadata: of the file; for a model, of the file that it is compared with.
        path: of the file; None for a model.
        backend: that opens the file; None for a model.
        trust: the file may run code that it contains; see `OpenSettings`.
        runtime_device: where its runtime computes; see `OpenSettings`.
    """

    name: str
    preprocessor: ImagePreprocessor
    labels: tuple[str, ...] | None
    kind: OutputKind
    output_names: tuple[str, ...]
    metadata: Metadata
    path: Path | None = None
    backend: ExportBackend | None = None
    trust: bool = False
    runtime_device: RuntimeDevice | None = None

    @property
    def ranks_classes(self) -> bool:
        """Whether the first output has one number per class."""
        return self.kind.ranks_classes

    @property
    def num_classes(self) -> int:
        """Number of classes in the first output."""
        return int(self.metadata.outputs[0].shape[-1])

    @property
    def exclusive(self) -> bool:
        """Whether an image has exactly one of the classes; otherwise each class has its own probability."""
        return self.metadata.outputs[0].exclusive

    def require_classes(self) -> None:
        """Check that it ranks classes.

        Raises:
            ArtifactError: it outputs embeddings, features or other tensors, or a softmax over one class.
        """
        if not self.ranks_classes:
            raise ArtifactError(
                f"{self.name} outputs {self.kind}, not classes",
                hint="use timmx.open in Python, which returns its raw outputs",
            )
        output = self.metadata.outputs[0]
        if output.activation is Activation.SOFTMAX and output.shape[-1:] == (1,):
            raise ArtifactError(
                f"{self.name} applies softmax to a single class, so its output is 1 for every image",
                hint="export it again with --sigmoid instead of --softmax",
            )

    def open(self, batch_size: int | None = None, threads: int | None = None) -> Subject:
        """Open the file; for arguments and errors see `open_subject`."""
        path, fixed = self.path, self.metadata.batch_size
        assert path is not None, "a model is opened by open_model"
        assert self.backend is not None, "a file has a backend"
        if batch_size is not None and batch_size < 1:
            raise ConfigurationError(f"--batch-size {batch_size} is less than 1", hint="give 1 or more")
        if fixed is not None and batch_size not in (None, fixed):
            raise ConfigurationError(
                f"{path} has a fixed batch size of {fixed}, not {batch_size}",
                hint="leave --batch-size out, or export it again with --dynamic-batch",
            )
        settings = OpenSettings(trust=self.trust, threads=threads, runtime_device=self.runtime_device)
        runner = open_with(self.backend, path, settings)
        try:
            check_interface(path, runner, self.metadata)
            size = fixed or batch_size or _batch_of(runner)
            check_batch_size(
                size, self.metadata.input.size, "--batch-size" if batch_size else "its batch size"
            )
        except BaseException:
            runner.close()
            raise
        return Subject(**vars(self), runner=runner, batch_size=size)


@dataclass(frozen=True, kw_only=True)
class Subject(Described):
    """An opened file or model that classifies images; a context manager that closes the runner.

    Attributes:
        runner: runs it on arrays.
        batch_size: images per run.
        check: the comparison of the file with the one that timmx wrote, which ends when the subject is closed.
    """

    runner: Runner
    batch_size: int
    check: ChangeCheck | None = None

    def __enter__(self) -> Subject:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.runner.close()
        if self.check is not None:
            self.check.__exit__(kind, error, trace)

    def run(self, inputs: np.ndarray) -> dict[str, np.ndarray]:
        """The outputs for any number of inputs, run in batches of `batch_size`.

        Args:
            inputs: (N, C, H, W) float32, from `preprocessor`.

        Returns:
            Arrays (N, ...) of real numbers by output name. An incomplete batch is padded with its last input; the
            outputs of the padding are dropped.
        """
        return run_batches(self.runner, inputs, self.output_names, self.batch_size, what=self.name)

    def probabilities(self, inputs: np.ndarray) -> np.ndarray:
        """Class probabilities, (N, classes): by softmax in float32, or by sigmoid if classes do not exclude each other.

        The sigmoid is in float64: average precision ranks images by it, and in float32 it is 1 from a logit of 17 on.

        Args:
            inputs: (N, C, H, W) float32, from `preprocessor`.

        Raises:
            ArtifactError: see `require_classes`.
        """
        self.require_classes()
        answers = self.run(inputs)[self.output_names[0]].astype(np.float32)
        convert = {Activation.SOFTMAX: _softmax, Activation.SIGMOID: _sigmoid}
        conversion = convert.get(self.metadata.outputs[0].to_probabilities)
        return answers if conversion is None else conversion(answers)


def describe(
    path: Path,
    trust: bool = False,
    settings: ImageSettings | None = None,
    runtime_device: RuntimeDevice | None = None,
) -> Described:
    """Describe a file that timmx wrote, without running it.

    Args:
        path: a file of any installed backend.
        trust: when it is opened, it may run code that it contains.
        settings: how image files are read.
        runtime_device: where its runtime computes when it is opened.

    Raises:
        ArtifactError: the file does not exist, is damaged, or was not written by timmx.
        BackendError: no installed backend opens it.
    """
    path = path.expanduser()
    backend, metadata = read_artifact(path)
    return Described(
        name=path.name,
        preprocessor=ImagePreprocessor.of(metadata, settings),
        labels=metadata.labels,
        kind=metadata.outputs[0].kind,
        output_names=tuple(output.name for output in metadata.outputs),
        metadata=metadata,
        path=path,
        backend=backend,
        trust=trust,
        runtime_device=runtime_device,
    )


def open_subject(
    path: Path,
    batch_size: int | None = None,
    threads: int | None = None,
    trust: bool = False,
    runtime_device: RuntimeDevice | None = None,
) -> Subject:
    """Open a file that timmx wrote.

    Args:
        path: a file of any installed backend.
        batch_size: images per run; by default the file's batch size, or up to 8 if that is dynamic.
        threads: of the runtime; None for its default.
        trust: the file may run code that it contains.
        runtime_device: where its runtime computes; None for its default.

    Raises:
        ArtifactError: the file does not exist, is damaged, or was not written by timmx.
        BackendError: no installed backend opens it.
        ConfigurationError: the file has another fixed batch size, or its runtime does not compute on that device.
        RuntimeUnavailable: it cannot run here.
    """
    return describe(path, trust, runtime_device=runtime_device).open(batch_size, threads)


def check_batch_size(batch_size: int, size: Sequence[int], what: str) -> None:
    """Check that a batch of float inputs, and a copy of it, fit into this machine's memory.

    Args:
        batch_size: images per run.
        size: channels, height and width of one image.
        what: the batch size's origin, for the message.

    Raises:
        ConfigurationError: the batch is too large.
    """
    elements, memory = batch_size * math.prod(size), memory_bytes()
    most = MOST_ELEMENTS if memory is None else min(MOST_ELEMENTS, memory // (2 * _FLOAT_BYTES))
    if elements > most:
        raise ConfigurationError(
            f"{what} {batch_size:,} is too large for images of {' x '.join(map(str, size))} on this machine",
            hint=f"give at most {max(1, most // math.prod(size)):,}",
        )


_FLOAT_BYTES = 4


def _batch_of(runner: Runner) -> int:
    """The default batch size of a file with a dynamic batch size: up to 8."""
    if tuple(runner.batch_sizes) == Runner.batch_sizes:  # the default, which means no limit
        return _MOST_AT_ONCE
    return max(
        (size for size in runner.batch_sizes if size <= _MOST_AT_ONCE), default=min(runner.batch_sizes)
    )


def _softmax(logits: np.ndarray) -> np.ndarray:
    shifted = np.exp(logits - logits.max(axis=-1, keepdims=True))
    return shifted / shifted.sum(axis=-1, keepdims=True)


def _sigmoid(logits: np.ndarray) -> np.ndarray:
    """In float64, from exp(-|x|), which does not overflow; NaN for infinity, as in `_softmax`."""
    small = np.exp(-np.abs(logits.astype(np.float64)))
    shares = np.where(logits >= 0, 1, small) / (1 + small)
    return np.where(np.isfinite(logits), shares, np.nan)

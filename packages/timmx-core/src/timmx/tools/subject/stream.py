"""Answers to many images: threads decode the next ones while the runtime computes, and memory stays flat."""

from __future__ import annotations

import time
from collections import deque
from concurrent.futures import Future, wait
from contextlib import ExitStack, suppress
from dataclasses import dataclass, replace
from itertools import islice
from queue import Empty, SimpleQueue
from threading import Thread
from typing import TYPE_CHECKING

import numpy as np

from timmx.artifact import ChangeCheck
from timmx.base import artifact_size, reporter, usable_cores
from timmx.errors import ConfigurationError

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence
    from pathlib import Path

    from timmx.tools.subject.subject import Described, Subject

_MOST_WORKERS = 16
"""Default maximum of decoding threads: each needs Python's lock between Pillow's long calls."""

_MOST_THREADS = 256
"""Each thread takes memory for an image, and more threads than cores only wait for each other."""

_SMALL_BYTES = 11_000_000
"""A smaller file runs faster on half of the cores, with the other half free to decode. On two busy cores, in ms per
image with half and with all cores: the digits (0.4 MB) 10.4 and 19.3, mobilenetv3_small (10 MB) 31.5 and 43.6."""


@dataclass(frozen=True)
class Answer:
    """A subject's prediction for one image.

    Attributes:
        path: of the image.
        probabilities: of the classes, (classes,); None if the image cannot be read.
        error: why it cannot be read; empty if it can.
        hint: how to fix that.
    """

    path: Path
    probabilities: np.ndarray | None
    error: str = ""
    hint: str = ""


def open_for_stream(file: Described, batch_size: int | None = None) -> Subject:
    """Open a file to answer many images: a small model leaves half of the cores to the threads that decode.

    Meanwhile it is compared with the file that timmx wrote: a change is reported when the subject is closed.

    Args:
        file: of `timmx.tools.subject.describe`.
        batch_size: see `open_subject`.

    Raises:
        TimmxError: see `open_subject`.
    """
    assert file.path is not None, "a model is opened by open_model"
    assert file.backend is not None, "the backend that read the metadata"
    files = file.backend.files(file.path)
    small = artifact_size(files) < _SMALL_BYTES
    with ExitStack() as stack:  # also if the file cannot be opened
        check = stack.enter_context(ChangeCheck(files, file.metadata.to_json()))
        subject = file.open(batch_size, threads=max(1, usable_cores() // 2) if small else None)
        stack.pop_all()
    return replace(subject, check=check)


def answers(subject: Subject, paths: Sequence[Path], *, workers: int | None = None) -> Iterator[Answer]:
    """The probabilities for each image, in the order of `paths`.

    Worker threads decode and preprocess, a batch and a bit ahead of the runtime, which is called from the thread that
    iterates. Closing the iterator ends the threads.

    Args:
        subject: what answers, in batches of its `batch_size`.
        paths: of image files. One that cannot be read is answered with an error and stops nothing.
        workers: threads that decode images; by default one per core of this process, up to 16.

    Raises:
        ArtifactError: the subject takes no images, does not rank classes, or fails at a batch.
        ConfigurationError: fewer than one worker, or too many.
    """
    subject.require_classes()
    subject.preprocessor.check()
    if workers is None:
        workers = min(usable_cores(), _MOST_WORKERS)
    if workers < 1:
        raise ConfigurationError(f"--workers {workers} is less than 1", hint="give 1 or more")
    if workers > _MOST_THREADS:
        raise ConfigurationError(
            f"--workers {workers} is more than {_MOST_THREADS}", hint=f"give at most {_MOST_THREADS}"
        )
    return _answers(subject, paths, workers)


_CERTAINLY_DARK = 64
"""If as many images are dark, the others are not waited for."""


def _answers(subject: Subject, paths: Sequence[Path], workers: int) -> Iterator[Answer]:
    decoders = _Decoders(subject, min(workers, max(len(paths), 1)))
    try:
        coming: deque[Future[np.ndarray | ConfigurationError]] = deque()
        left = iter(paths)
        for path in islice(left, subject.batch_size + workers):
            coming.append(decoders.submit(path))
        for start in range(0, len(paths), subject.batch_size):
            batch = paths[start : start + subject.batch_size]
            inputs = []
            for _ in batch:
                inputs.append(_result(coming.popleft()))
                for path in islice(left, 1):
                    coming.append(decoders.submit(path))
            subject.preprocessor.depth.check(_CERTAINLY_DARK)
            yield from _answer(subject, batch, inputs)
        subject.preprocessor.depth.check()
    finally:  # reached when the iterator is closed early and after Ctrl-C too
        decoders.close()
        if dark := subject.preprocessor.depth.warning():
            reporter().warn(dark)


def _result(future: Future[np.ndarray | ConfigurationError]) -> np.ndarray | ConfigurationError:
    """Wait in short steps: a signal just before a wait without a timeout would be handled after it only."""
    while not future.done():
        wait([future], timeout=0.2)
    return future.result()


_CLOSING_S = 0.5
"""How long closing waits for images that are being decoded. A large one takes seconds, and Ctrl-C does not wait."""


class _Decoders:
    """Threads that decode images, in order. Unlike those of ThreadPoolExecutor, they do not keep the process alive."""

    def __init__(self, subject: Subject, count: int) -> None:
        self._subject = subject
        self._queue: SimpleQueue[tuple[Path, Future[np.ndarray | ConfigurationError]] | None] = SimpleQueue()
        self._threads = [
            Thread(target=self._decode, name=f"timmx-decode-{number}", daemon=True) for number in range(count)
        ]
        for thread in self._threads:
            thread.start()

    def submit(self, path: Path) -> Future[np.ndarray | ConfigurationError]:
        future: Future[np.ndarray | ConfigurationError] = Future()
        self._queue.put((path, future))
        return future

    def close(self) -> None:
        """Drop the images that wait, and end the threads."""
        with suppress(Empty):
            while True:
                self._queue.get_nowait()
        for _ in self._threads:
            self._queue.put(None)
        deadline = time.monotonic() + _CLOSING_S
        for thread in self._threads:
            thread.join(max(0.0, deadline - time.monotonic()))

    def _decode(self) -> None:
        while (item := self._queue.get()) is not None:
            path, future = item
            future.set_result(_read(self._subject, path))


def _read(subject: Subject, path: Path) -> np.ndarray | ConfigurationError:
    """An image as the subject takes it, (C, H, W) float32, or why it cannot be read."""
    try:
        return subject.preprocessor.read(path)
    except ConfigurationError as exc:
        return exc
    except Exception as exc:  # Pillow's rarer readers raise any exception; the other images are still read
        said = " ".join(str(exc).split()) or type(exc).__name__
        return ConfigurationError(f"{path} cannot be read as an image: {said}")


def _answer(
    subject: Subject, paths: Sequence[Path], inputs: Sequence[np.ndarray | ConfigurationError]
) -> Iterator[Answer]:
    good = [item for item in inputs if not isinstance(item, ConfigurationError)]
    found = iter(subject.probabilities(np.stack(good)) if good else ())
    for path, item in zip(paths, inputs, strict=True):
        if isinstance(item, ConfigurationError):
            yield Answer(path, None, item.message, item.hint)
        else:
            yield Answer(path, next(found))

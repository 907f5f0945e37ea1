"""`timmx predict`: the classes of images, which are given as files, folders and globs."""

from __future__ import annotations

import glob
import time
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from timmx.base import check_path, counted, reporter
from timmx.errors import ConfigurationError
from timmx.inputs import IMAGE_SUFFIXES, PIXELS_HINT, ImageSettings, files_left_out, list_images, other_files
from timmx.tools.subject import Answer, answers, describe, open_for_stream

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence

    from timmx.contract import RuntimeDevice


_TOP = 5
"""Default number of classes that are shown, if they exclude each other."""


@dataclass(frozen=True)
class Guess:
    """One of the most likely classes of an image.

    Attributes:
        number: index of the class.
        label: its name; None if unknown.
        probability: 0 to 1.
    """

    number: int
    label: str | None
    probability: float


@dataclass(frozen=True)
class Prediction:
    """An image and its most likely classes, in descending order of probability."""

    path: Path
    guesses: tuple[Guess, ...]


@dataclass(frozen=True, kw_only=True)
class Predictions:
    """The predictions of a file for many images.

    Attributes:
        file: the artifact.
        model: name of the model in its metadata.
        exclusive: the probabilities are those of classes that exclude each other; otherwise each class has its own.
        images: in the order of the arguments.
        unreadable: images that were left out, each with the reason: it cannot be read, or the output is not finite.
    """

    file: Path
    model: str
    exclusive: bool
    images: tuple[Prediction, ...]
    unreadable: tuple[tuple[Path, str], ...]

    def to_dict(self) -> dict[str, Any]:
        """JSON-ready."""
        return {
            "file": str(self.file),
            "model": self.model,
            "exclusive": self.exclusive,
            "images": [
                {
                    "path": str(image.path),
                    "predictions": [
                        {
                            "class": guess.number,
                            "label": guess.label,
                            "probability": float(f"{guess.probability:.6g}"),
                        }
                        for guess in image.guesses
                    ],
                }
                for image in self.images
            ],
            "unreadable": [{"path": str(path), "error": error} for path, error in self.unreadable],
        }


def predict(
    file: Path,
    images: Sequence[str],
    *,
    top_k: int | None = None,
    batch_size: int | None = None,
    workers: int | None = None,
    settings: ImageSettings | None = None,
    trust: bool = False,
    runtime_device: RuntimeDevice | None = None,
) -> Predictions:
    """Classify images with a file that timmx wrote.

    Args:
        file: of any installed backend.
        images: files, folders (searched recursively) and globs.
        top_k: number of classes per image, at most all. Default: 5, or all if classes do not exclude each other.
        batch_size: images per run; see `open_subject`.
        workers: threads that decode images; see `answers`.
        settings: how image files are read.
        trust: the file may run code that it contains.
        runtime_device: where its runtime computes; None for its default.

    Raises:
        ConfigurationError: a name without an image, no image that can be read and has a finite output, or an option
            out of range.
        TimmxError: the file cannot be opened, takes no images or ranks no classes; see `open_subject`, `answers`.
    """
    if top_k is not None and top_k < 1:
        raise ConfigurationError(f"--top-k {top_k} shows no class", hint="give 1 or more")
    if settings is not None:
        settings.check()
    if not file.expanduser().exists():
        raise ConfigurationError(f"{file} does not exist", hint="check the path")
    paths = find_images(images)
    say = reporter()
    say.step(f"Opening {file.name}")
    predictions: list[Prediction] = []
    unreadable: list[tuple[Path, str]] = []
    not_finite, hint = 0, "use images that Pillow can open"
    with open_for_stream(describe(file, trust, settings, runtime_device), batch_size) as subject:
        stream = answers(subject, paths, workers=workers)
        shown = top_k or (_TOP if subject.exclusive else subject.num_classes)
        say.step(f"Running {file.name}")
        start = time.perf_counter()
        for answer in stream:
            error = answer.error
            if answer.probabilities is not None and not np.isfinite(answer.probabilities).all():
                error = f"{file.name} returns NaN or infinity for {answer.path}"
                not_finite += 1
            if error:
                unreadable.append((answer.path, error))
                hint = answer.hint or hint
                if len(paths) > 1:  # for a single image it is the error below
                    say.warn(f"{error} ({PIXELS_HINT})" if answer.hint == PIXELS_HINT else error)
            else:
                predictions.append(_prediction(answer, subject.labels, shown))
            done = len(predictions) + len(unreadable)
            say.advance(f"{done:,} of {counted(len(paths), 'image')}", done / len(paths))
        seconds = time.perf_counter() - start
        name, exclusive = subject.metadata.model.name, subject.exclusive
    if not predictions:
        none = "has a finite output" if not_finite else "can be read"
        raise ConfigurationError(
            unreadable[0][1] if len(paths) == 1 else f"none of these {len(paths)} images {none}",
            hint=f"timmx verify {file}" if not_finite else hint,
        )
    say.detail(f"{len(paths)} images in {seconds:.2f} s, {len(paths) / seconds:.0f} images/s")
    return Predictions(
        file=file,
        model=name,
        exclusive=exclusive,
        images=tuple(predictions),
        unreadable=tuple(unreadable),
    )


def find_images(names: Sequence[str]) -> list[Path]:
    """The image files of files, folders and globs, each once, in the order of the names.

    A file is accepted with any suffix; folders and globs select the files with an image's suffix.

    Raises:
        ConfigurationError: a name that does not exist, or a folder or a glob without an image.
    """
    if not names:
        raise ConfigurationError(
            "no image is given", hint="give image files, folders or globs such as 'photos/**/*.jpg'"
        )
    return list(dict.fromkeys(path for name in names for path in _expand(name)))


def _expand(name: str) -> list[Path]:
    path = Path(name).expanduser()
    check_path(path, "image or folder")
    if path.is_dir():
        images = list_images(path)
        if not images:
            raise ConfigurationError(f"{path} has no images", hint=_suffix_hint())
        if others := other_files(path):
            reporter().warn(others)
        return images
    if path.exists():
        return [path]
    if not glob.has_magic(name):
        raise ConfigurationError(
            f"image or folder {path} does not exist",
            hint="give image files, folders or globs such as 'photos/**/*.jpg'",
        )
    images = list(_matches(str(path)))
    if not images:
        raise ConfigurationError(f"no image matches {name!r}", hint=_suffix_hint())
    return images


def _matches(pattern: str) -> Iterator[Path]:
    """The images that a glob matches, and those in folders that it matches, as if a shell had expanded it."""
    suffix = Path(pattern).suffix.lower()
    suffixes = IMAGE_SUFFIXES if glob.has_magic(suffix) else {*IMAGE_SUFFIXES, suffix} - {""}
    try:
        found = sorted(glob.glob(pattern, recursive=True))  # noqa: PTH207 - takes absolute patterns too
    except RecursionError as exc:
        raise ConfigurationError(
            f"{pattern!r} matches folders that are nested too deeply", hint="name another folder"
        ) from exc
    paths = [Path(name) for name in found]
    for path in paths:
        if path.is_dir():
            yield from list_images(path)
        elif path.suffix.lower() in suffixes:
            yield path
    if others := files_left_out(
        (path for path in paths if path.suffix.lower() not in suffixes), "of " + repr(pattern)
    ):
        reporter().warn(others)


def _suffix_hint() -> str:
    return f"name images that end in {', '.join(sorted(IMAGE_SUFFIXES))}"


def _prediction(answer: Answer, labels: tuple[str, ...] | None, top_k: int) -> Prediction:
    probabilities = answer.probabilities
    assert probabilities is not None
    order = np.argsort(-probabilities, kind="stable")[:top_k]
    return Prediction(
        answer.path,
        tuple(
            Guess(int(number), labels[number] if labels else None, float(probabilities[number]))
            for number in order
        ),
    )

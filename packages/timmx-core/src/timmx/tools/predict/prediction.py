"""`timmx predict`: images, folders and globs in; the likeliest classes of each image out."""

from __future__ import annotations

import glob
import time
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from timmx.base import counted, reporter
from timmx.errors import ConfigurationError
from timmx.inputs import IMAGE_SUFFIXES, list_images
from timmx.tools.subject import Answer, answers, describe, open_for_stream

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence


@dataclass(frozen=True)
class Guess:
    """One of the likeliest classes of an image.

    Attributes:
        number: of the class.
        label: its name, or None where nobody knows it.
        probability: 0 to 1.
    """

    number: int
    label: str | None
    probability: float


@dataclass(frozen=True)
class Prediction:
    """An image and its likeliest classes, the likeliest first."""

    path: Path
    guesses: tuple[Guess, ...]


@dataclass(frozen=True)
class Predictions:
    """What a file says to many images.

    Attributes:
        file: that was asked.
        model: whose file it is, as its metadata names it.
        images: in the order in which they were named.
        unreadable: images that were left out, each with the reason: they cannot be read, or the answer is no number.
    """

    file: Path
    model: str
    images: tuple[Prediction, ...]
    unreadable: tuple[tuple[Path, str], ...]

    def to_dict(self) -> dict[str, Any]:
        """JSON values."""
        return {
            "file": str(self.file),
            "model": self.model,
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
    top_k: int = 5,
    batch_size: int | None = None,
    workers: int | None = None,
) -> Predictions:
    """Ask a file that timmx wrote what it sees.

    Args:
        file: of any installed backend's suffix.
        images: files, folders (searched through all levels) and globs.
        top_k: classes an image, at most as many as there are.
        batch_size: images at once; see `open_subject`.
        workers: threads that decode; see `answers`.

    Raises:
        ConfigurationError: a name without an image, no image that can be read and is answered in numbers, or an option
            out of range.
        TimmxError: the file cannot be opened, takes no images or ranks no classes; see `open_subject`, `answers`.
    """
    if top_k < 1:
        raise ConfigurationError(f"--top-k {top_k} shows no class", hint="give 1 or more")
    if not file.expanduser().exists():
        raise ConfigurationError(f"there is no file {file}", hint="check the path")
    paths = find_images(images)
    say = reporter()
    say.step(f"Opening {file.name}")
    found: list[Prediction] = []
    unreadable: list[tuple[Path, str]] = []
    silent = 0
    with open_for_stream(describe(file), batch_size) as subject:
        stream = answers(subject, paths, workers=workers)
        say.step(f"Asking {file.name}")
        start = time.perf_counter()
        for answer in stream:
            error = answer.error
            if answer.probabilities is not None and not np.isfinite(answer.probabilities).all():
                error = f"{file.name} returns NaN or infinity for {answer.path}"
                silent += 1
            if error:
                unreadable.append((answer.path, error))
                if len(paths) > 1:  # the error below says it of a single one
                    say.warn(error)
            else:
                found.append(_prediction(answer, subject.labels, top_k))
            done = len(found) + len(unreadable)
            say.advance(f"{done:,} of {counted(len(paths), 'image')}", done / len(paths))
        seconds = time.perf_counter() - start
        name = subject.metadata.model.name
    if not found:
        none = "has a finite answer" if silent else "can be read"
        raise ConfigurationError(
            unreadable[0][1] if len(paths) == 1 else f"none of these {len(paths)} images {none}",
            hint=f"timmx verify {file}" if silent else "use images that Pillow can open",
        )
    say.detail(f"{len(paths)} images in {seconds:.2f} s, {len(paths) / seconds:.0f} a second")
    return Predictions(file, name, tuple(found), tuple(unreadable))


def find_images(names: Sequence[str]) -> list[Path]:
    """The image files that are meant by files, folders and globs, each once, in the order of the names.

    A file that is named is taken whatever its suffix; folders and globs give the files with an image's suffix.

    Raises:
        ConfigurationError: a name that is nothing, a folder or a glob without an image.
    """
    if not names:
        raise ConfigurationError(
            "no image is named", hint="give image files, folders or globs such as 'photos/**/*.jpg'"
        )
    return list(dict.fromkeys(path for name in names for path in _meant_by(name)))


def _meant_by(name: str) -> list[Path]:
    path = Path(name).expanduser()
    if path.is_dir():
        found = list_images(path)
        if not found:
            raise ConfigurationError(f"{path} has no images", hint=_sought())
        return found
    if path.exists():
        return [path]
    if not glob.has_magic(name):
        raise ConfigurationError(
            f"there is no image or folder {path}",
            hint="give image files, folders or globs such as 'photos/**/*.jpg'",
        )
    found = list(_matching(str(path)))
    if not found:
        raise ConfigurationError(f"no image matches {name!r}", hint=_sought())
    return found


def _matching(pattern: str) -> Iterator[Path]:
    """The images that a glob matches, and those in folders that it matches, as if a shell had expanded it."""
    suffix = Path(pattern).suffix.lower()
    wanted = IMAGE_SUFFIXES if glob.has_magic(suffix) else {*IMAGE_SUFFIXES, suffix} - {""}
    for found in map(Path, sorted(glob.glob(pattern, recursive=True))):  # noqa: PTH207 - an absolute one as well
        if found.is_dir():
            yield from list_images(found)
        elif found.suffix.lower() in wanted:
            yield found


def _sought() -> str:
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

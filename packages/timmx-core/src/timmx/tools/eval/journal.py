"""Records the predictions of an evaluation in a file, from which an interrupted run can continue.

The file has JSON lines. The first names the artifact and the data; each further line is an answer, with a hash of the
image file, or names the second classifier, whose answers follow. An image that could not be read is tried again, and
gets another line. A line is valid once its newline is written.
"""

from __future__ import annotations

import hashlib
import json
import math
import os
from contextlib import suppress
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from filelock import FileLock, Timeout, UnixFileLock

from timmx.base import brief, check_path, open_file, parse_json, reporter, size_text, special_kind
from timmx.errors import ArtifactError, ConfigurationError

if TYPE_CHECKING:
    from collections.abc import Iterable, Mapping
    from typing import IO

    from timmx.tools.eval.dataset import Dataset, LabelledImage

_KIND, _SCHEMA = "timmx eval", 2
_LEAST_LIMIT = 2**26
"""Bytes that a journal may have, and 4096 for each image; an answer takes about 150."""
_READERS = ("subject", "second")


@dataclass(frozen=True, kw_only=True)
class Reading:
    """The answer for one image.

    Attributes:
        read: index of the predicted class; None after an error.
        probability: of that class; None after an error.
        rank: number of classes ranked above the true one; None after an error.
        error: why the image has no answer; empty without an error.
        unreadable: the error is that the image cannot be read.
        scores: in place of the first three, the probability of each class, if classes do not exclude each other.
    """

    read: int | None = None
    probability: float | None = None
    rank: int | None = None
    error: str = ""
    unreadable: bool = False
    scores: tuple[float, ...] = ()


class Journal:
    """A new or an existing journal; a context manager.

    Args:
        path: of the file.
        subject: identity of the artifact, such as name, sha256 and preprocessing.
        dataset: the images. Those with a recorded answer are read once, to check that they have not changed.

    Raises:
        ConfigurationError: the file is not a journal, is damaged, belongs to another evaluation, is in use by another
            run, or an image with an answer has changed. The file is left unchanged.
        ArtifactError: it cannot be read or written.
    """

    def __init__(self, path: Path, subject: Mapping[str, Any], dataset: Dataset) -> None:
        self._path = path
        self._images, self._classes = dataset.images, len(dataset.classes)
        self._exclusive = dataset.exclusive
        self._entries: dict[str, list[_Entry]] = {}
        self._second: dict[str, Any] | None = None
        header = {"journal": _KIND, "schema": _SCHEMA, "subject": dict(subject), "data": _listing(dataset)}
        first = _line(header)
        check_path(path, "--resume")
        if path.is_dir():
            raise ConfigurationError(f"--resume {path} is a folder", hint="name a file")
        target = Path(os.path.realpath(path))
        self._lock = FileLock(target.with_name(f".{target.name}.timmx-lock"))
        try:
            if path.exists() and (kind := special_kind(path)):
                raise ConfigurationError(f"--resume {path} is {kind}", hint="name a file")
            self._stream: IO[bytes] = path.open("a+b", buffering=0)
        except OSError as exc:
            raise self._failing(exc) from exc
        try:
            self._acquire_lock()
            self._stream.seek(0)
            content = self._content()
            if first.startswith(content):  # new, or interrupted in the first line
                self._stream.truncate(0)
                self._stream.write(first)
            else:
                self._check(content, header)
                lines = content[: content.rindex(b"\n") + 1]
                self._read(lines)
                self._check_images()
                if lines != content:
                    self._stream.truncate(len(lines))
        except OSError as exc:
            self._close()
            raise self._failing(exc) from exc
        except BaseException:
            self._close()
            raise

    def __enter__(self) -> Journal:
        return self

    def __exit__(self, *exc_info: object) -> None:
        self._close()

    def _acquire_lock(self) -> None:
        """Lock the file for this run, until it is closed or the process ends.

        Raises:
            ConfigurationError: another run holds the lock.
        """
        try:
            self._lock.acquire(timeout=0)
        except Timeout as exc:
            raise ConfigurationError(
                f"--resume {self._path} is being written by another run",
                hint="wait for that run to end, or name another file",
            ) from exc
        except (OSError, NotImplementedError):  # a file system without locks
            return

    def _content(self) -> bytes:
        """The content of the file.

        Raises:
            ConfigurationError: it is larger than a journal of these images can be.
        """
        per_image = 4096 if self._exclusive else 4096 + 32 * self._classes
        size, most = os.fstat(self._stream.fileno()).st_size, _LEAST_LIMIT + per_image * len(self._images)
        if size > most:
            raise ConfigurationError(
                f"--resume {self._path} has {size_text(size)}, and is not a journal of this evaluation",
                hint="name another file",
            )
        return self._stream.read()

    def _close(self) -> None:
        self._stream.close()
        if self._lock.is_locked and isinstance(self._lock, UnixFileLock):
            with suppress(OSError):  # while the lock is held; on other systems filelock removes the file
                Path(self._lock.lock_file).unlink()
        self._lock.release()

    def second(self, reader: Mapping[str, Any]) -> None:
        """Record the identity of the second classifier.

        Raises:
            ConfigurationError: the journal has another one.
        """
        if self._second is None:
            self._second = dict(reader)
            self._write({"against": self._second})
        elif _differing(self._second, reader):
            raise ConfigurationError(
                f"--resume {self._path} is the journal of an evaluation {_difference('against', self._second, reader)}",
                hint="name another file, or delete this one",
            )

    def readings(self, of: str, multiple: int) -> list[Reading]:
        """The recorded answers of all complete batches, so that later batches have the same images.

        Args:
            of: `subject` or `second`.
            multiple: batch size. If the journal has an answer for every image, all are returned.
        """
        readings = [entry.reading for entry in self._entries.get(of, ())]
        count = len(readings)
        return readings[: count if count == len(self._images) else count - count % multiple]

    def add(self, of: str, number: int, reading: Reading) -> None:
        """Record an answer; an earlier one is kept, unless the image could not be read."""
        entries = self._entries.setdefault(of, [])
        old = entries[number] if number < len(entries) else None
        if old is not None and (not old.reading.unreadable or old.reading == reading):
            return
        entry = _Entry(reading, None if reading.unreadable else _content(self._images[number]))
        entries[number : number + 1] = [entry]
        values = {key: value for key, value in asdict(reading).items() if key != "scores" or value}
        self._write({"of": of, "image": number} | values | {"content": entry.content})

    def _check(self, content: bytes, header: dict[str, Any]) -> None:
        line, end, _ = content.partition(b"\n")
        try:
            existing = parse_json(line, any_name=True)
            kind, schema = existing["journal"], existing["schema"]
            subject, data = dict(existing["subject"]), dict(existing["data"])
        except (ValueError, LookupError, TypeError):
            kind = None
        if not end or kind != _KIND:
            raise ConfigurationError(
                f"--resume {self._path} is not a journal of timmx eval, and is left unchanged",
                hint="name a new file",
            )
        if schema != _SCHEMA:
            raise ConfigurationError(
                f"--resume {self._path} has schema {brief(schema)}, and this timmx writes schema {_SCHEMA}",
                hint="name a new file",
            )
        for what, old, new in (("of", subject, header["subject"]), ("on", data, header["data"])):
            if _differing(old, new):
                raise ConfigurationError(
                    f"--resume {self._path} is the journal of an evaluation {_difference(what, old, new)}",
                    hint="name another file, or delete this one",
                )

    def _read(self, content: bytes) -> None:
        for number, line in enumerate(content.splitlines()[1:], start=2):
            try:
                self._take(parse_json(line, any_name=True))
            except (ValueError, LookupError, TypeError) as exc:
                raise ConfigurationError(
                    f"--resume {self._path} is damaged in line {number}", hint="delete it and start again"
                ) from exc

    def _take(self, line: Any) -> None:
        """Add the entry of a line.

        Raises:
            ValueError, LookupError, TypeError: the line is invalid.
        """
        if not isinstance(line, dict):
            raise TypeError("a line is an object")
        if line.keys() == {"against"}:
            if self._second is not None or not isinstance(line["against"], dict):
                raise ValueError("a journal has one second classifier")
            self._second = line["against"]
            return
        of, number, content = line.pop("of"), line.pop("image"), line.pop("content")
        reading = Reading(**line | {"scores": tuple(line.get("scores", ()))})
        if of not in _READERS[: 1 if self._second is None else 2]:
            raise ValueError(f"{of} is not a classifier")
        _check_reading(reading, self._classes, self._exclusive)
        if not (content is None if reading.unreadable else isinstance(content, str)):
            raise TypeError("a readable image has a hash")
        entries = self._entries.setdefault(of, [])
        if not _is_index(number, len(self._images)) or number > len(entries):
            raise ValueError(f"image {number} follows {len(entries) - 1}")
        if number < len(entries) and not entries[number].reading.unreadable:
            raise ValueError(f"image {number} has two answers")
        entries[number : number + 1] = [_Entry(reading, content)]

    def _check_images(self) -> None:
        """Check that images with a recorded answer have not changed."""
        say, hashes = reporter(), dict[int, str]()
        for entries in self._entries.values():
            for number, entry in enumerate(entries):
                if entry.content is None:
                    continue
                if number not in hashes:
                    hashes[number] = _content(self._images[number])
                    say.advance("Comparing the images with the journal", (number + 1) / len(entries))
                if hashes[number] != entry.content:
                    what = "has changed since" if hashes[number] else "cannot be opened now"
                    raise ConfigurationError(
                        f"--resume {self._path} has a prediction for {self._images[number].name}, which {what}",
                        hint="restore that image, name another file, or delete this one",
                    )

    def _write(self, entry: Mapping[str, Any]) -> None:
        line = _line(entry)
        try:
            written = self._stream.write(line)
            if written < len(
                line
            ):  # writing the rest raises the reason; the next run drops an incomplete line
                self._stream.write(line[written:])
        except OSError as exc:
            raise self._failing(exc) from exc

    def _failing(self, exc: OSError) -> ArtifactError:
        return ArtifactError(
            f"--resume {self._path} cannot be written: {exc.strerror or exc}", hint="name another file"
        )


@dataclass(frozen=True)
class _Entry:
    """An answer, with the hash of the image file; None if the image could not be read."""

    reading: Reading
    content: str | None


def _check_reading(reading: Reading, classes: int, exclusive: bool) -> None:
    """Check that a reading is consistent.

    Raises:
        ValueError: it is not.
    """
    answered = not reading.error
    if not isinstance(reading.error, str) or not isinstance(reading.unreadable, bool):
        raise ValueError("an error is a text")
    if reading.unreadable and answered:
        raise ValueError("an image that cannot be read has an error")
    ranked = answered and exclusive
    for value in (reading.read, reading.rank):
        if not (_is_index(value, classes) if ranked else value is None):
            raise ValueError(f"{value} is not a class")
    shares = reading.scores if answered and not exclusive else (reading.probability,) if ranked else ()
    if len(reading.scores) != (classes if answered and not exclusive else 0):
        raise ValueError(f"{len(reading.scores)} probabilities")
    if not ranked and reading.probability is not None:
        raise ValueError(f"{reading.probability} without a class")
    for share in shares:
        if not (isinstance(share, float) and math.isfinite(share)):
            raise ValueError(f"{share} is not a probability")


def _is_index(value: Any, below: int) -> bool:
    return type(value) is int and 0 <= value < below


def _content(image: LabelledImage) -> str:
    """A hash of the file; empty if it cannot be opened, which equals no hash."""
    try:
        with open_file(image.path) as stream:
            return hashlib.file_digest(stream, lambda: hashlib.blake2b(digest_size=16)).hexdigest()
    except OSError:
        return ""


def _listing(dataset: Dataset) -> dict[str, Any]:
    """Identity of the images: one hash of names and classes, independent of the folder's path."""
    digest = hashlib.sha256()
    for image in dataset.images:
        truth = image.truth if dataset.exclusive else image.truths
        digest.update(json.dumps((image.name, truth)).encode() + b"\n")
    return {"name": dataset.origin.name, "images": len(dataset.images), "sha256": digest.hexdigest()}


def _line(entry: Mapping[str, Any]) -> bytes:
    return json.dumps(entry, ensure_ascii=True).encode() + b"\n"


def _difference(what: str, old: Mapping[str, Any], new: Mapping[str, Any]) -> str:
    """Text with the values that differ; `what` is the word before each side."""
    keys = _differing(old, new)
    return f"{what} {_values(old, keys)}, not {what} {_values(new, keys)}"


def _differing(old: Mapping[str, Any], new: Mapping[str, Any]) -> list[str]:
    """The keys of values that differ, without the name, which may change."""
    return [key for key in new if key != "name" and old.get(key) != new[key]]


def _values(identity: Mapping[str, Any], keys: Iterable[str]) -> str:
    values = ", ".join(f"{key} {_short(identity.get(key))}" for key in keys)
    return f"{str(identity.get('name'))[:200]} ({values})"


def _short(value: Any) -> str:
    text = value if isinstance(value, str) else json.dumps(value)
    return text[:12] if len(text) == 64 else text[:200]

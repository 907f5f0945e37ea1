"""The answers of an evaluation as they come, in a file from which a run that was cut off goes on.

JSON lines. The first says what is evaluated on what; each further one is an answer, with a hash of the image's file,
or names a second reader, whose answers follow. An image that could not be read is asked again, and a further line
answers it. A line counts once its end is written.
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

from timmx.base import reporter
from timmx.errors import ArtifactError, ConfigurationError

if TYPE_CHECKING:
    from collections.abc import Iterable, Mapping
    from typing import IO

    from timmx.tools.eval.dataset import Dataset, LabelledImage

_KIND, _SCHEMA = "timmx eval", 2
_READERS = ("subject", "second")


@dataclass(frozen=True, kw_only=True)
class Reading:
    """What a reader says to one image.

    Attributes:
        read: the class's number; None where there is no answer.
        probability: of that class.
        rank: how many classes come before the true one; None where there is no answer.
        error: why there is no answer; empty where there is one.
        unreadable: the image is to blame, not the reader.
    """

    read: int | None
    probability: float | None
    rank: int | None
    error: str = ""
    unreadable: bool = False


class Journal:
    """A file that is begun or gone on with. Usable in `with`.

    Args:
        path: of the file.
        subject: what is evaluated, such as name, sha256 and preprocessing.
        dataset: the images. Those that were answered before are read once, to see that they are the same.

    Raises:
        ConfigurationError: the file is not a journal, is damaged, is one of something else, another run writes it, or
            an image that it answers has changed since. It is left as it is.
        ArtifactError: it cannot be read or written.
    """

    def __init__(self, path: Path, subject: Mapping[str, Any], dataset: Dataset) -> None:
        self._path = path
        self._images, self._classes = dataset.images, len(dataset.classes)
        self._entries: dict[str, list[_Entry]] = {}
        self._second: dict[str, Any] | None = None
        header = {"journal": _KIND, "schema": _SCHEMA, "subject": dict(subject), "data": _listing(dataset)}
        first = _line(header)
        target = Path(os.path.realpath(path))
        self._lock = FileLock(target.with_name(f".{target.name}.timmx-lock"))
        try:
            self._stream: IO[bytes] = path.open("a+b", buffering=0)
        except OSError as exc:
            raise self._failing(exc) from exc
        try:
            self._lock_alone()
            self._stream.seek(0)
            content = self._stream.read()
            if first.startswith(content):  # new, or cut off in the first line
                self._stream.truncate(0)
                self._stream.write(first)
            else:
                self._check(content, header)
                whole = content[: content.rindex(b"\n") + 1]
                self._read(whole)
                self._check_images()
                if whole != content:
                    self._stream.truncate(len(whole))
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

    def _lock_alone(self) -> None:
        """Keep the file for this run, until it is closed or its process ends.

        Raises:
            ConfigurationError: another run has it.
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

    def _close(self) -> None:
        self._stream.close()
        if self._lock.is_locked and isinstance(self._lock, UnixFileLock):
            with suppress(OSError):  # while it is ours; on other systems filelock removes it
                Path(self._lock.lock_file).unlink()
        self._lock.release()

    def second(self, reader: Mapping[str, Any]) -> None:
        """State who else reads the images.

        Raises:
            ConfigurationError: the journal has another second reader.
        """
        if self._second is None:
            self._second = dict(reader)
            self._write({"against": self._second})
        elif _differing(self._second, reader):
            raise ConfigurationError(
                f"--resume {self._path} is the journal of an evaluation {_told('against', self._second, reader)}",
                hint="name another file, or delete this one",
            )

    def readings(self, of: str, multiple: int) -> list[Reading]:
        """What is there already: as many full batches as possible, so that a batch is made of the same images.

        Args:
            of: `subject` or `second`.
            multiple: images at once. All are given where the journal has one for every image.
        """
        found = [entry.reading for entry in self._entries.get(of, ())]
        return found[: len(found) if len(found) == len(self._images) else len(found) - len(found) % multiple]

    def add(self, of: str, number: int, reading: Reading) -> None:
        """Write an answer down; one that is there already is left as it is, unless the image could not be read."""
        known = self._entries.setdefault(of, [])
        old = known[number] if number < len(known) else None
        if old is not None and (not old.reading.unreadable or old.reading == reading):
            return
        entry = _Entry(reading, None if reading.unreadable else _content(self._images[number]))
        known[number : number + 1] = [entry]
        self._write({"of": of, "image": number} | asdict(reading) | {"content": entry.content})

    def _check(self, content: bytes, header: dict[str, Any]) -> None:
        line, end, _ = content.partition(b"\n")
        try:
            found = json.loads(line)
            kind, schema = found["journal"], found["schema"]
            subject, data = dict(found["subject"]), dict(found["data"])
        except (ValueError, LookupError, TypeError):
            kind = None
        if not end or kind != _KIND:
            raise ConfigurationError(
                f"--resume {self._path} is not a journal of timmx eval, and is left unchanged",
                hint="name a new file",
            )
        if schema != _SCHEMA:
            raise ConfigurationError(
                f"--resume {self._path} has schema {schema}, and this timmx writes schema {_SCHEMA}",
                hint="name a new file",
            )
        for what, old, new in (("of", subject, header["subject"]), ("on", data, header["data"])):
            if _differing(old, new):
                raise ConfigurationError(
                    f"--resume {self._path} is the journal of an evaluation {_told(what, old, new)}",
                    hint="name another file, or delete this one",
                )

    def _read(self, content: bytes) -> None:
        for number, line in enumerate(content.splitlines()[1:], start=2):
            try:
                self._take(json.loads(line))
            except (ValueError, LookupError, TypeError, RecursionError) as exc:
                raise ConfigurationError(
                    f"--resume {self._path} is damaged in line {number}", hint="delete it and start again"
                ) from exc

    def _take(self, line: Any) -> None:
        """Raises ValueError, LookupError or TypeError where the line is none of ours."""
        if not isinstance(line, dict):
            raise TypeError("a line is an object")
        if line.keys() == {"against"}:
            if self._second is not None or not isinstance(line["against"], dict):
                raise ValueError("one second reader is named")
            self._second = line["against"]
            return
        of, number, content = line.pop("of"), line.pop("image"), line.pop("content")
        reading = Reading(**line)
        if of not in _READERS[: 1 if self._second is None else 2]:
            raise ValueError(f"no reader is {of}")
        _check_reading(reading, self._classes)
        if not (content is None if reading.unreadable else isinstance(content, str)):
            raise TypeError("an image that was read has a hash")
        known = self._entries.setdefault(of, [])
        if not _is_number(number, len(self._images)) or number > len(known):
            raise ValueError(f"image {number} follows {len(known) - 1}")
        if number < len(known) and not known[number].reading.unreadable:
            raise ValueError(f"image {number} is answered twice")
        known[number : number + 1] = [_Entry(reading, content)]

    def _check_images(self) -> None:
        """Refuse answers to images that have other content now."""
        say, seen = reporter(), dict[int, str]()
        for entries in self._entries.values():
            for number, entry in enumerate(entries):
                if entry.content is None:
                    continue
                if number not in seen:
                    seen[number] = _content(self._images[number])
                    say.advance("Comparing the images with the journal", (number + 1) / len(entries))
                if seen[number] != entry.content:
                    what = "has changed since" if seen[number] else "cannot be opened now"
                    raise ConfigurationError(
                        f"--resume {self._path} has an answer to {self._images[number].name}, which {what}",
                        hint="restore that image, name another file, or delete this one",
                    )

    def _write(self, entry: Mapping[str, Any]) -> None:
        line = _line(entry)
        try:
            written = self._stream.write(line)
            if written < len(
                line
            ):  # the rest tells why it found no room; half a line is dropped by the next run
                self._stream.write(line[written:])
        except OSError as exc:
            raise self._failing(exc) from exc

    def _failing(self, exc: OSError) -> ArtifactError:
        return ArtifactError(
            f"--resume {self._path} cannot be written: {exc.strerror or exc}", hint="name another file"
        )


@dataclass(frozen=True)
class _Entry:
    """An answer, and the hash of the file that it was given to; None where that could not be read."""

    reading: Reading
    content: str | None


def _check_reading(reading: Reading, classes: int) -> None:
    """Raises ValueError for what no reader says."""
    answered = not reading.error
    if not isinstance(reading.error, str) or not isinstance(reading.unreadable, bool):
        raise ValueError("an error is a text")
    if reading.unreadable and answered:
        raise ValueError("an image that cannot be read has an error")
    for value in (reading.read, reading.rank):
        if not (_is_number(value, classes) if answered else value is None):
            raise ValueError(f"{value} is no class")
    share = reading.probability
    if not (isinstance(share, float) and math.isfinite(share) if answered else share is None):
        raise ValueError(f"{share} is no probability")


def _is_number(value: Any, below: int) -> bool:
    return type(value) is int and 0 <= value < below


def _content(image: LabelledImage) -> str:
    """A hash of the file; empty where it cannot be opened, which no hash equals."""
    try:
        with image.path.open("rb") as stream:
            return hashlib.file_digest(stream, lambda: hashlib.blake2b(digest_size=16)).hexdigest()
    except OSError:
        return ""


def _listing(dataset: Dataset) -> dict[str, Any]:
    """What tells other images from these: names and classes, as one hash; not where they lie."""
    digest = hashlib.sha256()
    for image in dataset.images:
        digest.update(json.dumps((image.name, image.truth)).encode() + b"\n")
    return {"name": dataset.origin.name, "images": len(dataset.images), "sha256": digest.hexdigest()}


def _line(entry: Mapping[str, Any]) -> bytes:
    return json.dumps(entry, ensure_ascii=True).encode() + b"\n"


def _told(what: str, old: Mapping[str, Any], new: Mapping[str, Any]) -> str:
    """The two side by side, down to where they differ; `what` is the word before each."""
    facts = _differing(old, new)
    return f"{what} {_facts(old, facts)}, not {what} {_facts(new, facts)}"


def _differing(old: Mapping[str, Any], new: Mapping[str, Any]) -> list[str]:
    """Which facts differ; a name is for people, and may change."""
    return [key for key in new if key != "name" and old.get(key) != new[key]]


def _facts(found: Mapping[str, Any], facts: Iterable[str]) -> str:
    told = ", ".join(f"{key} {_short(found.get(key))}" for key in facts)
    return f"{found.get('name')} ({told})"


def _short(value: Any) -> str:
    text = value if isinstance(value, str) else json.dumps(value)
    return text[:12] if len(text) == 64 else text

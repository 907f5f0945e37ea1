"""The answers of an evaluation as they come, in a file from which a run that was cut off goes on.

JSON lines. The first says what is evaluated on what; each further one is an answer, or names a second reader, whose
answers follow. A line counts once its end is written.
"""

from __future__ import annotations

import hashlib
import json
from dataclasses import asdict, dataclass
from typing import TYPE_CHECKING, Any

from timmx.errors import ArtifactError, ConfigurationError

if TYPE_CHECKING:
    from collections.abc import Iterable, Mapping
    from pathlib import Path
    from typing import IO

    from timmx.tools.dataset import Dataset

_KIND, _SCHEMA = "timmx eval", 1


@dataclass(frozen=True)
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
        subject: what is evaluated, such as name, sha256 and recipe.
        data: the images, as `listing` gives them.

    Raises:
        ConfigurationError: the file is no journal, or one of something else.
        ArtifactError: it cannot be read or written.
    """

    def __init__(self, path: Path, subject: Mapping[str, Any], data: Mapping[str, Any]) -> None:
        self._path = path
        self._readings: dict[str, list[Reading]] = {}
        self._images = int(data["images"])
        self._second: dict[str, Any] | None = None
        header = {"journal": _KIND, "schema": _SCHEMA, "subject": dict(subject), "data": dict(data)}
        first = _line(header)
        try:
            content = path.read_bytes() if path.exists() else b""
            if first.startswith(content):  # new, or cut off in the first line
                path.write_bytes(first)
            else:
                self._check(content, header)
                whole = content[: content.rindex(b"\n") + 1]
                self._read(whole)
                if whole != content:
                    _cut(path, len(whole))
            self._stream: IO[bytes] = path.open("ab", buffering=0)
        except OSError as exc:
            raise self._failing(exc) from exc

    def __enter__(self) -> Journal:
        return self

    def __exit__(self, *exc_info: object) -> None:
        self._stream.close()

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
                f"--resume {self._path} is of an evaluation against {_told(self._second, reader)}. "
                "Name another file, or delete this one."
            )

    def readings(self, of: str, multiple: int) -> list[Reading]:
        """What is there already: as many full batches as possible, so that a batch is made of the same images.

        Args:
            of: `subject` or `second`.
            multiple: images at once. All are given where the journal has one for every image.
        """
        found = self._readings.get(of, [])
        return found[: len(found) if len(found) == self._images else len(found) - len(found) % multiple]

    def add(self, of: str, number: int, reading: Reading) -> None:
        """Write an answer down; one that is there already is left as it is."""
        if number < len(self._readings.get(of, ())):
            return
        self._readings.setdefault(of, []).append(reading)
        self._write({"of": of, "image": number} | asdict(reading))

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
                f"--resume {self._path} is no journal of timmx eval, and is left as it is: name a new file."
            )
        if schema != _SCHEMA:
            raise ConfigurationError(
                f"--resume {self._path} has schema {schema}, and this timmx writes {_SCHEMA}: name a new file."
            )
        for what, old, new in (("of", subject, header["subject"]), ("on", data, header["data"])):
            if _differing(old, new):
                raise ConfigurationError(
                    f"--resume {self._path} is of an evaluation {what} {_told(old, new)}. Name another file, or delete "
                    "this one."
                )

    def _read(self, content: bytes) -> None:
        for number, line in enumerate(content.splitlines()[1:], start=2):
            try:
                found = json.loads(line)
                if "against" in found:
                    self._second = dict(found["against"])
                    continue
                of, image = str(found.pop("of")), found.pop("image")
                known = self._readings.setdefault(of, [])
                if image != len(known):
                    raise ValueError(f"image {image} follows {len(known) - 1}")
                known.append(Reading(**found))
            except (ValueError, LookupError, TypeError) as exc:
                raise ConfigurationError(
                    f"--resume {self._path} is damaged in line {number}: delete it and begin anew."
                ) from exc

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
        return ArtifactError(f"--resume {self._path} cannot be written: {exc.strerror or exc}.")


def listing(dataset: Dataset) -> dict[str, Any]:
    """What tells other images from these: names, classes and sizes, as one hash; not where they lie."""
    digest = hashlib.sha256()
    for image in dataset.images:
        entry = (image.name, image.truth, image.path.stat().st_size)
        digest.update(json.dumps(entry).encode() + b"\n")
    return {"name": dataset.origin.name, "images": len(dataset.images), "sha256": digest.hexdigest()}


def _line(entry: Mapping[str, Any]) -> bytes:
    return json.dumps(entry, ensure_ascii=True).encode() + b"\n"


def _cut(path: Path, length: int) -> None:
    with path.open("r+b") as stream:
        stream.truncate(length)


def _told(old: Mapping[str, Any], new: Mapping[str, Any]) -> str:
    """The two side by side, down to where they differ."""
    facts = _differing(old, new)
    return f"{_facts(old, facts)}, and this one is of {_facts(new, facts)}"


def _differing(old: Mapping[str, Any], new: Mapping[str, Any]) -> list[str]:
    """Which facts differ; a name is for people, and may change."""
    return [key for key in new if key != "name" and old.get(key) != new[key]]


def _facts(found: Mapping[str, Any], facts: Iterable[str]) -> str:
    told = ", ".join(f"{key} {_short(found.get(key))}" for key in facts)
    return f"{found.get('name')} ({told})"


def _short(value: Any) -> str:
    text = value if isinstance(value, str) else json.dumps(value)
    return text[:12] if len(text) == 64 else text

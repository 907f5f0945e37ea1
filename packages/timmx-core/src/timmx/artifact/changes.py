"""Compares an artifact with the file that timmx wrote: by the hash in `timmx.json`, or in the record of its export.

The hash of an artifact is remembered for the sizes and times of its files, so a file that has not changed is hashed
once. A file is hashed in a thread, while the runtime opens it.
"""

from __future__ import annotations

import hashlib
import json
from contextlib import suppress
from threading import Thread
from typing import TYPE_CHECKING, Any

from timmx.artifact import records
from timmx.base import atomic_write, cache_folder, reporter, walk
from timmx.errors import ArtifactError

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence
    from pathlib import Path
    from types import TracebackType

_SMALL_BYTES = 4 * 10**6
"""Hashing takes a few milliseconds, less than the resolution of a file's times on some file systems."""


_MOST_EXPORTS = 20
"""Maximum number of exports with equal metadata that are remembered."""


def remember_export(files: Sequence[Path], metadata: Mapping[str, Any]) -> None:
    """Record which file an export wrote; does nothing if the cache cannot be written.

    Args:
        files: of `ExportBackend.files`, as published.
        metadata: the JSON inside.
    """
    with suppress(OSError, ArtifactError):
        state = _state(files)
        sha256 = records.digest(files)
        if _state(files) == state:
            _write(_record(files[0]), {"exported": sha256, "sha256": sha256, "state": state})
            others = [other for other in _exports_with(metadata) if other != sha256]
            _write(_record_of(metadata), {"exports": [*others, sha256][-_MOST_EXPORTS:]})


class ChangeCheck:
    """A comparison of an artifact with the file that timmx wrote, in a thread.

    As a context manager it reports a change as a warning.

    Args:
        files: of `ExportBackend.files`.
        metadata: the JSON inside, by which a file that was moved is found.
    """

    def __init__(self, files: Sequence[Path], metadata: Mapping[str, Any]) -> None:
        self._warning = ""
        self._files = tuple(files)
        entries = _entries(files[0])
        self._expected = _expected(files[0], entries)
        self._neighbors = set() if self._expected else set(entries.values())
        self._moved = set() if self._expected else set(_exports_with(metadata))
        self._thread = Thread(target=self._compare, daemon=True)
        if self._expected or self._neighbors or self._moved:
            self._thread.start()

    def __enter__(self) -> ChangeCheck:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        if (kind is None or issubclass(kind, Exception)) and (
            warning := self.finish()
        ):  # Ctrl-C does not wait
            reporter().warn(warning)

    def finish(self) -> str:
        """Wait for the comparison: a warning if the file has changed, else an empty text."""
        while self._thread.is_alive():  # in short steps, for signals
            self._thread.join(0.2)
        return self._warning

    def _compare(self) -> None:
        with suppress(OSError, ArtifactError):  # the command reports what cannot be read
            sha256 = _hash(self._files)
            if sha256 in self._expected or records.is_verified(sha256):
                return
            if not self._expected:
                if sha256 in self._neighbors | self._moved:
                    return
                if self._moved:
                    self._warning = (
                        f"{self._files[0].name} has the metadata of a file that timmx exported on this machine, and "
                        f"is not that file (SHA-256 {sha256[:12]}; {min(self._moved)[:12]} in the record of its "
                        "export). If it is a copy, it was changed: copy or export it again, or check it with timmx "
                        "verify."
                    )
                else:
                    self._warning = (
                        f"{self._files[0].name} is none of the files in {_manifest(self._files[0])}, neither by name "
                        f"nor by content (SHA-256 {sha256[:12]}). If it is a renamed copy of one of them, it was "
                        "changed: copy or export it again, or check it with timmx verify."
                    )
                return
            expected, source = next(iter(self._expected.items()))
            self._warning = (
                f"{self._files[0].name} is not the file that timmx wrote: it was changed or replaced (SHA-256 "
                f"{sha256[:12]}; {expected[:12]} in {source}). Copy or export it again, or check it with "
                f"timmx verify."
            )


def _expected(path: Path, entries: Mapping[str, str]) -> dict[str, str]:
    """The SHA-256 that an artifact should have, with the source of each."""
    with suppress(OSError):
        sources = (
            (entries.get(path.name), str(_manifest(path))),
            (records.read_record(_record(path)).get("exported"), "the record of its export"),
        )
        return {sha256: source for sha256, source in sources if isinstance(sha256, str)}
    return {}


def _exports_with(metadata: Mapping[str, Any]) -> list[str]:
    """The SHA-256 of the files with this metadata that were exported on this machine, the latest last."""
    with suppress(OSError):
        exports = records.read_record(_record_of(metadata)).get("exports")
        return [item for item in exports if isinstance(item, str)] if isinstance(exports, list) else []
    return []


def _manifest(path: Path) -> Path:
    return path.absolute().parent / records.MANIFEST_NAME


def _entries(path: Path) -> dict[str, str]:
    """The SHA-256 of each file in the `timmx.json` next to an artifact, by name; it may have a new name."""
    entries = {}
    with suppress(OSError):
        entries = records.read_manifest(_manifest(path)).get("artifacts", {})
    hashes = {name: entry.get("sha256") for name, entry in entries.items() if isinstance(entry, dict)}
    return {name: sha256 for name, sha256 in hashes.items() if isinstance(sha256, str)}


def _hash(files: Sequence[Path]) -> str:
    """The digest of an artifact, from the cache if its files have not changed since it was computed."""
    state = _state(files)
    if sum(size for _, size, *_ in state) < _SMALL_BYTES:
        return records.digest(files)
    record = records.read_record(_record(files[0]))
    if record.get("state") == state and isinstance(record.get("sha256"), str):
        return str(record["sha256"])
    sha256 = records.digest(files)
    with suppress(OSError):
        if _state(files) == state:
            _write(_record(files[0]), record | {"sha256": sha256, "state": state})
    return sha256


def _state(files: Sequence[Path]) -> list[list[Any]]:
    """Name, size, times and inode of each file of an artifact."""
    paths = [item for path in files for item in (sorted(walk(path)) if path.is_dir() else (path,))]
    infos = [(path, path.stat()) for path in paths if not path.is_dir()]
    return [
        [
            str(path.relative_to(files[0].parent)),
            info.st_size,
            info.st_mtime_ns,
            info.st_ctime_ns,
            info.st_ino,
        ]
        for path, info in infos
    ]


def _record(path: Path) -> Path:
    """The file in the cache with what is known of the artifact at a path."""
    name = hashlib.sha256(str(path.resolve()).encode(errors="surrogatepass")).hexdigest()
    return cache_folder("exports") / f"{name}.json"


def _record_of(metadata: Mapping[str, Any]) -> Path:
    """The file in the cache with what is known of artifacts with this metadata."""
    name = hashlib.sha256(json.dumps(metadata, sort_keys=True).encode(errors="surrogatepass")).hexdigest()
    return cache_folder("exports") / f"{name}.json"


def _write(record: Path, content: dict[str, Any]) -> None:
    with atomic_write(record) as file:
        json.dump(content, file)
    records.drop_oldest(record.parent)

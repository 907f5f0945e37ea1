"""What verification measured of a file, remembered beside it or in the user's cache: the file itself stays as it was.

A record is found by the SHA-256 of the artifact, so that a file that was copied or renamed is still known, and one
that was changed is not. Whatever is wrong with the cache, it is done without; it never is an error.
"""

from __future__ import annotations

import datetime
import hashlib
import json
from contextlib import suppress
from typing import TYPE_CHECKING, Any

import platformdirs

from timmx.base import atomic_write, reporter
from timmx.errors import ArtifactError

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence
    from pathlib import Path

MANIFEST_NAME = "timmx.json"
"""What `timmx export -o DIR` writes beside its artifacts: `{"artifacts": {file name: {"sha256", "verification"}}}`."""

_MOST = 1000
"""As many records are kept; the oldest go first."""


def digest(files: Sequence[Path]) -> str:
    """The SHA-256 of an artifact, in hexadecimal digits.

    That of one file is what `sha256sum` gives. A folder's is over the sorted relative names and the contents of what
    lies in it; that of several over the digests of each, the artifact's first, the others by name. What the artifact
    itself is called does not count.

    Args:
        files: of `ExportBackend.files`: files and folders, the artifact first.

    Raises:
        ArtifactError: one of them cannot be read.
    """
    try:
        first, *others = (
            _digest(path) for path in (files[0], *sorted(files[1:], key=lambda path: path.name))
        )
    except OSError as exc:
        raise ArtifactError(
            f"{exc.filename or files[0]} cannot be read: {exc.strerror or exc}",
            hint="check the path and its permissions",
        ) from exc
    return hashlib.sha256("\n".join([first, *others]).encode()).hexdigest() if others else first


def remember(files: Sequence[Path], verification: Mapping[str, Any], notes: Sequence[str] = ()) -> None:
    """Keep what was measured of an artifact; where that cannot be written, nothing happens.

    What was not measured, because it was skipped, replaces nothing that was.

    Args:
        files: of `ExportBackend.files`.
        verification: of `VerificationReport.to_dict`.
        notes: what else the user was told of this file.
    """
    if verification.get("status") == "skipped":
        return
    with suppress(OSError, ArtifactError):
        folder = _folder()
        record = {
            "sha256": digest(files),
            "name": files[0].name,
            "verification": dict(verification),
            "notes": list(notes),
            "measured": datetime.datetime.now(datetime.UTC).isoformat(timespec="seconds"),
        }
        with atomic_write(folder / f"{record['sha256']}.json") as file:
            json.dump(record, file)
        _drop_oldest(folder)


def recall(path: Path, files: Sequence[Path]) -> dict[str, Any] | None:
    """What is known of an artifact as it is now: first from `timmx.json` beside it, then from the cache.

    Args:
        path: of the artifact.
        files: of `ExportBackend.files`.

    Returns:
        `verification` (of `VerificationReport.to_dict`), `notes`, `measured` (ISO 8601, None where it is not stated)
        and `source`, the file that tells it; None where nothing is known.

    Raises:
        ArtifactError: the artifact cannot be read.
    """
    sha256 = digest(files)
    beside, cached = path.absolute().parent / MANIFEST_NAME, _folder() / f"{sha256}.json"
    manifest = _read(beside)
    if not manifest and beside.is_file():
        reporter().warn(f"{beside} is damaged: what it said of verifications is not used.")
    artifacts = manifest.get("artifacts")
    entry = artifacts.get(path.name) if isinstance(artifacts, dict) else None
    for source, record in ((beside, entry), (cached, _read(cached))):
        if not isinstance(record, dict) or record.get("sha256") != sha256:
            continue
        verification = record.get("verification")
        if isinstance(verification, dict) and verification.get("status") not in (None, "skipped"):
            notes = record.get("notes")
            return {
                "verification": verification,
                "notes": [str(note) for note in notes] if isinstance(notes, list) else [],
                "measured": record.get("measured"),
                "source": str(source),
            }
    return None


def _folder() -> Path:
    return platformdirs.user_cache_path("timmx", appauthor=False) / "verifications"


def _digest(path: Path) -> str:
    if not path.is_dir():
        return _of_bytes(path)
    whole = hashlib.sha256()
    names = sorted(item.relative_to(path).as_posix() for item in path.rglob("*") if item.is_file())
    for name in names:
        whole.update(f"{name}\n{_of_bytes(path / name)}\n".encode())
    return whole.hexdigest()


def _of_bytes(path: Path) -> str:
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def _read(path: Path) -> dict[str, Any]:
    """A JSON object, {} where it is missing, torn or something else."""
    try:
        content = json.loads(path.read_bytes())
    except (OSError, ValueError):
        return {}
    return content if isinstance(content, dict) else {}


def _drop_oldest(folder: Path) -> None:
    records = list(folder.glob("*.json"))
    if len(records) <= _MOST:
        return
    for path in sorted(records, key=lambda item: item.stat().st_mtime)[: len(records) - _MOST]:
        path.unlink(missing_ok=True)

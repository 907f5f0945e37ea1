"""Records of verification results, next to an artifact or in the user's cache; the artifact itself is not changed.

A record is found by the artifact's SHA-256, so it still applies to a copied or renamed file, and not to a changed one.
A cache that cannot be read or written is ignored.
"""

from __future__ import annotations

import datetime
import hashlib
import json
from contextlib import suppress
from typing import TYPE_CHECKING, Any

from timmx.base import atomic_write, cache_folder, parse_json, read_file, reporter, sha256, walk
from timmx.errors import ArtifactError

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence
    from pathlib import Path

MANIFEST_NAME = "timmx.json"
"""Written by `timmx export -o DIR` next to its artifacts: `{"artifacts": {file name: {"sha256", "verification"}}}`."""

_MOST = 1000
"""Maximum number of records; the oldest are deleted first."""

_LARGEST = 16 * 10**6
"""Size of a record or manifest in bytes."""


def digest(files: Sequence[Path]) -> str:
    """The SHA-256 of an artifact in hexadecimal digits.

    For one file it is the output of `sha256sum`. For a folder it covers the sorted relative names and the contents of
    its files; for several files their digests, the artifact's first, the others by name. The artifact's own name is
    not included.

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
    """Store the verification of an artifact in the cache; does nothing if the cache cannot be written.

    A skipped verification does not replace an earlier result.

    Args:
        files: from `ExportBackend.files`.
        verification: from `VerificationReport.to_dict`.
        notes: other notes on this file.
    """
    if verification.get("status") == "skipped":
        return
    with suppress(OSError, ArtifactError):
        folder = cache_folder("verifications")
        record = {
            "sha256": digest(files),
            "name": files[0].name,
            "verification": dict(verification),
            "notes": list(notes),
            "measured": datetime.datetime.now(datetime.UTC).isoformat(timespec="seconds"),
        }
        with atomic_write(folder / f"{record['sha256']}.json") as file:
            json.dump(record, file)
        drop_oldest(folder)


def recall(path: Path, files: Sequence[Path]) -> dict[str, Any] | None:
    """The record of an artifact in its present state: from `timmx.json` next to it, otherwise from the cache.

    Args:
        path: the artifact.
        files: from `ExportBackend.files`.

    Returns:
        `verification` (see `VerificationReport.to_dict`), `notes`, `measured` (ISO 8601, None if it is not stated)
        and `source`, the file with the record; None if there is no record.

    Raises:
        ArtifactError: the artifact cannot be read.
    """
    sha256 = digest(files)
    manifest_path, cached = (
        path.absolute().parent / MANIFEST_NAME,
        cache_folder("verifications") / f"{sha256}.json",
    )
    manifest = read_manifest(manifest_path)
    artifacts = manifest.get("artifacts")
    entry = artifacts.get(path.name) if isinstance(artifacts, dict) else None
    for source, record in ((manifest_path, entry), (cached, read_record(cached))):
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


def is_verified(sha256: str) -> bool:
    """Whether the cache says that a file of this digest was verified, at its export or later."""
    record = read_record(cache_folder("verifications") / f"{sha256}.json")
    verification = record.get("verification")
    return isinstance(verification, dict) and verification.get("status") in ("verified", "unproven")


def _digest(path: Path) -> str:
    if not path.is_dir():
        return sha256(path)
    total = hashlib.sha256()
    names = sorted(item.relative_to(path).as_posix() for item in walk(path) if item.is_file())
    for name in names:
        total.update(f"{name}\n{sha256(path / name)}\n".encode())
    return total.hexdigest()


def read_manifest(path: Path) -> dict[str, Any]:
    """The content of a `timmx.json`; {} if it is missing, or damaged, which is reported as a warning."""
    manifest = read_record(path)
    if not isinstance(manifest.get("artifacts", None if path.is_file() else {}), dict):
        reporter().warn(f"{path} is damaged: its hashes and verification results are not used.")
        return {}
    return manifest


def read_record(path: Path) -> dict[str, Any]:
    """The JSON object in a file; {} if it is missing, damaged or not an object."""
    try:
        content = parse_json(read_file(path, _LARGEST), any_name=True)
    except (OSError, ValueError):
        return {}
    return content if isinstance(content, dict) else {}


def drop_oldest(folder: Path) -> None:
    """Delete the oldest records of a folder, beyond the maximum number."""
    records = list(folder.glob("*.json"))
    if len(records) <= _MOST:
        return
    for path in sorted(records, key=lambda item: item.stat().st_mtime)[: len(records) - _MOST]:
        path.unlink(missing_ok=True)

"""Remembers the files that this user exported, by their hashes: opening them can run only what the user has built.

A record is an empty file in the user's cache, which no archive or repository can bring along. A record that is missing
costs the user `--trust`; a cache that cannot be read or written is ignored.
"""

from __future__ import annotations

from contextlib import suppress

from timmx.base import cache_folder

_KIND = "own-files"
_MOST = 10_000
"""Maximum number of records; the oldest are deleted first."""


def remember_own(sha256: str) -> None:
    """Remember that this user's timmx wrote the file with this SHA-256, in hexadecimal digits."""
    folder = cache_folder(_KIND)
    with suppress(OSError):
        folder.mkdir(parents=True, exist_ok=True)
        (folder / sha256).touch()
        records = list(folder.iterdir())
        for path in sorted(records, key=lambda item: item.stat().st_mtime)[: max(0, len(records) - _MOST)]:
            path.unlink(missing_ok=True)


def is_own(sha256: str) -> bool:
    """Whether `remember_own` was called with this SHA-256, by this user on this machine."""
    if len(sha256) != _DIGITS or not set(sha256) <= set("0123456789abcdef"):
        return False
    try:
        return (cache_folder(_KIND) / sha256).is_file()
    except OSError:
        return False


_DIGITS = 64

"""Reads the metadata of installed distributions, some of which may be damaged.

One `entry_points.txt` that cannot be read, of any distribution, stops everything that looks for entry points: timmx,
and also torch 2.14 and networkx, which do so when they are imported.
"""

from __future__ import annotations

import re
from typing import Any

import importlib_metadata

UNREADABLE = (TypeError, ValueError, AttributeError, OSError)
"""What importlib_metadata raises for a damaged distribution: a line of `entry_points.txt` without `=`, bytes that are
not UTF-8, a file that cannot be opened."""

_read_entry_points = vars(importlib_metadata.Distribution)["entry_points"].fget


def entry_points(distribution: Any) -> importlib_metadata.EntryPoints:
    """The entry points of a distribution; one of `UNREADABLE` is raised if it is damaged."""
    return _read_entry_points(distribution)


def skip_unreadable_entry_points() -> None:
    """In this process, a distribution whose entry points cannot be read has none, for every library."""

    def read(distribution: Any) -> importlib_metadata.EntryPoints:
        try:
            return entry_points(distribution)
        except UNREADABLE:
            return importlib_metadata.EntryPoints()

    importlib_metadata.Distribution.entry_points = property(read)  # type: ignore[method-assign, assignment]


def headers(distribution: Any) -> dict[str, list[str]]:
    """The four fields of a distribution's metadata that the registry reads.

    Read by lines, since each field is one line: `distribution.metadata` parses the whole README as an email, which
    took a tenth of the time of `timmx --help`.
    One of `UNREADABLE` is raised if it is damaged.
    """
    fields: dict[str, list[str]] = {"Name": [], "Version": [], "Summary": [], "Requires-Dist": []}
    for line in (distribution.read_text("METADATA") or "").splitlines():
        if not line:
            break
        name, colon, value = line.partition(":")
        if colon and name in fields:
            fields[name].append(value.strip())
    for name, default in (("Name", "unknown"), ("Version", "0"), ("Summary", "")):
        fields[name] = fields[name] or [default]
    return fields


def canonical(name: str) -> str:
    """A distribution's normalized name (importing `packaging.utils` would import its tags too)."""
    return re.sub(r"[-_.]+", "-", name).lower()

"""Translations that coremltools 9.0 lacks in its ExportedProgram front end and that torch code cannot replace well."""

from __future__ import annotations


def register() -> None:
    """Make them known to coremltools, for the whole process. Nothing that it has is changed."""

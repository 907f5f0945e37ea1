"""The choices that the command line names; imports nothing."""

from __future__ import annotations

from enum import StrEnum

OF_ONE_EXPORT = ("model", "output", "force", "json", "checkpoint", "use_ema")
"""Shared options of exports that a sweep does not have, or that have another meaning there."""


class Keep(StrEnum):
    """Which files a sweep keeps."""

    NONE = "none"
    PASSED = "passed"
    ALL = "all"


class ReportFormat(StrEnum):
    """How results are written."""

    TEXT = "text"
    CSV = "csv"
    MARKDOWN = "markdown"
    JSONL = "jsonl"

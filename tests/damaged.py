"""Changes files of a format, and checks that both ways to read them refuse what is damaged."""

from __future__ import annotations

from typing import TYPE_CHECKING

import pytest
import timmx
from timmx.artifact import backend_for

if TYPE_CHECKING:
    from pathlib import Path


def refused(path: Path, kind: type[timmx.TimmxError], message: str) -> None:
    """Both ways to read a file report the same error, which has a hint."""
    for read in (backend_for(path).read_metadata, timmx.open):
        with pytest.raises(kind, match=message) as caught:
            read(path)
        assert caught.value.hint


def change(path: Path, old: str, new: str, count: int = 1) -> None:
    """Replace a text that is in a file, as often as `count` says."""
    text = path.read_text(encoding="utf-8")
    assert old in text
    path.write_text(text.replace(old, new, count), encoding="utf-8")

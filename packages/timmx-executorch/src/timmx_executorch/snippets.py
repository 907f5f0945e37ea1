"""Code that loads and runs a `.pte` file."""

from __future__ import annotations

from typing import TYPE_CHECKING

from timmx.plugin import Snippet

if TYPE_CHECKING:
    from pathlib import Path

    from timmx.plugin import Metadata


def snippet(path: Path, metadata: Metadata, language: str) -> Snippet:
    raise NotImplementedError

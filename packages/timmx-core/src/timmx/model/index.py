"""The names of timm's models without importing timm: an index cached per timm version."""

from __future__ import annotations


def completions(incomplete: str) -> list[str]:
    """Model names that begin with `incomplete`, for the shell; from the cached index alone."""
    return []

"""One export from request to published file, several targets from one load, and recipe files."""

from timmx.base import door

__getattr__, __dir__, __all__ = door(__name__)

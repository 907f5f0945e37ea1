"""The `timmx` command."""

from timmx.base import door

__getattr__, __dir__, __all__ = door(__name__)

"""`timmx inspect`: the content of a file, without running it."""

from timmx.base import door

__getattr__, __dir__, __all__ = door(__name__)

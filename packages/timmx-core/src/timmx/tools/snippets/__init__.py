"""`timmx inspect --snippet`: the shortest code that feeds a file."""

from timmx.base import door

__getattr__, __dir__, __all__ = door(__name__)

"""`timmx inspect --snippet`: short code that loads and feeds a file."""

from timmx.base import door

__getattr__, __dir__, __all__ = door(__name__)

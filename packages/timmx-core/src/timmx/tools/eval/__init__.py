"""`timmx eval`: accuracy on labelled images."""

from timmx.base import door

__getattr__, __dir__, __all__ = door(__name__)

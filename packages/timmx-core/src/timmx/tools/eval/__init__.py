"""`timmx eval`: accuracy on labeled images."""

from timmx.base import door

__getattr__, __dir__, __all__ = door(__name__)

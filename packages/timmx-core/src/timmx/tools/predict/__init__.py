"""`timmx predict`: the most likely classes of images."""

from timmx.base import door

__getattr__, __dir__, __all__ = door(__name__)

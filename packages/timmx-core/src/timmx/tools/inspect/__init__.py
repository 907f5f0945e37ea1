"""`timmx inspect`: what a file says about itself without being run."""

from timmx.base import door

__getattr__, __dir__, __all__ = door(__name__)

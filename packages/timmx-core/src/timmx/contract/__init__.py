"""What a backend is: the classes, options and metadata that the core and its plugins agree on."""

from timmx.base import door

__getattr__, __dir__, __all__ = door(__name__)

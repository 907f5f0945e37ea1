"""Files on disk: atomic publishing, verification records, and opening a file by its suffix."""

from timmx.base import door

__getattr__, __dir__, __all__ = door(__name__)

"""`timmx compare`: all files of a folder in one table."""

from timmx.base import door

__getattr__, __dir__, __all__ = door(__name__)

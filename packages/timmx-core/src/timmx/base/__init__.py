"""What every room may use: progress, threads, text, tables, files and measures; it knows nothing of models."""

from timmx.base.doors import door

__getattr__, __dir__, __all__ = door(__name__)

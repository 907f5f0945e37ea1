"""Progress, threads, text, tables, files and measures, for every room; nothing here depends on models."""

from timmx.base.doors import door

__getattr__, __dir__, __all__ = door(__name__)

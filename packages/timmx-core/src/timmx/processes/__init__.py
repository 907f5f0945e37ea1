"""Child processes that work on tasks: forked from a process that has imported libraries once, or spawned."""

from timmx.base import door

__getattr__, __dir__, __all__ = door(__name__)

"""The prepared model as an ExportedProgram: trace, exact graph rewrites, lowering for formats that lack operations."""

from timmx.base import door

__getattr__, __dir__, __all__ = door(__name__)

"""The Core ML backend of timmx. The names in its stub are public, for backends that build on Core ML."""

from timmx.plugin import door

__getattr__, __dir__, __all__ = door(__name__)

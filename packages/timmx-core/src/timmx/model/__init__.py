"""From a name, hub id, checkpoint or module to a loaded model, and to a prepared one that is proven equal."""

from timmx.base import door

__getattr__, __dir__, __all__ = door(__name__)

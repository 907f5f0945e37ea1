"""What the tools run: an artifact by its own metadata, or the PyTorch model in its place."""

from timmx.base import door

__getattr__, __dir__, __all__ = door(__name__)

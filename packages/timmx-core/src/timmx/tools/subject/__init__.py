"""What the tools run: an artifact, fed as its metadata says, or the PyTorch model instead of it."""

from timmx.base import door

__getattr__, __dir__, __all__ = door(__name__)

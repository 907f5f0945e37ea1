"""Runs an artifact and the PyTorch model on the same inputs and judges the difference."""

from timmx.base import door

__getattr__, __dir__, __all__ = door(__name__)

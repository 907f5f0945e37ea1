"""Value ranges of activations, the simulation of layers in integers, and the plans that keep layers in float."""

from timmx.base import door

__getattr__, __dir__, __all__ = door(__name__)

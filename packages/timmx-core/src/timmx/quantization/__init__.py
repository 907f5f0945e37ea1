"""Value ranges of activations, found by calibration."""

from timmx.base import door

__getattr__, __dir__, __all__ = door(__name__)

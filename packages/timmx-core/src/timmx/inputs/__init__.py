"""Images, preprocessing by the data config, samples for verification, calibration data."""

from timmx.base import door

__getattr__, __dir__, __all__ = door(__name__)

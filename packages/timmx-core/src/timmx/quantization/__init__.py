"""Value ranges of activations, computed from calibration inputs."""

from timmx.base import door

__getattr__, __dir__, __all__ = door(__name__)

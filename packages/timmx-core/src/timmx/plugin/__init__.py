"""The interface for all backends, ours included: everything that a plugin may import, except `timmx.testing`."""

from timmx.base import door

__getattr__, __dir__, __all__ = door(__name__)

"""The one door for backends, ours included: everything that a plugin may import besides `timmx.testing`."""

from timmx.base import door

__getattr__, __dir__, __all__ = door(__name__)

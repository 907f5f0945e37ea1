"""`timmx verify`: the verification of an export, repeated on a file."""

from timmx.base import door

__getattr__, __dir__, __all__ = door(__name__)

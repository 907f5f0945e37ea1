"""`timmx sweep`: many models to many formats, here or on a Ray cluster, with a journal, and its reports."""

from timmx.base import door

__getattr__, __dir__, __all__ = door(__name__)

"""`timmx sweep`: many models to many formats, with a journal, and the tables of its results."""

from timmx.base import door

__getattr__, __dir__, __all__ = door(__name__)

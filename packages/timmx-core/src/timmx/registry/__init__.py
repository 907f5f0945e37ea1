"""Finds installed backends, probes them in child processes, and turns option dataclasses into commands."""

from timmx.base import door

__getattr__, __dir__, __all__ = door(__name__)

"""`timmx bench`: latency, throughput and memory of files."""

from timmx.base import door

__getattr__, __dir__, __all__ = door(__name__)

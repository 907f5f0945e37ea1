"""`timmx bench`: latency, throughput and memory, measured in turns."""

from timmx.base import door

__getattr__, __dir__, __all__ = door(__name__)

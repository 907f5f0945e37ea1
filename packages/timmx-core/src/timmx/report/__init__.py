"""Tables and plots as one self-contained HTML file."""

from timmx.base import door

__getattr__, __dir__, __all__ = door(__name__)

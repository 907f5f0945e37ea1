"""`timmx compare`: the files of a folder side by side."""

from timmx.base import door

__getattr__, __dir__, __all__ = door(__name__)

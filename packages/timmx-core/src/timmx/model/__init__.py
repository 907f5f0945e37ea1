"""From a name, Hugging Face model id, checkpoint or module to a loaded model, and to a prepared one, verified equal."""

from timmx.base import door

__getattr__, __dir__, __all__ = door(__name__)

"""The ONNX backend of timmx. The names in its stub are public, for backends that build on ONNX."""

from timmx.plugin import door

__getattr__, __dir__, __all__ = door(__name__)

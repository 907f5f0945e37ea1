"""The ONNX backend of timmx; what its stub names is public, for backends that build on ONNX."""

from timmx.plugin import door

__getattr__, __dir__, __all__ = door(__name__)

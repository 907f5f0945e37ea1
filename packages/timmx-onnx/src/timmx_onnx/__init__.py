"""The ONNX backend of timmx. The names in its stub are public, for backends that build on ONNX."""

import os

from timmx.plugin import door

# Otherwise ONNX Runtime 1.32 keeps a database in the user's cache, and sends events to Microsoft. Read when it starts.
os.environ.setdefault("ORT_DISABLE_TELEMETRY", "1")

__getattr__, __dir__, __all__ = door(__name__)

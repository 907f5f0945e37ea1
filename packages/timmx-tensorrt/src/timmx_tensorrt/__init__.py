"""The TensorRT backend of timmx."""

import os

# As in timmx-onnx, which may be imported after ONNX Runtime.
os.environ.setdefault("ORT_DISABLE_TELEMETRY", "1")

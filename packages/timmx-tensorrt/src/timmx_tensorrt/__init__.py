"""The TensorRT backend of timmx."""

import os

os.environ.setdefault("ORT_DISABLE_TELEMETRY", "1")  # as timmx_onnx, before either imports ONNX Runtime

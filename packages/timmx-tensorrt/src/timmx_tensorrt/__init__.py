"""The TensorRT backend of timmx."""

import timmx_onnx  # noqa: F401 - before ONNX Runtime is imported: turns its telemetry off

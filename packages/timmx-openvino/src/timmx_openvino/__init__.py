"""The OpenVINO backend of timmx; `timmx_openvino.plugin` is its entry point."""

import sys

# Otherwise `import openvino` (2026.4) sends an event to Google Analytics. None here means that the package is not
# installed, for which OpenVINO has a substitute. A program that has imported OpenVINO before is left as it is.
sys.modules.setdefault("openvino_telemetry", None)  # type: ignore[arg-type]

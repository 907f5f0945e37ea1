"""The OpenVINO backend of timmx; `timmx_openvino.plugin` is its entry point."""

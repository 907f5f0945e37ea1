"""The TorchScript backend of timmx; `timmx_torchscript.plugin` is its entry point."""

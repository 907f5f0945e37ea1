"""The ncnn backend of timmx; `timmx_ncnn.plugin` is its entry point."""

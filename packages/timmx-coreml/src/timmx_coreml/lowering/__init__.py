"""The rewrites of `timmx_coreml.lower`, one file per kind of gap in coremltools 9.0."""

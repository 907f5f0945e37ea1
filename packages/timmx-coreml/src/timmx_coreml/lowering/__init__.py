"""The rewrites of `timmx_coreml.lower`, a room for each kind of gap in coremltools 9.0."""

"""The rewrites of `timmx_litert.lower`, one file for each kind of gap in litert-torch 0.10."""

"""The rewrites of `timmx_litert.lower`, a room for each kind of gap in litert-torch 0.10."""

"""The entries that timmx writes to `ModelProto.metadata_props`."""

from __future__ import annotations

METADATA_KEY = "timmx"
"""The metadata, a JSON object."""

DATA_KEY = "timmx.data_sha256"
"""The SHA-256 of the file with the weights, if they are in a second file."""

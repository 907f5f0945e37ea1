"""Reads a TorchScript file as a zip archive, without torch."""

from __future__ import annotations

import zipfile
from typing import TYPE_CHECKING, Any

from timmx.plugin import ArtifactError, parse_json_object

if TYPE_CHECKING:
    from pathlib import Path

METADATA_NAME = "timmx.json"
"""The key in the `_extra_files` of `torch.jit.save` and `torch.jit.load`."""


def read_metadata(path: Path) -> dict[str, Any]:
    """The metadata inside a TorchScript file, {} if timmx did not write it.

    Raises:
        ArtifactError: the file is not TorchScript, or is damaged.
    """
    try:
        with zipfile.ZipFile(path) as archive:
            names = archive.namelist()
            if not any(name.endswith("/constants.pkl") for name in names):
                raise ArtifactError(f"{path} is a zip archive, but not TorchScript", hint="export it again")
            found = [name for name in names if name.endswith(f"/extra/{METADATA_NAME}")]
            return parse_json_object(path, archive.read(found[0])) if found else {}
    except (zipfile.BadZipFile, ValueError, OSError) as exc:
        raise ArtifactError(
            f"{path} is not a TorchScript file, or is damaged: {exc}", hint="export it again"
        ) from exc

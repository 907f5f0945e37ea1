"""Errors about Core ML files, with the hints that they share."""

from __future__ import annotations

from timmx.plugin import ArtifactError, UnsupportedError

OTHER_FORMATS = "use timmx onnx or timmx torch-export, which support most models"


def damaged(message: str) -> ArtifactError:
    """Return the error for a file that is incomplete or inconsistent."""
    return ArtifactError(message, hint="export the model again, or copy it again")


def not_evaluated(message: str) -> UnsupportedError:
    """Return the error for what Core ML can compute and timmx's evaluators cannot."""
    return UnsupportedError(message, hint="export or open the model on macOS, where Core ML itself runs it")

"""Errors about Core ML files, with the hints that many of them share."""

from __future__ import annotations

from timmx.plugin import ArtifactError, UnsupportedError

OTHER_FORMATS = "use timmx onnx or timmx torch-export, which support most models"


def damaged(message: str) -> ArtifactError:
    """The error for a file that is incomplete or not consistent."""
    return ArtifactError(message, hint="export the model again, or copy it again")


def not_evaluated(message: str) -> UnsupportedError:
    """The error for what timmx's evaluators cannot compute and Core ML itself can."""
    return UnsupportedError(message, hint="export or open the model on macOS, where Core ML itself runs it")

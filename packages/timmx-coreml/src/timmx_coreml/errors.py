"""Errors about Core ML files, with the hints that they share."""

from __future__ import annotations

from typing import TYPE_CHECKING

from timmx.plugin import ArtifactError, UnsupportedError

if TYPE_CHECKING:
    from pathlib import Path

OTHER_FORMATS = "use timmx onnx or timmx torch-export, which support most models"


DAMAGE = (LookupError, ValueError, TypeError, ArithmeticError, RuntimeError)
"""What numpy, torch and protobuf raise for numbers, names and shapes that do not fit each other."""


def not_readable(path: Path, exc: Exception) -> ArtifactError:
    """Return the error for a file in which something does not fit, from `DAMAGE`."""
    return damaged(f"{path} is damaged ({type(exc).__name__}: {' '.join(str(exc).split())[:300]})")


def damaged(message: str) -> ArtifactError:
    """Return the error for a file that is incomplete or inconsistent."""
    return ArtifactError(message, hint="export the model again, or copy it again")


def not_evaluated(message: str) -> UnsupportedError:
    """Return the error for what Core ML can compute and timmx's evaluators cannot."""
    return UnsupportedError(message, hint="export or open the model on macOS, where Core ML itself runs it")

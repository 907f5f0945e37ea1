"""Refuses options for a file that takes the bytes of images and does not normalize them."""

from __future__ import annotations

from typing import TYPE_CHECKING

from timmx.errors import ConfigurationError

if TYPE_CHECKING:
    from timmx.contract import ExportRequest


def check_image_bytes(request: ExportRequest, flag: str, otherwise: str = "") -> None:
    """Refuse an option that makes a file take the bytes of images, unless the file normalizes them.

    Args:
        request: the shared options.
        flag: the option, such as `--io uint8`.
        otherwise: when the option works without `--normalize`, for the hint.

    Raises:
        ConfigurationError: `--normalize` is not given.
    """
    if not request.normalize:
        raise ConfigurationError(
            f"{flag} takes image bytes, so the file must normalize them",
            hint=f"add --normalize{f'; {otherwise}' if otherwise else ''}",
        )

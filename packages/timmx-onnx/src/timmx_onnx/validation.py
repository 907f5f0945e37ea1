"""Checks the options of `timmx onnx`, before anything heavy is imported."""

from __future__ import annotations

from typing import TYPE_CHECKING

from timmx.plugin import check_image_bytes, check_int8_calibration

from timmx_onnx.options import IoType

if TYPE_CHECKING:
    from timmx.plugin import ExportRequest

    from timmx_onnx.options import OnnxOptions


def validate(request: ExportRequest, options: OnnxOptions) -> None:
    """Refuse options that contradict each other.

    Raises:
        ConfigurationError: they do.
    """
    if options.io is IoType.UINT8:
        check_image_bytes(request, "--io uint8")
    check_int8_calibration(
        options, instead="weight-int8", other_flags=["--reduce-range"] * options.reduce_range
    )

"""Checks the options of `timmx openvino` and the libraries for them, before anything heavy is imported."""

from __future__ import annotations

import importlib.util
from typing import TYPE_CHECKING

from timmx.plugin import (
    CalibrationMethod,
    ConfigurationError,
    Problem,
    check_image_bytes,
    check_int8_calibration,
)

from timmx_openvino.options import IoType, OpenVINOMode

if TYPE_CHECKING:
    from timmx.plugin import ExportRequest

    from timmx_openvino.options import OpenVINOOptions


def missing_libraries(options: OpenVINOOptions | None) -> tuple[Problem, ...]:
    """NNCF, if it is not installed and these options need it; a partial problem without options."""
    if (options is not None and not options.mode.needs_nncf) or importlib.util.find_spec("nncf") is not None:
        return ()
    wanted = "--mode int8, weight-int8 and weight-int4" if options is None else f"--mode {options.mode}"
    return (
        Problem(
            f"nncf is not installed, and {wanted} requires it",
            'uv pip install "timmx-openvino[quantize]"',
            partial=options is None,
        ),
    )


def validate(request: ExportRequest, options: OpenVINOOptions) -> None:
    """Refuse options that contradict each other.

    Raises:
        ConfigurationError: they do.
    """
    if options.io is IoType.UINT8:
        check_image_bytes(request, "--io uint8")
    if options.mode is OpenVINOMode.INT8 and options.calibration_method is CalibrationMethod.MSE:
        raise ConfigurationError(
            "--calibration-method mse is not one of those that NNCF has",
            hint="use --calibration-method minmax or percentile",
        )
    check_int8_calibration(options, instead="weight-int8")

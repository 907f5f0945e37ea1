"""Checks the options of `timmx openvino` and the libraries for them, before anything heavy is imported."""

from __future__ import annotations

import importlib.util
from typing import TYPE_CHECKING

from timmx.plugin import (
    CalibrationMethod,
    ConfigurationError,
    Problem,
    calibration_flags,
    check_calibration,
    check_image_bytes,
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
    flags = calibration_flags(
        options.calibration_data,
        options.calibration_samples,
        options.random_calibration,
        options.calibration_method,
        options.max_drop,
    )
    if options.mode is not OpenVINOMode.INT8:
        if flags:
            raise ConfigurationError(
                f"{flags[0]} requires --mode int8, but --mode is {options.mode}",
                hint=f"use --mode int8, or leave {flags[0]} out",
            )
        return
    if options.calibration_method is CalibrationMethod.MSE:
        raise ConfigurationError(
            "--calibration-method mse is not one of those that NNCF has",
            hint="use --calibration-method minmax or percentile",
        )
    check_calibration(
        options.calibration_data, options.calibration_samples, options.random_calibration, options.max_drop
    )
    if options.calibration_data is None and not options.random_calibration:
        raise ConfigurationError(
            "--mode int8 requires typical images, from which the ranges of activations are computed",
            hint="use --calibration-data FOLDER with images (or a tensor file), --random-calibration (lowers "
            "accuracy), or --mode weight-int8, which requires none",
        )

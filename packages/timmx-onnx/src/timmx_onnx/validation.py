"""Checks the options of `timmx onnx`, before anything heavy is imported."""

from __future__ import annotations

from typing import TYPE_CHECKING

from timmx.plugin import ConfigurationError, calibration_flags, check_calibration, check_image_bytes

from timmx_onnx.options import IoType, OnnxMode

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
    flags = calibration_flags(
        options.calibration_data,
        options.calibration_samples,
        options.random_calibration,
        options.calibration_method,
        options.max_drop,
    )
    flags += ["--reduce-range"] * options.reduce_range
    if options.mode is not OnnxMode.INT8:
        if flags:
            raise ConfigurationError(
                f"{flags[0]} requires --mode int8, but --mode is {options.mode}",
                hint=f"use --mode int8, or leave {flags[0]} out",
            )
        return
    check_calibration(
        options.calibration_data, options.calibration_samples, options.random_calibration, options.max_drop
    )
    if options.calibration_data is None and not options.random_calibration:
        raise ConfigurationError(
            "--mode int8 requires typical images, from which the ranges of activations are computed",
            hint="use --calibration-data FOLDER with images (or a tensor file), --random-calibration (lowers "
            "accuracy), or --mode weight-int8, which requires none",
        )

"""Refuses invalid combinations of options, and reports missing libraries, before torch or a converter is imported."""

from __future__ import annotations

import importlib.util
import platform
import sys
from typing import TYPE_CHECKING

from timmx.plugin import ConfigurationError, Problem, calibration_flags, check_calibration, check_image_bytes

from timmx_litert.options import IoType, LiteRTMode

if TYPE_CHECKING:
    from timmx.plugin import ExportRequest

    from timmx_litert.options import LiteRTOptions

_LIBRARIES = {
    "litert_torch": "litert-torch>=0.10,<0.11",
    "ai_edge_quantizer": "ai-edge-quantizer>=0.10,<0.11",
    "ai_edge_litert": "ai-edge-litert>=2.3,<3",
}


def validate(request: ExportRequest, options: LiteRTOptions) -> None:
    """Refuse invalid combinations of options.

    Raises:
        ConfigurationError: the options contradict each other, or calibration data is missing or unusable.
    """
    _check_io(request, options)
    _check_unused(options)
    if options.mode.calibrated and options.calibration_data is None and not options.random_calibration:
        raise ConfigurationError(
            f"--mode {options.mode} requires calibration inputs, and none are given",
            hint="use --calibration-data FOLDER with images (or a tensor file), --random-calibration (lowers "
            "accuracy), or --mode weight-int8, which requires none",
        )
    check_calibration(
        options.calibration_data, options.calibration_samples, options.random_calibration, options.max_drop
    )


def _check_io(request: ExportRequest, options: LiteRTOptions) -> None:
    if options.io is IoType.INT8 and options.mode is not LiteRTMode.INT8:
        raise ConfigurationError(
            f"--io int8 requires --mode int8, but --mode is {options.mode}",
            hint="leave --io int8 out, or use --mode int8",
        )
    if options.io is IoType.UINT8 and options.mode is not LiteRTMode.INT8:
        check_image_bytes(
            request,
            "--io uint8",
            "only --mode int8 works without it, and the bytes are then quantized values",
        )


def _check_unused(options: LiteRTOptions) -> None:
    mode = options.mode
    calibration = calibration_flags(
        options.calibration_data,
        options.calibration_samples,
        options.random_calibration,
        options.calibration_method,
        options.max_drop,
    )
    if not mode.quantized:
        channels = {True: ["--per-channel"], False: ["--no-per-channel"], None: []}[options.per_channel]
        for flag in (*channels, *calibration):
            raise ConfigurationError(
                f"{flag} applies to quantization, but --mode {mode} does not quantize",
                hint=f"leave {flag} out, or use a quantized --mode, such as int8",
            )
    if not mode.calibrated:
        for flag in calibration:
            if flag != "--calibration-data":  # accepted, with a note
                raise ConfigurationError(
                    f"{flag} applies to activation ranges, but --mode {mode} has none",
                    hint=f"leave {flag} out, or use --mode int8 or int16x8",
                )


def missing_libraries() -> tuple[Problem, ...]:
    """A problem that names the libraries that are not installed; none of them is imported."""
    requirements = [name for module, name in _LIBRARIES.items() if importlib.util.find_spec(module) is None]
    if not requirements:
        return ()
    names = ", ".join(requirement.partition(">")[0] for requirement in requirements)
    message = f"{names} {'is' if len(requirements) == 1 else 'are'} not installed"
    if sys.platform == "win32":
        return (
            Problem(
                f"{message}: the converter has wheels only for Linux and macOS, and this is {platform.system()} on "
                f"{platform.machine()}",
                "export on Linux, on macOS or in WSL",
            ),
        )
    quoted = " ".join(f"'{requirement}'" for requirement in requirements)
    return (Problem(message, f"uv pip install {quoted}"),)

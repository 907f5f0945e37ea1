"""Which options go together, and what the machine lacks; told before torch or TensorRT is imported."""

from __future__ import annotations

import importlib.metadata
import importlib.util
import os
import sys
from typing import TYPE_CHECKING

from timmx.plugin import CalibrationMethod, ConfigurationError, Problem, check_calibration, given_flags

from timmx_tensorrt import gpu, triton
from timmx_tensorrt.options import HardwareCompat, TensorRTMode
from timmx_tensorrt.profile import choose_profile

if TYPE_CHECKING:
    from pathlib import Path

    from timmx.plugin import ExportRequest

    from timmx_tensorrt.options import TensorRTOptions

MAJORS = (10, 11)
"""Before, networks cannot be strongly typed in every layer."""
_LEAST_OPSETS = {TensorRTMode.BF16: 22, TensorRTMode.INT8: 19, TensorRTMode.FP8: 19}
_DISTRIBUTIONS = (
    "tensorrt",
    "tensorrt-cu13",
    "tensorrt-cu12",
    "tensorrt-cu13-bindings",
    "tensorrt-cu12-bindings",
)


def validate(request: ExportRequest, options: TensorRTOptions) -> None:
    """Refuse combinations that make no sense.

    Raises:
        ConfigurationError: with the mend.
    """
    _places(options)
    if request.output is not None:
        check_repository(request.output, options)
    _calibration(options)
    if options.from_onnx is None:
        choose_profile(options, request.dynamic_batch, request.batch_size)
    least = _LEAST_OPSETS.get(options.chosen_mode, 0)
    if options.chosen_opset < least:
        raise ConfigurationError(
            f"--mode {options.chosen_mode} needs --opset {least} or later: leave --opset out."
        )
    if options.workspace is not None and not 0.001 <= options.workspace <= 10_000:
        raise ConfigurationError(
            f"--workspace {options.workspace:g} is no amount of memory: give GiB, such as 2."
        )
    if not options.onnx_only and request.device != "cuda":
        raise ConfigurationError(
            "An engine is built and run on an NVIDIA GPU: give --device cuda, or --onnx-only to stop at the typed "
            "ONNX, from which --from-onnx builds on the GPU later."
        )


def _places(options: TensorRTOptions) -> None:
    if options.onnx_only:
        for flag, given in (
            ("--from-onnx", options.from_onnx is not None),
            ("--keep-onnx", options.keep_onnx is not None),
            ("--triton", options.triton is not None),
            ("--workspace", options.workspace is not None),
            ("--opt-level", options.opt_level is not None),
            ("--timing-cache", options.timing_cache is not None),
            ("--version-compatible", options.version_compatible),
            ("--hardware-compat", options.hardware_compat is not HardwareCompat.NONE),
        ):
            if given:
                raise ConfigurationError(
                    f"{flag} is about an engine, and --onnx-only builds none: leave one of them out."
                )
    if options.from_onnx is not None:
        for flag, given in (
            ("--mode", options.mode is not None),
            ("--opset", options.opset is not None),
            ("--keep-onnx", options.keep_onnx is not None),
            *((flag, True) for flag in _calibration_flags(options)),
        ):
            if given:
                raise ConfigurationError(
                    f"{flag} was decided when {options.from_onnx} was written: leave it out, or export the model anew."
                )
        if options.from_onnx.suffix != ".onnx":
            raise ConfigurationError(
                f"--from-onnx {options.from_onnx} is no .onnx file: name what --onnx-only wrote."
            )
    if options.keep_onnx is not None and options.keep_onnx.suffix != ".onnx":
        raise ConfigurationError(f"--keep-onnx {options.keep_onnx} must end in .onnx.")
    if options.triton is not None and options.triton.exists() and not options.triton.is_dir():
        raise ConfigurationError(
            f"--triton {options.triton} is a file: name the folder of a model repository."
        )
    if options.keep_onnx is not None and options.keep_onnx.is_dir():
        raise ConfigurationError(f"--keep-onnx {options.keep_onnx} is a folder: name a file in it.")
    if options.timing_cache is not None:
        _timing_cache(options.timing_cache)


def check_repository(output: Path, options: TensorRTOptions) -> None:
    """Refuse a folder in a model repository that holds what timmx did not write, or that is to hold something else.

    It is replaced as a whole.

    Raises:
        ConfigurationError: with what lies there, or what was to.
    """
    if options.triton is None:
        return
    folder = options.triton / output.stem
    for flag, path in (
        ("--output", output),
        ("--from-onnx", options.from_onnx),
        ("--keep-onnx", options.keep_onnx),
        ("--timing-cache", options.timing_cache),
    ):
        if path is not None and path.resolve().is_relative_to(folder.resolve()):
            raise ConfigurationError(
                f"{flag} {path} lies in {folder}, which --triton replaces as a whole: choose another place."
            )
    if foreign := triton.foreign(folder):
        raise ConfigurationError(
            f"{folder} holds {foreign}, which timmx did not write, and --triton replaces the folder: move it, or name "
            "another --triton or --output."
        )


def _timing_cache(path: Path) -> None:
    """Refuse, before a long build, where timings cannot be kept, or where something else would be lost."""
    if path.is_dir():
        raise ConfigurationError(f"--timing-cache {path} is a folder: name a file in it.")
    if path.suffix in (".onnx", ".engine", ".plan", ".json", ".data"):
        raise ConfigurationError(
            f"--timing-cache {path} would be replaced by timings: name a file of its own, such as {path.stem}.cache."
        )
    folder = next(parent for parent in (path.parent, *path.parent.parents) if parent.exists())
    if not folder.is_dir() or not os.access(folder, os.W_OK):
        raise ConfigurationError(
            f"--timing-cache {path} cannot be written: {folder} is no folder to write in."
        )


def _calibration(options: TensorRTOptions) -> None:
    if options.from_onnx is not None:  # decided there, and refused above
        return
    if not options.chosen_mode.calibrated:
        for flag in _calibration_flags(options):
            raise ConfigurationError(
                f"{flag} is about 8-bit numbers, and --mode {options.chosen_mode} has none: leave it out, or choose "
                "--mode int8 or fp8."
            )
        return
    if options.calibration_data is None and not options.random_calibration:
        raise ConfigurationError(
            f"--mode {options.chosen_mode} needs to see typical inputs: give --calibration-data FOLDER of images (or a "
            "tensor file), or --random-calibration to do without and lose accuracy, or choose --mode fp16, which needs "
            "none."
        )
    if options.chosen_mode is TensorRTMode.FP8 and options.calibration_method is CalibrationMethod.MSE:
        raise ConfigurationError(
            "--calibration-method mse weighs the even steps of integers, which float8 does not have: leave it out."
        )
    check_calibration(options.calibration_data, options.calibration_samples, options.random_calibration)


def _calibration_flags(options: TensorRTOptions) -> list[str]:
    return given_flags(
        options.calibration_data,
        options.calibration_samples,
        options.random_calibration,
        options.calibration_method,
    )


def missing() -> tuple[Problem, ...]:
    """What building and running engines lacks here, told without importing TensorRT or torch."""
    problems = []
    if sys.platform == "darwin":
        return (
            Problem(
                "There is no TensorRT for macOS.",
                "Use --onnx-only here, and timmx tensorrt --from-onnx on the machine with the GPU.",
            ),
        )
    version = installed_version()
    if version is None:
        problems.append(
            Problem(
                "tensorrt is not installed.",
                "uv pip install 'tensorrt>=10,<12' on the machine with the GPU; --onnx-only works without.",
            )
        )
    elif int(version.partition(".")[0]) not in MAJORS:
        problems.append(
            Problem(
                f"tensorrt {version} is not one of the versions that this backend was written for.",
                "uv pip install --upgrade 'tensorrt>=10,<12'",
            )
        )
    if not gpu.is_there():
        problems.append(
            Problem(
                "No NVIDIA driver with a GPU answers here.",
                "Run it where nvidia-smi shows one; --onnx-only works without.",
            )
        )
    return tuple(problems)


def installed_version() -> str | None:
    """Of TensorRT's Python bindings, None where they are not there."""
    if "tensorrt" in sys.modules:
        return str(sys.modules["tensorrt"].__version__)
    if importlib.util.find_spec("tensorrt") is None:
        return None
    for name in _DISTRIBUTIONS:
        try:
            return importlib.metadata.version(name)
        except importlib.metadata.PackageNotFoundError:
            continue
    return None

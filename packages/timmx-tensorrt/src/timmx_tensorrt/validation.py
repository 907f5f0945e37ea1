"""Refuses invalid combinations of options, and reports missing requirements, before torch or TensorRT is imported."""

from __future__ import annotations

import importlib.metadata
import importlib.util
import os
import sys
from typing import TYPE_CHECKING

from timmx.plugin import CalibrationMethod, ConfigurationError, Problem, calibration_flags, check_calibration

from timmx_tensorrt import gpu, triton
from timmx_tensorrt.options import HardwareCompat, TensorRTMode
from timmx_tensorrt.profile import choose_profile

if TYPE_CHECKING:
    from pathlib import Path

    from timmx.plugin import ExportRequest

    from timmx_tensorrt.options import TensorRTOptions

MAJORS = (10, 11)
"""In earlier versions not every layer can be strongly typed."""
_LEAST_OPSETS = {TensorRTMode.BF16: 22, TensorRTMode.INT8: 19, TensorRTMode.FP8: 19}
_DISTRIBUTIONS = (
    "tensorrt",
    "tensorrt-cu13",
    "tensorrt-cu12",
    "tensorrt-cu13-bindings",
    "tensorrt-cu12-bindings",
)


def validate(request: ExportRequest, options: TensorRTOptions) -> None:
    """Refuse invalid combinations of options.

    Raises:
        ConfigurationError: the options contradict each other, or calibration data is missing or unusable.
    """
    _check_files(options)
    if request.output is not None:
        check_repository(request.output, options)
    _check_calibration(options)
    if options.from_onnx is None:
        choose_profile(options, request.dynamic_batch, request.batch_size)
    least = _LEAST_OPSETS.get(options.chosen_mode, 0)
    if options.chosen_opset < least:
        raise ConfigurationError(
            f"--mode {options.chosen_mode} requires --opset {least} or later, but --opset is {options.chosen_opset}",
            hint="leave --opset out",
        )
    if options.workspace is not None and not 0.001 <= options.workspace <= 10_000:
        raise ConfigurationError(
            f"--workspace {options.workspace:g} is not a valid amount of memory",
            hint="use GiB from 0.001 to 10000, such as 2",
        )
    if not options.onnx_only and request.device != "cuda":
        raise ConfigurationError(
            f"an engine is built and run on an NVIDIA GPU, but --device is {request.device}",
            hint="add --device cuda; or write the typed ONNX with --onnx-only, and later build the engine with "
            "--from-onnx on a GPU",
        )


def _check_files(options: TensorRTOptions) -> None:
    if options.onnx_only:
        for flag, is_set in (
            ("--from-onnx", options.from_onnx is not None),
            ("--keep-onnx", options.keep_onnx is not None),
            ("--triton", options.triton is not None),
            ("--workspace", options.workspace is not None),
            ("--opt-level", options.opt_level is not None),
            ("--timing-cache", options.timing_cache is not None),
            ("--version-compatible", options.version_compatible),
            ("--hardware-compat", options.hardware_compat is not HardwareCompat.NONE),
        ):
            if is_set:
                raise ConfigurationError(
                    f"{flag} applies to an engine, but --onnx-only does not build one",
                    hint=f"leave out {flag} or --onnx-only",
                )
    if options.from_onnx is not None:
        for flag, is_set in (
            ("--mode", options.mode is not None),
            ("--opset", options.opset is not None),
            ("--keep-onnx", options.keep_onnx is not None),
            *((flag, True) for flag in _calibration_flags(options)),
        ):
            if is_set:
                raise ConfigurationError(
                    f"{flag} was set when {options.from_onnx} was written",
                    hint=f"leave {flag} out, or export the model again",
                )
        if options.from_onnx.suffix != ".onnx":
            raise ConfigurationError(
                f"--from-onnx {options.from_onnx} is not an .onnx file",
                hint="name a file that --onnx-only wrote",
            )
    if options.keep_onnx is not None and options.keep_onnx.suffix != ".onnx":
        raise ConfigurationError(
            f"--keep-onnx {options.keep_onnx} does not end in .onnx", hint="use a name that ends in .onnx"
        )
    if options.triton is not None and options.triton.exists() and not options.triton.is_dir():
        raise ConfigurationError(
            f"--triton {options.triton} is a file", hint="name the folder of a model repository"
        )
    if options.keep_onnx is not None and options.keep_onnx.is_dir():
        raise ConfigurationError(f"--keep-onnx {options.keep_onnx} is a folder", hint="name a file in it")
    if options.timing_cache is not None:
        _check_timing_cache(options.timing_cache)


def check_repository(output: Path, options: TensorRTOptions) -> None:
    """Refuse a folder in a model repository with other files than timmx's, since it is replaced as a whole.

    Raises:
        ConfigurationError: the folder contains such a file, or an option names a path in it.
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
                f"{flag} {path} is in {folder}, which --triton replaces as a whole",
                hint="choose another path",
            )
    if name := triton.foreign_entry(folder):
        raise ConfigurationError(
            f"{folder} contains {name}, which timmx did not write, and --triton replaces the folder",
            hint=f"move {name} elsewhere, or use another --triton or --output",
        )


def _check_timing_cache(path: Path) -> None:
    """Refuse, before a long build, a path that cannot be written or would overwrite another kind of file."""
    if path.is_dir():
        raise ConfigurationError(f"--timing-cache {path} is a folder", hint="name a file in it")
    if path.suffix in (".onnx", ".engine", ".plan", ".json", ".data"):
        raise ConfigurationError(
            f"--timing-cache {path} would be overwritten with timings",
            hint=f"name a separate file, such as {path.stem}.cache",
        )
    folder = next(parent for parent in (path.parent, *path.parent.parents) if parent.exists())
    if not folder.is_dir() or not os.access(folder, os.W_OK):
        raise ConfigurationError(
            f"--timing-cache {path} cannot be written: {folder} is not a writable folder",
            hint="choose another path",
        )


def _check_calibration(options: TensorRTOptions) -> None:
    if options.from_onnx is not None:  # it has its ranges, and calibration flags are refused above
        return
    if not options.chosen_mode.calibrated:
        for flag in _calibration_flags(options):
            raise ConfigurationError(
                f"{flag} applies to 8-bit modes, but --mode {options.chosen_mode} is not one",
                hint=f"leave {flag} out, or use --mode int8 or fp8",
            )
        return
    if options.calibration_data is None and not options.random_calibration:
        raise ConfigurationError(
            f"--mode {options.chosen_mode} requires calibration inputs, and none are given",
            hint="use --calibration-data FOLDER with images (or a tensor file), --random-calibration (lowers "
            "accuracy), or --mode fp16, which requires none",
        )
    if options.chosen_mode is TensorRTMode.FP8 and options.calibration_method is CalibrationMethod.MSE:
        raise ConfigurationError(
            "--calibration-method mse does not support float8, whose values are not evenly spaced",
            hint="leave --calibration-method out",
        )
    if options.chosen_mode is TensorRTMode.FP8 and options.max_drop is not None:
        raise ConfigurationError(
            "--max-drop does not support float8, for which no layers are chosen by their accuracy",
            hint="leave --max-drop out, or use --mode int8",
        )
    check_calibration(
        options.calibration_data, options.calibration_samples, options.random_calibration, options.max_drop
    )


def _calibration_flags(options: TensorRTOptions) -> list[str]:
    return calibration_flags(
        options.calibration_data,
        options.calibration_samples,
        options.random_calibration,
        options.calibration_method,
        options.max_drop,
    )


def missing_requirements() -> tuple[Problem, ...]:
    """What is missing on this machine to build and run engines; imports neither TensorRT nor torch."""
    problems = []
    if sys.platform == "darwin":
        return (
            Problem(
                "TensorRT does not support macOS",
                "use --onnx-only here, and timmx tensorrt --from-onnx on the machine with the GPU",
            ),
        )
    version = installed_version()
    if version is None:
        problems.append(
            Problem(
                "tensorrt is not installed",
                "uv pip install 'tensorrt>=10,<12' on the machine with the GPU; --onnx-only works without it",
            )
        )
    elif int(version.partition(".")[0]) not in MAJORS:
        problems.append(
            Problem(
                f"tensorrt {version} is not supported, only 10 and 11",
                "uv pip install --upgrade 'tensorrt>=10,<12'",
            )
        )
    if not gpu.is_available():
        problems.append(
            Problem(
                "no NVIDIA GPU is available",
                "use a machine where nvidia-smi lists a GPU; --onnx-only works without it",
            )
        )
    return tuple(problems)


def installed_version() -> str | None:
    """The version of TensorRT's Python bindings, None if they are not installed."""
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

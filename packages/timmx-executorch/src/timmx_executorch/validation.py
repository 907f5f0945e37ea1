"""Refuses invalid combinations of options, and reports missing libraries, before torch or executorch is imported."""

from __future__ import annotations

import importlib.util
import platform
import sys
from typing import TYPE_CHECKING

from timmx.plugin import ConfigurationError, Problem, check_int8_calibration

from timmx_executorch.options import Delegate, Mode

if TYPE_CHECKING:
    from collections.abc import Sequence

    from timmx.plugin import ExportRequest

    from timmx_executorch.options import ExecuTorchOptions

BATCH_MAX = 8
"""The default largest batch size of `--dynamic-batch`."""
MODES = {
    Delegate.XNNPACK: frozenset(Mode),
    Delegate.PORTABLE: frozenset((Mode.FP32, Mode.FP16)),
    Delegate.COREML: frozenset((Mode.FP32, Mode.FP16)),
}
"""What each delegate computes with."""

_LIBRARIES = {"executorch": "executorch>=1.5,<1.6", "torchao": "torchao>=0.18,<0.19"}


def validate(request: ExportRequest, options: ExecuTorchOptions) -> None:
    """Refuse invalid combinations of options.

    Raises:
        ConfigurationError: the options contradict each other, or calibration data is missing or unusable.
    """
    delegate, mode = options.delegate, options.mode
    if mode not in MODES[delegate]:
        modes = " or ".join(sorted(MODES[delegate]))
        raise ConfigurationError(
            f"--mode {mode} is not available with --delegate {delegate}",
            hint=f"use --mode {modes}, or --delegate xnnpack",
        )
    _check_batch(request, options)
    if options.external_weights and delegate is Delegate.COREML:
        raise ConfigurationError(
            "--external-weights is not available with --delegate coreml, which keeps the weights in a model of its own",
            hint="leave --external-weights out, or use --delegate xnnpack",
        )
    check_int8_calibration(options, instead="dynamic-int8")


def _check_batch(request: ExportRequest, options: ExecuTorchOptions) -> None:
    if request.dynamic_batch and options.delegate is Delegate.COREML:
        raise ConfigurationError(
            "--dynamic-batch is not available with --delegate coreml, for which ExecuTorch has fixed sizes only",
            hint="use --batch-size N, --delegate xnnpack, or timmx coreml --dynamic-batch",
        )
    if options.batch_max is not None and not request.dynamic_batch:
        raise ConfigurationError(
            "--batch-max requires --dynamic-batch",
            hint="add --dynamic-batch, or use --batch-size instead of --batch-max",
        )
    size, most = request.batch_size or 1, options.batch_max or BATCH_MAX
    if request.dynamic_batch and size > most:
        raise ConfigurationError(
            f"--batch-size {size} is larger than the largest batch size with --dynamic-batch, {most}",
            hint=f"use --batch-max {size}, or leave --batch-size out",
        )


def problems(options: ExecuTorchOptions | None) -> Sequence[Problem]:
    """What is not installed, for these options or, if they are None, for any; nothing is imported."""
    missing = [name for module, name in _LIBRARIES.items() if importlib.util.find_spec(module) is None]
    if missing:
        names = " and ".join(requirement.partition(">")[0] for requirement in missing)
        message = f"{names} {'is' if len(missing) == 1 else 'are'} not installed"
        if sys.platform == "win32":
            where = f"{platform.system()} on {platform.machine()}"
            return (
                Problem(
                    f"{message}: executorch has wheels only for Linux and macOS, and this is {where}",
                    "export on Linux, on macOS or in WSL",
                ),
            )
        return (
            Problem(message, "uv pip install " + " ".join(f"'{requirement}'" for requirement in missing)),
        )
    return _core_ml_problems(options)


def _core_ml_problems(options: ExecuTorchOptions | None) -> Sequence[Problem]:
    """What `--delegate coreml` requires."""
    if options is not None and options.delegate is not Delegate.COREML:
        return ()
    if importlib.util.find_spec("coremltools") is None:
        return (
            Problem(
                "--delegate coreml requires coremltools, not installed",
                "uv pip install 'coremltools==9.0' (Python 3.13 or earlier, on macOS or on Linux on x86-64)",
                partial=options is None,
            ),
        )
    if options is None and sys.platform != "darwin" and importlib.util.find_spec("timmx_coreml") is None:
        return (
            Problem(
                "files of --delegate coreml are not verified without timmx-coreml",
                "uv pip install 'timmx-executorch[coreml]'",
                partial=True,
            ),
        )
    return ()

"""Checks options and the environment before torch or coremltools is imported."""

from __future__ import annotations

import importlib.util
import platform
import sys
from pathlib import Path
from typing import TYPE_CHECKING

from timmx.plugin import ConfigurationError, Problem

from timmx_coreml.options import ComputePrecision, ConvertTo, Quantize
from timmx_coreml.targets import Target

if TYPE_CHECKING:
    from timmx.plugin import ExportRequest

    from timmx_coreml.options import CoreMLOptions

BATCH_UPPER_BOUND = 8
"""The default maximum batch size of `--dynamic-batch`."""

MOST_SHAPES = 128
"""Core ML's limit on the enumerated shapes of one input."""

_NEEDS = {
    Quantize.NONE: Target.IOS15,
    Quantize.INT8: Target.IOS16,
    Quantize.INT4: Target.IOS18,
    Quantize.PALETTE8: Target.IOS16,
    Quantize.PALETTE6: Target.IOS16,
    Quantize.PALETTE4: Target.IOS16,
}
"""The oldest target that supports each form of weights."""


def deployment_target(options: CoreMLOptions) -> Target | None:
    """Return `--target`, or the oldest target that the other options allow, as an iOS target.

    None for a neuralnetwork without `--target`: ios13 or ios14, depending on its layers.
    """
    if options.target is not None:
        return options.target.ios
    if options.convert_to is ConvertTo.NEURALNETWORK:
        return None
    return _NEEDS[options.quantize]


def batch_bounds(options: CoreMLOptions) -> tuple[int, ...]:
    """Return the sizes of `--batch-sizes`, or the minimum and maximum batch size."""
    return options.batch_sizes or (1, options.batch_upper_bound or BATCH_UPPER_BOUND)


def validate(request: ExportRequest, options: CoreMLOptions) -> None:
    """Refuse invalid combinations of options.

    Raises:
        ConfigurationError: the options are invalid together.
    """
    if options.convert_to is ConvertTo.NEURALNETWORK:
        _check_neural_network(options)
    else:
        _check_ml_program(options)
    _check_batch(request, options)
    if options.image_input:
        _check_image_input(request)
    if options.classifier:
        _check_classifier(request)
    if options.compute_units is not None:
        if not request.verify:
            raise ConfigurationError(
                "--compute-units applies to verification, which --no-verify turns off",
                hint="leave out --compute-units or --no-verify",
            )
        if sys.platform != "darwin":
            raise ConfigurationError(
                "--compute-units selects where Core ML runs the file, but Core ML requires macOS",
                hint="leave out --compute-units: here timmx's own evaluator runs the file",
            )


REINSTALL = "uv pip install --reinstall --only-binary coremltools 'coremltools>=9,<10'"
"""The command that replaces a coremltools without its compiled parts."""


def missing() -> tuple[Problem, ...]:
    """Return what this machine lacks for any export, without importing coremltools."""
    spec = importlib.util.find_spec("coremltools")
    if spec is not None and spec.origin is not None:
        # Writing weights needs a compiled library. If pip builds coremltools from source for lack of a wheel,
        # the library is missing: the import succeeds, and conversions fail at their end.
        if list(Path(spec.origin).parent.glob("libmilstoragepython*")):
            return ()
        message = "coremltools is installed without its compiled part, so it cannot write models here"
        command = REINSTALL
    else:
        message, command = "coremltools is not installed", "uv pip install 'coremltools>=9,<10'"
    has_wheel = sys.version_info < (3, 14) and (
        sys.platform == "darwin" or (sys.platform == "linux" and platform.machine() == "x86_64")
    )
    if has_wheel:
        return (Problem(message, command),)
    return (
        Problem(
            f"{message}; it has no wheel for {platform.system()} on {platform.machine()} with Python "
            f"{platform.python_version()}",
            "export on macOS, or on Linux on x86-64, with Python 3.11 to 3.13",
        ),
    )


def _check_neural_network(options: CoreMLOptions) -> None:
    kind = "--convert-to neuralnetwork"
    if options.compute_precision is not None:
        raise ConfigurationError(
            f"--compute-precision {options.compute_precision} is for an mlprogram; with {kind} the system chooses the "
            "precision",
            hint="leave out --compute-precision, or use --half to store the weights in float16",
        )
    if options.quantize is not Quantize.NONE:
        raise ConfigurationError(
            f"--quantize {options.quantize} is for an mlprogram, not for {kind}",
            hint=f"leave out {kind}, or use --half instead of --quantize",
        )
    if options.target is not None and options.target.specification > Target.IOS14.specification:
        raise ConfigurationError(
            f"--target {options.target} is for an mlprogram; {kind} is the format of ios13 and ios14, which later "
            "systems read too",
            hint=f"leave out --target, or leave out {kind} to write an mlprogram",
        )


def _check_ml_program(options: CoreMLOptions) -> None:
    if options.half:
        raise ConfigurationError(
            "--half is for --convert-to neuralnetwork; an mlprogram stores its weights in --compute-precision, float16 "
            "by default",
            hint="leave out --half",
        )
    if options.target is None:
        return
    if options.target.specification < Target.IOS15.specification:
        raise ConfigurationError(
            f"--target {options.target} cannot read an mlprogram, which needs ios15 (macos12) or later",
            hint="use --convert-to neuralnetwork, or a later --target",
        )
    needed = _NEEDS[options.quantize]
    if options.target.specification < needed.specification:
        raise ConfigurationError(
            f"--quantize {options.quantize} requires --target {needed} or later, but --target is {options.target}",
            hint=f"use --target {needed}, or "
            + (
                "another --quantize (int8 and palettes need ios16)"
                if needed is Target.IOS18
                else "leave out --quantize"
            ),
        )


def _check_batch(request: ExportRequest, options: CoreMLOptions) -> None:
    for flag, value in (
        ("--batch-upper-bound", options.batch_upper_bound),
        ("--batch-sizes", options.batch_sizes),
    ):
        if value is not None and not request.dynamic_batch:
            raise ConfigurationError(
                f"{flag} requires --dynamic-batch",
                hint=f"add --dynamic-batch, or use --batch-size instead of {flag}",
            )
    sizes = options.batch_sizes
    if sizes is None:
        return
    if options.batch_upper_bound is not None:
        raise ConfigurationError(
            "--batch-sizes and --batch-upper-bound both set the dynamic batch sizes",
            hint="leave out one of them",
        )
    if min(sizes) < 1 or len(set(sizes)) < len(sizes) or not 2 <= len(sizes) <= MOST_SHAPES:
        raise ConfigurationError(
            f"--batch-sizes takes 2 to {MOST_SHAPES} different sizes of 1 or more, not {','.join(map(str, sizes))}",
            hint="use sizes such as --batch-sizes 1,4,8, or --batch-size for one size",
        )


def _check_image_input(request: ExportRequest) -> None:
    if not request.normalize:
        raise ConfigurationError(
            "--image-input requires --normalize, because its input is pixels", hint="add --normalize"
        )
    _check_one_at_a_time(request, "--image-input takes one image")
    channels = request.input_size[0] if request.input_size else request.in_chans
    check_image_channels(channels if channels is not None else 3)


def check_image_channels(channels: int) -> None:
    """Check that a model can take images: one channel or three.

    Raises:
        ConfigurationError: the model takes another number of channels.
    """
    if channels not in (1, 3):
        raise ConfigurationError(
            f"--image-input takes a grayscale or an RGB image, and this model takes {channels} channels",
            hint="leave out --image-input and pass an array",
        )


def _check_classifier(request: ExportRequest) -> None:
    flag = "--features" if request.features else "--num-classes 0" if request.num_classes == 0 else ""
    if flag:
        raise ConfigurationError(
            f"--classifier needs classes, and with {flag} there are none",
            hint=f"leave out --classifier or {flag}",
        )
    _check_one_at_a_time(request, "--classifier names the class of one input")


def _check_one_at_a_time(request: ExportRequest, what: str) -> None:
    for flag, conflict in (
        ("--dynamic-batch", request.dynamic_batch),
        (f"--batch-size {request.batch_size}", request.batch_size not in (None, 1)),
    ):
        if conflict:
            raise ConfigurationError(
                f"{what} at a time and cannot be combined with {flag}", hint=f"leave out {flag}"
            )


def default_precision(options: CoreMLOptions) -> ComputePrecision:
    """Return the compute precision of an mlprogram with these options."""
    return options.compute_precision or ComputePrecision.FLOAT16

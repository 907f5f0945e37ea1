"""Which options go together, and what the machine lacks; told before torch or coremltools is imported."""

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
"""The largest batch of `--dynamic-batch` where nothing else is said."""

MOST_SHAPES = 128
"""Core ML's limit on enumerated shapes of one input."""

_NEEDS = {
    Quantize.NONE: Target.IOS15,
    Quantize.INT8: Target.IOS16,
    Quantize.INT4: Target.IOS18,
    Quantize.PALETTE8: Target.IOS16,
    Quantize.PALETTE6: Target.IOS16,
    Quantize.PALETTE4: Target.IOS16,
}
"""The first system that reads each form of weights."""


def deployment_target(options: CoreMLOptions) -> Target | None:
    """The target that was asked for, or the oldest that the other options allow; an iOS one.

    None for a neuralnetwork: ios13 or ios14, by the layers that it turns out to need.
    """
    if options.target is not None:
        return options.target.ios
    if options.convert_to is ConvertTo.NEURALNETWORK:
        return None
    return _NEEDS[options.quantize]


def batch_bounds(options: CoreMLOptions) -> tuple[int, ...]:
    """The sizes of `--batch-sizes`, or the least and greatest of an open range."""
    return options.batch_sizes or (1, options.batch_upper_bound or BATCH_UPPER_BOUND)


def validate(request: ExportRequest, options: CoreMLOptions) -> None:
    """Refuse combinations that make no sense.

    Raises:
        ConfigurationError: with the mend.
    """
    if options.convert_to is ConvertTo.NEURALNETWORK:
        _neural_network(options)
    else:
        _ml_program(options)
    _batch(request, options)
    if options.image_input:
        _image_input(request)
    if options.classifier:
        _classifier(request)
    if options.compute_units is not None:
        if not request.verify:
            raise ConfigurationError("--compute-units belongs to verification, which --no-verify turns off.")
        if sys.platform != "darwin":
            raise ConfigurationError(
                "--compute-units chooses among Core ML's, and Core ML runs on macOS alone: leave it out. Here "
                "timmx's own evaluator runs the file."
            )


def missing() -> tuple[Problem, ...]:
    """What this machine lacks for any export; coremltools is looked for, not imported."""
    spec = importlib.util.find_spec("coremltools")
    if spec is not None and spec.origin is not None:
        # The writer of weights is compiled. What pip builds from the source archive where there is no wheel imports,
        # and fails at the end of a conversion.
        if list(Path(spec.origin).parent.glob("libmilstoragepython*")):
            return ()
        message = "coremltools is installed without its compiled part, so it cannot write models here."
        command = "uv pip install --reinstall --only-binary coremltools 'coremltools>=9,<10'"
    else:
        message, command = "coremltools is not installed.", "uv pip install 'coremltools>=9,<10'"
    has_wheel = sys.version_info < (3, 14) and (
        sys.platform == "darwin" or (sys.platform == "linux" and platform.machine() == "x86_64")
    )
    if has_wheel:
        return (Problem(message, command),)
    return (
        Problem(
            message,
            "It has wheels for macOS and for Linux on x86-64, with Python 3.11 to 3.13: export there. This is "
            f"{platform.system()} on {platform.machine()} with Python {platform.python_version()}.",
        ),
    )


def _neural_network(options: CoreMLOptions) -> None:
    kind = "--convert-to neuralnetwork"
    if options.compute_precision is not None:
        raise ConfigurationError(
            f"--compute-precision {options.compute_precision} is for an mlprogram. With {kind} the system chooses the "
            "arithmetic: leave it out; --half stores the weights in float16."
        )
    if options.quantize is not Quantize.NONE:
        raise ConfigurationError(
            f"--quantize {options.quantize} is for an mlprogram: leave out {kind}, or use --half."
        )
    if options.target is not None and options.target.specification > Target.IOS14.specification:
        raise ConfigurationError(
            f"{kind} is the format of ios13 and ios14, and later systems read it too: leave out --target, or write an "
            f"mlprogram for {options.target}."
        )


def _ml_program(options: CoreMLOptions) -> None:
    if options.half:
        raise ConfigurationError(
            "--half is for --convert-to neuralnetwork. An mlprogram stores what --compute-precision says, float16 by "
            "default: leave --half out."
        )
    if options.target is None:
        return
    if options.target.specification < Target.IOS15.specification:
        raise ConfigurationError(
            f"--target {options.target} knows no mlprogram, which came with ios15 (macos12): use "
            "--convert-to neuralnetwork, or a later target."
        )
    needed = _NEEDS[options.quantize]
    if options.target.specification < needed.specification:
        raise ConfigurationError(
            f"--quantize {options.quantize} needs --target {needed} or later, and --target is {options.target}: "
            "raise the target, or choose another form of weights"
            + (" (int8 and palettes need ios16)." if needed is Target.IOS18 else ".")
        )


def _batch(request: ExportRequest, options: CoreMLOptions) -> None:
    for flag, value in (
        ("--batch-upper-bound", options.batch_upper_bound),
        ("--batch-sizes", options.batch_sizes),
    ):
        if value is not None and not request.dynamic_batch:
            raise ConfigurationError(
                f"{flag} says which sizes --dynamic-batch leaves open: give --dynamic-batch too, or one --batch-size."
            )
    sizes = options.batch_sizes
    if sizes is None:
        return
    if options.batch_upper_bound is not None:
        raise ConfigurationError(
            "--batch-sizes and --batch-upper-bound both say which sizes are open: give one."
        )
    if min(sizes) < 1 or len(set(sizes)) < len(sizes) or not 2 <= len(sizes) <= MOST_SHAPES:
        raise ConfigurationError(
            f"--batch-sizes {','.join(map(str, sizes))}: give 2 to {MOST_SHAPES} different sizes of 1 or more, such as "
            "1,4,8. For one size there is --batch-size."
        )


def _image_input(request: ExportRequest) -> None:
    if not request.normalize:
        raise ConfigurationError(
            "--image-input takes pixels, so the file must normalise them: give --normalize too."
        )
    _one_at_a_time(request, "--image-input takes one picture")
    channels = request.input_size[0] if request.input_size else request.in_chans
    check_image_channels(channels if channels is not None else 3)


def check_image_channels(channels: int) -> None:
    """A picture has one channel or three.

    Raises:
        ConfigurationError: this model takes another count.
    """
    if channels not in (1, 3):
        raise ConfigurationError(
            f"--image-input takes a grayscale or an RGB picture, and this model takes {channels} channels: leave it "
            "out and feed an array."
        )


def _classifier(request: ExportRequest) -> None:
    without = "--features" if request.features else "--num-classes 0" if request.num_classes == 0 else ""
    if without:
        raise ConfigurationError(
            f"--classifier is about classes, and with {without} there are none: leave one of them out."
        )
    _one_at_a_time(request, "--classifier names the class of one input")


def _one_at_a_time(request: ExportRequest, what: str) -> None:
    for flag, given in (
        ("--dynamic-batch", request.dynamic_batch),
        (f"--batch-size {request.batch_size}", request.batch_size not in (None, 1)),
    ):
        if given:
            raise ConfigurationError(f"{what} at a time: leave {flag} out.")


def default_precision(options: CoreMLOptions) -> ComputePrecision:
    """The arithmetic of an mlprogram with these options."""
    return options.compute_precision or ComputePrecision.FLOAT16

"""Checks a request in well under a second, without importing torch, timm or a converter."""

from __future__ import annotations

import math
import os
from pathlib import Path
from typing import TYPE_CHECKING, Any

from timmx.base import brief, size_text
from timmx.contract import MOST_ELEMENTS, ExportRequest, agreement_share
from timmx.errors import ConfigurationError, MissingRequirementError, UnsupportedError
from timmx.exporting.outputs import output_path
from timmx.inputs import image_paths
from timmx.registry import option_specs

if TYPE_CHECKING:
    from collections.abc import Iterable, Sequence

    from timmx.contract import ExportBackend


def validate(backend: ExportBackend, request: ExportRequest, options: Any) -> Path:
    """Check a request, the backend's options, the environment and the output path.

    Returns:
        The path to write.

    Raises:
        ConfigurationError: options contradict each other, or an input file cannot be used.
        ArtifactError: the output exists and may not be overwritten.
        MissingRequirementError: a requirement of the backend is missing on this machine.
    """
    source = backend.source_artifact(options)
    if source is not None:
        _source_artifact(request, source)
    _weights(request)
    _outputs(request, max_drop=getattr(options, "max_drop", None) is not None)
    _tensors(request)
    _verification(request)
    _capabilities(backend, request)
    backend.validate(request, options)
    if source is None:
        _model(request)
    output = output_path(backend, request, options)
    problems = backend.check_environment(request, options)
    if problems:
        reasons = "; ".join(problem.message.rstrip(".") for problem in problems)
        fixes = "; ".join(problem.fix.rstrip(".") for problem in problems)
        raise MissingRequirementError(f"{backend.name} cannot export on this machine: {reasons}", hint=fixes)
    return output


def check_weights(backend: ExportBackend, options: Any, size_bytes: int) -> None:
    """Check that the format holds weights of this size.

    Raises:
        UnsupportedError: it does not.
    """
    limit = backend.weights_limit(options)
    if limit is not None and size_bytes > limit.size_bytes:
        suffix = backend.output_suffix(options)
        raise UnsupportedError(
            f"the model's weights take {size_text(size_bytes)}, and a {suffix} file holds at most "
            f"{size_text(limit.size_bytes)}",
            hint=limit.hint,
        )


def _model(request: ExportRequest) -> None:
    from timmx.model import check_load_options

    if isinstance(request.model, str):
        if not request.model.strip():
            raise ConfigurationError("the model's name is empty", hint="give a name that timmx list shows")
        check_load_options(request)
        return
    names = [
        f"{name}=..."
        for name in (
            "pretrained",
            "checkpoint",
            "num_classes",
            "in_chans",
            "model_kwargs",
            "features",
            "seed",
            "awaken",
        )
        if getattr(request, name) not in (None, False)
    ]
    if names:
        raise ConfigurationError(
            f"{', '.join(names)} cannot be applied to an existing module",
            hint="create the module with these settings",
        )


_GOES_WITH_A_SOURCE_ARTIFACT = frozenset(
    "model output force json batch_size device verify verify_data min_snr min_agreement".split()
)


def _source_artifact(request: ExportRequest, path: Path) -> None:
    """Check that no options are given that the file of an earlier export has already settled."""
    if not path.is_file():
        raise ConfigurationError(f"{path} is not a file", hint="check the path")
    flags = [
        f"--{name.replace('_', '-')}"
        for name, spec in option_specs(ExportRequest).items()
        if name not in _GOES_WITH_A_SOURCE_ARTIFACT and getattr(request, name) != spec.default
    ]
    if flags:
        raise ConfigurationError(
            f"{', '.join(flags)} applies to a model, but {path} is an exported file",
            hint=f"leave {', '.join(flags)} out",
        )


def _weights(request: ExportRequest) -> None:
    if request.checkpoint is not None:
        if request.pretrained:
            raise ConfigurationError(
                "--pretrained and --checkpoint cannot be combined: both select the weights",
                hint="use only one of them",
            )
    elif request.use_ema and not str(request.model).startswith(("local-dir:", "hf-hub:")):
        raise ConfigurationError(
            "--use-ema requires --checkpoint",
            hint="add --checkpoint FILE",
        )
    if request.seed is not None and request.brings_weights and request.num_classes is None:
        raise ConfigurationError(
            "--seed is for untrained weights, but the weights are trained", hint="leave --seed out"
        )


def _outputs(request: ExportRequest, *, max_drop: bool) -> None:
    from timmx.model import read_labels

    if request.out_indices is not None and not request.features:
        raise ConfigurationError(
            "--out-indices requires --features",
            hint="add --features",
        )
    levels = request.out_indices or ()
    front, back = [level for level in levels if level >= 0], [level for level in levels if level < 0]
    if (front and back) or list(levels) != sorted(set(levels)):
        raise ConfigurationError(
            f"--out-indices {','.join(map(str, levels))}: timm returns each level once, in ascending order",
            hint="give each level once, in ascending order, all from the front (0,1,2) or all from the back (-2,-1)",
        )
    if request.softmax and (request.sigmoid or request.multi_label):
        other = "--sigmoid" if request.sigmoid else "--multi-label"
        reason = (
            "each converts the logits to probabilities"
            if request.sigmoid
            else "after softmax the probabilities of all classes add up to 1"
        )
        raise ConfigurationError(
            f"--softmax and {other} cannot be combined: {reason}",
            hint="use only one of them"
            if request.sigmoid
            else "use --sigmoid, which gives each class its own probability",
        )
    if request.softmax and request.num_classes == 1:
        raise softmax_over_one_class()
    without_classes = (
        "--features" if request.features else "--num-classes 0" if request.num_classes == 0 else ""
    )
    for flag, is_set in (
        ("--softmax", request.softmax),
        ("--sigmoid", request.sigmoid),
        ("--multi-label", request.multi_label),
        ("--labels", request.labels is not None),
        ("--max-drop", max_drop),
        ("--num-classes", request.features and request.num_classes is not None),
    ):
        if is_set and without_classes:
            raise ConfigurationError(
                f"{flag} requires classes, but with {without_classes} the model has none",
                hint="leave one of them out",
            )
    if max_drop and request.multi_label:
        raise ConfigurationError(
            "--max-drop requires classes that exclude each other, but with --multi-label they do not",
            hint="leave one of them out",
        )
    if request.labels is not None:
        labels = read_labels(request.labels)
        if request.num_classes is not None and len(labels) != request.num_classes:
            raise ConfigurationError(
                f"--labels has {len(labels)} names, but --num-classes is {request.num_classes}",
                hint="make them equal",
            )


def softmax_over_one_class() -> ConfigurationError:
    """The error for `--softmax` and a model with one logit."""
    return ConfigurationError(
        "--softmax over one class is 1 for every image",
        hint="use --sigmoid, which converts the logit to the probability of the class",
    )


def calibration_data(options: Iterable[Any]) -> Path | None:
    """The first calibration data that options name; their fields of the type `CalibrationData` have this name."""
    paths = (getattr(item, "calibration_data", None) for item in options)
    return next((path for path in paths if isinstance(path, Path)), None)


def check_batch(request: ExportRequest, size: Sequence[int]) -> None:
    """Check that runtimes can take an input of this size.

    Args:
        request: the shared options.
        size: channels, height and width of one image.

    Raises:
        ConfigurationError: the input has too many elements.
    """
    per_image = math.prod(size)
    if request.trace_batch * per_image > MOST_ELEMENTS:
        flag = f"--batch-size {request.trace_batch}" if request.batch_size else "the input size"
        fix = "a smaller --input-size"
        if per_image <= MOST_ELEMENTS:
            fix = f"a batch of at most {MOST_ELEMENTS // per_image}"
        raise ConfigurationError(
            f"{flag}: {request.trace_batch} x {' x '.join(map(str, size))} are more than 2**31 - 1 elements, the "
            "maximum for an input",
            hint=f"use {fix}",
        )


def _tensors(request: ExportRequest) -> None:
    from timmx.model import check_statistics

    size = request.input_size
    channels = request.in_chans
    if size is not None:
        if min(size) < 1:
            raise ConfigurationError(
                f"--input-size {' '.join(map(str, size))} has a number below 1",
                hint="give channels, height and width, each at least 1, such as --input-size 3 224 224",
            )
        check_batch(request, size)
        if channels is not None and channels != size[0]:
            raise ConfigurationError(
                f"--in-chans {channels} and --input-size {' '.join(map(str, size))} state different numbers of "
                "channels",
                hint="make --in-chans and the first number of --input-size equal",
            )
        channels = size[0]
    for flag, values in (("--mean", request.mean), ("--std", request.std)):
        if values is None:
            continue
        if not request.normalize:
            raise ConfigurationError(f"{flag} requires --normalize", hint="add --normalize")
        check_statistics(flag.removeprefix("--"), values, channels)


def _verification(request: ExportRequest) -> None:
    if request.min_snr is not None and not math.isfinite(request.min_snr):
        raise ConfigurationError(
            f"--min-snr {request.min_snr} is not a finite number",
            hint="give a value in dB, such as --min-snr 60",
        )
    agreement_share(request.min_agreement)
    epoch = os.environ.get("SOURCE_DATE_EPOCH")
    if epoch is not None and not (epoch.isdecimal() and len(epoch) < 12):  # 12 digits are after the year 5000
        raise ConfigurationError(
            f"SOURCE_DATE_EPOCH is {brief(epoch)}, not a number of seconds",
            hint="set it to seconds since 1970, or unset it",
        )
    for flag, value in (
        ("--verify-data", request.verify_data),
        ("--min-snr", request.min_snr),
        ("--min-agreement", request.min_agreement),
    ):
        if value is not None and not request.verify:
            raise ConfigurationError(
                f"{flag} applies to verification, which --no-verify turns off", hint="leave one of them out"
            )
    if request.verify_data is not None:
        image_paths(request.verify_data, least=4)


def _capabilities(backend: ExportBackend, request: ExportRequest) -> None:
    capabilities = backend.capabilities
    checks = (
        ("--dynamic-batch", request.dynamic_batch, capabilities.dynamic_batch),
        (
            "--batch-size 1 with --dynamic-batch",
            request.dynamic_batch and request.batch_size == 1,
            capabilities.dynamic_batch_from_one,
        ),
        ("a --batch-size above 1", (request.batch_size or 1) > 1, capabilities.larger_batches),
        ("--device cuda", request.device == "cuda", capabilities.cuda),
        ("--features", request.features, capabilities.several_outputs),
    )
    for what, is_set, support in checks:
        if is_set and support is not True:
            raise ConfigurationError(
                f"timmx {backend.name} does not support {what}: {str(support).rstrip('.')}",
                hint=f"leave {what.removeprefix('a ').partition(' with ')[0].removesuffix(' above 1')} out",
            )

"""The options that every backend shares, declared once for the command line, Python and the help."""

from __future__ import annotations

import ast
from collections.abc import Mapping
from dataclasses import dataclass
from enum import StrEnum
from pathlib import Path
from typing import Annotated, Any

import typer

from timmx.errors import ConfigurationError


class Device(StrEnum):
    """Where the model is traced, exported and verified."""

    CPU = "cpu"
    CUDA = "cuda"

    @property
    def torch_name(self) -> str:
        """PyTorch's name of the device."""
        return self.value


class RuntimeDevice(StrEnum):
    """Where the runtime of a format computes; `auto` leaves the choice to the runtime."""

    CPU = "cpu"
    GPU = "gpu"
    NPU = "npu"
    AUTO = "auto"


class CalibrationMethod(StrEnum):
    """How the range of an activation is chosen from the values observed in calibration."""

    MINMAX = "minmax"
    PERCENTILE = "percentile"
    MSE = "mse"


class Floats(tuple[float, ...]):
    """Numbers written as `0.5,0.5,0.5`."""

    @classmethod
    def parse(cls, text: str) -> Floats:
        try:
            return cls(float(part) for part in text.split(","))
        except ValueError:
            raise typer.BadParameter(f"{text!r} is not a list of numbers such as 0.5,0.5,0.5") from None


class Ints(tuple[int, ...]):
    """Integers written as `1,2,3`."""

    @classmethod
    def parse(cls, text: str) -> Ints:
        try:
            return cls(int(part) for part in text.split(","))
        except ValueError:
            raise typer.BadParameter(f"{text!r} is not a list of integers such as 1,2,3") from None


LEAST_AGREEMENT = 0.95
"""The smallest top-1 agreement with which a file with 8-bit activations is published; see `timmx.verification`."""


def agreement_share(agreement: float | None) -> float | None:
    """The value of `--min-agreement`, a share up to 1 or a percentage, as a share; None if it was not given.

    Raises:
        ConfigurationError: it is neither.
    """
    if agreement is None:
        return None
    if not 0 <= agreement <= 100:
        raise ConfigurationError(
            f"--min-agreement {agreement:g} is not from 0 to 100",
            hint="give a percentage such as 90, or a share such as 0.9",
        )
    return agreement if agreement <= 1 else agreement / 100


_MODEL, _INPUT, _OUTPUT, _VERIFY = "Model", "Input and output tensors", "Output file", "Verification"
_CALIBRATION = "Calibration"

MOST_IMAGES = 65_536
"""Largest batch: 0.8 GB with the smallest images that classifiers take, 3 x 32 x 32."""

DEFAULT_CALIBRATION_SAMPLES = 128
LEAST_CALIBRATION_SAMPLES = 4
"""Ranges of fewer inputs would fit these inputs only."""

CalibrationData = Annotated[
    Path | None,
    typer.Option(
        "--calibration-data",
        metavar="PATH",
        help="Calibration inputs: a folder of images, searched recursively, or a .pt or .pth file with one float "
        "tensor (N, C, H, W) of normalized pixels; with --normalize, of pixels in [0, 1].",
        rich_help_panel=_CALIBRATION,
    ),
]
"""A field of the options of a backend that calibrates, default None; `timmx.plugin.check_calibration` checks it."""

CalibrationSamples = Annotated[
    int | None,
    typer.Option(
        "--calibration-samples",
        min=LEAST_CALIBRATION_SAMPLES,
        help=f"Number of calibration inputs, evenly spaced over the data. Default: {DEFAULT_CALIBRATION_SAMPLES}.",
        show_default=False,
        rich_help_panel=_CALIBRATION,
    ),
]
"""See `CalibrationData`; None means that it was not given."""

RandomCalibration = Annotated[
    bool,
    typer.Option(
        "--random-calibration",
        help="Calibrate on synthetic images; lowers accuracy, for smoke tests only.",
        rich_help_panel=_CALIBRATION,
    ),
]
"""See `CalibrationData`; default False."""

CalibrationChoice = Annotated[
    CalibrationMethod | None,
    typer.Option(
        "--calibration-method",
        help="Range of an activation: all observed values (minmax), all but the outermost 0.01 % (percentile), or the "
        "range with the smallest squared error (mse). Default: minmax.",
        show_default=False,
        rich_help_panel=_CALIBRATION,
    ),
]
"""See `CalibrationData`; default None."""

MaxDrop = Annotated[
    float | None,
    typer.Option(
        "--max-drop",
        metavar="POINTS",
        help="Largest loss of accuracy in percentage points. Layers stay in float until it is met on the images of "
        "--calibration-data: top-1 accuracy if its subfolders are named after the classes, else agreement with the "
        "model in float. Without it, layers stay in float for the signal-to-noise ratio.",
        show_default=False,
        rich_help_panel=_CALIBRATION,
    ),
]
"""See `CalibrationData`; default None. What it means is in `timmx.plugin.Wish`."""

JsonOption = Annotated[bool, typer.Option("--json", help="Print one JSON object on stdout.")]


@dataclass(frozen=True, kw_only=True)
class ExportRequest:
    """The shared options of one export; a backend's own options are a separate dataclass.

    In Python, `model` may also be a `torch.nn.Module`, `labels` a sequence of names, `model_kwargs` a
    mapping, and every list any sequence.
    """

    model: Annotated[
        Any,
        typer.Argument(
            metavar="MODEL",
            help="A timm name (resnet18, resnet50.a1_in1k), hf-hub:OWNER/NAME or local-dir:FOLDER.",
        ),
    ]
    output: Annotated[
        Path | None,
        typer.Option(
            "--output",
            "-o",
            help="Output file, replaced only on success. Default: ./MODEL, kept unless --force.",
            rich_help_panel=_OUTPUT,
        ),
    ] = None
    force: Annotated[
        bool,
        typer.Option("--force", help="Overwrite the default output file.", rich_help_panel=_OUTPUT),
    ] = False
    json: Annotated[
        bool, typer.Option("--json", help="Print one JSON object on stdout.", rich_help_panel=_OUTPUT)
    ] = False
    pretrained: Annotated[
        bool, typer.Option("--pretrained", help="Load timm's pretrained weights.", rich_help_panel=_MODEL)
    ] = False
    checkpoint: Annotated[
        Path | None,
        typer.Option(
            "--checkpoint",
            help="Weights to load: .safetensors, or .pth/.pt (plain or from timm's train.py).",
            rich_help_panel=_MODEL,
        ),
    ] = None
    use_ema: Annotated[
        bool,
        typer.Option("--use-ema", help="Use the checkpoint's EMA weights.", rich_help_panel=_MODEL),
    ] = False
    num_classes: Annotated[
        int | None,
        typer.Option(
            "--num-classes",
            min=0,
            help="Number of classes; 0 removes the classifier and outputs an embedding.",
            rich_help_panel=_MODEL,
        ),
    ] = None
    in_chans: Annotated[
        int | None,
        typer.Option("--in-chans", min=1, help="Number of input channels.", rich_help_panel=_MODEL),
    ] = None
    model_kwargs: Annotated[
        list[str] | None,
        typer.Option(
            "--model-kwargs",
            metavar="K=V",
            help="Argument for timm's create_model; V is a Python literal. Repeatable.",
            rich_help_panel=_MODEL,
        ),
    ] = None
    features: Annotated[
        bool,
        typer.Option(
            "--features",
            help="Export the feature pyramid as outputs features_0, features_1, ...",
            rich_help_panel=_MODEL,
        ),
    ] = False
    out_indices: Annotated[
        Ints | None,
        typer.Option(
            "--out-indices",
            parser=Ints.parse,
            metavar="I,J,...",
            help="Levels of the feature pyramid; requires --features.",
            rich_help_panel=_MODEL,
        ),
    ] = None
    seed: Annotated[
        int | None,
        typer.Option(
            "--seed",
            min=0,
            max=2**63 - 1,
            help="Seed for untrained weights. Default: 0.",
            rich_help_panel=_MODEL,
        ),
    ] = None
    awaken: Annotated[
        bool,
        typer.Option(
            "--awaken",
            help="Change untrained weights so that every layer contributes and verification is conclusive.",
            rich_help_panel=_MODEL,
        ),
    ] = False
    input_size: Annotated[
        tuple[int, int, int] | None,
        typer.Option(
            "--input-size",
            metavar="C H W",
            help="Input size to create the model with. Default: the model's own.",
            rich_help_panel=_INPUT,
        ),
    ] = None
    batch_size: Annotated[
        int | None,
        typer.Option(
            "--batch-size",
            min=1,
            max=MOST_IMAGES,
            help="Batch size. Default: 1.",
            rich_help_panel=_INPUT,
        ),
    ] = None
    dynamic_batch: Annotated[
        bool,
        typer.Option("--dynamic-batch", help="Use a dynamic batch size.", rich_help_panel=_INPUT),
    ] = False
    normalize: Annotated[
        bool,
        typer.Option(
            "--normalize",
            help="Include (x - mean) / std in the graph; the input is then pixels in [0, 1].",
            rich_help_panel=_INPUT,
        ),
    ] = False
    mean: Annotated[
        Floats | None,
        typer.Option(
            "--mean",
            parser=Floats.parse,
            metavar="M,...",
            help="One value, or one per channel; requires --normalize. Default: the model's own.",
            rich_help_panel=_INPUT,
        ),
    ] = None
    std: Annotated[
        Floats | None,
        typer.Option(
            "--std",
            parser=Floats.parse,
            metavar="S,...",
            help="One value, or one per channel; requires --normalize. Default: the model's own.",
            rich_help_panel=_INPUT,
        ),
    ] = None
    exif: Annotated[
        bool,
        typer.Option(
            "--exif",
            help="The model takes images turned as their EXIF orientation says; timm and training ignore it.",
            rich_help_panel=_INPUT,
        ),
    ] = False
    softmax: Annotated[
        bool,
        typer.Option("--softmax", help="Output probabilities instead of logits.", rich_help_panel=_INPUT),
    ] = False
    sigmoid: Annotated[
        bool,
        typer.Option(
            "--sigmoid",
            help="Output a probability for each class by sigmoid instead of logits.",
            rich_help_panel=_INPUT,
        ),
    ] = False
    multi_label: Annotated[
        bool,
        typer.Option(
            "--multi-label",
            help="Classes do not exclude each other: each has its own probability, by sigmoid.",
            rich_help_panel=_INPUT,
        ),
    ] = False
    labels: Annotated[
        Path | None,
        typer.Option(
            "--labels",
            metavar="FILE",
            help="Class names: one per line, a JSON list, or a JSON map of index to name.",
            rich_help_panel=_INPUT,
        ),
    ] = None
    device: Annotated[
        Device,
        typer.Option(
            "--device", help="Device for tracing, export and verification.", rich_help_panel=_OUTPUT
        ),
    ] = Device.CPU
    verify: Annotated[
        bool,
        typer.Option(
            "--verify/--no-verify",
            help="Compare the file with the PyTorch model before writing the output.",
            rich_help_panel=_VERIFY,
        ),
    ] = True
    verify_data: Annotated[
        Path | None,
        typer.Option(
            "--verify-data",
            metavar="DIR",
            help="Images for verification, searched recursively. Default: the samples/ folder of a "
            "local-dir: model, otherwise synthetic images.",
            rich_help_panel=_VERIFY,
        ),
    ] = None
    min_snr: Annotated[
        float | None,
        typer.Option(
            "--min-snr",
            metavar="DB",
            help="Minimum signal-to-noise ratio in dB. Default: depends on the precision (60 for fp32).",
            rich_help_panel=_VERIFY,
        ),
    ] = None
    min_agreement: Annotated[
        float | None,
        typer.Option(
            "--min-agreement",
            metavar="PERCENT",
            help="Minimum share of inputs with the model's top-1 class, such as 90 or 0.9. Default: 95 for 8-bit "
            "activations, if the weights are trained and there are at least 64 images.",
            rich_help_panel=_VERIFY,
        ),
    ] = None

    @property
    def probabilities(self) -> bool:
        """Whether the file outputs probabilities instead of logits."""
        return self.softmax or self.sigmoid

    @property
    def source(self) -> str:
        """The model's name, or the class of a module."""
        return self.model if isinstance(self.model, str) else type(self.model).__name__

    @property
    def local_dir(self) -> Path | None:
        """The folder of a model in a folder; None for other models."""
        if isinstance(self.model, str) and self.model.startswith("local-dir:"):
            return Path(self.model.removeprefix("local-dir:")).expanduser()
        return None

    @property
    def brings_weights(self) -> bool:
        """Whether the weights are trained. A module is assumed to be."""
        timm_name = isinstance(self.model, str) and not self.model.startswith(("local-dir:", "hf-hub:"))
        return self.pretrained or self.checkpoint is not None or not timm_name

    @property
    def trace_batch(self) -> int:
        """The batch size to trace with: the static one, or 2 if it is dynamic.

        At 1, torch.export would treat the batch size as a constant.
        """
        return 2 if self.dynamic_batch else self.batch_size or 1

    def parsed_model_kwargs(self) -> dict[str, Any]:
        """`model_kwargs` as Python values; what is not a literal stays text."""
        if isinstance(self.model_kwargs, Mapping):
            return dict(self.model_kwargs)
        parsed: dict[str, Any] = {}
        for pair in self.model_kwargs or ():
            key, equals, text = pair.partition("=")
            if key in parsed:
                raise ConfigurationError(f"--model-kwargs {key} is given twice", hint="give it once")
            if not equals or not key.isidentifier():
                raise ConfigurationError(
                    f"--model-kwargs {pair!r} is not KEY=VALUE",
                    hint="write it as KEY=VALUE, such as drop_rate=0.1",
                )
            try:
                parsed[key] = ast.literal_eval(text)
            except (
                ValueError,
                SyntaxError,
                RecursionError,
                MemoryError,
            ):  # the last two if it is nested too deeply
                parsed[key] = text
        return parsed


MODEL_OPTIONS = (
    "pretrained",
    "checkpoint",
    "use_ema",
    "num_classes",
    "in_chans",
    "model_kwargs",
    "seed",
    "awaken",
)
"""Options that choose a model's weights and shape; `--against MODEL` takes them too."""

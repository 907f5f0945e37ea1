"""The JSON metadata inside an artifact as a typed object: schema 1, docs/metadata.md.

A file may have been edited, so every value is checked.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass, field
from enum import StrEnum
from typing import TYPE_CHECKING, Any, Literal

from timmx.base import brief, is_utf8, parse_json
from timmx.contract.preprocessing import (
    CROP_MODE,
    CROP_PCT,
    INTERPOLATION,
    MEAN,
    SIZE,
    STD,
    Rule,
    is_integer,
    is_number,
)
from timmx.contract.runner import Quantization
from timmx.errors import ArtifactError

if TYPE_CHECKING:
    from pathlib import Path

SCHEMA = 1

_CHANNELS = {"RGB": 3, "BGR": 3, "L": 1}
_FIX = "re-export it"


class OutputKind(StrEnum):
    """What the numbers of an output are."""

    LOGITS = "logits"
    PROBABILITIES = "probabilities"
    EMBEDDING = "embedding"
    FEATURES = "features"
    TENSOR = "tensor"

    @property
    def ranks_classes(self) -> bool:
        """Whether there is one number per class."""
        return self in (OutputKind.LOGITS, OutputKind.PROBABILITIES)


class Activation(StrEnum):
    """What converts logits to probabilities; `none` leaves them logits."""

    SOFTMAX = "softmax"
    SIGMOID = "sigmoid"
    NONE = "none"


@dataclass(frozen=True, kw_only=True)
class ModelMetadata:
    """Which model and which weights.

    Attributes:
        name: `architecture.tag`, the Hugging Face model id, the folder's name, or the module's class.
        architecture: timm's name of the architecture.
        source: `timm`, `hf-hub`, `local-dir`, `checkpoint` or `module`.
        trained: False if the weights are known to be random.
        seed: seed of random weights.
        awakened: True for random weights that `--awaken` has changed.
        weights_sha256: hash of the state dict as loaded, before any rewrite.
        num_classes: 0 for an embedding or a feature pyramid.
        license: license of the weights; None if it is unknown.
        out_indices: the chosen levels of a feature pyramid; None for all, and for other models.
    """

    name: str
    architecture: str
    source: str
    trained: bool
    seed: int | None
    weights_sha256: str
    num_classes: int
    license: str | None
    awakened: bool = False
    out_indices: tuple[int, ...] | None = None

    @property
    def conclusive(self) -> bool:
        """Whether the weights are sufficient for verification; random ones are not, unless they are awakened."""
        return self.trained or self.awakened

    def to_json(self) -> dict[str, Any]:
        """JSON values, with keys in the order of docs/metadata.md."""
        levels = {} if self.out_indices is None else {"out_indices": list(self.out_indices)}
        return {
            "name": self.name,
            "architecture": self.architecture,
            "source": self.source,
            "trained": self.trained,
            "seed": self.seed,
            **({"awakened": True} if self.awakened else {}),
            "weights_sha256": self.weights_sha256,
            "num_classes": self.num_classes,
            "license": self.license,
            **levels,
        }


@dataclass(frozen=True, kw_only=True)
class InputMetadata:
    """The input, and how an image is converted to it.

    Attributes:
        name: name of the input.
        layout: `NCHW` or `NHWC`.
        dtype: numpy's name of the element type.
        quantization: scale and zero point of integers; None for float32, and if the file takes an image or its bytes.
        value_range: the smallest and largest real value for pixels in [0, 1]; 0 and 255 if the file takes an image.
        normalized_in_graph: the file computes (x - mean) / std itself; otherwise the caller does.
        size: channels, height and width in pixels, in this order whatever the layout.
        mean: one value per channel, for pixels in [0, 1].
        std: see `mean`.
        interpolation: the resize filter, PIL's name in lower case.
        crop_pct: the share of the resized image's side that the crop keeps.
        crop_mode: `center`, `squash` or `border`, as timm defines them.
        color_order: `RGB`, `BGR`, `L`, or None if the input is not an image.
        exif: an image is first turned as its EXIF orientation says.
    """

    name: str
    layout: str
    dtype: str
    quantization: Quantization | None = None
    value_range: tuple[float, float]
    normalized_in_graph: bool
    size: tuple[int, int, int]
    mean: tuple[float, ...]
    std: tuple[float, ...]
    interpolation: str
    crop_pct: float
    crop_mode: str
    color_order: str | None
    exif: bool = False

    @property
    def shape(self) -> tuple[int, int, int]:
        """Sizes of one image in the order of the layout."""
        channels, height, width = self.size
        return (height, width, channels) if self.layout == "NHWC" else self.size

    @property
    def takes_bytes(self) -> bool:
        """Whether the input takes the bytes of an image: `uint8` without a quantization, or an equivalent one."""
        if self.dtype != "uint8" or not self.normalized_in_graph:
            return False
        stored = self.quantization
        return stored is None or (not stored.zero_point and abs(255 * stored.scale - 1) < 1e-6)

    def to_json(self) -> dict[str, Any]:
        """JSON values, with keys in the order of docs/metadata.md."""
        return {
            "name": self.name,
            "layout": self.layout,
            "dtype": self.dtype,
            **_quantization_json(self.quantization),
            "value_range": list(self.value_range),
            "normalization": "graph" if self.normalized_in_graph else "caller",
            "size": list(self.size),
            "mean": list(self.mean),
            "std": list(self.std),
            "interpolation": self.interpolation,
            "crop_pct": self.crop_pct,
            "crop_mode": self.crop_mode,
            "color_order": self.color_order,
            **({"exif": True} if self.exif else {}),
        }


@dataclass(frozen=True, kw_only=True)
class OutputMetadata:
    """One output.

    Attributes:
        name: name of the output.
        kind: what its numbers are.
        shape: sizes; a dynamic batch size is the string `batch`.
        dtype: numpy's name of the element type.
        quantization: scale and zero point of integers; None for other types.
        activation: of an output of classes: what the file applies to the logits.
        exclusive: of an output of classes: an image has exactly one of them. False if each class has its own
            probability (several labels per image), and for one class, which an image has or has not.
    """

    name: str
    kind: OutputKind
    shape: tuple[int | str, ...]
    dtype: str = "float32"
    quantization: Quantization | None = None
    activation: Activation = Activation.NONE
    exclusive: bool = True

    @property
    def to_probabilities(self) -> Activation:
        """What the caller applies to an output of classes to get probabilities; `none` if they are in the file."""
        if self.kind is not OutputKind.LOGITS:
            return Activation.NONE
        return Activation.SOFTMAX if self.exclusive else Activation.SIGMOID

    @property
    def threshold(self) -> float:
        """The value of an output of classes at which the probability is 0.5, if classes are not exclusive."""
        return 0.0 if self.kind is OutputKind.LOGITS else 0.5

    def to_json(self) -> dict[str, Any]:
        """JSON values, with keys in the order of docs/metadata.md."""
        return {
            "name": self.name,
            "kind": str(self.kind),
            "shape": list(self.shape),
            **({} if self.dtype == "float32" else {"dtype": self.dtype}),
            **_quantization_json(self.quantization),
            **(
                {"activation": str(self.activation), "exclusive": self.exclusive}
                if self.kind.ranks_classes
                else {}
            ),
        }


@dataclass(frozen=True, kw_only=True)
class Metadata:
    """The metadata of an artifact: its model, its inputs and outputs, and the versions that wrote it.

    Attributes:
        model: which model and weights.
        input: the input, and how an image is converted to it.
        outputs: in the order of the model's outputs; at least one.
        labels: class names by class index; None if they are unknown.
        batch_size: None if it is dynamic.
        precision: the arithmetic, a value of `Precision`; a later timmx may have written another one.
        format: facts of this format only; JSON values from the backend.
        versions: versions of the distributions that wrote the file.
        created: ISO 8601; None unless `SOURCE_DATE_EPOCH` was set.
    """

    model: ModelMetadata
    input: InputMetadata
    outputs: tuple[OutputMetadata, ...]
    labels: tuple[str, ...] | None
    batch_size: int | None
    precision: str
    format: Mapping[str, Any] = field(default_factory=dict)
    versions: Mapping[str, str] = field(default_factory=dict)
    created: str | None = None

    @property
    def dynamic_batch(self) -> bool:
        """Whether the file takes any number of images."""
        return self.batch_size is None

    @property
    def author(self) -> str:
        """The owner of the weights, for a format's author field; a text that starts with Unknown if there is none."""
        owner = self.model.name.rpartition("/")[0] if self.model.source == "hf-hub" else ""
        if self.model.source == "timm":
            owner = "timm" if self.model.trained else ""
        return owner or f"Unknown; exported with timmx {self.versions['timmx-core']}"

    @property
    def weights_version(self) -> str:
        """The weights' hash, for a format's version field."""
        return f"weights sha256:{self.model.weights_sha256[:16]}"

    @classmethod
    def parse(cls, path: Path, content: Mapping[str, Any]) -> Metadata:
        """Metadata from the JSON that a backend's `read_metadata` returns; keys outside schema 1 are ignored.

        Args:
            path: the file, for messages.
            content: JSON values.

        Raises:
            ArtifactError: timmx did not write the file, a later timmx did, or a value is not valid.
        """
        if not content:
            raise ArtifactError(
                f"{path} was not written by timmx: it has no metadata that describes its input",
                hint="export the model with timmx",
            )
        schema = content.get("schema")
        if schema != SCHEMA or isinstance(schema, bool):
            raise ArtifactError(
                f"{path} has metadata of schema {schema}, and this timmx reads schema {SCHEMA}",
                hint="install the timmx that wrote it, or re-export it",
            )
        try:
            return cls.from_json(content)
        except InvalidMetadata as exc:
            raise ArtifactError(
                f"{path} is damaged: its metadata is not what timmx writes ({exc})", hint=_FIX
            ) from None

    @classmethod
    def from_json(cls, content: Mapping[str, Any]) -> Metadata:
        """Metadata of schema 1 from JSON values.

        Raises:
            InvalidMetadata: a value is not valid.
        """
        return cls(
            model=_model(_section(content, "model")),
            input=_input(_section(content, "input")),
            outputs=(outputs := _outputs(content.get("outputs"))),
            labels=_labels(content.get("labels", ()), outputs[0]),
            batch_size=_batch(_section(content, "batch")),
            precision=_text(content, "precision"),
            format=_section(content, "format"),
            versions=_section(content, "versions"),
            created=_text(content, "created") if "created" in content else None,
        )

    def to_json(self) -> dict[str, Any]:
        """JSON values, with keys in the order of docs/metadata.md."""
        created = {} if self.created is None else {"created": self.created}
        return {
            "schema": SCHEMA,
            "model": self.model.to_json(),
            "input": self.input.to_json(),
            "outputs": [output.to_json() for output in self.outputs],
            "labels": None if self.labels is None else list(self.labels),
            "batch": {"dynamic": True} if self.batch_size is None else {"size": self.batch_size},
            "precision": str(self.precision),
            "format": dict(self.format),
            "versions": dict(self.versions),
            **created,
        }

    def dumps(self) -> str:
        """The JSON text that a backend writes: keys sorted, so that equal exports give equal bytes."""
        return json.dumps(self.to_json(), sort_keys=True)


def parse_json_object(path: Path, text: str | bytes) -> dict[str, Any]:
    """The JSON object in a text that a backend has read from a file.

    Args:
        path: the file, for messages.
        text: the JSON text.

    Raises:
        ArtifactError: the text is not a JSON object.
    """
    try:
        content = parse_json(text)
    except ValueError as exc:
        raise ArtifactError(f"{path} is damaged: its metadata is not JSON ({exc})", hint=_FIX) from exc
    if not isinstance(content, dict):
        raise ArtifactError(f"{path} is damaged: its metadata is not a JSON object", hint=_FIX)
    return content


class InvalidMetadata(Exception):  # noqa: N818 - becomes an error with the file's name
    """The first value that is not valid, and where it is."""


def _model(values: Mapping[str, Any]) -> ModelMetadata:
    if "license" not in values or "seed" not in values or not is_integer(values.get("num_classes"), 0):
        raise InvalidMetadata("model.license, model.seed or model.num_classes is missing")
    if not isinstance(values.get("trained"), bool):
        raise InvalidMetadata(f"model.trained is {brief(values.get('trained'))}")
    if not isinstance(values.get("awakened", False), bool):
        raise InvalidMetadata(f"model.awakened is {brief(values['awakened'])}")
    if values["seed"] is not None and not is_integer(values["seed"], 0):
        raise InvalidMetadata(f"model.seed is {brief(values['seed'])}")
    if values["license"] is not None:
        _text(values, "license", "model.")
    levels = values.get("out_indices")
    if levels is not None and not (
        isinstance(levels, list) and all(isinstance(level, int) for level in levels)
    ):
        raise InvalidMetadata(f"model.out_indices is {brief(levels)}")
    return ModelMetadata(
        name=_text(values, "name", "model."),
        architecture=_text(values, "architecture", "model."),
        source=_text(values, "source", "model."),
        trained=values["trained"],
        seed=values["seed"],
        awakened=values.get("awakened", False),
        weights_sha256=_text(values, "weights_sha256", "model."),
        num_classes=values["num_classes"],
        license=values["license"],
        out_indices=None if levels is None else tuple(levels),
    )


def _input(values: Mapping[str, Any]) -> InputMetadata:
    channels, height, width = _ruled(values, "size", SIZE)
    order = values.get("color_order", "")
    if order is not None and (not isinstance(order, str) or _CHANNELS.get(order) != channels):
        raise InvalidMetadata(f"input.color_order is {brief(order)} for {channels} channels")
    exif = values.get("exif", False)
    if not isinstance(exif, bool):
        raise InvalidMetadata(f"input.exif is {brief(exif)}")
    return InputMetadata(
        name=_text(values, "name", "input."),
        layout=_choice(values, "layout", ("NCHW", "NHWC")),
        dtype=_text(values, "dtype", "input."),
        quantization=_quantization("input", values),
        value_range=_value_range(values.get("value_range")),
        normalized_in_graph=_choice(values, "normalization", ("graph", "caller")) == "graph",
        size=(channels, height, width),
        mean=_statistics(values, "mean", MEAN, channels),
        std=_statistics(values, "std", STD, channels),
        interpolation=_ruled(values, "interpolation", INTERPOLATION),
        crop_pct=_ruled(values, "crop_pct", CROP_PCT),
        crop_mode=_ruled(values, "crop_mode", CROP_MODE),
        color_order=order,
        exif=exif,
    )


def _outputs(values: Any) -> tuple[OutputMetadata, ...]:
    if not isinstance(values, list):
        raise InvalidMetadata(f"outputs is {brief(values)}")
    if not values:
        raise InvalidMetadata("outputs is empty")
    return tuple(_output(f"outputs[{number}]", output) for number, output in enumerate(values))


def _output(where: str, values: Any) -> OutputMetadata:
    if not isinstance(values, dict) or not isinstance(values.get("name"), str):
        raise InvalidMetadata(f"{where} has no name")
    name = _text(values, "name", f"{where}.")
    kind, shape = values.get("kind"), values.get("shape")
    if not isinstance(kind, str) or kind not in {item.value for item in OutputKind}:
        raise InvalidMetadata(f"{where}.kind is {brief(kind)}")
    if not isinstance(shape, list) or not all(isinstance(size, str) or is_integer(size, 0) for size in shape):
        raise InvalidMetadata(f"{where}.shape is {brief(shape)}")
    activation, exclusive = _head(where, OutputKind(kind), shape, values)
    return OutputMetadata(
        name=name,
        kind=OutputKind(kind),
        shape=tuple(shape),
        dtype=_text({"dtype": "float32"} | values, "dtype", f"{where}."),
        quantization=_quantization(where, values),
        activation=activation,
        exclusive=exclusive,
    )


def _head(
    where: str, kind: OutputKind, shape: list[int | str], values: Mapping[str, Any]
) -> tuple[Activation, bool]:
    """`activation` and `exclusive` of an output; a file without them has logits, or probabilities by softmax."""
    if not kind.ranks_classes:
        return Activation.NONE, True
    probabilities = kind is OutputKind.PROBABILITIES
    activation = values.get("activation", "softmax" if probabilities else "none")
    allowed = ("softmax", "sigmoid") if probabilities else ("none",)
    if activation not in allowed:
        raise InvalidMetadata(f"{where}.activation is {brief(activation)} for {kind}")
    exclusive = values.get("exclusive", activation == "softmax" or shape[-1:] != [1])
    if not isinstance(exclusive, bool) or (activation == "softmax" and not exclusive):
        raise InvalidMetadata(f"{where}.exclusive is {brief(exclusive)} with activation {activation}")
    return Activation(activation), exclusive


def _labels(values: Any, output: OutputMetadata) -> tuple[str, ...] | None:
    if values is None:
        return None
    if not isinstance(values, list) or not all(
        isinstance(label, str) and label and is_utf8(label) for label in values
    ):
        raise InvalidMetadata("labels are not a list of names")
    if len(set(values)) < len(values):
        raise InvalidMetadata("two labels are the same")
    if output.kind.ranks_classes and (len(values),) != output.shape[-1:]:
        raise InvalidMetadata(f"there are {len(values)} labels for an output of shape {list(output.shape)}")
    return tuple(values) or None


def _batch(values: Mapping[str, Any]) -> int | None:
    if values.get("dynamic") is True:
        return None
    if not is_integer(values.get("size"), 1):
        raise InvalidMetadata(f"batch is {brief(dict(values))}")
    return int(values["size"])


def _quantization(where: str, values: Mapping[str, Any]) -> Quantization | None:
    stored = values.get("quantization")
    if stored is None:
        return None
    integer = isinstance(stored, dict) and isinstance(stored.get("zero_point"), int)
    if not integer or not is_number(stored.get("scale")) or stored["scale"] <= 0:
        raise InvalidMetadata(f"{where}.quantization is {brief(stored)}")
    return Quantization(stored["scale"], stored["zero_point"])


def _quantization_json(stored: Quantization | None) -> dict[str, Any]:
    if stored is None:
        return {}
    return {"quantization": {"scale": float(stored.scale), "zero_point": int(stored.zero_point)}}


def _value_range(values: Any) -> tuple[float, float]:
    if not isinstance(values, list) or len(values) != 2 or not all(map(is_number, values)):
        raise InvalidMetadata(f"input.value_range is {brief(values)}")
    return values[0], values[1]


def _statistics(
    values: Mapping[str, Any], key: Literal["mean", "std"], rule: Rule, channels: int
) -> tuple[float, ...]:
    numbers = _ruled(values, key, rule)
    if not isinstance(numbers, list) or len(numbers) != channels:
        raise InvalidMetadata(f"input.{key} is {brief(numbers)} for {channels} channels")
    return tuple(numbers)


def _ruled(values: Mapping[str, Any], key: str, rule: Rule) -> Any:
    value = values.get(key)
    if not rule.accepts(value):
        raise InvalidMetadata(f"input.{key} is {brief(value)}, not {rule.allowed}")
    return value


def _section(values: Mapping[str, Any], key: str) -> Mapping[str, Any]:
    section = values.get(key)
    if not isinstance(section, Mapping):
        raise InvalidMetadata(f"{key} is {brief(section)}")
    return section


def _text(values: Mapping[str, Any], key: str, where: str = "") -> str:
    text = values.get(key)
    if not isinstance(text, str) or not is_utf8(text):
        raise InvalidMetadata(f"{where}{key} is {brief(text)}")
    return text


def _choice(values: Mapping[str, Any], key: str, choices: tuple[str, ...]) -> str:
    choice = values.get(key)
    if choice not in choices:
        raise InvalidMetadata(f"input.{key} is {brief(choice)}")
    return str(choice)

"""What metadata of schema 1 has to say before anyone relies on it (docs/metadata.md); a file may have been edited."""

from __future__ import annotations

import json
import math
from typing import TYPE_CHECKING, Any

from timmx.errors import ArtifactError

if TYPE_CHECKING:
    from collections.abc import Mapping
    from pathlib import Path

SCHEMA = 1

CLASS_KINDS = ("logits", "probabilities")
"""Kinds of an output that has one number a class."""

_KINDS = (*CLASS_KINDS, "embedding", "features", "tensor")
_CHANNELS = {"RGB": 3, "BGR": 3, "L": 1}


def check_metadata(path: Path, metadata: Mapping[str, Any]) -> None:
    """Refuse a file whose metadata does not say what the model is and how it is fed.

    Raises:
        ArtifactError: timmx did not write the file, or a later timmx did, or what it says cannot be.
    """
    if not metadata:
        raise ArtifactError(
            f"{path} was not written by timmx: it has no metadata that describes its input",
            hint="export the model with timmx",
        )
    schema = metadata.get("schema")
    if schema != SCHEMA or isinstance(schema, bool):
        raise ArtifactError(
            f"{path} has metadata of schema {schema}, and this timmx reads schema {SCHEMA}",
            hint="install the timmx that wrote it, or re-export it",
        )
    if wrong := _wrong(metadata):
        raise ArtifactError(
            f"{path} is damaged: its metadata is not what timmx writes ({wrong})", hint="re-export it"
        )


def _wrong(metadata: Mapping[str, Any]) -> str:
    """The first thing that cannot be; empty where all can."""
    for key, kind in (("model", dict), ("input", dict), ("outputs", list), ("batch", dict), ("format", dict)):
        if not isinstance(metadata.get(key), kind):
            return f"{key} is {metadata.get(key)!r}"
    if not isinstance(metadata.get("versions"), dict) or not isinstance(metadata.get("precision"), str):
        return "versions or precision is missing"
    return (
        _wrong_model(metadata["model"])
        or _wrong_input(metadata["input"])
        or _wrong_outputs(metadata["outputs"])
        or _wrong_labels(metadata.get("labels", ()), metadata["outputs"][0])
        or _wrong_batch(metadata["batch"])
    )


def _wrong_model(model: Mapping[str, Any]) -> str:
    for key in ("name", "architecture", "source", "weights_sha256"):
        if not isinstance(model.get(key), str):
            return f"model.{key} is {model.get(key)!r}"
    if not isinstance(model.get("trained"), bool):
        return f"model.trained is {model.get('trained')!r}"
    if "license" not in model or "seed" not in model or not _whole(model.get("num_classes"), 0):
        return "model.license, model.seed or model.num_classes is missing"
    return ""


def _wrong_input(entry: Mapping[str, Any]) -> str:
    size = entry.get("size")
    if not isinstance(size, list) or len(size) != 3 or not all(_whole(item, 1) for item in size):
        return f"input.size is {size!r}"
    for key in ("mean", "std"):
        values = entry.get(key)
        if not isinstance(values, list) or len(values) != size[0] or not all(map(_number, values)):
            return f"input.{key} is {values!r}"
    if 0 in entry["std"]:
        return "input.std is 0"
    choices: dict[str, tuple[Any, ...]] = {
        "layout": ("NCHW", "NHWC"),
        "normalization": ("graph", "caller"),
        "crop_mode": ("center", "squash", "border"),
    }
    for key, known in choices.items():
        if entry.get(key) not in known:
            return f"input.{key} is {entry.get(key)!r}"
    for key in ("name", "dtype", "interpolation"):
        if not isinstance(entry.get(key), str):
            return f"input.{key} is {entry.get(key)!r}"
    if not _number(entry.get("crop_pct")) or entry["crop_pct"] <= 0:
        return f"input.crop_pct is {entry.get('crop_pct')!r}"
    order = entry.get("color_order", "")
    if order is not None and (not isinstance(order, str) or _CHANNELS.get(order) != size[0]):
        return f"input.color_order is {order!r} for {size[0]} channels"
    return _wrong_quantization("input", entry)


def _wrong_outputs(outputs: list[Any]) -> str:
    if not outputs:
        return "there are no outputs"
    for number, output in enumerate(outputs):
        where = f"outputs[{number}]"
        if not isinstance(output, dict) or not isinstance(output.get("name"), str):
            return f"{where} has no name"
        if output.get("kind") not in _KINDS:
            return f"{where}.kind is {output.get('kind')!r}"
        shape = output.get("shape")
        if not isinstance(shape, list) or not all(isinstance(size, str) or _whole(size, 0) for size in shape):
            return f"{where}.shape is {shape!r}"
        if wrong := _wrong_quantization(where, output):
            return wrong
    return ""


def _wrong_labels(labels: Any, output: Mapping[str, Any]) -> str:
    if labels is None:
        return ""
    if not isinstance(labels, list) or not all(isinstance(label, str) and label for label in labels):
        return "labels are not a list of names"
    if len(set(labels)) < len(labels):
        return "two labels are the same"
    if output["kind"] in CLASS_KINDS and [len(labels)] != output["shape"][-1:]:
        return f"there are {len(labels)} labels for an output of shape {output['shape']}"
    return ""


def _wrong_batch(batch: Mapping[str, Any]) -> str:
    if batch.get("dynamic") is True or _whole(batch.get("size"), 1):
        return ""
    return f"batch is {batch!r}"


def _wrong_quantization(where: str, entry: Mapping[str, Any]) -> str:
    stored = entry.get("quantization")
    if stored is None:
        return ""
    whole = isinstance(stored, dict) and isinstance(stored.get("zero_point"), int)
    if not whole or not _number(stored.get("scale")) or stored["scale"] <= 0:
        return f"{where}.quantization is {stored!r}"
    return ""


def _whole(value: Any, least: int) -> bool:
    return isinstance(value, int) and not isinstance(value, bool) and value >= least


def _number(value: Any) -> bool:
    return isinstance(value, (int, float)) and not isinstance(value, bool) and math.isfinite(value)


def parse(path: Path, content: str | bytes) -> dict[str, Any]:
    """The JSON that `path` holds or has beside it.

    Raises:
        ArtifactError: it is no JSON object.
    """
    try:
        metadata = json.loads(content)
    except ValueError as exc:
        raise ArtifactError(f"{path} is damaged: its metadata is no JSON ({exc}). Export it again.") from exc
    if not isinstance(metadata, dict):
        raise ArtifactError(f"{path} is damaged: its metadata is no JSON object. Export it again.")
    return metadata


def author(metadata: Mapping[str, Any]) -> str:
    """Whom a format's own field of that name should name: the owner of the weights on the hub, where there is one."""
    facts = metadata["model"]
    owner = facts["name"].rpartition("/")[0] if facts["source"] == "hf-hub" else ""
    if facts["source"] == "timm":
        owner = "timm" if facts["trained"] else ""
    return owner or f"Unknown; exported with timmx {metadata['versions']['timmx-core']}"


def weights_version(metadata: Mapping[str, Any]) -> str:
    """A model's version for a format's own field: which weights these are."""
    return f"weights sha256:{metadata['model']['weights_sha256'][:16]}"

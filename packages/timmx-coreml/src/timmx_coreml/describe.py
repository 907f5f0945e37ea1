"""What a person sees of the file in Xcode and Finder: who made it, what goes in, what comes out."""

from __future__ import annotations

import json
from typing import Any

from timmx.plugin import author, weights_version

from timmx_coreml.package import METADATA_KEY

_PREVIEW = "com.apple.coreml.model.preview.type"
_DATE = "com.github.apple.coremltools.conversion_date"


def describe(model: Any, metadata: dict[str, Any]) -> None:
    """Fill in the description of a `CoreML.Specification.Model` from timmx's metadata, in place."""
    description, facts = model.description, metadata["model"]
    shown = description.metadata
    shown.author = author(metadata)
    shown.license = facts["license"] or "Unknown"
    shown.versionString = f"{facts['name']}, {weights_version(metadata)}"
    shown.shortDescription = _summary(metadata)
    shown.userDefined.pop(_DATE, None)  # the same export gives the same bytes
    shown.userDefined[METADATA_KEY] = json.dumps(metadata, sort_keys=True)
    labelled = metadata["format"].get("label_output")
    if labelled:
        shown.userDefined[_PREVIEW] = "imageClassifier"
    description.input[0].shortDescription = input_text(metadata["input"])
    outputs = {output["name"]: output["kind"] for output in metadata["outputs"]}
    for feature in description.output:
        if labelled:
            kind = metadata["outputs"][0]["kind"]
            feature.shortDescription = (
                "The name of the first class."
                if feature.name == labelled
                else f"Class names and their {kind}."
            )
        else:
            feature.shortDescription = _OUTPUTS[outputs[feature.name]]


_OUTPUTS = {
    "logits": "Logits, (N, classes): softmax makes probabilities of them.",
    "probabilities": "Probabilities, (N, classes).",
    "embedding": "Embedding, (N, features).",
    "features": "One level of the feature pyramid.",
    "tensor": "Tensor.",
}


def input_text(facts: dict[str, Any]) -> str:
    """How to make the input from a picture, in words."""
    channels, height, width = facts["size"]
    colors = {"RGB": "RGB", "L": "grayscale"}.get(facts["color_order"] or "", f"{channels} channels")
    how = (
        f"Resize with {facts['interpolation']} interpolation, crop_pct {facts['crop_pct']:g}, "
        f"crop_mode {facts['crop_mode']}."
    )
    if facts["dtype"] == "uint8":
        return f"{colors} picture, {width} x {height} pixels. {how} The model normalises it."
    if facts["normalization"] == "graph":
        values = "pixels from 0 to 1; the model normalises them"
    else:
        mean, std = (", ".join(f"{value:g}" for value in facts[key]) for key in ("mean", "std"))
        values = f"(pixel - mean) / std for pixels from 0 to 1, mean [{mean}], std [{std}]"
    return f"{colors} image, (N, {channels}, {height}, {width}): {values}. {how}"


def _summary(metadata: dict[str, Any]) -> str:
    facts, kind = metadata["model"], metadata["outputs"][0]["kind"]
    what = {
        "logits": f"image classifier, {facts['num_classes']} classes",
        "probabilities": f"image classifier, {facts['num_classes']} classes",
        "embedding": "image embedding",
        "features": "feature pyramid of an image",
    }.get(kind, "image model")
    trained = "" if facts["trained"] else ", untrained weights"
    return f"{facts['architecture']}: {what}{trained}. Exported with timmx from timm."

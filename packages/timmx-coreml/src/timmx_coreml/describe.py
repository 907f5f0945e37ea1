"""The description that Xcode and Finder show: author, license, version, inputs and outputs."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from timmx.plugin import OutputKind

from timmx_coreml.package import METADATA_KEY

if TYPE_CHECKING:
    from timmx.plugin import InputMetadata, Metadata

_PREVIEW = "com.apple.coreml.model.preview.type"
_DATE = "com.github.apple.coremltools.conversion_date"


def describe(model: Any, metadata: Metadata) -> None:
    """Fill in the description of a `CoreML.Specification.Model` from timmx's metadata, in place."""
    description, facts = model.description, metadata.model
    info = description.metadata
    info.author = metadata.author
    info.license = facts.license or "Unknown"
    info.versionString = f"{facts.name}, {metadata.weights_version}"
    info.shortDescription = _summary(metadata)
    info.userDefined.pop(_DATE, None)  # the same export gives the same bytes
    info.userDefined[METADATA_KEY] = metadata.dumps()
    label_output = metadata.format.get("label_output")
    if label_output:
        info.userDefined[_PREVIEW] = "imageClassifier"
    description.input[0].shortDescription = input_text(metadata.input)
    outputs = {output.name: output.kind for output in metadata.outputs}
    for feature in description.output:
        if label_output:
            kind = metadata.outputs[0].kind
            feature.shortDescription = (
                "The name of the most likely class."
                if feature.name == label_output
                else f"Class names and their {kind}."
            )
        else:
            feature.shortDescription = _OUTPUTS[outputs[feature.name]]


_OUTPUTS = {
    OutputKind.LOGITS: "Logits, (N, classes); softmax converts them to probabilities.",
    OutputKind.PROBABILITIES: "Probabilities, (N, classes).",
    OutputKind.EMBEDDING: "Embedding, (N, features).",
    OutputKind.FEATURES: "One level of the feature pyramid.",
    OutputKind.TENSOR: "Tensor.",
}


def input_text(entry: InputMetadata) -> str:
    """Describe the preprocessing that turns an image into the input."""
    channels, height, width = entry.size
    colors = {"RGB": "RGB", "L": "grayscale"}.get(entry.color_order or "", f"{channels} channels")
    resize = (
        f"Resize with {entry.interpolation} interpolation, crop_pct {entry.crop_pct:g}, "
        f"crop_mode {entry.crop_mode}."
    )
    if entry.dtype == "uint8":
        return f"{colors} image, {width} x {height} pixels. {resize} The model normalizes it."
    if entry.normalized_in_graph:
        values = "pixels from 0 to 1; the model normalizes them"
    else:
        mean, std = (", ".join(f"{value:g}" for value in values) for values in (entry.mean, entry.std))
        values = f"(pixel - mean) / std for pixels from 0 to 1, mean [{mean}], std [{std}]"
    return f"{colors} image, (N, {channels}, {height}, {width}): {values}. {resize}"


def _summary(metadata: Metadata) -> str:
    model = metadata.model
    kind = {
        OutputKind.LOGITS: f"image classifier, {model.num_classes} classes",
        OutputKind.PROBABILITIES: f"image classifier, {model.num_classes} classes",
        OutputKind.EMBEDDING: "image embedding",
        OutputKind.FEATURES: "feature pyramid of an image",
    }.get(metadata.outputs[0].kind, "image model")
    trained = "" if model.trained else ", untrained weights"
    return f"{model.architecture}: {kind}{trained}. Exported with timmx from timm."

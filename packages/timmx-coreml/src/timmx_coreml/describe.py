"""The description that Xcode and Finder show: author, license, version, inputs and outputs."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from timmx.plugin import OutputKind

from timmx_coreml.package import METADATA_KEY

if TYPE_CHECKING:
    from timmx.plugin import InputMetadata, Metadata, OutputMetadata

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
    outputs = {output.name: output for output in metadata.outputs}
    for feature in description.output:
        if label_output:
            own = "" if metadata.outputs[0].exclusive else f" {_NOT_EXCLUSIVE}"
            feature.shortDescription = (
                f"The name of the most likely class.{own}"
                if feature.name == label_output
                else f"Class names and their {metadata.outputs[0].kind}.{own}"
            )
        else:
            feature.shortDescription = _output_text(outputs[feature.name])


def _output_text(output: OutputMetadata) -> str:
    if not output.kind.ranks_classes:
        return _OUTPUTS[output.kind]
    text = f"{output.kind.capitalize()}, (N, classes)"
    if output.to_probabilities != "none":
        text += f"; {output.to_probabilities} converts them to probabilities"
    return f"{text}." if output.exclusive else f"{text}. {_NOT_EXCLUSIVE}"


_NOT_EXCLUSIVE = "Classes do not exclude each other: each has its own probability."

_OUTPUTS = {
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
    classes = "1 class" if model.num_classes == 1 else f"{model.num_classes} classes"
    if not metadata.outputs[0].exclusive and model.num_classes > 1:
        classes += ", several per image"
    kind = {
        OutputKind.LOGITS: f"image classifier, {classes}",
        OutputKind.PROBABILITIES: f"image classifier, {classes}",
        OutputKind.EMBEDDING: "image embedding",
        OutputKind.FEATURES: "feature pyramid of an image",
    }.get(metadata.outputs[0].kind, "image model")
    trained = "" if model.trained else ", untrained weights"
    return f"{model.architecture}: {kind}{trained}. Exported with timmx from timm."

"""The entries of `rt_info` that OpenVINO's Model API reads to prepare images and to show classes."""

from __future__ import annotations

import re
from typing import TYPE_CHECKING

from timmx.plugin import OutputKind

if TYPE_CHECKING:
    from timmx.plugin import Metadata

KEY = "model_info"

_INTERPOLATIONS = {"nearest": "NEAREST", "bilinear": "LINEAR", "bicubic": "CUBIC"}


def model_info(metadata: Metadata) -> tuple[dict[str, str], tuple[str, ...]]:
    """The entries under `model_info`, empty for what Model API's classifier cannot run, and notes for the user.

    Model API 0.4 takes images as OpenCV reads them, BGR bytes, resizes them without antialiasing, reverses the
    channels, subtracts a mean, and divides by a scale.
    """
    if problem := _problem(metadata):
        return {}, (f"Model API's classifier cannot use this file: {problem}.",)
    entry, output = metadata.input, metadata.outputs[0]
    entries = {
        "model_type": "Classification",
        "reverse_input_channels": "YES" if entry.color_order == "RGB" else "NO",
    }
    if not entry.takes_bytes:
        mean, std = ((0.0,) * 3, (1.0,) * 3) if entry.normalized_in_graph else (entry.mean, entry.std)
        entries |= {"mean_values": _numbers(mean), "scale_values": _numbers(std)}
    if metadata.labels:
        entries["labels"] = " ".join(map(encoded_label, metadata.labels))
    if not output.exclusive:
        entries["multilabel"] = "YES"
    resize, notes = _resize(metadata)
    return entries | resize, notes


def encoded_label(label: str) -> str:
    """A class name for the list of labels, which are separated by spaces.

    Spaces within one are underscores, as are characters that XML cannot hold.
    """
    return re.sub(r"[\s\x00-\x1f\x7f\ufffe\uffff]", "_", label) or "_"


def _problem(metadata: Metadata) -> str:
    entry, outputs = metadata.input, metadata.outputs
    if len(outputs) != 1 or not outputs[0].kind.ranks_classes:
        return "its outputs are not classes"
    if entry.color_order not in ("RGB", "BGR"):
        return f"it takes images with {entry.size[0]} channels, not colors"
    if metadata.batch_size not in (None, 1):
        return "its batch size is not 1"
    if outputs[0].shape[-1] == 1:
        return "it has only one class"
    if outputs[0].kind is OutputKind.PROBABILITIES and outputs[0].activation != "softmax":
        return "it applies a sigmoid itself, and --sigmoid must be left out"
    return ""


def _numbers(values: tuple[float, ...]) -> str:
    """Values for pixels in [0, 1] as values for bytes."""
    return " ".join(f"{255 * value:.9g}" for value in values)


def _resize(metadata: Metadata) -> tuple[dict[str, str], tuple[str, ...]]:
    """The closest to timm's resizing that Model API has, and what it lacks."""
    entry = metadata.input
    lacks = []
    if entry.crop_mode == "squash":
        resize = {"resize_type": "standard"}
    elif entry.crop_mode == "border":
        fill = {round(255 * value) for value in entry.mean}
        resize = {"resize_type": "fit_to_window_letterbox", "pad_value": str(sorted(fill)[0])}
        if len(fill) > 1:
            lacks.append("border in the mean color")
    elif entry.size[1] == entry.size[2]:
        resize = {"resize_type": "crop"}
    else:  # Model API 0.4.7 crops to height / width in place of width / height
        resize = {"resize_type": "standard"}
        lacks.append("crop to a shape that is not square (images of other proportions are stretched)")
    if entry.crop_pct != 1:
        lacks.append(f"crop of {100 * entry.crop_pct:.4g} % of the resized image")
    if resize["resize_type"] == "crop":
        if entry.interpolation != "bilinear":
            lacks.append(f"{entry.interpolation} resampling of a crop")
    elif entry.interpolation in _INTERPOLATIONS:
        resize["interpolation_mode"] = _INTERPOLATIONS[entry.interpolation]
    else:
        lacks.append(f"{entry.interpolation} resampling")
    if not lacks:
        return resize, ()
    return resize, (f"Model API prepares images slightly differently: it has no {' and no '.join(lacks)}.",)

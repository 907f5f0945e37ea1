"""What a file tells of itself without being run: its edges, its way from image to tensor, its model, its proof."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from timmx.artifact import backend_of, recall
from timmx.base import artifact_size
from timmx.contract import check_metadata

if TYPE_CHECKING:
    from collections.abc import Mapping
    from pathlib import Path

_EDGES = ("inputs", "outputs")
_OWN_ROWS = (*_EDGES, "operations", "parameters")


@dataclass(frozen=True, kw_only=True)
class Inspection:
    """What is known of a file.

    Attributes:
        path: the artifact.
        files: all that belongs to it, `path` first.
        backend: the name of the one that opens it.
        size_bytes: of all files together.
        inputs: `name`, `shape`, `dtype`, and where they are known `layout` and `quantization`.
        outputs: likewise, with `kind` where timmx wrote the file.
        operations: the format's names of operations to their count.
        parameters: how many numbers the weights are; None where the format does not tell.
        told: what else the backend tells of the file.
        preprocessing: from an image to the input, one step per line; empty where it is unknown.
        verification: what `timmx.records.recall` knows; None where nothing is known.
        metadata: the JSON inside; {} where timmx did not write the file.
    """

    path: Path
    files: tuple[Path, ...]
    backend: str
    size_bytes: int
    inputs: tuple[dict[str, Any], ...]
    outputs: tuple[dict[str, Any], ...]
    operations: dict[str, int]
    parameters: int | None
    told: dict[str, Any]
    preprocessing: tuple[str, ...]
    verification: dict[str, Any] | None
    metadata: dict[str, Any]

    @property
    def written_by_timmx(self) -> bool:
        """Whether it says how to feed it."""
        return bool(self.metadata)

    def to_dict(self) -> dict[str, Any]:
        """JSON-ready."""
        metadata = self.metadata
        return {
            "path": str(self.path),
            "files": [str(path) for path in self.files],
            "backend": self.backend,
            "size_bytes": self.size_bytes,
            "written_by_timmx": self.written_by_timmx,
            "precision": metadata.get("precision"),
            "inputs": list(self.inputs),
            "outputs": list(self.outputs),
            "operations": self.operations,
            "parameters": self.parameters,
            "recipe": list(self.preprocessing),
            "labels": metadata.get("labels"),
            "model": metadata.get("model"),
            "batch": metadata.get("batch"),
            "format": self.told,
            "versions": metadata.get("versions"),
            "verification": self.verification,
            "metadata": metadata or None,
        }


def inspect_file(path: Path) -> Inspection:
    """What a file of any installed backend's format tells of itself. Nothing is run; torch is not imported.

    Raises:
        ArtifactError: there is no such file, it is of another format than its suffix says, it is damaged, or a later
            timmx wrote it.
        BackendError: no installed backend opens it.
    """
    path = path.expanduser()
    backend = backend_of(path)
    metadata = backend.read_metadata(path)
    if metadata:
        check_metadata(path, metadata)
    told = backend.inspect(path)
    files = backend.files(path)
    sides = _stated(metadata, told) if metadata else {side: list(told.get(side, ())) for side in _EDGES}
    preprocessing = tuple(preprocessing_steps(metadata)) if metadata else ()
    return Inspection(
        path=path,
        files=tuple(files),
        backend=backend.name,
        size_bytes=artifact_size(files),
        inputs=tuple(sides["inputs"]),
        outputs=tuple(sides["outputs"]),
        operations=dict(told.get("operations", {})),
        parameters=told.get("parameters"),
        told={key: value for key, value in told.items() if key not in _OWN_ROWS},
        preprocessing=preprocessing,
        verification=recall(path, files),
        metadata=metadata,
    )


def preprocessing_steps(metadata: Mapping[str, Any]) -> list[str]:
    """The way from an image to an artifact's input, a step a line.

    Raises:
        LookupError, TypeError, ValueError: the metadata is not what timmx writes.
    """
    entry = metadata["input"]
    channels, height, width = map(int, entry["size"])
    if entry["color_order"] is None:
        return [f"no image: {channels} channels of {height} x {width}"]
    lines = [*_cutting(entry, height, width)]
    order = {"L": "one channel of gray"}.get(
        entry["color_order"], f"channels in the order {entry['color_order']}"
    )
    stored = entry.get("quantization")
    if takes_bytes(entry):
        return [*lines, f"{order}; the bytes as they are, 0 to 255: the file normalizes"]
    if entry["normalization"] == "graph":
        lines.append(f"{order}; pixels as shares, 0 to 1: the file normalizes")
    else:
        lines.append(
            f"{order}; pixels as shares, 0 to 1, less mean {_numbers(entry['mean'])}, over std {_numbers(entry['std'])}"
        )
    if stored:
        lines.append(
            f"stored as {entry['dtype']}: over {stored['scale']:.7g}, rounded, plus {stored['zero_point']}, clipped"
        )
    return lines


def takes_bytes(entry: Mapping[str, Any]) -> bool:
    """Whether an input takes the bytes of a picture as they are: said so, or by what its numbers stand for."""
    stored = entry.get("quantization")
    if entry["dtype"] != "uint8" or entry["normalization"] != "graph":
        return False
    return not stored or (not stored["zero_point"] and abs(255 * float(stored["scale"]) - 1) < 1e-6)


def _cutting(entry: Mapping[str, Any], height: int, width: int) -> list[str]:
    share, filter_name = float(entry["crop_pct"]), entry["interpolation"]
    scaled = math.floor(height / share), math.floor(width / share)
    cut = [] if scaled == (height, width) else [f"cut out the middle {height} x {width}"]
    if entry["crop_mode"] == "squash":
        return [f"resize to {scaled[0]} x {scaled[1]}, whatever its ratio ({filter_name})", *cut]
    if entry["crop_mode"] == "border":
        return [
            f"resize so that all of it fits into {scaled[0]} x {scaled[1]} ({filter_name})",
            f"center it in {height} x {width}, the border in the color of the mean",
        ]
    middle = f"cut out the middle {height} x {width}"
    if scaled[0] == scaled[1]:
        return [f"resize the shorter side to {scaled[0]} ({filter_name})", middle]
    return [f"resize so that it just covers {scaled[0]} x {scaled[1]} ({filter_name})", middle]


def _stated(metadata: Mapping[str, Any], told: Mapping[str, Any]) -> dict[str, list[dict[str, Any]]]:
    """Input and outputs as the metadata has them, with what the graph alone knows."""
    entry = metadata["input"]
    channels, height, width = map(int, entry["size"])
    batch = "batch" if metadata["batch"].get("dynamic") else int(metadata["batch"]["size"])
    taken = (
        [batch, height, width, channels] if entry["layout"] == "NHWC" else [batch, channels, height, width]
    )
    pictures = [edge for edge in told.get("inputs", ()) if edge.get("picture")]
    return {
        "inputs": [
            {
                "name": str(entry["name"]),
                "shape": taken,
                "dtype": str(entry["dtype"]),
                "layout": entry["layout"],
            }
            | ({"quantization": entry["quantization"]} if "quantization" in entry else {})
            | ({"picture": pictures[0]["picture"]} if pictures else {})
        ],
        "outputs": [
            {
                "name": str(output["name"]),
                "shape": list(output["shape"]),
                "dtype": output.get("dtype", "float32"),
            }
            | {"kind": str(output["kind"])}
            | ({"quantization": output["quantization"]} if "quantization" in output else {})
            for output in metadata["outputs"]
        ],
    }


def _numbers(values: Any) -> str:
    """A number a channel; one where all are alike."""
    texts = [f"{float(value):g}" for value in values]
    return texts[0] if len(set(texts)) == 1 else f"({', '.join(texts)})"

"""What a file tells of itself without being run: its edges, its way from image to tensor, its model, its proof."""

from __future__ import annotations

import math
from dataclasses import asdict, dataclass
from typing import TYPE_CHECKING, Any

from timmx.artifact import backend_of, recall
from timmx.base import artifact_size
from timmx.contract import Metadata

if TYPE_CHECKING:
    from collections.abc import Mapping
    from pathlib import Path

    from timmx.contract import InputMetadata, Quantization

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
        metadata: what the file says about itself; None where timmx did not write it.
        content: the JSON that it says so in, with any keys that this timmx does not know; {} likewise.
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
    metadata: Metadata | None
    content: dict[str, Any]

    @property
    def written_by_timmx(self) -> bool:
        """Whether it says how to feed it."""
        return self.metadata is not None

    def to_dict(self) -> dict[str, Any]:
        """JSON-ready."""
        content = self.content
        return {
            "path": str(self.path),
            "files": [str(path) for path in self.files],
            "backend": self.backend,
            "size_bytes": self.size_bytes,
            "written_by_timmx": self.written_by_timmx,
            "precision": content.get("precision"),
            "inputs": list(self.inputs),
            "outputs": list(self.outputs),
            "operations": self.operations,
            "parameters": self.parameters,
            "recipe": list(self.preprocessing),
            "labels": content.get("labels"),
            "model": content.get("model"),
            "batch": content.get("batch"),
            "format": self.told,
            "versions": content.get("versions"),
            "verification": self.verification,
            "metadata": content or None,
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
    content = backend.read_metadata(path)
    metadata = Metadata.parse(path, content) if content else None
    told = backend.inspect(path)
    files = backend.files(path)
    sides = _stated(metadata, told) if metadata else {side: list(told.get(side, ())) for side in _EDGES}
    preprocessing = tuple(preprocessing_steps(metadata.input)) if metadata else ()
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
        content=content,
    )


def preprocessing_steps(entry: InputMetadata) -> list[str]:
    """The way from an image to an artifact's input, a step a line."""
    channels, height, width = entry.size
    if entry.color_order is None:
        return [f"no image: {channels} channels of {height} x {width}"]
    lines = [*_cutting(entry, height, width)]
    order = {"L": "one channel of gray"}.get(entry.color_order, f"channels in the order {entry.color_order}")
    stored = entry.quantization
    if entry.takes_bytes:
        return [*lines, f"{order}; the bytes as they are, 0 to 255: the file normalizes"]
    if entry.normalized_in_graph:
        lines.append(f"{order}; pixels as shares, 0 to 1: the file normalizes")
    else:
        lines.append(
            f"{order}; pixels as shares, 0 to 1, less mean {_numbers(entry.mean)}, over std {_numbers(entry.std)}"
        )
    if stored:
        lines.append(
            f"stored as {entry.dtype}: over {stored.scale:.7g}, rounded, plus {stored.zero_point}, clipped"
        )
    return lines


def _cutting(entry: InputMetadata, height: int, width: int) -> list[str]:
    filter_name = entry.interpolation
    scaled = math.floor(height / entry.crop_pct), math.floor(width / entry.crop_pct)
    cut = [] if scaled == (height, width) else [f"cut out the middle {height} x {width}"]
    if entry.crop_mode == "squash":
        return [f"resize to {scaled[0]} x {scaled[1]}, whatever its ratio ({filter_name})", *cut]
    if entry.crop_mode == "border":
        return [
            f"resize so that all of it fits into {scaled[0]} x {scaled[1]} ({filter_name})",
            f"center it in {height} x {width}, the border in the color of the mean",
        ]
    middle = f"cut out the middle {height} x {width}"
    if scaled[0] == scaled[1]:
        return [f"resize the shorter side to {scaled[0]} ({filter_name})", middle]
    return [f"resize so that it just covers {scaled[0]} x {scaled[1]} ({filter_name})", middle]


def _stated(metadata: Metadata, told: Mapping[str, Any]) -> dict[str, list[dict[str, Any]]]:
    """Input and outputs as the metadata has them, with what the graph alone knows."""
    entry = metadata.input
    pictures = [side for side in told.get("inputs", ()) if side.get("picture")]
    return {
        "inputs": [
            {
                "name": entry.name,
                "shape": [metadata.batch_size or "batch", *entry.shape],
                "dtype": entry.dtype,
                "layout": entry.layout,
            }
            | _stored(entry.quantization)
            | ({"picture": pictures[0]["picture"]} if pictures else {})
        ],
        "outputs": [
            {
                "name": output.name,
                "shape": list(output.shape),
                "dtype": output.dtype,
                "kind": str(output.kind),
            }
            | _stored(output.quantization)
            for output in metadata.outputs
        ],
    }


def _stored(quantization: Quantization | None) -> dict[str, Any]:
    return {} if quantization is None else {"quantization": asdict(quantization)}


def _numbers(values: Any) -> str:
    """A number a channel; one where all are alike."""
    texts = [f"{float(value):g}" for value in values]
    return texts[0] if len(set(texts)) == 1 else f"({', '.join(texts)})"

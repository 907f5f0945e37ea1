"""Reads a file's inputs, outputs, preprocessing, model and recorded verification, without running it."""

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

_SIDES = ("inputs", "outputs")
_OWN_FIELDS = (*_SIDES, "operations", "parameters")


@dataclass(frozen=True, kw_only=True)
class Inspection:
    """The content of a file.

    Attributes:
        path: the artifact.
        files: all files that belong to it, `path` first.
        backend: name of the backend that opens it.
        size_bytes: of all files together.
        inputs: `name`, `shape`, `dtype`, and if known `layout` and `quantization`.
        outputs: likewise, with `kind` if timmx wrote the file.
        operations: count of each operation, by the format's name.
        parameters: number of weights; None if the format does not state it.
        details: what else the backend reports about the file.
        preprocessing: from an image to the input, one step per line; empty if unknown.
        verification: the result of `timmx.artifact.recall`; None if there is none.
        metadata: of the file; None if timmx did not write it.
        content: the metadata as JSON, including keys that this timmx does not know; {} if timmx did not write it.
    """

    path: Path
    files: tuple[Path, ...]
    backend: str
    size_bytes: int
    inputs: tuple[dict[str, Any], ...]
    outputs: tuple[dict[str, Any], ...]
    operations: dict[str, int]
    parameters: int | None
    details: dict[str, Any]
    preprocessing: tuple[str, ...]
    verification: dict[str, Any] | None
    metadata: Metadata | None
    content: dict[str, Any]

    @property
    def written_by_timmx(self) -> bool:
        """Whether timmx wrote the file, so that it states how to feed it."""
        return self.metadata is not None

    def to_dict(self) -> dict[str, Any]:
        """JSON-ready."""
        stated = self.metadata.to_json() if self.metadata else {}
        return {
            "path": str(self.path),
            "files": [str(path) for path in self.files],
            "backend": self.backend,
            "size_bytes": self.size_bytes,
            "written_by_timmx": self.written_by_timmx,
            "precision": stated.get("precision"),
            "inputs": list(self.inputs),
            "outputs": list(self.outputs),
            "operations": self.operations,
            "parameters": self.parameters,
            "recipe": list(self.preprocessing),
            "labels": stated.get("labels"),
            "model": stated.get("model"),
            "batch": stated.get("batch"),
            "format": self.details,
            "versions": stated.get("versions"),
            "verification": self.verification,
            "metadata": self.content or None,
        }


def inspect_file(path: Path) -> Inspection:
    """Read the content of a file of any installed format, without running it or importing torch.

    Args:
        path: of the artifact.

    Raises:
        ArtifactError: the file does not exist, is damaged, has another format than its suffix says, or was written by
            a later timmx.
        BackendError: no installed backend opens it.
    """
    path = path.expanduser()
    backend = backend_of(path)
    content = backend.read_metadata(path)
    metadata = Metadata.parse(path, content) if content else None
    facts = backend.inspect(path)
    files = backend.files(path)
    sides = _sides(metadata, facts) if metadata else {side: list(facts.get(side, ())) for side in _SIDES}
    preprocessing = tuple(preprocessing_steps(metadata.input)) if metadata else ()
    return Inspection(
        path=path,
        files=tuple(files),
        backend=backend.name,
        size_bytes=artifact_size(files),
        inputs=tuple(sides["inputs"]),
        outputs=tuple(sides["outputs"]),
        operations=dict(facts.get("operations", {})),
        parameters=facts.get("parameters"),
        details={key: value for key, value in facts.items() if key not in _OWN_FIELDS},
        preprocessing=preprocessing,
        verification=recall(path, files),
        metadata=metadata,
        content=content,
    )


def preprocessing_steps(entry: InputMetadata) -> list[str]:
    """The preprocessing from an image to an artifact's input, one step per line."""
    channels, height, width = entry.size
    if entry.color_order is None:
        return [f"not an image: {channels} channels of {height} x {width}"]
    turned = ["turn as the EXIF orientation says"] if entry.exif else []
    lines = [*turned, *_resize_and_crop(entry, height, width)]
    order = {"L": "one channel of gray"}.get(entry.color_order, f"channels in the order {entry.color_order}")
    stored = entry.quantization
    if entry.takes_bytes:
        return [*lines, f"{order}; bytes, 0 to 255: the file normalizes"]
    if entry.normalized_in_graph:
        lines.append(f"{order}; pixels in 0 to 1: the file normalizes")
    else:
        lines.append(
            f"{order}; pixels in 0 to 1, minus mean {_numbers(entry.mean)}, divided by std {_numbers(entry.std)}"
        )
    if stored:
        lines.append(
            f"stored as {entry.dtype}: divided by {stored.scale:.7g}, rounded, plus {stored.zero_point}, clipped"
        )
    return lines


def _resize_and_crop(entry: InputMetadata, height: int, width: int) -> list[str]:
    filter_name = entry.interpolation
    scaled = max(1, math.floor(height / entry.crop_pct)), max(1, math.floor(width / entry.crop_pct))
    crop = f"center crop to {height} x {width}"
    if entry.crop_mode == "squash":
        crops = [] if scaled == (height, width) else [crop]
        return [f"resize to {scaled[0]} x {scaled[1]}, ignoring the aspect ratio ({filter_name})", *crops]
    if entry.crop_mode == "border":
        return [
            f"resize to fit into {scaled[0]} x {scaled[1]} ({filter_name})",
            f"center in {height} x {width}, with a border in the color of the mean",
        ]
    if scaled[0] == scaled[1]:
        return [f"resize the shorter side to {scaled[0]} ({filter_name})", crop]
    return [f"resize to cover {scaled[0]} x {scaled[1]} ({filter_name})", crop]


def _sides(metadata: Metadata, facts: Mapping[str, Any]) -> dict[str, list[dict[str, Any]]]:
    """Input and outputs from the metadata, with what only the graph states."""
    entry = metadata.input
    pictures = [side for side in facts.get("inputs", ()) if side.get("picture")]
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
            | (
                {"activation": str(output.activation), "exclusive": output.exclusive}
                if output.kind.ranks_classes
                else {}
            )
            for output in metadata.outputs
        ],
    }


def _stored(quantization: Quantization | None) -> dict[str, Any]:
    return {} if quantization is None else {"quantization": asdict(quantization)}


def _numbers(values: Any) -> str:
    """One number per channel; a single number if all are equal."""
    texts = [f"{float(value):g}" for value in values]
    return texts[0] if len(set(texts)) == 1 else f"({', '.join(texts)})"

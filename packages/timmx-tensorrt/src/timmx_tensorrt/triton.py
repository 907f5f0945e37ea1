"""Writes a model to a repository of NVIDIA's Triton Inference Server: the plan, its configuration, its class names."""

from __future__ import annotations

import json
import shutil
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from pathlib import Path

    from timmx.plugin import Metadata

_CONFIG, _LABELS, _VERSION, _PLAN = "config.pbtxt", "labels.txt", "1", "model.plan"
"""The names that Triton expects."""
_METADATA = "timmx.json"
"""Ignored by Triton; timmx recognizes its own folders by it."""


def foreign_entry(folder: Path) -> str:
    """The name of an entry in a model's folder that timmx did not write; empty if there is none."""
    if not folder.exists():
        return ""
    if not (folder / _METADATA).is_file():
        return next((path.name for path in sorted(folder.iterdir())), "") if folder.is_dir() else folder.name
    own = {_CONFIG, _LABELS, _METADATA, _VERSION, f"{_VERSION}/{_PLAN}"}
    names = (path.relative_to(folder).as_posix() for path in sorted(folder.rglob("*")))
    return next((name for name in names if name not in own), "")


def write_model(folder: Path, plan: Path, metadata: Metadata) -> None:
    """Write a model's folder; its name is the name of the model.

    Args:
        folder: does not exist yet.
        plan: the engine file.
        metadata: the engine's metadata.
    """
    (folder / _VERSION).mkdir(parents=True)
    shutil.copyfile(plan, folder / _VERSION / _PLAN)
    (folder / _CONFIG).write_text(config(folder.name, metadata), encoding="utf-8")
    if metadata.labels:
        (folder / _LABELS).write_text(
            "".join(f"{' '.join(name.split())}\n" for name in metadata.labels), encoding="utf-8"
        )
    text = json.dumps(metadata.to_json(), indent=2, sort_keys=True)
    (folder / _METADATA).write_text(f"{text}\n", encoding="utf-8")


def config(name: str, metadata: Metadata) -> str:
    """The content of `config.pbtxt`, a ModelConfig of Triton in text format.

    If the engine also takes single images, Triton batches requests itself; shapes are then written without the batch.
    """
    profile = metadata.format["profile"]
    batches = metadata.dynamic_batch and profile["min"] == 1
    outputs = []
    for output in metadata.outputs:
        shape = [-1 if isinstance(size, str) else size for size in output.shape]
        labels = _LABELS if metadata.labels and output.kind.ranks_classes else ""
        outputs.append(_tensor(output.name, shape[1:] if batches else shape, labels))
    size = list(metadata.input.size)
    entry = _tensor(metadata.input.name, size if batches else [metadata.batch_size or -1, *size])
    lines = [
        f"name: {json.dumps(name)}",
        'platform: "tensorrt_plan"',
        f"max_batch_size: {profile['max'] if batches else 0}",
        f"input [\n{entry}\n]",
        "output [\n" + ",\n".join(outputs) + "\n]",
    ]
    if batches:
        lines.append(f"dynamic_batching {{\n  preferred_batch_size: [ {profile['opt']} ]\n}}")
    return "\n".join(lines) + "\n"


def _tensor(name: str, shape: list[int], labels: str = "") -> str:
    label_line = f"\n    label_filename: {json.dumps(labels)}" if labels else ""
    dims = ", ".join(map(str, shape))
    return f"  {{\n    name: {json.dumps(name)}\n    data_type: TYPE_FP32\n    dims: [ {dims} ]{label_line}\n  }}"

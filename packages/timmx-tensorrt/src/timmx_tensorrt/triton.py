"""A model in a repository of NVIDIA's Triton Inference Server: the plan, how it is called, its class names."""

from __future__ import annotations

import json
import shutil
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from pathlib import Path

    from timmx.plugin import Metadata

_CONFIG, _LABELS, _VERSION, _PLAN = "config.pbtxt", "labels.txt", "1", "model.plan"
"""Triton's own names."""
_METADATA = "timmx.json"
"""Not Triton's: it lets timmx know its own folder again."""


def foreign(folder: Path) -> str:
    """The name of something in a model's folder that timmx did not write; empty where there is nothing."""
    if not folder.exists():
        return ""
    if not (folder / _METADATA).is_file():
        return next((path.name for path in sorted(folder.iterdir())), "") if folder.is_dir() else folder.name
    own = {_CONFIG, _LABELS, _METADATA, _VERSION, f"{_VERSION}/{_PLAN}"}
    found = (path.relative_to(folder).as_posix() for path in sorted(folder.rglob("*")))
    return next((name for name in found if name not in own), "")


def write_model(folder: Path, plan: Path, metadata: Metadata) -> None:
    """Write a model's folder, which is called as the model is.

    Args:
        folder: does not exist yet.
        plan: the engine.
        metadata: the engine's.
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
    """The content of `config.pbtxt`, a text of Triton's ModelConfig.

    Triton makes batches itself where the engine takes single images too; then shapes are written without the batch.
    """
    profile = metadata.format["profile"]
    batches = metadata.dynamic_batch and profile["min"] == 1
    outputs = []
    for output in metadata.outputs:
        shape = [-1 if isinstance(size, str) else size for size in output.shape]
        named = bool(metadata.labels) and output.kind.ranks_classes
        outputs.append(_tensor(output.name, shape[1:] if batches else shape, _LABELS if named else ""))
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
    named = f"\n    label_filename: {json.dumps(labels)}" if labels else ""
    dims = ", ".join(map(str, shape))
    return f"  {{\n    name: {json.dumps(name)}\n    data_type: TYPE_FP32\n    dims: [ {dims} ]{named}\n  }}"

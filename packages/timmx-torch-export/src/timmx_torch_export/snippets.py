"""Code that loads and runs a `.pt2` with plain PyTorch."""

from __future__ import annotations

from typing import TYPE_CHECKING

from timmx.plugin import Snippet, quote_string

if TYPE_CHECKING:
    from pathlib import Path

    from timmx.plugin import Metadata


def snippet(path: Path, metadata: Metadata, language: str) -> Snippet:
    """The lines for Python."""
    first = "[0]" if len(metadata.outputs) > 1 else ""
    device = metadata.format.get("device", "cpu")
    to_device, to_cpu = (
        ("", "") if device == "cpu" else (f".to({quote_string(str(device), 'python')})", ".cpu()")
    )
    file = quote_string(path.as_posix(), "python")
    load: tuple[str, ...] = (f"model = torch.export.load({file}).module()",)
    labels = ""
    imports: tuple[str, ...] = ("import torch",)
    if metadata.labels and len(metadata.labels) > 20:
        load = (
            'extra = {"timmx.json": ""}',
            f"model = torch.export.load({file}, extra_files=extra).module()",
        )
        labels, imports = 'json.loads(extra["timmx.json"])["labels"]', ("import json", "import torch")
    return Snippet(
        requires=("torch",),
        imports=imports,
        load=load,
        run=(
            "with torch.no_grad():",
            f"    output = model(torch.from_numpy(x){to_device}){first}{to_cpu}.numpy()",
        ),
        labels=labels,
    )

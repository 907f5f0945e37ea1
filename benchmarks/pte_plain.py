"""Export a timm model to a `.pte` file with ExecuTorch alone, to compare with `timmx executorch --no-verify`.

uv run benchmarks/pte_plain.py MODEL FILE
"""

from __future__ import annotations

import sys
from pathlib import Path

import timm
import torch
from executorch.backends.xnnpack.partition.xnnpack_partitioner import XnnpackPartitioner
from executorch.exir import to_edge_transform_and_lower


def main() -> None:
    name, file = sys.argv[1:]
    model = timm.create_model(name).eval()
    size = model.pretrained_cfg["input_size"]
    program = torch.export.export(model, (torch.zeros(1, *size),))
    edge = to_edge_transform_and_lower(program, partitioner=[XnnpackPartitioner()])
    Path(file).write_bytes(edge.to_executorch().buffer)


if __name__ == "__main__":
    main()

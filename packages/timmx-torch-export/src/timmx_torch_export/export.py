"""From a capture to a `.pt2` file."""

from __future__ import annotations

import json
from typing import TYPE_CHECKING

import torch
from timmx.contract import Exported, Precision

from timmx_torch_export.archive import METADATA_NAME

if TYPE_CHECKING:
    from timmx.contract import ExportJob

    from timmx_torch_export.plugin import TorchExportOptions


def export(job: ExportJob, options: TorchExportOptions) -> Exported:
    """Save the capture; fused attention stays in it, as `scaled_dot_product_attention`.

    Raises:
        UnsupportedError: torch.export cannot trace the model.
    """
    program = job.capture(strict=options.strict)
    metadata = job.metadata(Precision.FP32, strict=options.strict)
    job.progress("Writing .pt2")
    torch.export.save(program, job.path, extra_files={METADATA_NAME: json.dumps(metadata, sort_keys=True)})
    return Exported(Precision.FP32)

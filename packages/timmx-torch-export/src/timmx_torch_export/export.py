"""From a capture to a `.pt2` file."""

from __future__ import annotations

import io
from typing import TYPE_CHECKING

import torch
from timmx.plugin import Exported, Precision

from timmx_torch_export.archive import METADATA_NAME

if TYPE_CHECKING:
    from pathlib import Path

    from timmx.plugin import ExportJob

    from timmx_torch_export.options import TorchExportOptions


def export(job: ExportJob, options: TorchExportOptions) -> Exported:
    """Save the capture; fused attention stays in it, as `scaled_dot_product_attention`.

    Raises:
        UnsupportedError: torch.export cannot trace the model.
    """
    program = job.capture(strict=options.strict)
    metadata = job.metadata(Precision.FP32, strict=options.strict, device=job.request.device.value)
    job.progress("Writing .pt2")
    with _PatientFile(job.path) as file:
        torch.export.save(program, file, extra_files={METADATA_NAME: metadata.dumps()})
    return Exported(Precision.FP32)


class _PatientFile(io.FileIO):
    """A file that raises a failed write's OSError when it is closed, not when it happens.

    torch 2.14's zip writer answers a failing write, its own or a file object's, by aborting the process (its
    destructor throws): a full disk would kill the command.
    """

    def __init__(self, path: Path) -> None:
        super().__init__(path, "wb")
        self._error: OSError | None = None

    def write(self, data: bytes) -> int:  # type: ignore[override]
        view = memoryview(data)
        size = len(view)
        try:
            while self._error is None and view:
                view = view[super().write(view) or 0 :]
        except OSError as exc:
            self._error = exc
        return size

    def close(self) -> None:
        super().close()
        if self._error is not None:
            error, self._error = self._error, None
            raise error

"""Exports a captured model to a `.pt2` file."""

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
    """Save the captured program; fused attention stays, as `scaled_dot_product_attention`.

    Raises:
        UnsupportedError: torch.export cannot trace the model.
    """
    program = job.capture(strict=options.strict)
    metadata = job.metadata(Precision.FP32, strict=options.strict, device=job.request.device.value)
    job.progress("Writing .pt2")
    with _DeferredErrorFile(job.path) as file:
        torch.export.save(program, file, extra_files={METADATA_NAME: metadata.dumps()})
    return Exported(Precision.FP32)


class _DeferredErrorFile(io.FileIO):
    """A file that raises the OSError of a failed write when it is closed.

    torch 2.14's zip writer aborts the process when a write fails, its own or a file object's (its destructor throws):
    a full disk would kill the command.
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

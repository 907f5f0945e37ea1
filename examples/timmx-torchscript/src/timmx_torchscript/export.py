"""From a prepared model to a TorchScript file."""

from __future__ import annotations

import warnings
from typing import TYPE_CHECKING

import torch
from timmx.plugin import Exported, Precision, UnsupportedError

from timmx_torchscript.archive import METADATA_NAME

if TYPE_CHECKING:
    from timmx.plugin import ExportJob

    from timmx_torchscript.options import TorchScriptOptions


def export(job: ExportJob, options: TorchScriptOptions) -> Exported:
    """Trace the model, freeze the trace and save it with its metadata.

    Raises:
        UnsupportedError: torch.jit cannot trace or freeze the model.
    """
    metadata = job.metadata(
        Precision.FP32,
        frozen=options.freeze,
        optimize_numerics=options.optimize_numerics,
        device=job.request.device.value,
    )
    # The tracer warns about every Python value that it treats as a constant. Verification shows whether that is
    # right: it runs the file on other inputs, and at several batch sizes if the batch size is dynamic.
    with warnings.catch_warnings(action="ignore"):
        job.progress("Tracing")
        try:
            module = torch.jit.trace(job.model, job.example_input, check_trace=False)
            if options.freeze:
                module = torch.jit.freeze(module, optimize_numerics=options.optimize_numerics)
        except RuntimeError as exc:
            reason = str(exc).strip().splitlines()[0]
            raise UnsupportedError(
                f"torch.jit cannot trace this model: {reason}", hint="export it to another format"
            ) from exc
        job.progress("Writing TorchScript")
        # Into a file object: given a path, torch 2.14 aborts the process if the disk is full.
        with job.path.open("wb") as file:
            torch.jit.save(module, file, _extra_files={METADATA_NAME: metadata.dumps()})
    return Exported(Precision.FP32)

"""Chooses what runs a `.pte` file."""

from __future__ import annotations

import sys
from typing import TYPE_CHECKING

from timmx_executorch.pte_file import reading

if TYPE_CHECKING:
    from pathlib import Path

    from timmx.plugin import Runner

_CORE_ML = "CoreMLBackend"
"""ExecuTorch's name of the delegate."""


def open_runner(path: Path, threads: int | None) -> Runner:
    """Open a file in the ExecuTorch runtime, or one for Core ML in timmx's evaluator where Core ML does not exist.

    Raises:
        ArtifactError: the file is not an ExecuTorch program, is damaged, or its weights are of another file.
        RuntimeUnavailable: its delegate is not in this build of the runtime.
    """
    with reading(path) as file:
        core_ml = any(call.backend == _CORE_ML for plan in file.program.plans for call in plan.delegates)
    if core_ml and sys.platform != "darwin":
        from timmx_executorch.core_ml_runner import CoreMLDelegateRunner

        return CoreMLDelegateRunner(path)
    from timmx_executorch.runner import ExecuTorchRunner

    return ExecuTorchRunner(path, threads)

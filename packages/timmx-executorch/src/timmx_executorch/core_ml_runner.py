"""Runs the Core ML model inside a program where Core ML does not exist, with timmx-coreml's evaluator."""

from __future__ import annotations

import json
import tempfile
from pathlib import Path
from typing import TYPE_CHECKING

from timmx.plugin import Runner, RuntimeUnavailable

from timmx_executorch.core_ml_data import FACTS, FOLDER, MODEL, unpack
from timmx_executorch.interface import interface
from timmx_executorch.pte_file import reading
from timmx_executorch.schema import SEGMENT

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

    import numpy as np


class CoreMLDelegateRunner(Runner):
    """Evaluates the Core ML model inside a program that is one call of the delegate.

    Raises:
        ArtifactError: the file is damaged.
        RuntimeUnavailable: timmx-coreml is not installed, or the program computes more than the model.
    """

    def __init__(self, path: Path) -> None:
        try:
            from timmx_coreml import open_runner
        except ModuleNotFoundError as exc:
            raise RuntimeUnavailable(
                f"{path} was made for Core ML, which exists only on Apple's systems",
                hint="uv pip install 'timmx-executorch[coreml]', whose evaluator runs the model inside",
            ) from exc
        with reading(path) as file:
            found = interface(path, file)
            self.inputs, self.outputs, plan = found.inputs, found.outputs, found.plan
            if len(plan.calls) != 1 or len(plan.delegates) != 1 or plan.delegates[0].data[0] != SEGMENT:
                raise RuntimeUnavailable(
                    f"{path} has operations outside of its Core ML model", hint="run it on an Apple device"
                )
            content = bytes(file.segment(plan.delegates[0].data[1]))
        self._folder = tempfile.TemporaryDirectory(ignore_cleanup_errors=True)
        unpack(path, content, Path(self._folder.name))
        folder = Path(self._folder.name, FOLDER)
        model = folder / MODEL
        self._model = open_runner(model)
        self.engine = self._model.engine
        self.intermediates = self._model.intermediates
        facts = json.loads((folder / FACTS).read_text())
        self._inner = tuple(zip(self.outputs, facts["outputNames"], strict=True))

    @property
    def notes(self) -> tuple[str, ...]:
        return self._model.notes

    def run(self, feeds: Mapping[str, np.ndarray]) -> dict[str, np.ndarray]:
        outputs = self._model.run(self._renamed(feeds))
        # as ExecuTorch's delegate, which copies float16 outputs into the float32 tensors of the program
        return {spec.name: outputs[inner].astype(spec.dtype) for spec, inner in self._inner}

    def run_intermediates(
        self, feeds: Mapping[str, np.ndarray], names: Sequence[str]
    ) -> dict[str, np.ndarray]:
        return self._model.run_intermediates(self._renamed(feeds), names)

    def _renamed(self, feeds: Mapping[str, np.ndarray]) -> dict[str, np.ndarray]:
        """The feeds by the inner model's name of its input."""
        return {self._model.inputs[0].name: feeds["input"]}

    def close(self) -> None:
        self._model.close()
        self._folder.cleanup()

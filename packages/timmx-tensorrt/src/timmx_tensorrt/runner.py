"""An engine opened by TensorRT."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np
from timmx.plugin import (
    ArtifactError,
    Runner,
    RuntimeUnavailable,
    TensorSpec,
    VerificationError,
    reporter,
    worst_db,
)

from timmx_tensorrt import gpu
from timmx_tensorrt.sidecar import check_plan, differences, how_to_rebuild, read
from timmx_tensorrt.validation import missing

if TYPE_CHECKING:
    from collections.abc import Mapping
    from pathlib import Path

_LAYOUTS = {4: "NCHW", 3: "NLC", 2: "NC"}
_LEAST_ROW_DB = 40.0
"""How alike the answers to equal rows of one batch must be; they are computed by the same kernels."""


class EngineRunner(Runner):
    """Runs an engine on the GPU.

    Raises:
        RuntimeUnavailable: TensorRT or a GPU is missing, or the engine was built for another one, with what differs.
        ArtifactError: the file is no engine, or the JSON beside it is about another one.
    """

    def __init__(self, path: Path) -> None:
        sidecar = read(path)
        if problems := missing():
            reasons = "; ".join(problem.message for problem in problems)
            fixes = "; ".join(problem.fix for problem in problems)
            raise RuntimeUnavailable(f"{path} cannot be run here: {reasons}", hint=fixes)
        built = sidecar.engine
        check_plan(path, built)
        again = how_to_rebuild(built)
        from timmx_tensorrt.engine import Engine, version

        found = "; ".join(differences(built, gpu.facts() | {"tensorrt": version()}))
        try:
            self._engine = Engine(path.read_bytes(), carries_code=bool(built.get("version_compatible")))
        except ArtifactError as exc:
            if found:
                raise RuntimeUnavailable(
                    f"{path} was built for {found}: {exc.message}", hint=f"build it here: {again}"
                ) from exc
            raise ArtifactError(
                f"{path} is not an engine for this GPU, or is damaged: {exc.message}",
                hint=f"build it again: {again}",
            ) from exc
        self._notes = (
            (f"{path.name} was built for {found}: it may be slow or wrong. {again}",) if found else ()
        )
        for note in self._notes:
            reporter().warn(note)
        self.inputs = tuple(self._spec(name) for name in self._engine.inputs)
        self.outputs = tuple(self._spec(name) for name in self._engine.outputs)
        if "batch" in self.inputs[0].shape:
            self.batch_sizes = tuple(sorted(set(self._engine.batches(self.inputs[0].name))))

    @property
    def notes(self) -> tuple[str, ...]:
        return self._notes

    def run(self, feeds: Mapping[str, np.ndarray]) -> dict[str, np.ndarray]:
        return self._engine.run(feeds)

    def close(self) -> None:
        self._engine.close()

    def _spec(self, name: str) -> TensorSpec:
        shape = tuple("batch" if size < 0 else size for size in self._engine.shape(name))
        return TensorSpec(
            name=name, shape=shape, dtype=self._engine.dtype(name), layout=_LAYOUTS.get(len(shape), "")
        )


class JudgedRunner(EngineRunner):
    """An engine that was just built: each batch is run once more with equal rows, whose answers must be equal.

    TensorRT 11.1 was seen to answer equal rows of one batch differently (NVIDIA/TensorRT#4813).

    Raises:
        VerificationError: at `run`, where it does.
    """

    def __init__(self, path: Path) -> None:
        super().__init__(path)
        self._judged: set[int] = set()

    def run(self, feeds: Mapping[str, np.ndarray]) -> dict[str, np.ndarray]:
        found = super().run(feeds)
        size = len(next(iter(feeds.values())))
        if size > 1 and size not in self._judged:
            self._judged.add(size)
            self._judge_rows({name: np.repeat(array[:1], size, axis=0) for name, array in feeds.items()})
        return found

    def _judge_rows(self, feeds: Mapping[str, np.ndarray]) -> None:
        for name, answer in super().run(feeds).items():
            first = np.repeat(answer[:1], len(answer), axis=0).astype(np.float32)
            ratio = worst_db([first], [answer.astype(np.float32)])
            if not ratio >= _LEAST_ROW_DB:
                raise VerificationError(
                    f"the engine gives different outputs for {len(answer)} equal rows of one batch "
                    f"({name}: {ratio:.1f} dB), which is a bug in this TensorRT",
                    hint="try another TensorRT version, --opt-level or --mode",
                )

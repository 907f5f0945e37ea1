"""Runs an engine in TensorRT."""

from __future__ import annotations

import hashlib
from typing import TYPE_CHECKING

import numpy as np
from timmx.plugin import (
    ArtifactError,
    Runner,
    RuntimeUnavailable,
    TensorSpec,
    VerificationError,
    is_own,
    reporter,
    worst_db,
)

from timmx_tensorrt import gpu
from timmx_tensorrt.sidecar import check_plan, differences, read, rebuild_hint
from timmx_tensorrt.validation import missing_requirements

if TYPE_CHECKING:
    from collections.abc import Mapping
    from pathlib import Path

_LAYOUTS = {4: "NCHW", 3: "NLC", 2: "NC"}
_LEAST_ROW_DB = 40.0
"""The lowest ratio between the outputs for identical rows of one batch, which the same kernels compute."""


class EngineRunner(Runner):
    """Runs an engine on the GPU.

    An engine is machine code for the GPU, and can contain code for the CPU: TensorRT's runtime in version-compatible
    engines, and libraries of plugins. TensorRT cannot check it. So only engines that this user built are loaded, and
    those that the user trusts.

    Args:
        path: the engine.
        trust: the user trusts the engine; None if this process has just built it.

    Raises:
        RuntimeUnavailable: TensorRT or a GPU is missing, or the engine was built for other ones, which it names.
        ArtifactError: the file is not an engine, the JSON next to it describes another one, or it was not built by
            this user on this machine and is not trusted.
    """

    def __init__(self, path: Path, *, trust: bool | None = False) -> None:
        sidecar = read(path)
        if problems := missing_requirements():
            reasons = "; ".join(problem.message for problem in problems)
            fixes = "; ".join(problem.fix for problem in problems)
            raise RuntimeUnavailable(f"{path} cannot be run here: {reasons}", hint=fixes)
        facts = sidecar.engine
        check_plan(path, facts)
        plan = path.read_bytes()
        if trust is not None:
            _require_trust(path, plan, trust)
        command = rebuild_hint(facts)
        from timmx_tensorrt.engine import Engine, version

        changes = "; ".join(differences(facts, gpu.facts() | {"tensorrt": version()}))
        try:
            self._engine = Engine(plan, contains_code=bool(facts.get("version_compatible")))
        except ArtifactError as exc:
            if changes:
                raise RuntimeUnavailable(
                    f"{path} was built for {changes}: {exc.message}", hint=f"build it here: {command}"
                ) from exc
            raise ArtifactError(
                f"{path} is not an engine for this GPU, or is damaged: {exc.message}",
                hint=f"build it again: {command}",
            ) from exc
        self._notes = (
            (f"{path.name} was built for {changes}: it may be slow or wrong. To build it here: {command}",)
            if changes
            else ()
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


def _require_trust(path: Path, plan: bytes, trust: bool) -> None:
    if is_own(hashlib.sha256(plan).hexdigest()):
        return
    if not trust:
        raise ArtifactError(
            f"{path} is not loaded: an engine is code that TensorRT runs, and it was not built by you on this machine",
            hint="if you trust where it comes from, use --trust (in Python: trust=True)",
        )
    reporter().warn(f"{path} is trusted: running it runs code that it contains")


class NewEngineRunner(EngineRunner):
    """Runs a new engine, and each batch size once more with equal rows, whose outputs must be equal.

    TensorRT 11.1 can give different outputs for identical rows of one batch (NVIDIA/TensorRT#4813).

    Raises:
        VerificationError: in `run`, if outputs for equal rows differ.
    """

    def __init__(self, path: Path) -> None:
        super().__init__(path, trust=None)
        self._checked_sizes: set[int] = set()

    def run(self, feeds: Mapping[str, np.ndarray]) -> dict[str, np.ndarray]:
        outputs = super().run(feeds)
        size = len(next(iter(feeds.values())))
        if size > 1 and size not in self._checked_sizes:
            self._checked_sizes.add(size)
            self._check_rows({name: np.repeat(array[:1], size, axis=0) for name, array in feeds.items()})
        return outputs

    def _check_rows(self, feeds: Mapping[str, np.ndarray]) -> None:
        for name, output in super().run(feeds).items():
            first = np.repeat(output[:1], len(output), axis=0).astype(np.float32)
            ratio = worst_db([first], [output.astype(np.float32)])
            if not ratio >= _LEAST_ROW_DB:
                raise VerificationError(
                    f"the engine gives different outputs for {len(output)} identical rows of one batch "
                    f"({name}: {ratio:.1f} dB), which is a bug in this TensorRT",
                    hint="try another TensorRT version, --opt-level or --mode",
                )

"""Runs a typed `.onnx` file on a CPU and rounds its values like a GPU."""

from __future__ import annotations

import tempfile
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
import onnx
import onnx_ir as ir
from timmx.plugin import ArtifactError, Runner, RuntimeUnavailable, UnsupportedError
from timmx_onnx import DATA_KEY, OnnxRunner, check_data, read_proto

from timmx_tensorrt.rounding import HALF_TYPES, emulate_rounding, half_types, takes_float8

if TYPE_CHECKING:
    from collections.abc import Mapping


class TypedRunner(Runner):
    """Runs a strongly typed `.onnx` file in ONNX Runtime, with half-precision values rounded by `emulate_rounding`.

    A graph without half types or float8 runs unchanged. In both cases ONNX Runtime may optimize the graph: at no level
    does it remove a Cast to half or float8 and back (1.32; `session.enable_cast_chain_elimination` would, and is off).
    Q/DQ pairs are computed as ONNX defines them, not by integer kernels, whose results depend on the processor.

    Args:
        path: the file, with its external data next to it.
        batch_sizes: the batch sizes to verify if the batch is symbolic.
        threads: the number of threads for ONNX Runtime; by default one per core.

    Raises:
        ArtifactError: the file is not an ONNX model, its types contradict each other, ONNX Runtime refuses it, or the
            external data is of another file.
        RuntimeUnavailable: the graph is valid, but ONNX Runtime lacks a kernel, or the rounding cannot be emulated.
    """

    def __init__(
        self, path: Path, batch_sizes: tuple[int, ...] = (1, 2, 3), threads: int | None = None
    ) -> None:
        self._threads = threads
        self.batch_sizes = batch_sizes
        self._folder: tempfile.TemporaryDirectory[str] | None = None
        self._not_finite: set[str] = set()
        self._halves: dict[str, ir.DataType] = {}
        proto = read_proto(path)
        model = _with_weights(proto, path)
        if half_types(model) or takes_float8(model):
            self.engine = "ONNX Runtime, every half value rounded"
            values = (*model.graph.inputs, *model.graph.outputs)
            self._halves = {
                str(value.name): value.dtype for value in values if value.dtype in HALF_TYPES and value.dtype
            }
            self._runner = self._open_emulated(model, path)
            check_data(path, proto)  # after reading them: both files may be replaced at any time
        else:
            self.engine = "ONNX Runtime"
            self._runner = OnnxRunner(path, threads, integer_kernels=False)
        self.inputs, self.outputs = (
            tuple(
                replace(spec, dtype=self._halves[spec.name].numpy().name)
                if spec.name in self._halves
                else spec
                for spec in specs
            )
            for specs in (self._runner.inputs, self._runner.outputs)
        )

    @property
    def notes(self) -> tuple[str, ...]:
        if not self._not_finite:
            return ()
        names = ", ".join(sorted(self._not_finite))
        return (f"{len(self._not_finite)} of {len(self.outputs)} outputs contain inf or NaN: {names}.",)

    def run(self, feeds: Mapping[str, np.ndarray]) -> dict[str, np.ndarray]:
        outputs = self._runner.run({name: self._widen(name, array) for name, array in feeds.items()})
        self._not_finite.update(name for name, array in outputs.items() if not np.isfinite(array).all())
        return {
            name: array.astype(self._halves[name].numpy()) if name in self._halves else array
            for name, array in outputs.items()
        }

    def close(self) -> None:
        """Close the session, and delete the float32 copy that it may have mapped into memory."""
        if hasattr(self, "_runner"):
            del self._runner
        if self._folder is not None:
            self._folder.cleanup()

    def _open_emulated(self, model: ir.Model, path: Path) -> OnnxRunner:
        # The emulated graph has only one float type, so it would run even if the types of the file do not match.
        check_valid(path)
        model.metadata_props.pop(DATA_KEY, None)  # the copy has weights of its own
        self._folder = tempfile.TemporaryDirectory(ignore_cleanup_errors=True)
        file = Path(self._folder.name, path.name)
        try:
            ir.save(emulate_rounding(model), file, external_data="weights")
            return OnnxRunner(file, self._threads, integer_kernels=False)
        except UnsupportedError as exc:
            raise RuntimeUnavailable(
                f"{path} cannot be run with its rounding: {exc.message}", hint=exc.hint
            ) from exc
        except ArtifactError as exc:
            raise ArtifactError(exc.message.replace(str(file), str(path)), hint=exc.hint) from exc

    def _widen(self, name: str, array: np.ndarray) -> np.ndarray:
        if name not in self._halves:
            return array
        dtype = self._halves[name].numpy()
        if array.dtype != dtype:
            raise ValueError(f"input {name!r} takes {dtype.name}, not {array.dtype}")
        return array.astype(np.float32)


def check_valid(path: Path) -> None:
    """Refuse a graph whose nodes and types contradict ONNX or each other.

    Raises:
        ArtifactError: with the message of ONNX's checker.
    """
    try:
        onnx.checker.check_model(str(path), full_check=True)
    except (onnx.checker.ValidationError, onnx.shape_inference.InferenceError) as exc:
        raise ArtifactError(f"{path} is not a valid ONNX model: {exc}", hint="export it again") from exc


def _with_weights(proto: onnx.ModelProto, path: Path) -> ir.Model:
    """The graph; external data stays on disk until it is used."""
    model = ir.from_proto(proto)
    ir.external_data.set_base_dir(model.graph, path.parent)
    return model

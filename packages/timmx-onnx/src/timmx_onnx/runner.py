"""Runs an `.onnx` file in ONNX Runtime."""

from __future__ import annotations

from functools import cached_property
from typing import TYPE_CHECKING

import onnxruntime
from onnxruntime.capi.onnxruntime_pybind11_state import (
    EPFail,
    Fail,
    InvalidArgument,
    InvalidGraph,
    InvalidProtobuf,
    NoSuchFile,
    NotImplemented as NotImplementedByRuntime,
    RuntimeException,
)
from timmx.plugin import ArtifactError, Metadata, Runner, RuntimeUnavailable, TensorSpec, parse_json_object

from timmx_onnx.keys import DATA_KEY, METADATA_KEY
from timmx_onnx.proto import check_data, check_external_data, read_proto

if TYPE_CHECKING:
    from collections.abc import Mapping
    from pathlib import Path

    import numpy as np

    from timmx_onnx.operations import Operations

_LAYOUTS = {3: "NLC", 2: "NC"}
_DTYPES = {
    "tensor(float)": "float32",
    "tensor(float16)": "float16",
    "tensor(double)": "float64",
    "tensor(uint8)": "uint8",
    "tensor(int8)": "int8",
    "tensor(int64)": "int64",
}


def open_session(
    path: Path, threads: int | None = None, *, integer_kernels: bool = True, spins: bool = True
) -> onnxruntime.InferenceSession:
    """Open a file in ONNX Runtime on the CPU, which then logs errors only.

    Args:
        threads: the number of threads; by default one per core.
        integer_kernels: fuse Q/DQ pairs into integer kernels. On x86 processors without VNNI these add pairs of
            products in saturating 16-bit integers, and differ from what ONNX defines (25 dB instead of over 30 for
            one layer, ONNX Runtime 1.32).
        spins: its threads spin while they wait for work, as by default; faster, if every thread has a core.
    """
    settings = onnxruntime.SessionOptions()
    settings.log_severity_level = 3
    settings.intra_op_num_threads = threads or 0  # 0: one per core
    if not spins:
        settings.add_session_config_entry("session.intra_op.allow_spinning", "0")
    if not integer_kernels:
        settings.add_session_config_entry("session.disable_quant_qdq", "1")
    return onnxruntime.InferenceSession(str(path), settings, providers=["CPUExecutionProvider"])


class OnnxRunner(Runner):
    """Runs an `.onnx` file on the CPU.

    Args:
        path: the file, with its external data next to it.
        threads: the number of threads for ONNX Runtime; by default one per core.
        integer_kernels: see `open_session`.
        spins: likewise.

    Raises:
        ArtifactError: the file is not an ONNX model, ONNX Runtime refuses its graph, or the external data is of
            another file.
        RuntimeUnavailable: the graph is valid, but this ONNX Runtime has no kernel for an operation in it.
    """

    def __init__(
        self, path: Path, threads: int | None = None, *, integer_kernels: bool = True, spins: bool = True
    ) -> None:
        check_external_data(path)
        self._path = path
        try:
            self._session = open_session(path, threads, integer_kernels=integer_kernels, spins=spins)
            inputs, outputs = self._session.get_inputs(), self._session.get_outputs()
            properties = self._session.get_modelmeta().custom_metadata_map
        except (InvalidProtobuf, InvalidArgument, UnicodeDecodeError) as exc:
            raise ArtifactError(
                f"{path} is not an ONNX file, or is damaged: {exc}", hint="export it again"
            ) from exc
        except (Fail, EPFail, InvalidGraph, NoSuchFile, RuntimeException) as exc:
            raise ArtifactError(
                f"ONNX Runtime {onnxruntime.__version__} cannot load {path}: {exc}",
                hint="export it again; weights in a separate .data file must be next to it",
            ) from exc
        except NotImplementedByRuntime as exc:
            raise RuntimeUnavailable(
                f"ONNX Runtime {onnxruntime.__version__} has no kernel for an operation of {path}: {exc}",
                hint="try a newer onnxruntime, or export it with another --opset or --mode",
            ) from exc
        text = properties.get(METADATA_KEY)
        layout = Metadata.parse(path, parse_json_object(path, text)).input.layout if text else "NCHW"
        self.inputs = tuple(_spec(argument, layout) for argument in inputs)
        self.outputs = tuple(_spec(argument, "NCHW") for argument in outputs)
        if not self.inputs or not self.outputs:
            raise ArtifactError(
                f"{path} is damaged: its graph has no inputs or no outputs", hint="export it again"
            )
        # After loading, and with the hash in the graph that was loaded: both files may be replaced at any time.
        expected = properties.get(DATA_KEY)
        if expected:
            check_data(path, read_proto(path), expected)

    def run(self, feeds: Mapping[str, np.ndarray]) -> dict[str, np.ndarray]:
        names = [spec.name for spec in self.outputs]
        return dict(zip(names, self._session.run(names, dict(feeds)), strict=True))

    @cached_property
    def separate(self) -> Operations:
        from timmx_onnx.operations import Operations

        return Operations(self._path)


def _spec(argument: onnxruntime.NodeArg, images: str) -> TensorSpec:
    """An input or output.

    Args:
        images: the layout if it has four axes.
    """
    shape = tuple(argument.shape)
    return TensorSpec(
        name=argument.name,
        shape=shape,
        dtype=_DTYPES.get(argument.type, argument.type),
        layout=images if len(shape) == 4 else _LAYOUTS.get(len(shape), ""),
    )

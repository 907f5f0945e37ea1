"""Runs an OpenVINO model in OpenVINO, on the CPU, a GPU, an NPU, or what its AUTO device chooses."""

from __future__ import annotations

from functools import cached_property
from typing import TYPE_CHECKING, Any

import openvino
import openvino.properties as properties
import openvino.properties.hint as hints
from openvino import opset1
from timmx.plugin import (
    ArtifactError,
    ConfigurationError,
    Metadata,
    Precision,
    Runner,
    RuntimeDevice,
    RuntimeUnavailable,
    TensorSpec,
    cache_folder,
)

from timmx_openvino.graph import one_line, read_model, shared_core, values
from timmx_openvino.ir import dtype_name, read_metadata

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence
    from pathlib import Path

    import numpy as np
    from timmx.plugin import OpenSettings

    from timmx_openvino.operations import Operations

_LAYOUTS = {2: "NC", 3: "NLC", 4: "NCHW"}


class OpenVINORunner(Runner):
    """Runs an OpenVINO model.

    The CPU computes floats in float32, also if AUTO chooses it, and GPUs those of files in fp32, also where they
    would choose bfloat16 (CPUs with AVX512_BF16 or AMX: 22.6 dB in place of 50 for an efficientnet_b0 in fp16) or
    float16 (GPUs).

    Args:
        path: the `.xml`, with its `.bin` next to it.
        settings: the device and the number of threads of the CPU, also if AUTO chooses it.

    Raises:
        ArtifactError: the files are not an OpenVINO model, are damaged, or do not belong together.
        RuntimeUnavailable: this OpenVINO does not have the device or an operation.
        ConfigurationError: in `run`, an input has another name or shape than the file takes.
    """

    def __init__(self, path: Path, settings: OpenSettings) -> None:
        content = read_metadata(path)
        metadata = Metadata.parse(path, content) if content else None
        self._path = path
        device = (settings.runtime_device or RuntimeDevice.CPU).upper()
        _require(device)
        self._model = read_model(path)
        try:
            self._compiled = shared_core().compile_model(
                self._model, device, _properties(device, metadata, settings.threads)
            )
            self._request = self._compiled.create_infer_request()
        except RuntimeError as exc:
            raise ArtifactError(
                f"OpenVINO cannot compile {path} for the device {device}: {one_line(exc)}",
                hint="use --runtime-device cpu, or export it again",
            ) from exc
        layout = metadata.input.layout if metadata else "NCHW"
        self.inputs = tuple(_spec(port, layout) for port in self._model.inputs)
        self.outputs = tuple(_spec(port, "NCHW") for port in self._model.outputs)

    def run(self, feeds: Mapping[str, np.ndarray]) -> dict[str, np.ndarray]:
        names = [spec.name for spec in self.inputs]
        if sorted(feeds) != sorted(names):
            raise ConfigurationError(
                f"the file takes {', '.join(names)}, but got {', '.join(feeds) or 'nothing'}",
                hint=f"pass one array for each of: {', '.join(names)}",
            )
        for spec in self.inputs:
            shape = feeds[spec.name].shape
            if len(shape) != len(spec.shape) or any(
                size not in ("batch", got) for size, got in zip(spec.shape, shape, strict=True)
            ):
                raise ConfigurationError(
                    f"the file takes {spec.name} of shape {spec.shape}, but got shape {tuple(shape)}",
                    hint=f"pass an array of shape {spec.shape}",
                )
        return self._infer(self._request, feeds, [spec.name for spec in self.outputs])

    @cached_property
    def intermediates(self) -> tuple[str, ...]:  # type: ignore[override]
        return tuple(name for name, port in values(self._model).items() if port.get_element_type().is_real())

    def run_intermediates(
        self, feeds: Mapping[str, np.ndarray], names: Sequence[str]
    ) -> dict[str, np.ndarray]:
        model = self._model.clone()
        ports = values(model)
        results = [opset1.result(ports[name]) for name in names]
        part = openvino.Model(results, [port.node for port in model.inputs])
        compiled = shared_core().compile_model(part, "CPU", {hints.inference_precision: openvino.Type.f32})
        return self._infer(compiled.create_infer_request(), feeds, names)

    @cached_property
    def separate(self) -> Operations:
        from timmx_openvino.operations import Operations

        return Operations(self._path)

    def close(self) -> None:
        self._request = self._compiled = self._model = None

    def _infer(
        self, request: openvino.InferRequest, feeds: Mapping[str, np.ndarray], names: Sequence[str]
    ) -> dict[str, np.ndarray]:
        try:
            results = request.infer([feeds[spec.name] for spec in self.inputs], share_inputs=True)
        except RuntimeError as exc:
            raise ArtifactError(
                f"OpenVINO failed to run {self._path}: {one_line(exc)}",
                hint="export it again, or copy it again",
            ) from exc
        return {name: results[index] for index, name in enumerate(names)}


def _require(device: str) -> None:
    """Check that this machine has a device.

    Raises:
        RuntimeUnavailable: it does not.
    """
    devices = shared_core().available_devices
    if device != "AUTO" and not any(name.partition(".")[0] == device for name in devices):
        raise RuntimeUnavailable(
            f"OpenVINO finds no device {device} on this machine, only {', '.join(devices)}",
            hint="use --runtime-device cpu, or install the driver of the device",
        )


def _properties(device: str, metadata: Metadata | None, threads: int | None) -> dict[Any, Any]:
    chosen: dict[Any, Any] = {hints.performance_mode: hints.PerformanceMode.LATENCY}
    on_cpu: dict[Any, Any] = {hints.inference_precision: openvino.Type.f32}
    if threads is not None:
        on_cpu[properties.inference_num_threads] = threads
    if device == "CPU":
        return chosen | on_cpu
    chosen[properties.cache_dir] = str(cache_folder("openvino"))  # the CPU compiles in less than a second
    exact = metadata is None or metadata.precision == Precision.FP32
    if exact and device != "NPU":  # which has no float32
        chosen[hints.inference_precision] = openvino.Type.f32
    if device == "AUTO":
        chosen[properties.device.properties] = {"CPU": on_cpu}
    return chosen


def _spec(port: openvino.Output, images: str) -> TensorSpec:
    """An input or output.

    Args:
        images: the layout if it has four axes.
    """
    sizes = port.get_partial_shape()
    shape = tuple("batch" if size.is_dynamic else size.get_length() for size in sizes)
    return TensorSpec(
        name=port.any_name if port.names else port.node.friendly_name,
        shape=shape,
        dtype=dtype_name(port.get_element_type().get_type_name()),
        layout=images if len(shape) == 4 else _LAYOUTS.get(len(shape), ""),
    )

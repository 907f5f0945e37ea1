"""All calls of TensorRT, through the API that versions 10 and 11 share.

The types in the graph determine the precision: networks are strongly typed, by a flag in version 10 and always in
version 11. The integer values of enumerations differ between the two, so they are never stored.
"""

from __future__ import annotations

import threading
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import filelock
import tensorrt as trt
import torch
from timmx.plugin import (
    ArtifactError,
    ConfigurationError,
    RuntimeUnavailable,
    UnsupportedError,
    atomic_write,
    reporter,
)

from timmx_tensorrt import gpu
from timmx_tensorrt.options import HardwareCompat

if TYPE_CHECKING:
    from collections.abc import Mapping
    from pathlib import Path

    import numpy as np

    from timmx_tensorrt.profile import Profile

_COMPATIBILITY = {
    HardwareCompat.AMPERE_PLUS: "AMPERE_PLUS",
    HardwareCompat.SAME_CC: "SAME_COMPUTE_CAPABILITY",  # in 10.16; not yet in 10.0
}
_MAX_LINES = 20
_BUILD_AGAIN = "build it again on this machine; timmx inspect shows the command"
_POLL_SECONDS = 0.1
_LOCK_SECONDS = 30
"""How long to wait for another build that writes the same timing cache."""


@dataclass(frozen=True, kw_only=True)
class BuildSettings:
    """The settings of a build.

    Attributes:
        profile: the batch sizes of the engine; None if the batch size is fixed.
        tf32: whether float32 products may be computed with 10 bits of mantissa.
        workspace_bytes: limit of scratch memory; None for no limit.
        opt_level: how long to search for tactics, 0 to 5; None for TensorRT's default.
        timing_cache: a file that builds share.
        version_compatible: whether later versions may run the engine.
        hardware_compat: the other GPUs that may run the engine.
        name: stored in the plan.
    """

    profile: Profile | None
    tf32: bool
    workspace_bytes: int | None = None
    opt_level: int | None = None
    timing_cache: Path | None = None
    version_compatible: bool = False
    hardware_compat: HardwareCompat = HardwareCompat.NONE
    name: str = ""


@dataclass(frozen=True)
class BuildResult:
    """A plan, and messages for the user."""

    plan: bytes
    notes: tuple[str, ...]


def version() -> str:
    """The version of TensorRT."""
    return str(trt.__version__)


def build(onnx: Path, settings: BuildSettings) -> BuildResult:
    """Build an engine from a typed ONNX. Ctrl-C stops the build at the next step.

    Raises:
        ConfigurationError: this TensorRT does not have one of the settings.
        UnsupportedError: TensorRT does not take an operation, or cannot build the network.
    """
    log = _Log()
    builder = _create(trt.Builder, log)
    network = builder.create_network(1 << int(trt.NetworkDefinitionCreationFlag.STRONGLY_TYPED))
    parser = trt.OnnxParser(network, log)
    if not parser.parse_from_file(str(onnx)):
        raise UnsupportedError(
            f"TensorRT {version()} cannot parse this graph: {_parser_errors(parser)}",
            hint="export the model with another --opset or --mode",
        )
    network.name = settings.name[:128]  # after the parser, which may also set it
    config = _create_config(builder, network, settings)
    cache, notes = _load_timings(config, settings.timing_cache)
    monitor = _Monitor()
    config.progress_monitor = monitor
    plan = _build(builder, network, config, monitor)
    if plan is None:
        raise UnsupportedError(
            f"TensorRT {version()} could not build the engine: {log.last() or 'no reason given'}",
            hint="try another --mode, or more --workspace",
        )
    if settings.timing_cache is not None and cache is not None:
        notes += _save_timings(config, settings.timing_cache)
    return BuildResult(bytes(plan), (*notes, *log.warnings()))


class Engine:
    """A plan that is loaded and can run.

    Args:
        plan: the bytes of the engine file.
        contains_code: the engine is version-compatible, and TensorRT may run the code in it.

    Raises:
        ArtifactError: TensorRT cannot read the plan, with its message.
    """

    def __init__(self, plan: bytes, *, contains_code: bool = False) -> None:
        self._log = _Log()
        self._runtime = _create(trt.Runtime, self._log)
        if contains_code:
            self._runtime.engine_host_code_allowed = True
        self._engine = self._runtime.deserialize_cuda_engine(plan)
        if self._engine is None:
            raise ArtifactError(
                f"TensorRT {version()} cannot read the engine: {self._log.last() or 'no reason given'}",
                hint=_BUILD_AGAIN,
            )
        self._context = self._engine.create_execution_context()
        if self._context is None:
            raise ArtifactError(
                f"TensorRT {version()} cannot prepare to run the engine: {self._log.last() or 'no reason given'}",
                hint=_BUILD_AGAIN,
            )
        names = [self._engine.get_tensor_name(index) for index in range(self._engine.num_io_tensors)]
        self.inputs = [name for name in names if self._engine.get_tensor_mode(name) == trt.TensorIOMode.INPUT]
        self.outputs = [name for name in names if name not in self.inputs]

    def shape(self, name: str) -> tuple[int, ...]:
        """The shape of an input or output; -1 stands for a dynamic size."""
        return tuple(self._engine.get_tensor_shape(name))

    def dtype(self, name: str) -> str:
        """The element type of an input or output, numpy's name."""
        element_type = self._engine.get_tensor_dtype(name)
        if element_type not in _DTYPES:
            raise ArtifactError(
                f"the engine has {name} of type {element_type}, which is not supported",
                hint="build it with timmx tensorrt, which writes engines with float32 inputs and outputs",
            )
        return str(_DTYPES[element_type]).removeprefix("torch.")

    def batches(self, name: str) -> tuple[int, int, int]:
        """The smallest, the optimal and the largest batch size of an input."""
        smallest, optimal, largest = (
            tuple(shape) for shape in self._engine.get_tensor_profile_shape(name, 0)
        )
        return smallest[0], optimal[0], largest[0]

    def run(self, feeds: Mapping[str, np.ndarray]) -> dict[str, np.ndarray]:
        """Run the engine; inputs and outputs are on the host.

        Raises:
            ConfigurationError: names, element types or shapes do not match the engine, or the engine is closed.
            ArtifactError: TensorRT fails.
        """
        self._check(feeds)
        tensors = {
            name: torch.from_numpy(array).to(gpu.device()).contiguous() for name, array in feeds.items()
        }
        for name, tensor in tensors.items():
            if not self._context.set_input_shape(name, tuple(tensor.shape)):
                smallest, _, largest = self.batches(name)
                raise ConfigurationError(
                    f"the engine takes {name} of shape {self.shape(name)} with batches from {smallest} to {largest}, "
                    f"but got shape {tuple(tensor.shape)}",
                    hint="pass an array of that shape, or build an engine for other sizes",
                )
        if missing := self._context.infer_shapes():
            raise ArtifactError(f"TensorRT cannot infer the shapes of {', '.join(missing)}")
        for name in self.outputs:
            shape = tuple(self._context.get_tensor_shape(name))
            tensors[name] = torch.empty(
                shape, dtype=_DTYPES[self._engine.get_tensor_dtype(name)], device=gpu.device()
            )
        for name, tensor in tensors.items():
            if not self._context.set_tensor_address(name, tensor.data_ptr()):
                raise ArtifactError(
                    f"TensorRT rejects the memory of {name}: {self._log.last() or 'no reason given'}"
                )
        stream = gpu.Stream()
        if not self._context.execute_async_v3(stream.handle):
            raise ArtifactError(f"TensorRT failed to run the engine: {self._log.last() or 'no reason given'}")
        stream.synchronize()
        return {name: tensors[name].cpu().numpy() for name in self.outputs}

    def _check(self, feeds: Mapping[str, np.ndarray]) -> None:
        """Check the inputs: TensorRT gets only addresses, and would read past a short array or misread another type."""
        if self._engine is None:
            raise ConfigurationError("the engine is closed", hint="open it again")
        if sorted(feeds) != sorted(self.inputs):
            raise ConfigurationError(
                f"the engine takes {', '.join(self.inputs)}, but got {', '.join(feeds) or 'nothing'}",
                hint=f"pass one array for each of: {', '.join(self.inputs)}",
            )
        for name, array in feeds.items():
            if array.dtype.name != self.dtype(name):
                raise ConfigurationError(
                    f"the engine takes {name} as {self.dtype(name)}, but got {array.dtype.name}",
                    hint=f"convert it with .astype({self.dtype(name)!r})",
                )

    def close(self) -> None:
        """Free the GPU's memory."""
        self._context = self._engine = None


_DTYPES = {
    trt.DataType.FLOAT: torch.float32,
    trt.DataType.HALF: torch.float16,
    trt.DataType.INT32: torch.int32,
    trt.DataType.INT64: torch.int64,
    trt.DataType.INT8: torch.int8,
    trt.DataType.UINT8: torch.uint8,
    trt.DataType.BOOL: torch.bool,
}


class _Log(trt.ILogger):  # type: ignore[misc]
    """Collects TensorRT's errors and warnings, which come from any thread, and drops its other messages."""

    def __init__(self) -> None:
        super().__init__()
        self._errors: list[str] = []
        self._warnings: dict[str, None] = {}

    def log(self, severity: Any, msg: str) -> None:
        line = " ".join(msg.split())
        if severity in (trt.ILogger.Severity.ERROR, trt.ILogger.Severity.INTERNAL_ERROR):
            self._errors.append(line)
        elif severity == trt.ILogger.Severity.WARNING:
            self._warnings[line] = None

    def last(self) -> str:
        """The last errors, in order."""
        return " ".join(self._errors[-_MAX_LINES:])[-1500:].rstrip(".")

    def warnings(self) -> list[str]:
        """The warnings, each once."""
        return [f"TensorRT: {line}" for line in list(self._warnings)[:_MAX_LINES]]


class _Monitor(trt.IProgressMonitor):  # type: ignore[misc]
    """Called by TensorRT from its own threads; its methods must not raise."""

    def __init__(self) -> None:
        super().__init__()
        self._canceled = threading.Event()
        self._lock = threading.Lock()
        self._phases: dict[str, list[Any]] = {}
        self._furthest: dict[str, float] = {}

    def phase_start(self, phase_name: str, parent_phase: str | None, num_steps: int) -> None:
        with self._lock:
            self._phases[phase_name] = [parent_phase, max(1, num_steps), 0]

    def step_complete(self, phase_name: str, step: int) -> bool:
        with self._lock:
            if phase_name in self._phases:
                self._phases[phase_name][2] = step + 1
        return not self._canceled.is_set()

    def phase_finish(self, phase_name: str) -> None:
        with self._lock:
            self._phases.pop(phase_name, None)

    def cancel(self) -> None:
        self._canceled.set()

    def state(self) -> tuple[str, float] | None:
        """The outermost phase and its completed share, including the phases inside it."""
        with self._lock:
            phases = {name: tuple(phase) for name, phase in self._phases.items()}
        outer = next((name for name, (parent, _, _) in phases.items() if parent not in phases), None)
        if outer is None:
            return None
        share, part = 0.0, 1.0
        name: str | None = outer
        while name is not None:
            _, steps, done = phases[name]
            share += part * min(1.0, done / steps)
            part /= steps
            name = next((inner for inner, (parent, _, _) in phases.items() if parent == name), None)
        # Between the end of an inner phase and the next outer step the sum decreases.
        self._furthest[outer] = max(self._furthest.get(outer, 0.0), min(1.0, share))
        return outer, self._furthest[outer]


def _create(factory: Any, log: _Log) -> Any:
    """Create a builder or a runtime; on failure the bindings raise a TypeError, and the log has the reason."""
    try:
        return factory(log)
    except TypeError as exc:
        raise RuntimeUnavailable(
            f"TensorRT {version()} cannot start on this machine: {log.last() or exc}",
            hint="check the driver and the GPU with nvidia-smi",
        ) from exc


def _build(builder: Any, network: Any, config: Any, monitor: _Monitor) -> Any:
    """Build in a separate thread, so that signals reach Python while TensorRT computes."""
    result: list[Any] = []
    errors: list[BaseException] = []

    def work() -> None:
        try:
            result.append(builder.build_serialized_network(network, config))
        except BaseException as exc:  # raised again below, in the main thread
            errors.append(exc)

    thread = threading.Thread(target=work, name="TensorRT build")
    thread.start()
    try:
        while thread.is_alive():
            thread.join(_POLL_SECONDS)
            if state := monitor.state():
                reporter().advance(*state)
    except BaseException:
        monitor.cancel()
        raise
    finally:
        thread.join()
    if errors:
        raise errors[0]
    return result[0]


def _parser_errors(parser: Any) -> str:
    messages = []
    for index in range(min(parser.num_errors, 5)):
        error = parser.get_error(index)
        where = f" at {error.node_name()} ({error.node_operator()})" if error.node_operator() else ""
        messages.append(f"{' '.join(error.desc().split())[:300].rstrip('.')}{where}")
    more = parser.num_errors - len(messages)
    return "; ".join(messages) + (f"; and {more} more" if more > 0 else "")


def _create_config(builder: Any, network: Any, settings: BuildSettings) -> Any:
    config = builder.create_builder_config()
    # The inspector then shows the types of layers; it costs nothing at run time.
    config.profiling_verbosity = trt.ProfilingVerbosity.DETAILED
    if settings.workspace_bytes is not None:
        config.set_memory_pool_limit(trt.MemoryPoolType.WORKSPACE, settings.workspace_bytes)
    if settings.opt_level is not None:
        config.builder_optimization_level = settings.opt_level
    if not settings.tf32:
        config.clear_flag(trt.BuilderFlag.TF32)
    if settings.version_compatible:
        config.set_flag(trt.BuilderFlag.VERSION_COMPATIBLE)
    if settings.hardware_compat is not HardwareCompat.NONE:
        level = getattr(trt.HardwareCompatibilityLevel, _COMPATIBILITY[settings.hardware_compat], None)
        if level is None:
            raise ConfigurationError(
                f"TensorRT {version()} does not support --hardware-compat {settings.hardware_compat}",
                hint="leave --hardware-compat out, or upgrade TensorRT: uv pip install --upgrade 'tensorrt>=10,<12'",
            )
        config.hardware_compatibility_level = level
    if settings.profile is not None:
        _add_profile(builder, network, config, settings.profile)
    return config


def _add_profile(builder: Any, network: Any, config: Any, sizes: Profile) -> None:
    profile = builder.create_optimization_profile()
    for index in range(network.num_inputs):
        entry = network.get_input(index)
        rest = tuple(entry.shape)[1:]
        profile.set_shape(
            entry.name, *((size, *rest) for size in (sizes.smallest, sizes.optimal, sizes.largest))
        )
    if config.add_optimization_profile(profile) < 0:
        raise UnsupportedError(
            f"TensorRT {version()} rejects batches from {sizes.smallest} to {sizes.largest}",
            hint="try another --batch-min or --batch-max",
        )


def _load_timings(config: Any, path: Path | None) -> tuple[Any, tuple[str, ...]]:
    """Use the timings in a file for the build. An unusable file is not changed: it may be for another GPU."""
    if path is None:
        return None, ()
    content = path.read_bytes() if path.is_file() else b""
    cache = config.create_timing_cache(content)
    if cache is not None and config.set_timing_cache(cache, False):
        return cache, ()
    return None, (
        f"{path} has no timings for this GPU and TensorRT: it is not changed, and the timings of this build are not "
        "saved. Use another --timing-cache.",
    )


def _save_timings(config: Any, path: Path) -> tuple[str, ...]:
    """Add a build's timings to those that other builds have written in the meantime; returns a note on failure."""
    cache = config.get_timing_cache()
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        with filelock.FileLock(f"{path}.lock", timeout=_LOCK_SECONDS):
            if path.is_file():
                other = config.create_timing_cache(path.read_bytes())
                if other is None or not cache.combine(other, False):
                    return (f"{path} no longer has timings for this GPU: it is not changed.",)
            with atomic_write(path, "wb") as file:
                file.write(bytes(cache.serialize()))
    except (OSError, filelock.Timeout) as exc:  # the engine is complete without its timings
        return (f"The timings of this build could not be saved in {path}: {exc}.",)
    return ()

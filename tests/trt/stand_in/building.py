"""The builder and its configuration: profiles, timing caches, flags, progress, and the resulting plan."""

from __future__ import annotations

import contextlib
import hashlib
import signal
import sys
import threading
import weakref

from . import parsing
from .parsing import Network
from .plan import Plan, Timings
from .pybind import Flagged, Inner, Virtual, swallow
from .trouble import Build
from .values import host_memory

DEVICE_BYTES = 8 * 2**30
OUTER, INNER = "Building Engine from Network", "Computing Kernel Timings"


class Builder(Inner):
    shown = "Builder"

    def __init__(self, trt, logger):
        super().__init__(trt)
        self.logger = logger
        refuse_without_device(self)

    def create_network(self, flags=0):
        return Network(self.trt, self.logger, int(flags))

    def create_builder_config(self):
        return Config(self.trt, self.logger)

    def create_optimization_profile(self):
        return Profile(self.trt)

    def is_network_supported(self, network, config) -> bool:
        return network.model is not None

    def build_serialized_network(self, network, config, kernel_text=None):
        cache, timed = config.timing_cache, timings_of(network)
        use_cache = (
            cache is not None
            and config.builder_optimization_level > 0
            and not config.get_flag(self.trt.BuilderFlag.DISABLE_TIMING_CACHE)
        )
        cached = set(cache.timings.entries) if use_cache else set()
        self.trt.builds.append(record_of(network, config, len(cached & set(timed))))
        problem = self.trt.trouble.build or problem_of(network, config)
        if problem:
            self.log("ERROR", problem)
            return None
        if not Progress(config.progress_monitor, self.trt.trouble.during_build).run(len(timed)):
            self.log("WARNING", "The build was canceled by the progress monitor.")
            return None
        if use_cache:
            cache.add(timed)
        return host_memory(self.trt, plan_of(network, config).to_bytes())


class Config(Flagged, Inner):
    shown = "IBuilderConfig"

    def __init__(self, trt, logger):
        super().__init__(trt)
        self.logger, self.profiles, self.pools, self.timing_cache = logger, [], {}, None
        self.flags = 1 << int(trt.BuilderFlag.TF32)
        self.profiling_verbosity = trt.ProfilingVerbosity.LAYER_NAMES_ONLY
        self.hardware_compatibility_level = trt.HardwareCompatibilityLevel.NONE
        self.engine_capability = trt.EngineCapability.STANDARD
        self.runtime_platform = trt.RuntimePlatform.SAME_AS_BUILD
        self.max_num_tactics = self.max_aux_streams = -1
        self.avg_timing_iterations, self._level, self._monitor = 1, 3, None

    @property
    def builder_optimization_level(self) -> int:
        return self._level

    @builder_optimization_level.setter
    def builder_optimization_level(self, value) -> None:
        if 0 <= int(value) <= 5:
            self._level = int(value)
        else:
            self.log("ERROR", f"builder_optimization_level is 0 to 5, not {int(value)}.")

    @property
    def progress_monitor(self):
        return None if self._monitor is None else self._monitor()

    @progress_monitor.setter
    def progress_monitor(self, value) -> None:
        """Keeps a weak reference: by NVIDIA's documentation the caller must keep the monitor alive."""
        self._monitor = None if value is None else weakref.ref(value)

    def set_memory_pool_limit(self, pool, pool_size) -> None:
        if int(pool_size) > DEVICE_BYTES and pool == self.trt.MemoryPoolType.WORKSPACE:
            self.log("ERROR", f"The device has {DEVICE_BYTES} bytes, fewer than {int(pool_size)}.")
        else:
            self.pools[pool.name] = int(pool_size)

    def get_memory_pool_limit(self, pool) -> int:
        return self.pools.get(pool.name, DEVICE_BYTES if pool.name == "WORKSPACE" else 0)

    @property
    def num_optimization_profiles(self) -> int:
        return len(self.profiles)

    def add_optimization_profile(self, profile) -> int:
        problem = self.trt.trouble.profile or ("" if profile else "The profile holds no shapes.")
        if problem:
            self.log("ERROR", problem)
            return -1
        self.profiles.append(profile)
        return len(self.profiles) - 1

    def create_timing_cache(self, serialized_timing_cache):
        content = bytes(serialized_timing_cache)
        if not content:
            return TimingCache(self.trt, Timings(self.trt.__version__, self.trt.trouble.device))
        timings = Timings.from_bytes(content)
        if timings is None:
            self.log("ERROR", "The bytes are not a timing cache.")
            return None
        return TimingCache(self.trt, timings)

    def set_timing_cache(self, cache, ignore_mismatch) -> bool:
        if not (ignore_mismatch or cache.fits):
            self.log("ERROR", "The timing cache is of another device or another version.")
            return False
        self.timing_cache = cache
        return True

    def get_timing_cache(self):
        return self.timing_cache


class Profile(Inner):
    shown = "IOptimizationProfile"

    def __init__(self, trt):
        super().__init__(trt)
        self.shapes: dict[str, tuple[tuple[int, ...], ...]] = {}

    def set_shape(self, input, min, opt, max) -> None:
        shapes = tuple(min), tuple(opt), tuple(max)
        ranks = {len(shape) for shape in shapes}
        ordered = all(0 <= low <= middle <= high for low, middle, high in zip(*shapes, strict=False))
        if len(ranks) > 1 or not ordered:
            raise ValueError(f"Shapes of {input} are not min <= opt <= max: {shapes}")
        self.shapes[input] = shapes

    def get_shape(self, input):
        return [self.trt.Dims(shape) for shape in self.shapes.get(input, ())]

    def __bool__(self) -> bool:
        return bool(self.shapes)

    __nonzero__ = __bool__


class TimingCache(Inner):
    shown = "ITimingCache"

    def __init__(self, trt, timings: Timings):
        super().__init__(trt)
        self.timings = timings

    @property
    def fits(self) -> bool:
        return (self.timings.device, self.timings.version) == (self.trt.trouble.device, self.trt.__version__)

    def add(self, entries: list[str]) -> None:
        self.timings.entries = sorted({*self.timings.entries, *entries})

    def serialize(self):
        return host_memory(self.trt, self.timings.to_bytes())

    def combine(self, input_cache, ignore_mismatch) -> bool:
        if not (ignore_mismatch or input_cache.fits):
            return False
        self.add(input_cache.timings.entries)
        return True

    def reset(self) -> bool:
        self.timings.entries = []
        return True


class Progress:
    """Reports a build: an outer phase from the calling thread, an inner phase from another one, as TensorRT may.

    Ctrl-C during C++ takes effect in the main thread's next line of Python. That is the first line of a callback, whose
    exceptions are swallowed; without a monitor, it is the line after the build.
    """

    def __init__(self, monitor, at_step):
        self.monitor, self.at_step = monitor, at_step
        self.go_on, self.interruption = True, None
        self.caller = threading.get_ident()

    def run(self, tactics: int) -> bool:
        """False if the monitor has canceled the build."""
        with self.waiting_for_ctrl_c():
            self.report("phase_start", OUTER, None, 3)
            self.step(OUTER, 0)
            if self.go_on:
                thread = threading.Thread(target=self.time_kernels, args=(max(1, min(tactics, 8)),))
                thread.start()
                thread.join()
            for step in (1, 2):
                self.step(OUTER, step)
            self.report("phase_finish", OUTER)
        if self.interruption is not None:
            raise self.interruption
        return self.go_on

    @contextlib.contextmanager
    def waiting_for_ctrl_c(self):
        """Record Ctrl-C where Python would raise it; a backend's own handler stays."""
        main = self.caller == threading.main_thread().ident
        if not main or signal.getsignal(signal.SIGINT) is not signal.default_int_handler:
            yield
            return
        signal.signal(signal.SIGINT, lambda number, frame: setattr(self, "interruption", KeyboardInterrupt()))
        try:
            yield
        finally:
            signal.signal(signal.SIGINT, signal.default_int_handler)

    def time_kernels(self, steps: int) -> None:
        self.report("phase_start", INNER, OUTER, steps)
        for step in range(steps):
            self.step(INNER, step)
        self.report("phase_finish", INNER)

    def step(self, phase: str, number: int) -> None:
        if not self.go_on:
            return
        if self.at_step is not None:
            self.at_step()
        self.go_on = self.report("step_complete", phase, number)

    def report(self, name: str, *arguments) -> bool:
        if self.monitor is None:
            return True
        if self.interruption is not None and threading.get_ident() == self.caller:
            swallow(name, self.interruption)
            self.interruption = None
            return False
        return self.monitor._inner.invoke(self.monitor, name, *arguments)


class Logger(Virtual):
    """TensorRT's own logger, which prints. C++ calls it directly, so overrides of a Python subclass have no effect."""

    shown = "Logger"

    def __init__(self, trt, min_severity=None):
        super().__init__(trt)
        self.min_severity = min_severity or trt.ILogger.Severity.WARNING

    def invoke(self, shell, name, severity, message) -> None:
        if int(severity) <= int(self.min_severity):
            print(f"[TRT] [{severity.name[0]}] {message}", file=sys.stderr)


class AnyLogger(Virtual):
    shown = "ILogger"


class Monitor(Virtual):
    shown = "IProgressMonitor"

    def invoke(self, shell, name, *arguments):
        answer = super().invoke(shell, name, *arguments)
        return hasattr(answer, "__bool__") and bool(answer) if name == "step_complete" else None


def refuse_without_device(maker: Builder) -> None:
    """Raise the error of a C++ factory that returns null because no driver was found."""
    if maker.trt.trouble.no_device:
        maker.log("ERROR", maker.trt.trouble.no_device)
        raise TypeError("pybind11::init(): factory function returned nullptr")


def timings_of(network: Network) -> list[str]:
    """A key for each kind of layer that a build times."""
    if network.model is None:
        return []
    keys = set()
    for node in network.model.graph.node:
        attributes = b"".join(sorted(one.SerializeToString() for one in node.attribute))
        keys.add(hashlib.sha1(node.op_type.encode() + attributes).hexdigest())
    return sorted(keys)


def record_of(network: Network, config: Config, hits: int) -> Build:
    members = config.trt.BuilderFlag.__members__
    return Build(
        network_name=network.name,
        strongly_typed=network.strongly_typed,
        flags=frozenset(name for name, flag in members.items() if config.get_flag(flag)),
        memory_pools=dict(config.pools),
        optimization_level=config.builder_optimization_level,
        hardware_compatibility=config.hardware_compatibility_level.name,
        profiling_verbosity=config.profiling_verbosity.name,
        profiles=tuple(dict(profile.shapes) for profile in config.profiles),
        timing_cache_entries=None
        if config.timing_cache is None
        else len(config.timing_cache.timings.entries),
        timing_cache_hits=hits,
    )


def problem_of(network: Network, config: Config) -> str:
    """Why a build fails; empty if it does not."""
    if network.model is None:
        return "The network has no output."
    if config._monitor is not None and config._monitor() is None:
        return "The progress monitor was collected before the build: the real builder would crash."
    limit = config.get_memory_pool_limit(config.trt.MemoryPoolType.WORKSPACE)
    if limit < config.trt.trouble.workspace_needed:
        return f"Could not find any implementation for a node within a workspace of {limit} bytes."
    for tensor in network.inputs:
        if -1 in tensor.shape and not config.profiles:
            return "The network has dynamic inputs, but no optimization profile has been defined."
        for number, profile in enumerate(config.profiles):
            shapes = profile.shapes.get(tensor.name)
            if shapes is None and -1 in tensor.shape:
                return f"Optimization profile {number} has no shapes for the dynamic input {tensor.name}."
            if any(not fits(shape, tensor.shape) for shape in shapes or ()):
                return f"Optimization profile {number} does not fit {tensor.name} of shape {tensor.shape}."
    return ""


def fits(shape, declared) -> bool:
    """Whether a shape equals the declared one in all fixed sizes."""
    return len(shape) == len(declared) and all(
        expected in (-1, size) for expected, size in zip(declared, shape, strict=True)
    )


def plan_of(network: Network, config: Config) -> Plan:
    record = record_of(network, config, 0)
    return Plan(
        version=config.trt.__version__,
        device=config.trt.trouble.device,
        network_name=network.name,
        flags=sorted(record.flags),
        hardware_compatibility=record.hardware_compatibility,
        profiling_verbosity=record.profiling_verbosity,
        profiles=[
            {name: [list(shape) for shape in shapes] for name, shapes in profile.items()}
            for profile in record.profiles
        ],
        onnx=network.model.SerializeToString(),
    )


BEHAVIOURS = (
    *parsing.BEHAVIOURS,
    Builder,
    Config,
    Profile,
    TimingCache,
    Logger,
    AnyLogger,
    Monitor,
)

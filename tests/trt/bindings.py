"""NVIDIA's real Python bindings without NVIDIA's libraries: their surface, and which calls they refuse.

The bindings are one extension module that needs nine C functions of three libraries. With stubs of those, compiled at
run time, it loads; it then has all its names and signatures and checks arguments, but cannot build.

As a script, in an interpreter that has the bindings and the stubs on its paths: `bindings.py surface` prints the
surface as JSON (`bindings.py surface > surface/tensorrt-api-11.4.json` writes the files there), and `bindings.py calls`
reads a JSON list of expressions, such as those of `calls.py`, and prints the result of each. It uses only the standard
library.
"""

from __future__ import annotations

import inspect
import json
import os
import re
import shutil
import subprocess
import sys
from dataclasses import dataclass
from pathlib import Path

REQUIREMENTS = {
    "10.16": ("tensorrt-cu12-bindings==10.16.1.11", "tensorrt-cu13-bindings==10.16.1.11"),
    "11.4": ("tensorrt-cu13-bindings==11.4.0.106",),
}
"""The wheels with the bindings of each version; any one of them is enough."""

LIBRARIES = ("libnvinfer", "libnvinfer_plugin", "libnvonnxparser")
FUNCTIONS = (
    "createInferBuilder_INTERNAL",
    "createInferRuntime_INTERNAL",
    "createInferRefitter_INTERNAL",
    "createNvOnnxParser_INTERNAL",
    "createNvOnnxParserRefitter_INTERNAL",
    "getBuilderPluginRegistry",
    "getNvOnnxParserVersion",
    "getPluginRegistry",
    "initLibNvInferPlugins",
)

USED = tuple(
    """
    Builder.create_network Builder.create_builder_config Builder.create_optimization_profile
    Builder.build_serialized_network
    NetworkDefinitionCreationFlag.STRONGLY_TYPED
    IBuilderConfig.set_memory_pool_limit IBuilderConfig.builder_optimization_level
    IBuilderConfig.profiling_verbosity IBuilderConfig.hardware_compatibility_level IBuilderConfig.set_flag
    IBuilderConfig.clear_flag IBuilderConfig.add_optimization_profile IBuilderConfig.create_timing_cache
    IBuilderConfig.set_timing_cache IBuilderConfig.get_timing_cache IBuilderConfig.progress_monitor
    MemoryPoolType.WORKSPACE ProfilingVerbosity.DETAILED BuilderFlag.VERSION_COMPATIBLE BuilderFlag.TF32
    HardwareCompatibilityLevel.NONE HardwareCompatibilityLevel.AMPERE_PLUS
    HardwareCompatibilityLevel.SAME_COMPUTE_CAPABILITY
    IOptimizationProfile.set_shape ITimingCache.combine ITimingCache.serialize IHostMemory.nbytes
    INetworkDefinition.num_inputs INetworkDefinition.get_input INetworkDefinition.num_outputs
    INetworkDefinition.get_output INetworkDefinition.name ITensor.name ITensor.shape ITensor.dtype
    OnnxParser.parse OnnxParser.parse_from_file OnnxParser.num_errors OnnxParser.get_error
    ParserError.code ParserError.desc ParserError.node_name ParserError.node_operator ParserError.line
    Runtime.deserialize_cuda_engine Runtime.engine_host_code_allowed
    ICudaEngine.num_io_tensors ICudaEngine.get_tensor_name ICudaEngine.get_tensor_mode
    ICudaEngine.get_tensor_shape ICudaEngine.get_tensor_dtype ICudaEngine.get_tensor_profile_shape
    ICudaEngine.create_execution_context ICudaEngine.num_optimization_profiles ICudaEngine.name
    IExecutionContext.set_input_shape IExecutionContext.get_tensor_shape IExecutionContext.set_tensor_address
    IExecutionContext.execute_async_v3 IExecutionContext.infer_shapes
    ILogger.log ILogger.Severity IProgressMonitor.phase_start IProgressMonitor.step_complete
    IProgressMonitor.phase_finish
    DataType.FLOAT DataType.HALF DataType.BF16 TensorIOMode.INPUT TensorIOMode.OUTPUT
    init_libnvinfer_plugins nptype volume
    """.split()
)
"""The names that a backend needs: a class and its member, or a function. `usage.py` reads those that ours uses."""

PARAMETERS = {
    "Builder.create_network": "flags",
    "Builder.build_serialized_network": "network config",
    "IBuilderConfig.set_memory_pool_limit": "pool pool_size",
    "IBuilderConfig.create_timing_cache": "serialized_timing_cache",
    "IBuilderConfig.set_timing_cache": "cache ignore_mismatch",
    "ITimingCache.combine": "input_cache ignore_mismatch",
    "IOptimizationProfile.set_shape": "input min opt max",
    "OnnxParser.parse": "model path",
    "OnnxParser.parse_from_file": "model",
    "Runtime.deserialize_cuda_engine": "serialized_engine",
    "ICudaEngine.get_tensor_profile_shape": "name profile_index",
    "IExecutionContext.set_input_shape": "name shape",
    "IExecutionContext.set_tensor_address": "name memory",
    "IExecutionContext.execute_async_v3": "stream_handle",
    "ILogger.log": "severity msg",
    "IProgressMonitor.phase_start": "phase_name parent_phase num_steps",
    "IProgressMonitor.step_complete": "phase_name step",
    "IProgressMonitor.phase_finish": "phase_name",
}
"""The names of the arguments, in order, of the methods that a backend calls or overrides."""


def outcome(trt, expression: str) -> str:
    """The result of an expression. `raw` makes an empty object, which is enough since arguments are checked first."""

    def fail(*arguments):
        raise KeyboardInterrupt

    def overriding(base, name, function):
        return type("Mine", (base,), {name: lambda self, *arguments: function(*arguments[1:])})()

    names = {
        "trt": trt,
        "Path": Path,
        "raw": lambda kind: kind.__new__(kind),
        "overriding": overriding,
        "fail": fail,
        "all": lambda *arguments: "text",
        "one": lambda *arguments: 1,
        "print": lambda *arguments: None,
    }
    try:
        return repr(eval(expression, names))
    except Exception as error:
        return type(error).__name__


def outcome_apart(trt, expression: str) -> str:
    """The same in a separate process, since a call with valid arguments on an empty object crashes."""
    reading, writing = os.pipe()
    child = os.fork()
    if child == 0:
        os.write(writing, outcome(trt, expression).encode())
        os._exit(0)
    os.close(writing)
    with os.fdopen(reading) as pipe:
        result = pipe.read()
    _, status = os.waitpid(child, 0)
    return result if status == 0 else f"crash {status}"


def surface_of(trt) -> dict:
    """Every class, signature, property and enum of the module."""
    surface = {"version": trt.__version__, "enums": {}, "classes": {}, "functions": {}, "aliases": {}}
    for name, value in sorted(vars(trt).items()):
        if name.startswith("_"):
            continue
        if isinstance(value, trt.DataType):
            surface["aliases"][name] = value.name
        elif hasattr(value, "__members__"):
            surface["enums"][name] = members_of(value)
        elif isinstance(value, type):
            surface["classes"][name] = class_of(value)
        elif callable(value):
            surface["functions"][name] = signatures_of(name, value)
    return surface


def members_of(enum) -> dict[str, int]:
    return {name: int(member) for name, member in enum.__members__.items()}


def class_of(kind: type) -> dict:
    own = vars(kind)
    methods = {
        name: signatures_of(name, getattr(kind, name))
        for name, value in own.items()
        if (callable(value) or isinstance(value, staticmethod)) and not isinstance(value, type)
    }
    methods = {name: signatures for name, signatures in methods.items() if signatures}
    nested = {name: value for name, value in own.items() if isinstance(value, type)}
    return {
        "bases": [base.__name__ for base in kind.__bases__ if not base.__name__.startswith("pybind11")],
        "constructible": "__init__" in methods,
        "methods": methods,
        "properties": {
            name: property_of(value) for name, value in own.items() if isinstance(value, property)
        },
        "nested": {name: members_of(value) for name, value in nested.items()},
    }


def property_of(value: property) -> dict:
    match = re.search(r"-> (.+)", value.fget.__doc__ or "") if value.fget else None
    return {"type": plain(match[1]) if match else "object", "writable": value.fset is not None}


def signatures_of(name: str, function) -> list[str]:
    """The signatures in a docstring; for a function in Python, its own."""
    if inspect.isfunction(function):
        return [f"{name}{inspect.signature(function)}"]
    lines = (function.__doc__ or "").splitlines()
    signatures = [re.sub(r"^\d+\. ", "", line) for line in lines if re.match(rf"(\d+\. )?{name}\(", line)]
    overloaded = "Overloaded function." in lines
    return [plain(line) for line in (signatures[1:] if overloaded else signatures[:1])]


def plain(text: str) -> str:
    """The text without the module's name, and with one name for two types whose module depends on Python's version."""
    text = re.sub(r"\btensorrt_bindings\.(tensorrt\.)?", "", text).strip()
    return re.sub(r"\b(?:collections\.abc|types)\.(Buffer|CapsuleType)\b", r"typing_extensions.\1", text)


@dataclass(frozen=True)
class Bindings:
    """Folders with the real bindings and with the stubs that they need."""

    wheel: Path
    stubs: Path

    def run(self, task: str, data: object = None) -> object:
        """Run this file as a script with the bindings, without site-packages, where real libraries may be."""
        process = subprocess.run(
            [sys.executable, "-S", __file__, task],
            input=json.dumps(data),
            capture_output=True,
            text=True,
            timeout=120,
            env=os.environ | {"PYTHONPATH": str(self.wheel), "LD_LIBRARY_PATH": str(self.stubs)},
        )
        if process.returncode:
            raise RuntimeError(f"the bindings with stubs failed ({process.returncode}):\n{process.stderr}")
        return json.loads(process.stdout)


class BindingsError(Exception):
    """The bindings are not available; the message says why."""


def install(version: str, folder: Path) -> Bindings:
    """Download the bindings of a version and compile their stubs into a folder.

    Raises:
        BindingsError: no wheel for this Python or platform, no network, or no C compiler.
    """
    if not sys.platform.startswith("linux"):
        raise BindingsError("the stubs are for Linux")
    stubs = folder / "stubs"
    stubs.mkdir(parents=True)
    compile_libraries("".join(f"void *{name}(void) {{ return 0; }}\n" for name in FUNCTIONS), version, stubs)
    return Bindings(download(version, folder / "wheel"), stubs)


def compile_libraries(code: str, version: str, folder: Path) -> None:
    """Compile C code to the libraries that the bindings of a version load.

    Raises:
        BindingsError: no C compiler, or it fails.
    """
    compiler = shutil.which("cc") or shutil.which("gcc")
    if compiler is None:
        raise BindingsError("no C compiler, cc or gcc, is installed")
    source = folder / "source.c"
    source.write_text(code, "utf-8")
    for library in LIBRARIES:
        soname = f"{library}.so.{version.split('.')[0]}"
        command = [
            compiler,
            "-shared",
            "-fPIC",
            f"-Wl,-soname,{soname}",
            "-o",
            folder / soname,
            source,
            "-ldl",
        ]
        process = subprocess.run(command, capture_output=True, text=True)
        if process.returncode:
            raise BindingsError(f"the C compiler failed: {process.stderr.strip()}")


def download(version: str, folder: Path) -> Path:
    """Install the first available wheel, without its libraries.

    Raises:
        BindingsError: no wheel can be installed.
    """
    *others, last = REQUIREMENTS[version]
    for requirement in others:
        try:
            return install_wheel(requirement, folder)
        except BindingsError:
            continue
    return install_wheel(last, folder)


def install_wheel(requirement: str, folder: Path) -> Path:
    """Install one wheel into a folder, without what it requires.

    Raises:
        BindingsError: no wheel for this Python or platform, no network, or no uv.
    """
    uv = shutil.which("uv")
    if uv is None:
        raise BindingsError("uv is not on the path")
    command = [uv, "pip", "install", "--quiet", "--no-deps", "--only-binary", ":all:"]
    command += ["--python", sys.executable, "--target", str(folder), requirement]
    try:
        process = subprocess.run(command, capture_output=True, text=True, timeout=600)
    except subprocess.TimeoutExpired:
        raise BindingsError(f"{requirement} was not downloaded within 10 minutes") from None
    if process.returncode:
        raise BindingsError(f"{requirement} cannot be installed: {' '.join(process.stderr.split())[:300]}")
    return folder


def main() -> None:
    import tensorrt_bindings

    if sys.argv[1] == "surface":
        print(json.dumps(surface_of(tensorrt_bindings), indent=1))
    else:
        expressions = json.load(sys.stdin)
        print(json.dumps({one: outcome_apart(tensorrt_bindings, one) for one in expressions}))


if __name__ == "__main__":
    main()

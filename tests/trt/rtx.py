"""NVIDIA's ONNX parser and engine builder on a CPU: TensorRT for RTX under the bindings of TensorRT 11.4.

A wheel of ONNX Runtime's plug-in contains TensorRT for RTX 1.7, which builds engines without a GPU. The bindings load
small libraries, compiled at run time, in place of TensorRT's own, whose functions call those of TensorRT for RTX. This
shows which graphs NVIDIA's parser and builder accept. It says nothing about numbers, since these engines need a GPU of
compute capability 8.x or 12.x.

As a script, in an interpreter that has all this on its paths: `rtx.py FILE parse|build` prints the result as JSON.
"""

from __future__ import annotations

import json
import os
import subprocess
import sys
import time
from dataclasses import dataclass
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from pathlib import Path

REQUIREMENT = "onnxruntime-ep-nv-tensorrt-rtx-cu12==0.5.0"
PARTS = ("libtensorrt_rtx.so.1", "libtensorrt_onnxparser_rtx.so.1", "libcudart.so.12")

ADAPTER = r"""
#define _GNU_SOURCE
#include <dlfcn.h>
#include <stdbool.h>
#include <stdio.h>
#include <stdlib.h>

static void *symbol(const char *library, const char *name) {
    void *handle = dlopen(library, RTLD_NOW | RTLD_GLOBAL);
    void *found = handle ? dlsym(handle, name) : 0;
    if (!found) { fprintf(stderr, "%s: %s\n", name, dlerror()); abort(); }
    return found;
}
#define RTX(name) symbol("libtensorrt_rtx.so.1", name)
#define PARSER(name) symbol("libtensorrt_onnxparser_rtx.so.1", name)
typedef int (*Number)(void);
static int version(void) { return ((Number)RTX("getInferLibVersion"))(); }

int getInferLibVersion(void) { return version(); }
int getNvOnnxParserVersion(void) { return ((Number)PARSER("getNvOnnxParserVersion"))(); }
void *createInferBuilder_INTERNAL(void *log, int asked) {
    return ((void *(*)(void *, int))RTX("createInferBuilder_INTERNAL"))(log, version());
}
void *createInferRuntime_INTERNAL(void *log, int asked) {
    return ((void *(*)(void *, int))RTX("createInferRuntime_INTERNAL"))(log, version());
}
void *createInferRefitter_INTERNAL(void *engine, void *log, int asked) {
    return ((void *(*)(void *, void *, int))RTX("createInferRefitter_INTERNAL"))(engine, log, version());
}
void *createNvOnnxParser_INTERNAL(void *network, void *log, int asked) {
    RTX("getInferLibVersion");
    return ((void *(*)(void *, void *, int))PARSER("createNvOnnxParser_INTERNAL"))(
        network, log, getNvOnnxParserVersion());
}
void *createNvOnnxParserRefitter_INTERNAL(void *refitter, void *log, int asked) {
    return ((void *(*)(void *, void *, int))PARSER("createNvOnnxParserRefitter_INTERNAL"))(
        refitter, log, getNvOnnxParserVersion());
}
void *getBuilderPluginRegistry(int capability) {
    return ((void *(*)(int))RTX("getBuilderPluginRegistry"))(capability);
}
void *getPluginRegistry(void) { return ((void *(*)(void))RTX("getPluginRegistry"))(); }
bool initLibNvInferPlugins(void *log, const char *space) { return true; }
"""


@dataclass(frozen=True)
class Rtx:
    """Folders with the bindings and with the libraries that they load."""

    bindings: Path
    libraries: Path

    def parse(self, onnx: Path) -> dict:
        """The number of layers and the errors of NVIDIA's parser."""
        return self._run(onnx, "parse", 300)

    def build(self, onnx: Path, seconds: float) -> dict:
        """Like `parse`, and the size of the engine; `unfinished` if it takes longer."""
        try:
            return self._run(onnx, "build", seconds)
        except subprocess.TimeoutExpired:
            return {"unfinished": True, "errors": []}

    def _run(self, onnx: Path, task: str, seconds: float) -> dict:
        process = subprocess.run(
            [sys.executable, "-S", __file__, str(onnx), task],
            capture_output=True,
            text=True,
            timeout=seconds,
            env=os.environ | {"PYTHONPATH": str(self.bindings), "LD_LIBRARY_PATH": str(self.libraries)},
        )
        if process.returncode:
            return {"errors": [f"exit status {process.returncode}: {process.stderr.strip()[-500:]}"]}
        return json.loads(process.stdout.splitlines()[-1])


def install(folder: Path) -> Rtx:
    """Download the bindings and the libraries, and compile the adapter into a folder.

    Raises:
        BindingsError: no wheel for this Python or platform, no network, or no C compiler.
    """
    from trt import bindings

    installed = bindings.install("11.4", folder / "bindings")
    wheel = bindings.install_wheel(REQUIREMENT, folder / "wheel")
    libraries = folder / "libraries"
    libraries.mkdir()
    for part in PARTS:
        (found,) = (path for path in wheel.rglob(f"{part}*") if path.is_file())
        (libraries / part).symlink_to(found)
    bindings.compile_libraries(ADAPTER, "11.4", libraries)
    return Rtx(installed.wheel, libraries)


def run(path: str, task: str) -> dict:
    """Parse, and build an engine for `build`; dynamic batch sizes get the profile 1, 4, 8."""
    import tensorrt_bindings as trt

    log = Log()
    builder = trt.Builder(log)
    network = builder.create_network(0)
    parser = trt.OnnxParser(network, log)
    start = time.monotonic()
    parser.parse_from_file(path)
    result = {
        "errors": [parser.get_error(index).desc() for index in range(parser.num_errors)],
        "layers": network.num_layers,
        "parse_seconds": time.monotonic() - start,
    }
    if result["errors"] or task == "parse":
        return result
    config = builder.create_builder_config()
    profile = builder.create_optimization_profile()
    for index in range(network.num_inputs):
        tensor = network.get_input(index)
        shape = tuple(tensor.shape)
        if -1 in shape:
            profile.set_shape(tensor.name, *((size, *shape[1:]) for size in (1, 4, 8)))
    config.add_optimization_profile(profile)
    start = time.monotonic()
    engine = builder.build_serialized_network(network, config)
    result["build_seconds"] = time.monotonic() - start
    if engine is None:
        result["errors"] = log.errors or ["no engine"]
    else:
        result["engine_bytes"] = engine.nbytes
    return result


if __name__ == "__main__":
    import tensorrt_bindings

    class Log(tensorrt_bindings.ILogger):
        """Keeps errors."""

        def __init__(self):
            super().__init__()
            self.errors = []

        def log(self, severity, message):
            if severity <= tensorrt_bindings.ILogger.ERROR:
                self.errors.append(message)

    print(json.dumps(run(*sys.argv[1:])))

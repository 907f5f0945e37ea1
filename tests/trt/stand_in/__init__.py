"""A stand-in for `import tensorrt` that needs no GPU: `load("11.4")` returns the module.

Its classes, signatures, properties and enums come from a surface that `tests/trt/bindings.py` reads from NVIDIA's
real bindings, and it refuses what they refuse (`test_bindings.py` compares the two call by call). The behavior is our
own: the parser runs ONNX's checker, a plan contains the ONNX, and an engine runs it in ONNX Runtime on host pointers,
such as a CPU tensor's `data_ptr()`. Tactics, fusions, speed and a GPU's rounding are not modeled.

Names that are not modeled raise NotImplementedError. In addition to NVIDIA's names the module has two of its own:
`trouble`, with the failures to simulate (`trouble.py`), and `builds`, with the settings of each build.
Tests install it with `monkeypatch.setitem(sys.modules, "tensorrt", load("11.4"))`.
"""

from __future__ import annotations

import importlib.machinery
import types

from . import building, running
from .pybind import Object, make_class, make_enum
from .surface import read_surface
from .trouble import Trouble
from .values import HostMemory, make_dims

VERSIONS = ("10.16", "11.4")


def load(version: str) -> types.ModuleType:
    """A new module in place of this version of TensorRT, one of `VERSIONS`."""
    surface = read_surface(version)
    trt = types.ModuleType("tensorrt", __doc__)
    trt.__version__, trt.__spec__ = surface.version, importlib.machinery.ModuleSpec("tensorrt", None)
    for name, members in surface.enums.items():
        setattr(trt, name, make_enum(name, members))
    for name, alias in surface.aliases.items():
        setattr(trt, name, getattr(trt.DataType, alias))
    for kind in make_dims():
        setattr(trt, kind.__name__, kind)
    behaviours = {kind.shown: kind for kind in (*building.BEHAVIOURS, *running.BEHAVIOURS)}
    trt.IHostMemory = type("IHostMemory", (HostMemory,), {"__slots__": (), "data_type": trt.DataType.INT8})
    waiting = [name for name in surface.classes if not hasattr(trt, name)]
    while waiting:
        name = waiting.pop(0)
        bases = surface.classes[name].bases
        if any(base in waiting for base in bases):
            waiting.append(name)
            continue
        parents = tuple(getattr(trt, base) for base in bases) or (Object,)
        setattr(trt, name, make_class(trt, surface.classes[name], parents, behaviours.get(name)))
    add_functions(trt)
    trt.trouble, trt.builds = Trouble(), []
    return trt


def add_functions(trt: types.ModuleType) -> None:
    """Add the functions of the module that a backend may call."""
    import numpy as np

    types_of_numpy = {
        "FLOAT": np.float32,
        "HALF": np.float16,
        "INT8": np.int8,
        "INT32": np.int32,
        "INT64": np.int64,
        "BOOL": np.bool_,
        "UINT8": np.uint8,
    }
    bytes_of_types = {"FLOAT": 4, "INT32": 4, "INT64": 8, "HALF": 2, "BF16": 2, "INT4": 0.5, "FP4": 0.5}

    def nptype(trt_type):
        if trt_type.name not in types_of_numpy:
            raise TypeError("Could not resolve TensorRT datatype to an equivalent numpy datatype.")
        return types_of_numpy[trt_type.name]

    def volume(iterable):
        product = 1
        for size in iterable:
            product *= size
        return product

    def init_libnvinfer_plugins(logger, namespace):
        if not (logger is None or isinstance(logger, trt.ILogger)) or not isinstance(namespace, str):
            raise TypeError("init_libnvinfer_plugins(): incompatible function arguments.")
        return True

    trt.nptype, trt.volume, trt.init_libnvinfer_plugins = nptype, volume, init_libnvinfer_plugins
    trt.get_plugin_registry = lambda: running.PluginRegistry(trt).facade()
    trt.get_nv_onnx_parser_version = lambda: int(trt.__version__.split(".")[0]) * 10_000
    trt.DataType.itemsize = property(lambda kind: bytes_of_types.get(kind.name, 1))

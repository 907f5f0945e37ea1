"""Core ML's own protobuf schema, without importing coremltools.

coremltools ships the schema as generated modules, but importing the package takes 4 to 9 seconds: it imports torch
and, where it is there, scikit-learn. So the generated modules are imported under a package of ours.
"""

from __future__ import annotations

import functools
import importlib
import importlib.machinery
import importlib.util
import sys
import types
from pathlib import Path
from typing import Any

_PACKAGE = "timmx_coreml._coremltools_proto"


@functools.cache
def schema(name: str) -> Any:
    """A generated module of the schema, such as `Model_pb2` or `MIL_pb2`.

    Its classes are the very ones of `coremltools.proto`: protobuf keeps one of each message type in a process.

    Raises:
        ImportError: coremltools is not installed.
    """
    if _PACKAGE not in sys.modules:
        spec = importlib.util.find_spec("coremltools")  # finds it without running it
        if spec is None or spec.origin is None:
            raise ImportError("coremltools is not installed", name="coremltools")
        package = types.ModuleType(_PACKAGE, "Core ML's schema.")
        package.__path__ = [str(Path(spec.origin).parent / "proto")]
        sys.modules[_PACKAGE] = package
    return importlib.import_module(f"{_PACKAGE}.{name}")

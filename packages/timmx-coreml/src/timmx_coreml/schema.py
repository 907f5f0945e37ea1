"""Core ML's protobuf schema, without importing coremltools.

coremltools contains the schema as generated modules, but importing the package takes 4 to 9 seconds: it imports
torch and, if installed, scikit-learn. So the generated modules are imported under another package name.
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
    """Return a generated module of the schema, such as `Model_pb2` or `MIL_pb2`.

    Its classes are those of `coremltools.proto`: protobuf keeps one class per message type in a process.

    Raises:
        ImportError: coremltools is not installed.
    """
    if _PACKAGE not in sys.modules:
        spec = importlib.util.find_spec("coremltools")  # does not import it
        if spec is None or spec.origin is None:
            raise ImportError("coremltools is not installed", name="coremltools")
        package = types.ModuleType(_PACKAGE, "Core ML's schema.")
        package.__path__ = [str(Path(spec.origin).parent / "proto")]
        sys.modules[_PACKAGE] = package
    return importlib.import_module(f"{_PACKAGE}.{name}")

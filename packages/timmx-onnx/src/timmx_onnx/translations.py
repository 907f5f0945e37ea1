"""PyTorch's translations of operators to ONNX, listed once per process.

torch.onnx.export (2.14) lists them in each call, for which onnxscript parses the source of 500 functions and reads
their annotations: 45 % of the processor time of a small model's export. The list depends on nothing but the installed
libraries.
"""

from __future__ import annotations

import functools
import importlib
from contextlib import suppress
from typing import Any

with suppress(ImportError, AttributeError):  # another version of PyTorch, which is as fast as it is
    _listing = importlib.import_module("torch.onnx._internal._lazy_import").onnxscript_apis
    _library: Any = importlib.import_module(_listing._name)
    _library.get_torchlib_ops = functools.cache(_library.get_torchlib_ops)
    _library.get_torchlib_ops()
    _schemas: Any = importlib.import_module("torch.onnx._internal.exporter._schemas")
    _schemas.op_signature_from_function = functools.cache(_schemas.op_signature_from_function)

"""ONNX Runtime 1.32 sends events to Microsoft by default; timmx turns that off."""

from __future__ import annotations

import os
import sys

import pytest


@pytest.mark.parametrize("backend", ["timmx_onnx.plugin", "timmx_tensorrt.plugin"])
def test_onnx_runtime_writes_nothing_to_the_cache_of_the_user(process, tmp_path, backend):
    code = (
        f"import importlib; importlib.import_module({backend!r})\n"
        "import numpy, onnxruntime\n"
        "onnxruntime.SessionOptions()\n"
        "onnxruntime.OrtValue.ortvalue_from_numpy(numpy.zeros(1))\n"
    )
    environment = os.environ | {"XDG_CACHE_HOME": str(tmp_path), "HOME": str(tmp_path)}
    environment.pop("ORT_DISABLE_TELEMETRY", None)
    done = process([sys.executable, "-c", code], env=environment)
    assert done.returncode == 0, done.stderr
    assert not list(tmp_path.rglob("*onnxruntime*"))

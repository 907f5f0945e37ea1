"""A stand-in for TensorRT, and this CPU in place of the GPU, so that the whole command runs."""

from __future__ import annotations

import sys

import pytest
import torch
from timmx.contract.options import Device
from timmx.testing import awakened_model
from timmx_tensorrt import gpu
from trt.stand_in import VERSIONS, load


class HostStream:
    """A stream on the host, where nothing is queued."""

    handle = 0

    def synchronize(self):
        pass


@pytest.fixture
def tensorrt(request, monkeypatch):
    """The stand-in as `import tensorrt`, with memory and streams on the host; by default the newest version."""
    module = load(getattr(request, "param", VERSIONS[-1]))
    monkeypatch.setitem(sys.modules, "tensorrt", module)
    monkeypatch.setattr(Device, "torch_name", "cpu")  # the device for PyTorch
    monkeypatch.setattr(gpu, "is_available", lambda: True)
    monkeypatch.setattr(gpu, "device", lambda: torch.device("cpu"))
    monkeypatch.setattr(gpu, "Stream", HostStream)
    monkeypatch.setattr(gpu, "facts", lambda: dict(CARD))
    sys.modules.pop("timmx_tensorrt.engine", None)  # its classes derive from the module's
    yield module
    sys.modules.pop("timmx_tensorrt.engine", None)


@pytest.fixture(scope="session")
def small_model():
    """A timm model for 64 x 64 pixels: name -> module."""
    return lambda name: awakened_model(name, **({"img_size": 64, "depth": 2} if name == "test_vit" else {}))


@pytest.fixture(scope="session")
def float32_onnx(export, small_model, shared):
    """A small model as float32 ONNX with a dynamic batch size: name -> file. All tests share it."""

    def make(name):
        options = {"opset": 22, "verify": False, "dynamic_batch": True, "input_size": (3, 64, 64)}
        folder = shared(
            f"onnx-{name}", lambda folder: export("onnx", small_model(name), folder / "model.onnx", **options)
        )
        return folder / "model.onnx"

    return make


CARD = {
    "gpu": "NVIDIA L4",
    "compute_capability": "8.9",
    "cuda": "13.0",
    "driver": "13.0",
    "platform": "Linux x86_64",
}


@pytest.fixture
def put_in(tensorrt, monkeypatch):
    """Replace the GPU of the machine; by default by the same one."""

    def put(**facts):
        monkeypatch.setattr(gpu, "facts", lambda: CARD | facts)
        tensorrt.trouble.device = facts.get("gpu", CARD["gpu"])

    return put

"""TensorRT and a GPU in the shape of a stand-in and this CPU, so that the whole command runs."""

from __future__ import annotations

import sys

import pytest
import torch
from timmx.contract.options import Device
from timmx_tensorrt import gpu
from trt.stand_in import VERSIONS, load


class HostStream:
    """What a stream is where nothing is queued."""

    handle = 0

    def synchronize(self):
        pass


@pytest.fixture
def tensorrt(request, monkeypatch):
    """The stand-in as `import tensorrt`; memory, streams and facts of a GPU from the host. The newest by default."""
    module = load(getattr(request, "param", VERSIONS[-1]))
    monkeypatch.setitem(sys.modules, "tensorrt", module)
    monkeypatch.setattr(Device, "torch_name", "cpu")  # where PyTorch is told to compute
    monkeypatch.setattr(gpu, "is_there", lambda: True)
    monkeypatch.setattr(gpu, "device", lambda: torch.device("cpu"))
    monkeypatch.setattr(gpu, "Stream", HostStream)
    monkeypatch.setattr(gpu, "facts", lambda: dict(CARD))
    sys.modules.pop("timmx_tensorrt.engine", None)  # which takes its classes from the module
    yield module
    sys.modules.pop("timmx_tensorrt.engine", None)


CARD = {
    "gpu": "NVIDIA L4",
    "compute_capability": "8.9",
    "cuda": "13.0",
    "driver": "13.0",
    "platform": "Linux x86_64",
}


@pytest.fixture
def put_in(tensorrt, monkeypatch):
    """Put a card into the machine, by default the one that is there."""

    def put(**facts):
        monkeypatch.setattr(gpu, "facts", lambda: CARD | facts)
        tensorrt.trouble.device = facts.get("gpu", CARD["gpu"])

    return put

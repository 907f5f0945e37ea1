"""The typed ONNX in the arithmetic of PyTorch instead of ONNX Runtime, on this CPU, and on a GPU if there is one."""

from __future__ import annotations

import ctypes

import onnx_ir as ir
import pytest
import timmx
import torch
from timmx.base.devices import exact_cuda
from timmx.base.snr import worst_db
from timmx.inputs.samples import SyntheticSamples
from timmx.model.data_config import resolve_data_config
from timmx.testing import awakened_model
from timmx_tensorrt import gpu
from timmx_tensorrt.typed_runner import TypedRunner
from trt import torch_graph

QUICK = [("test_resnet", "fp16", 30), ("test_efficientnet", "bf16", 15), ("test_vit", "int8", 15)]
MODES = [("fp32", 80), ("fp16", 25), ("bf16", 8), ("int8", 6)]
CASES = [
    (name, mode, least_db)
    for name in (
        "test_resnet test_vit resnet18 mobilenetv3_small_100 convnext_atto vit_tiny_patch16_224".split()
    )
    for mode, least_db in MODES
]


def compute_outputs(name, mode, tmp_path, device):
    """The outputs of the PyTorch model, of the typed ONNX with emulated rounding, and of the typed ONNX in PyTorch."""
    model = awakened_model(name)
    options = {"random_calibration": True} if mode == "int8" else {}
    path = tmp_path / "model.onnx"
    timmx.export(
        "tensorrt", model, onnx_only=True, mode=mode, batch_size=4, output=path, verify=False, **options
    )
    config, _ = resolve_data_config(model.pretrained_cfg, model.pretrained_cfg["input_size"])
    inputs = SyntheticSamples(config, False, 4, seed=1).take(range(4))
    with torch.inference_mode():
        exact = model(torch.from_numpy(inputs)).numpy()
    with TypedRunner(path) as runner:
        emulated = runner.run({"input": inputs})["output"]
    with exact_cuda():
        return exact, emulated, torch_graph.run(ir.load(path), inputs, device)


@pytest.mark.parametrize(("name", "mode", "least_db"), QUICK)
def test_pytorch_agrees_with_the_emulated_rounding(export, tmp_path, name, mode, least_db):
    exact, emulated, typed = compute_outputs(name, mode, tmp_path, "cpu")
    judge(exact, emulated, typed, least_db)


@pytest.mark.device
@pytest.mark.parametrize(("name", "mode", "least_db"), CASES)
def test_gpu_agrees_with_the_emulated_rounding(tmp_path, name, mode, least_db):
    if not torch.cuda.is_available():
        pytest.skip(
            "no CUDA device; test_pytorch_agrees_with_the_emulated_rounding does the same on this CPU"
        )
    exact, emulated, typed = compute_outputs(name, mode, tmp_path, "cuda")
    print(
        f"\n{name} {mode}: rounded {worst_db([exact], [emulated]):.1f} dB, GPU {worst_db([exact], [typed]):.1f} dB"
    )
    judge(exact, emulated, typed, least_db)


def judge(exact, emulated, typed, least_db):
    """Both have the same distance from the model; different orders of summation do not agree better with each other."""
    emulated_db, typed_db = worst_db([exact], [emulated]), worst_db([exact], [typed])
    assert min(emulated_db, typed_db) >= least_db
    if emulated_db < 80:
        assert abs(emulated_db - typed_db) < 6


@pytest.mark.device
def test_gpu_facts_and_stream():
    if not torch.cuda.is_available():
        pytest.skip("no CUDA device")
    assert gpu.is_available()
    facts = gpu.facts()
    assert facts["gpu"] == torch.cuda.get_device_name()
    assert facts["compute_capability"] == ".".join(map(str, torch.cuda.get_device_capability()))
    assert facts["cuda"] == torch.version.cuda
    assert int(facts["driver"].split(".")[0]) >= 500
    ones = torch.ones(2**20, device=gpu.device())
    stream = gpu.Stream()
    assert stream.handle != 0
    assert torch.cuda.ExternalStream(stream.handle).query() in (True, False)
    stream.synchronize()
    ctypes.cast(ones.data_ptr(), ctypes.c_void_p)
    assert ones.sum().item() == 2**20

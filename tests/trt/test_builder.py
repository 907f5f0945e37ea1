"""NVIDIA's parser and builder accept the typed ONNX; see `rtx.py`. By hand: `uv run pytest -m builder tests/trt`.

`uv run benchmarks/tensorrt_builder.py` makes the table of docs/tensorrt.md with all families.
"""

from __future__ import annotations

import onnx
import pytest
from timmx.testing import awakened_model
from trt import bindings, rtx

pytestmark = [pytest.mark.builder, pytest.mark.slow]
MODES = ("fp32", "fp16", "bf16", "int8", "fp8")


@pytest.fixture(scope="session")
def nvidia(process, tmp_path_factory):
    folder = tmp_path_factory.mktemp("rtx")
    try:
        return rtx.install(folder)
    except bindings.BindingsError as reason:
        pytest.skip(f"TensorRT for RTX: {reason}")


@pytest.mark.parametrize("mode", MODES)
@pytest.mark.parametrize("model", ["test_resnet", "test_vit", "test_efficientnet", "test_convnext"])
def test_an_engine_is_built_from_every_precision(export, nvidia, model, mode, tmp_path):
    options = {"random_calibration": True} if mode in ("int8", "fp8") else {}
    result = export(
        "tensorrt",
        awakened_model(model),
        tmp_path / "model.onnx",
        onnx_only=True,
        mode=mode,
        dynamic_batch=True,
        batch_size=4,
        batch_max=8,
        verify=False,
        **options,
    )
    built = nvidia.build(result.path, seconds=300)
    assert built["errors"] == []
    assert built["engine_bytes"] > 10_000


def test_an_operator_that_tensorrt_does_not_have_is_an_error(nvidia, tmp_path):
    node = onnx.helper.make_node("Unique", ["x"], ["y"])
    tensors = [onnx.helper.make_tensor_value_info(name, onnx.TensorProto.FLOAT, [4]) for name in "xy"]
    graph = onnx.helper.make_graph([node], "g", tensors[:1], tensors[1:])
    onnx.save(
        onnx.helper.make_model(graph, opset_imports=[onnx.helper.make_opsetid("", 20)]), tmp_path / "a.onnx"
    )
    assert nvidia.parse(tmp_path / "a.onnx")["errors"]

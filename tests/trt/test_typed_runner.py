"""`TypedRunner` runs a typed ONNX file and rounds its values like a GPU."""

from __future__ import annotations

import copy
from functools import cache
from pathlib import Path

import numpy as np
import onnx
import onnx_ir as ir
import pytest
import torch
from onnx.reference import ReferenceEvaluator
from timmx.base.snr import SignalToNoise
from timmx.errors import ArtifactError, RuntimeUnavailable
from timmx_onnx.precision import lower_precision
from timmx_onnx.runner import OnnxRunner
from timmx_tensorrt.typed_runner import TypedRunner

pytestmark = pytest.mark.usefixtures("export")

HALVES = {"fp16": (ir.DataType.FLOAT16, torch.float16), "bf16": (ir.DataType.BFLOAT16, torch.bfloat16)}


@pytest.fixture(scope="module")
def exported(float32_onnx, tmp_path_factory):
    """Files of a timm model with 64 x 64 pixels and a dynamic batch size: float32, fp16 or bf16."""
    folder = tmp_path_factory.mktemp("exported")

    @cache
    def make(name, precision):
        if precision == "fp32":
            return float32_onnx(name)
        path = folder / f"{name}-{precision}.onnx"
        model = ir.load(float32_onnx(name))
        lower_precision(model, HALVES[precision][0])
        ir.save(model, path)
        return path

    return make


def images(count=4):
    """Smooth images, since a network gives nearly the same outputs for all noise."""
    generator = torch.Generator().manual_seed(0)
    coarse = torch.randn(count, 3, 4, 4, generator=generator)
    return torch.nn.functional.interpolate(coarse, 64, mode="bicubic")


def write(path, body, opset=22):
    onnx.save(onnx.parser.parse_model(f'<ir_version: 10, opset_import: ["": {opset}]> {body}'), path)
    return path


def snr_db(reference, outputs):
    result = SignalToNoise()
    result.update(reference, outputs)
    return result.snr_db


@pytest.mark.parametrize("half", HALVES)
@pytest.mark.parametrize("name", ["test_resnet", "test_vit", "test_efficientnet"])
def test_noise_of_a_timm_model_equals_that_of_half_precision(exported, small_model, name, half):
    """Compared with ONNX's reference and with PyTorch. test_rounding compares single nodes."""
    inputs = images(16)  # the noise of few images depends on how a processor sums
    with torch.no_grad():
        exact = small_model(name)(inputs).numpy()
        kind = HALVES[half][1]
        torch_half = copy.deepcopy(small_model(name)).to(kind)(inputs.to(kind)).float().numpy()
    path = exported(name, half)
    with TypedRunner(path) as runner:
        outputs = runner.run({"input": inputs.numpy()})["output"]
        assert runner.notes == ()
        assert runner.engine == "ONNX Runtime, every half value rounded"
    (reference,) = ReferenceEvaluator(str(path)).run(None, {"input": inputs.numpy()})
    noise = snr_db(exact, outputs)
    assert noise == pytest.approx(snr_db(exact, reference), abs=4)
    assert noise == pytest.approx(snr_db(exact, torch_half), abs=4)
    assert snr_db(exact, TypedRunner(exported(name, "fp32")).run({"input": inputs.numpy()})["output"]) > 90


def test_file_without_half_types_runs_unchanged(exported):
    path = exported("test_resnet", "fp32")
    feeds = {"input": images(3).numpy()}
    with TypedRunner(path, batch_sizes=(2, 4, 8)) as runner, OnnxRunner(path) as plain:
        assert runner.engine == "ONNX Runtime"
        assert runner.batch_sizes == (2, 4, 8)
        assert (runner.inputs, runner.outputs) == (plain.inputs, plain.outputs)
        assert np.array_equal(runner.run(feeds)["output"], plain.run(feeds)["output"])


def test_symbolic_batch_keeps_its_name_and_takes_any_size(exported):
    with TypedRunner(exported("test_vit", "bf16")) as runner:
        assert runner.batch_sizes == (1, 2, 3)
        (spec,) = runner.inputs
        assert (spec.name, spec.shape, spec.dtype, spec.layout) == (
            "input",
            ("batch", 3, 64, 64),
            "float32",
            "NCHW",
        )
        assert runner.outputs[0].shape == ("batch", 1000)
        inputs = images().numpy()
        together = runner.run({"input": inputs})["output"]
        for size in runner.batch_sizes:
            difference = runner.run({"input": inputs[:size]})["output"] - together[:size]
            assert np.abs(difference).max() < 0.2 * together.std()


def test_overflow_that_onnx_runtime_hides_is_reported(tmp_path):
    path = write(
        tmp_path / "square.onnx",
        "g (float[N] x) => (float[N] y, float[N] z)"
        " { h = Cast<to = 10>(x) p = Mul(h, h) y = Cast<to = 1>(p) z = Cast<to = 1>(h) }",
    )
    loud, quiet = np.array([300, -2], np.float32), np.array([3, 1e-9], np.float32)
    assert np.isfinite(OnnxRunner(path).run({"x": loud})["y"]).all()
    with TypedRunner(path) as runner:
        assert runner.run({"x": quiet})["y"].tolist() == [9, 0]
        assert runner.notes == ()
        outputs = runner.run({"x": loud})
        assert outputs["y"].tolist() == [np.inf, 4]
        assert outputs["z"].tolist() == [300, -2]
        runner.run({"x": quiet})
        assert runner.notes == ("1 of 2 outputs contain inf or NaN: y.",)


def test_bfloat16_keeps_large_and_small_numbers(tmp_path):
    body = "g (float[N] x) => (float[N] y) { h = Cast<to = 16>(x) r = Relu(h) y = Cast<to = 1>(r) }"
    outputs = TypedRunner(write(tmp_path / "model.onnx", body)).run(
        {"x": np.array([1e30, 1e-9, 1.01], np.float32)}
    )
    np.testing.assert_allclose(outputs["y"], [1e30, 1e-9, 1.01], rtol=2**-8)
    assert outputs["y"][2] != np.float32(1.01)


@pytest.mark.parametrize(
    ("kind", "name"), [(ir.DataType.FLOAT16, "float16"), (ir.DataType.BFLOAT16, "bfloat16")]
)
def test_half_inputs_and_outputs_keep_their_type(tmp_path, kind, name):
    path = write(tmp_path / "model.onnx", f"g ({name}[N, 4] x) => ({name}[N, 4] y) {{ y = Add(x, x) }}")
    with TypedRunner(path) as runner:
        assert [(spec.dtype, spec.shape) for spec in (*runner.inputs, *runner.outputs)] == [
            (name, ("N", 4))
        ] * 2
        inputs = np.array([[1, 2, 3, 0.1]], kind.numpy())
        outputs = runner.run({"x": inputs})["y"]
        assert outputs.dtype == kind.numpy()
        assert np.array_equal(outputs, inputs + inputs)
        with pytest.raises(ValueError, match=f"'x' takes {name}, not float32"):
            runner.run({"x": inputs.astype(np.float32)})


def test_external_weights_next_to_the_file_are_loaded(exported, tmp_path, monkeypatch):
    model = ir.load(exported("test_resnet", "fp16"))
    path = tmp_path / "external.onnx"
    ir.save(model, path, external_data="external.onnx.data")
    feeds = {"input": images(2).numpy()}
    expected = TypedRunner(exported("test_resnet", "fp16")).run(feeds)["output"]
    assert np.array_equal(TypedRunner(path).run(feeds)["output"], expected)
    monkeypatch.chdir(tmp_path)
    assert np.array_equal(TypedRunner(Path("external.onnx")).run(feeds)["output"], expected)
    (tmp_path / "external.onnx.data").unlink()
    with pytest.raises(ArtifactError, match=r"external\.onnx"):
        TypedRunner(path)


def test_damaged_file_is_reported(exported, tmp_path):
    damaged = tmp_path / "damaged.onnx"
    content = exported("test_resnet", "fp16").read_bytes()
    for data in (b"not a model", b"", content[: len(content) // 2]):
        damaged.write_bytes(data)
        with pytest.raises(ArtifactError, match=r"damaged\.onnx"):
            TypedRunner(damaged)
    with pytest.raises(ArtifactError, match=r"absent\.onnx"):
        TypedRunner(tmp_path / "absent.onnx")


def test_contradicting_types_are_reported(tmp_path):
    body = "g (float[4] x) => (float[4] y) { h = Cast<to = 10>(x) a = Add(h, x) y = Cast<to = 1>(a) }"
    with pytest.raises(ArtifactError, match=r"mixed\.onnx"):
        TypedRunner(write(tmp_path / "mixed.onnx", body))


def test_operator_without_a_kernel_is_reported(tmp_path):
    body = """g (float[1] x) => (float[1] y) {
        r = RandomNormal<dtype = 10, shape = [1]>() h = Cast<to = 10>(x) a = Add(r, h) y = Cast<to = 1>(a) }"""
    with pytest.raises(RuntimeUnavailable, match="RandomNormal"):
        TypedRunner(write(tmp_path / "model.onnx", body))
    body = """g (float[4] x) => (float[4] y) <int64 first = {0}> { h = Cast<to = 10>(x)
        s = SequenceConstruct(h, h) t = SequenceAt(s, first) y = Cast<to = 1>(t) }"""
    with pytest.raises(RuntimeUnavailable, match="SequenceConstruct"):
        TypedRunner(write(tmp_path / "model.onnx", body))


def test_float32_copy_is_deleted(exported, tmp_path, monkeypatch):
    monkeypatch.setattr("tempfile.tempdir", str(tmp_path))
    with TypedRunner(exported("test_vit", "fp16")):
        assert len(list(tmp_path.iterdir())) == 1
    assert not list(tmp_path.iterdir())
    with pytest.raises(ArtifactError):
        TypedRunner(
            write(tmp_path / "new.onnx", "g (float16[4] x) => (float16[4] y) { y = Relu(x) }", opset=99)
        )
    assert [path.name for path in tmp_path.iterdir()] == ["new.onnx"]

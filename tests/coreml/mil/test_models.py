"""timm models, converted and saved, compute what PyTorch computes."""

from __future__ import annotations

import subprocess
import sys
import warnings

import pytest
import torch
from mil_programs import open_package
from timmx.base.snr import SignalToNoise
from timmx.capture.trace import capture
from timmx.testing import awakened_model
from timmx_coreml.convert import validation_per_pipeline

pytestmark = pytest.mark.usefixtures("export")

QUICK = [
    ("test_vit", "FLOAT32"),
    ("test_vit", "FLOAT16"),
    ("test_resnet", "FLOAT32"),
    ("test_efficientnet", "FLOAT16"),
]
SLOW = [
    ("test_resnet", "FLOAT16"),
    ("test_efficientnet", "FLOAT32"),
    ("test_convnext", "FLOAT32"),
    ("test_convnext", "FLOAT16"),
]
FLOORS_DB = {"FLOAT32": 90, "FLOAT16": 22}


@validation_per_pipeline()
def convert(model, example, path, precision, target="iOS16", inputs=None):
    import coremltools as ct

    program = capture(model, example, dynamic=inputs is not None).run_decompositions({})
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        ct.convert(
            program,
            convert_to="mlprogram",
            inputs=inputs,
            minimum_deployment_target=getattr(ct.target, target),
            compute_precision=getattr(ct.precision, precision),
            skip_model_load=True,
        ).save(str(path))


def snr_db(model, evaluator, shape, batches=(1, 1, 1, 1)) -> float:
    torch.manual_seed(1)
    figures = SignalToNoise()
    (name,) = evaluator.inputs
    for batch in batches:
        x = torch.randn(batch, *shape)
        with torch.no_grad():
            reference = model(x)
        computed = evaluator.run({name: x.to(evaluator.inputs[name][0])})[evaluator.outputs[0]]
        figures.update(reference.numpy(), computed.float().numpy())
    return figures.snr_db


@pytest.mark.parametrize(
    ("name", "precision"), [*QUICK, *(pytest.param(*names, marks=pytest.mark.slow) for names in SLOW)]
)
def test_model_computes_what_pytorch_computes(name, precision, tmp_path):
    model = awakened_model(name)
    convert(model, torch.randn(1, 3, 160, 160), tmp_path / "m.mlpackage", precision)
    evaluator = open_package(tmp_path / "m.mlpackage")
    assert snr_db(model, evaluator, (3, 160, 160)) >= FLOORS_DB[precision]
    assert not any(value.overflowed for value in evaluator.large_values)


@pytest.mark.slow
def test_attention_of_ios18(tmp_path):
    model = awakened_model("test_vit")
    convert(model, torch.randn(1, 3, 160, 160), tmp_path / "m.mlpackage", "FLOAT32", "iOS18")
    assert snr_db(model, open_package(tmp_path / "m.mlpackage"), (3, 160, 160)) >= 90


@pytest.mark.slow
def test_dynamic_batch_size(tmp_path):
    import coremltools as ct

    model = awakened_model("test_vit")
    shape = ct.Shape((ct.RangeDim(1, 4, default=1), 3, 160, 160))
    inputs = [ct.TensorType(shape=shape)]
    convert(model, torch.randn(2, 3, 160, 160), tmp_path / "m.mlpackage", "FLOAT32", inputs=inputs)
    evaluator = open_package(tmp_path / "m.mlpackage")
    assert snr_db(model, evaluator, (3, 160, 160), batches=(1, 2, 3)) >= 90


@pytest.mark.slow
@pytest.mark.skipif(sys.platform != "linux", reason="reads memory from /proc")
@pytest.mark.parametrize("precision", FLOORS_DB)
def test_resnet50_takes_little_time_and_memory(precision, tmp_path):
    """Under 3 s per run, and memory under 3 times the float32 weights, loading included."""
    model = awakened_model("resnet50")
    convert(model, torch.randn(1, 3, 224, 224), tmp_path / "m.mlpackage", precision)
    assert snr_db(model, open_package(tmp_path / "m.mlpackage"), (3, 224, 224)) >= FLOORS_DB[precision]
    script = f"""
import time, torch
from pathlib import Path
from timmx_coreml.mil import MilEvaluator
from timmx_coreml.schema import schema
torch.conv2d(torch.zeros(1, 3, 8, 8), torch.zeros(4, 3, 3, 3))  # loads the libraries
def memory_mb(what):
    return int(Path("/proc/self/status").read_text().split(what + ":")[1].split()[0]) / 1024
before = memory_mb("VmRSS")
Path("/proc/self/clear_refs").write_text("5")  # resets the peak
folder = Path({str(tmp_path / "m.mlpackage")!r}) / "Data" / "com.apple.CoreML"
model = schema("Model_pb2").Model()
model.ParseFromString((folder / "model.mlmodel").read_bytes())
evaluator = MilEvaluator(model, folder)
x = torch.randn(1, 3, 224, 224)
evaluator.run({{next(iter(evaluator.inputs)): x}})
start = time.perf_counter()
evaluator.run({{next(iter(evaluator.inputs)): x}})
print(time.perf_counter() - start, memory_mb("VmHWM") - before)
"""
    done = subprocess.run([sys.executable, "-c", script], check=True, capture_output=True, text=True)
    seconds, memory_mb = map(float, done.stdout.split())
    print(f"{precision}: {seconds:.2f} s, {memory_mb:.0f} MB")
    assert seconds < 3
    assert memory_mb < 3 * 102


@pytest.mark.slow
@pytest.mark.parametrize(
    "form", ["linear8", "block4", "palette4", "palette6-groups", "sparse", "sparse-palette"]
)
def test_compressed_weights_equal_those_that_coremltools_decompresses(form, tmp_path):
    import coremltools as ct
    from coremltools.optimize import coreml as cto

    configs = {
        "linear8": ("iOS16", cto.OpLinearQuantizerConfig(dtype="int8", weight_threshold=0)),
        "block4": (
            "iOS18",
            cto.OpLinearQuantizerConfig(
                dtype="int4", granularity="per_block", block_size=4, weight_threshold=0
            ),
        ),
        "palette4": ("iOS16", cto.OpPalettizerConfig(nbits=4, mode="uniform", weight_threshold=0)),
        "palette6-groups": (
            "iOS18",
            cto.OpPalettizerConfig(
                nbits=6, mode="uniform", granularity="per_grouped_channel", group_size=8, weight_threshold=0
            ),
        ),
        "sparse": ("iOS16", cto.OpMagnitudePrunerConfig(target_sparsity=0.5, weight_threshold=0)),
        "sparse-palette": ("iOS18", cto.OpMagnitudePrunerConfig(target_sparsity=0.5, weight_threshold=0)),
    }
    target, config = configs[form]
    model = awakened_model("test_vit")
    convert(model, torch.randn(1, 3, 160, 160), tmp_path / "dense.mlpackage", "FLOAT16", target)
    dense = ct.models.MLModel(str(tmp_path / "dense.mlpackage"), skip_model_load=True)
    configuration = cto.OptimizationConfig(global_config=config)
    compress = {
        "linear8": cto.linear_quantize_weights,
        "block4": cto.linear_quantize_weights,
        "palette4": cto.palettize_weights,
        "palette6-groups": cto.palettize_weights,
    }.get(form, cto.prune_weights)
    compressed = compress(dense, configuration)
    if form == "sparse-palette":
        palette = cto.OpPalettizerConfig(nbits=4, mode="uniform", weight_threshold=0)
        compressed = cto.palettize_weights(
            compressed, cto.OptimizationConfig(global_config=palette), joint_compression=True
        )
    compressed.save(str(tmp_path / "small.mlpackage"))
    cto.decompress_weights(compressed).save(str(tmp_path / "decompressed.mlpackage"))
    small, decompressed = (
        open_package(tmp_path / "small.mlpackage"),
        open_package(tmp_path / "decompressed.mlpackage"),
    )
    kinds = {step.operation.type for step in small._steps if step.constant}
    assert kinds, "nothing was compressed"
    x = {next(iter(small.inputs)): torch.randn(1, 3, 160, 160)}
    for name, value in small.run(x).items():
        torch.testing.assert_close(value, decompressed.run(x)[name], rtol=0, atol=0)

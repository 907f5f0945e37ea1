"""`timmx.export` from Python, and the command function of a backend, with the checks of the command line."""

from __future__ import annotations

import inspect
import sys
import typing

import forks
import pytest
import timmx
import torch
import typer
from timmx.errors import BackendError, ConfigurationError
from timmx.registry import discovery as registry
from typer.testing import CliRunner


@pytest.mark.parametrize(
    ("options", "words"),
    [
        ({"dynamic_bach": True}, "did you mean dynamic_batch"),
        ({"opset": "new"}, "is not an integer"),
        ({"opset": 3}, "at least 18"),
        ({"mode": "fp61"}, "fp16"),
        ({"batch_size": 0}, "at least 1"),
        ({"dynamic_batch": "yes"}, "True or False"),
        ({"input_size": (3, 224)}, "a tuple of 3 values"),
        ({"input_size": (3, 224, 0)}, "at least 1"),
        ({"mean": (0.5,)}, "--normalize"),
        ({"normalize": True, "std": (0.0,)}, "--std"),
        ({"use_ema": True}, "--checkpoint"),
        ({"checkpoint": "no/such/file.safetensors"}, "No such file"),
        ({"softmax": True, "num_classes": 0}, "--softmax requires classes"),
        ({"labels": ["a", "b"], "features": True}, "--labels requires classes"),
        ({"labels": ["a", "b"], "num_classes": 3}, "2 names"),
        ({"out_indices": (1, 2)}, "--features"),
        ({"verify": False, "min_snr": 30.0}, "--no-verify"),
        ({"verify": False, "verify_data": "."}, "--no-verify"),
        ({"verify_data": "no/such/folder"}, "the folder no/such/folder does not exist"),
        ({"pretrained": True, "checkpoint": "x.pth"}, "use only one of them"),
        ({"pretrained": True, "seed": 1}, "--seed"),
        ({"in_chans": 1, "input_size": (3, 32, 32)}, "different numbers of channels"),
        ({"model_kwargs": ["drop_rate"]}, "not KEY=VALUE"),
        ({"features": True, "out_indices": (2, 0)}, "ascending order"),
        ({"features": True, "out_indices": (1, 1)}, "each level once"),
        ({"min_snr": float("nan")}, "not a finite number\nhint: give a value in dB"),
        ({"seed": 10**30}, "at most"),
        ({"output": "model.bin"}, r"must end in \.onnx"),
    ],
)
def test_a_wrong_option_is_refused_with_a_hint(options, words):
    with pytest.raises(ConfigurationError, match=words):
        timmx.export("onnx", "test_resnet", **options)


@pytest.fixture
def without_tensorrt(monkeypatch):
    """An environment with the other formats only."""
    others = tuple(entry for entry in registry.entries() if entry.name != "tensorrt")
    monkeypatch.setattr(registry, "entries", lambda: others)


@pytest.mark.usefixtures("without_tensorrt")
def test_an_unknown_backend_error_lists_the_installed_ones():
    with pytest.raises(BackendError, match=r"installed: .*onnx"):
        timmx.export("nonsense", "test_resnet")
    with pytest.raises(BackendError, match="uv pip install timmx-tensorrt"):
        timmx.export("tensorrt", "test_resnet")


def test_torch_export_needs_a_dynamic_batch_above_one():
    with pytest.raises(ConfigurationError, match="Leave --batch-size out"):
        timmx.export("torch-export", "test_resnet", dynamic_batch=True, batch_size=1)


@pytest.mark.parametrize("name", ["onnx", "torch-export"])
def test_the_command_registers_in_any_typer_application(name):
    backend = registry.load(name)
    command = backend.create_command()
    parameters = inspect.signature(command).parameters
    assert all(typing.get_origin(item.annotation) is typing.Annotated for item in parameters.values())
    assert not any(item.kind is item.VAR_KEYWORD for item in parameters.values())
    app = typer.Typer()
    app.command()(command)
    shown = CliRunner().invoke(app, ["--help"], env={"COLUMNS": "200"})
    assert shown.exit_code == 0
    for flag in ("--output", "--dynamic-batch", "--no-verify", "--input-size", "--json"):
        assert flag in shown.output


def test_an_export_and_its_file_from_python(export, tmp_path, digits):
    result = timmx.export("torch-export", digits, output=tmp_path / "digits.pt2", dynamic_batch=True)
    assert result.path == tmp_path / "digits.pt2"
    assert result.verification.status == "verified"
    assert result.verification.inputs == 20
    assert result.verification.top1_agreement == 1.0
    with timmx.open(result.path) as runner:
        (spec,) = runner.inputs
        assert spec.name == "input"
        assert spec.shape[0] == "batch"


def test_a_callers_module_is_not_changed(export, tmp_path):
    import timm
    from timmx.testing import awaken

    module = awaken(timm.create_model("test_resnet", num_classes=7)).train()
    before = {name: value.clone() for name, value in module.state_dict().items()}
    result = timmx.export("torch-export", module, output=tmp_path / "module.pt2", labels=list("abcdefg"))
    assert result.verification.status == "verified"
    assert result.metadata["labels"] == list("abcdefg")
    assert module.training
    assert all(parameter.requires_grad for parameter in module.parameters())
    assert before.keys() == module.state_dict().keys()
    assert all(torch.equal(before[name], value) for name, value in module.state_dict().items())


class Outputs(torch.nn.Module):
    """A small classifier that returns a test's function of its features and logits."""

    def __init__(self, make, **cfg):
        super().__init__()
        torch.manual_seed(0)
        self.conv, self.head, self.make = torch.nn.Conv2d(3, 4, 3), torch.nn.Linear(4, 5), make
        self.pretrained_cfg = {"input_size": (3, 16, 16)} | cfg

    def forward(self, x):
        features = self.conv(x)
        return self.make(features, self.head(features.mean((2, 3))))


@pytest.mark.parametrize(
    ("make", "names"),
    [
        (lambda f, o: o, ("output",)),
        (lambda f, o: (o, f), ("output_0", "output_1")),
        (lambda f, o: {"class_logits": o, "map": f}, ("class_logits", "map")),
        (lambda f, o: {"a": {"b": o}, "a_b": f}, ("a_b", "a_b_")),
        (lambda f, o: {"input": o, "z": f}, ("output_input", "z")),
    ],
)
@pytest.mark.parametrize("backend", ["onnx", "torch-export"])
def test_outputs_of_any_structure_have_stable_names(export, tmp_path, backend, make, names):
    suffix = {"onnx": ".onnx", "torch-export": ".pt2"}[backend]
    result = timmx.export(backend, Outputs(make), output=tmp_path / f"model{suffix}")
    assert result.verification.status == "verified"
    outputs = result.metadata["outputs"]
    assert tuple(output["name"] for output in outputs) == names
    assert {output["kind"] for output in outputs} == ({"logits"} if len(names) == 1 else {"tensor"})
    assert result.metadata["model"]["num_classes"] == (5 if len(names) == 1 else 0)


def test_the_reason_why_a_module_cannot_be_exported_is_reported(tmp_path):
    def export(module, **options):
        timmx.export("torch-export", module, output=tmp_path / "model.pt2", **options)

    with pytest.raises(timmx.UnsupportedError, match="only tensors"):
        export(Outputs(lambda f, o: (o, None)))
    with pytest.raises(ConfigurationError, match="float32"):
        export(Outputs(lambda f, o: o).half())
    with pytest.raises(ConfigurationError, match="meta device"):
        export(Outputs(lambda f, o: o).to("meta"))
    with pytest.raises(ConfigurationError, match="--softmax needs"):
        export(Outputs(lambda f, o: o, num_classes=0), softmax=True)
    with pytest.raises(ConfigurationError, match="3 names"):
        export(Outputs(lambda f, o: o), labels=["a", "b", "c"])
    assert list(tmp_path.iterdir()) == []


def test_exports_in_threads_wait_for_each_other(export, tmp_path):
    import sys
    from concurrent.futures import ThreadPoolExecutor

    before = sys.stdout
    with ThreadPoolExecutor(3) as pool:
        results = list(
            pool.map(
                lambda number: timmx.export(
                    "torch-export", Outputs(lambda f, o: o), output=tmp_path / f"{number}.pt2"
                ),
                range(3),
            )
        )
    assert [result.verification.status for result in results] == ["verified"] * 3
    assert sys.stdout is before


def test_python_values_reach_the_model(export, tmp_path):
    result = timmx.export(
        "torch-export",
        "test_vit",
        model_kwargs={"norm_layer": torch.nn.LayerNorm, "depth": 1},
        output=tmp_path / "vit.pt2",
    )
    assert result.path.exists()


def test_options_that_build_a_model_are_refused_for_a_module():
    with pytest.raises(ConfigurationError, match="existing module"):
        timmx.export("onnx", torch.nn.Identity(), num_classes=3)


@pytest.mark.usefixtures("without_tensorrt")
def test_opening_reports_what_is_missing(tmp_path):
    with pytest.raises(timmx.ArtifactError, match="does not exist"):
        timmx.open(tmp_path / "none.onnx")
    (tmp_path / "model.engine").touch()
    with pytest.raises(BackendError, match="uv pip install timmx-tensorrt"):
        timmx.open(tmp_path / "model.engine")
    (tmp_path / "model.xyz").touch()
    with pytest.raises(BackendError, match=r"no installed backend opens \.xyz"):
        timmx.open(tmp_path / "model.xyz")
    for suffix in (".onnx", ".pt2"):
        (tmp_path / f"text{suffix}").write_text("not a model")
        with pytest.raises(timmx.ArtifactError, match="damaged"):
            timmx.open(tmp_path / f"text{suffix}")


def test_exports_from_python_show_no_progress_bars_and_print_nothing_at_exit(process, tmp_path):
    """Neither bars of converters and quantizers, nor messages of bindings when the interpreter ends."""
    code = """
import sys, timmx
from torch import nn

model = nn.Sequential(nn.Conv2d(3, 64, 3), nn.Conv2d(64, 64, 3), nn.AdaptiveAvgPool2d(1), nn.Flatten())
model.pretrained_cfg = {"input_size": (3, 16, 16)}
sys.kept = []  # bindings report objects that are alive at the end
for backend, output, options in (
    ("litert", "model.tflite", {"mode": "int8", "random_calibration": True}),
    ("coreml", "model.mlpackage", {"quantize": "palette6"}),
    ("onnx", "model.onnx", {}),
):
    result = timmx.export(backend, model, output=output, verify=False, **options)
    sys.kept += [timmx.open(result.path), result]
import tqdm
list(tqdm.tqdm(range(3), desc="the user's own"))
"""
    done = forks.run([sys.executable, "-c", code], cwd=tmp_path, finalize=True)
    assert done.returncode == 0, done.stderr
    assert done.stdout == ""
    bars = [line for line in done.stderr.replace("\r", "\n").splitlines() if "%|" in line]
    assert bars
    assert all(line.startswith("the user's own") for line in bars)
    assert "nanobind" not in done.stderr
    assert "leaked" not in done.stderr


def test_an_invalid_device_or_thread_count_is_refused(export, tmp_path):
    path = timmx.export("torch-export", "test_resnet", output=tmp_path / "model.pt2", verify=False).path
    with pytest.raises(ConfigurationError, match="unknown device 'tpu'\nhint: use cpu or cuda"):
        timmx.open(path, device="tpu")
    with pytest.raises(ConfigurationError, match="runs on the device cpu here, not on cuda"):
        timmx.open(path, device="cuda")
    with pytest.raises(ConfigurationError, match="threads is 0, but must be 1 or more"):
        timmx.open(path, threads=0)
    with timmx.open(path, device="cpu", threads=1) as runner:
        assert runner.outputs

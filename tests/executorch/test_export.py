"""`timmx executorch` on the digits model: each mode and delegate keeps its accuracy, and files say what is inside."""

from __future__ import annotations

import json
import re
import struct
from pathlib import Path

import numpy as np
import pytest
import timmx
import torch
from executorch.exir._serialize._program import deserialize_pte_binary
from plugins import timmx as timmx_command
from timmx.errors import ArtifactError, ConfigurationError, UnsupportedError
from timmx_executorch.core_ml_data import unpack
from timmx_executorch.plugin import ExecuTorchBackend
from torch import nn
from torch.nn import functional

pytestmark = pytest.mark.usefixtures("export")


@pytest.mark.parametrize(
    ("name", "least_db"),
    [
        ("fp32", 100),
        ("fp16", 45),
        ("weight-int8", 25),
        ("dynamic-int8", 25),
        ("int8", 20),
        ("portable", 100),
        ("coreml-fp16", 45),
        ("external", 100),
    ],
)
def test_each_file_keeps_the_accuracy(files, name, least_db):
    report = files[name].verification
    assert report["status"] == "verified"
    assert report["snr_db"] > least_db
    assert report["accuracy"] == report["model_accuracy"]


def test_eight_bit_weights_take_less_than_half_of_the_file(files):
    sizes = {name: result.path.stat().st_size for name, result in files.items()}
    assert max(sizes["weight-int8"], sizes["dynamic-int8"], sizes["int8"]) < 0.45 * sizes["fp32"]
    assert sizes["fp16"] < 0.65 * sizes["fp32"]


def test_all_of_the_model_runs_in_its_delegate(files):
    for name in ("fp32", "fp16", "weight-int8", "dynamic-int8", "int8", "coreml-fp16"):
        assert files[name].metadata["format"]["delegated_share"] == 1
    facts = files["portable"].metadata["format"]
    assert facts["delegated_operators"] == 0
    assert facts["portable_operators"]["convolution"] > 10


def test_int8_states_its_plan(files):
    plan = files["int8"].metadata["format"]["quantization_plan"]
    assert plan["integer_share"] > 0.5
    assert plan["measured_db"] > 15
    assert any("layers compute in integers" in note for note in files["int8"].notes)


def test_core_ml_files_are_evaluated_by_timmx_coreml(files):
    assert files["coreml-fp16"].verification["engine"] == "timmx's MIL evaluator"


def test_executorch_reads_the_metadata(files):
    named = deserialize_pte_binary(files["fp32"].path.read_bytes()).named_data
    content = named.buffers[named.pte_data["timmx"].buffer_index]
    assert json.loads(bytes(content)) == files["fp32"].metadata


def test_inspect_counts_calls_of_the_delegate(files):
    found = ExecuTorchBackend().inspect(files["fp32"].path)
    assert found["operations"]["XnnpackBackend"] == files["fp32"].metadata["format"]["partitions"]
    assert found["inputs"] == [{"name": "input", "shape": [1, 3, 64, 64], "dtype": "float32"}]
    assert "aten::convolution.out" in ExecuTorchBackend().inspect(files["portable"].path)["operations"]


def test_external_weights_are_in_the_second_file(files):
    path = files["external"].path
    assert path.with_suffix(".ptd").stat().st_size > 10 * path.stat().st_size
    assert (
        path.stat().st_size + path.with_suffix(".ptd").stat().st_size
        < 1.1 * files["fp32"].path.stat().st_size
    )
    assert list(files["external"].metadata["format"]["companions"]) == [".ptd"]


def test_external_weights_of_another_file_are_refused(files, tmp_path):
    for name, content in (("gone", None), ("changed", b"other")):
        path = tmp_path / f"{name}.pte"
        path.write_bytes(files["external"].path.read_bytes())
        if content is not None:
            path.with_suffix(".ptd").write_bytes(content)
        with pytest.raises(ArtifactError, match=rf"{name}\.ptd is (missing|not the file)"):
            timmx.open(path)


def test_a_second_file_that_the_metadata_does_not_name_is_not_read(files, tmp_path):
    path, stray = tmp_path / "own.pte", tmp_path / "own.ptd"
    path.write_bytes(files["fp32"].path.read_bytes())
    stray.write_bytes(b"not weights")
    with timmx.open(path) as runner:
        assert runner.run({"input": np.zeros((1, 3, 64, 64), np.float32)})["output"].shape == (1, 10)
    assert ExecuTorchBackend().files(path) == (path,)


def test_arrays_of_any_layout_run_and_others_are_refused(files):
    image = np.random.default_rng(0).random((1, 3, 64, 64), dtype=np.float32)
    with timmx.open(files["fp32"].path) as runner:
        expected = runner.run({"input": image})["output"]
        reversed_view = image[..., ::-1].copy()[..., ::-1]
        fixed = image.copy()
        fixed.flags.writeable = False
        for array in (reversed_view, fixed, np.asfortranarray(image)):
            np.testing.assert_array_equal(runner.run({"input": array})["output"], expected)
        for array in (image.astype(np.float64), image.astype(">f4"), (255 * image).astype(np.uint8)):
            with pytest.raises(ConfigurationError, match="takes input of float32, but got"):
                runner.run({"input": array})
        with pytest.raises(ConfigurationError, match="the file takes input"):
            runner.run({"input": image.tolist()})
    with pytest.raises(ArtifactError, match="is closed"):
        runner.run({"input": image})


def test_batches_up_to_the_bound_run(digits, tmp_path):
    result = timmx.export("executorch", digits, output=tmp_path / "d.pte", dynamic_batch=True, batch_max=20)
    assert result.verification.batch_sizes == (1, 2, 20)
    assert result.metadata["format"]["batch_range"] == [1, 20]
    with timmx.open(result.path) as runner:
        assert runner.inputs[0].shape == ("batch", 3, 64, 64)
        assert runner.run({"input": np.zeros((17, 3, 64, 64), np.float32)})["output"].shape == (17, 10)
        with pytest.raises(ConfigurationError, match="batches of 1 to 20, but got 21") as caught:
            runner.run({"input": np.zeros((21, 3, 64, 64), np.float32)})
        assert "--batch-max" in caught.value.hint


CONFIG = {
    "input_size": (3, 32, 32),
    "mean": (0.5,) * 3,
    "std": (0.5,) * 3,
    "interpolation": "bilinear",
    "crop_pct": 1.0,
}


class Computed(nn.Module):
    """A convolution whose weight is computed from the input, which XNNPACK does not have."""

    pretrained_cfg = CONFIG

    def __init__(self):
        super().__init__()
        self.embed = nn.Conv2d(3, 8, 4, stride=4)
        self.weight = nn.Parameter(torch.randn(8, 8, 5, 5))

    def forward(self, x):
        one = x.mean() * 0 + 1
        return functional.conv2d(self.embed(x), self.weight * one, padding=2).relu().mean((2, 3))


def test_little_delegation_is_a_warning_that_names_the_operators(tmp_path):
    torch.manual_seed(0)
    result = timmx.export("executorch", Computed().eval(), output=tmp_path / "computed.pte")
    (note,) = (note for note in result.notes if "multiply-adds" in note)
    assert re.search(r"only \d+ % of the multiply-adds.*compute convolution \(", note)
    assert result.metadata["format"]["delegated_share"] < 0.5


class Cancels(nn.Module):
    """Adds a large constant, moves the values and takes it away again, which leaves little of float16's 11 bits."""

    pretrained_cfg = CONFIG

    def __init__(self):
        super().__init__()
        self.first = nn.Conv2d(3, 8, 4, stride=4)
        self.last = nn.Linear(8, 4)

    def forward(self, x):
        x = (self.first(x).flatten(2) + 900.0).transpose(1, 2) - 900.0
        return self.last(x.tanh().mean(1))


@pytest.mark.parametrize("delegate", ["xnnpack", "coreml"])
def test_operations_that_float16_rounds_too_much_stay_in_float32(tmp_path, delegate):
    torch.manual_seed(0)
    result = timmx.export(
        "executorch", Cancels().eval(), output=tmp_path / "a.pte", mode="fp16", delegate=delegate
    )
    assert result.verification.snr_db > 40
    assert result.metadata["format"]["float32_operations"] == 2
    assert any("2 operations compute in float32" in note for note in result.notes)


class Applies(nn.Module):
    """A function of the input."""

    pretrained_cfg = CONFIG

    def __init__(self, function):
        super().__init__()
        self.function = function

    def forward(self, x):
        return self.function(x)


@pytest.mark.parametrize(
    ("function", "delegate", "words"),
    [
        (lambda x: torch.linalg.svd(x[:, 0])[1], "xnnpack", "linalg_svd.default is not in Core ATen opset"),
        (lambda x: torch.fft.rfft2(x).abs().mean((2, 3)), "portable", "complex64"),
        (lambda x: ((x[:, 0] > 0) ^ (x[:, 1] > 0)).float().mean(1), "coreml", "bitwise_xor"),
    ],
)
def test_an_operation_that_executorch_lacks_is_named(tmp_path, function, delegate, words):
    with pytest.raises(UnsupportedError, match=f"cannot convert this model: .*{words}") as caught:
        timmx.export(
            "executorch", Applies(function), output=tmp_path / "m.pte", delegate=delegate, verify=False
        )
    assert "few things" not in caught.value.message
    assert "timmx onnx" in caught.value.hint
    assert not list(tmp_path.iterdir())


@pytest.mark.parametrize(
    ("change", "words"),
    [
        (lambda content: content[: len(content) // 2], "is damaged: it is cut off"),
        (lambda content: content[:40], "is damaged"),
        (lambda content: content[:4] + b"ET13" + content[8:], "has version ET13 of the format"),
        (
            lambda content: b"\x89PNG" + content[4:8].replace(b"ET12", b"IHDR") + content[8:],
            "not an ExecuTorch program",
        ),
        (lambda content: content[:16] + struct.pack("<Q", 2**40) + content[24:], "is damaged: it is cut off"),
        (
            lambda content: content.replace(b"XnnpackBackend", b"UnknownBackend"),
            "UnknownBackend, which timmx does not run",
        ),
    ],
)
def test_a_file_that_cannot_run_is_reported(files, tmp_path, change, words):
    path = tmp_path / "changed.pte"
    path.write_bytes(change(files["fp32"].path.read_bytes()))
    with pytest.raises(timmx.errors.TimmxError, match=words):
        timmx.open(path)


def test_weights_behind_4_gb_are_read(files, tmp_path):
    """The weights are moved to 5 GiB in a sparse file, as in a file of a very large model."""
    content, far = files["fp32"].path.read_bytes(), 5 * 2**30
    program_size, start, size = struct.unpack_from("<QQQ", content, 16)
    path = tmp_path / "large.pte"
    with path.open("wb") as file:
        file.write(content[:24] + struct.pack("<QQ", far, size) + content[40:program_size])
        file.seek(far)
        file.write(content[start : start + size])
    assert ExecuTorchBackend().read_metadata(path) == files["fp32"].metadata
    image = {"input": np.random.default_rng(0).standard_normal((1, 3, 64, 64)).astype(np.float32)}
    with timmx.open(files["fp32"].path) as near, timmx.open(path) as behind:
        np.testing.assert_array_equal(behind.run(image)["output"], near.run(image)["output"])


def test_a_kernel_that_the_runtime_lacks_is_named(files, tmp_path):
    path = tmp_path / "changed.pte"
    path.write_bytes(files["portable"].path.read_bytes().replace(b"aten::sigmoid", b"aten::sigmoix"))
    with pytest.raises(timmx.errors.RuntimeUnavailable, match=r"no kernel: aten::sigmoix\.out"):
        timmx.open(path)


@pytest.mark.parametrize("name", ["..", "a/b", ""])
def test_names_of_a_core_ml_model_cannot_leave_the_folder(files, tmp_path, name):
    nodes = [
        {"name": name, "kind": 0, "dataRegion": {"offset": 0, "size": 1}, "children": {}},
        {"name": "lowered_module", "kind": 1, "dataRegion": {"offset": 0, "size": 0}, "children": {"x": 0}},
    ]
    content = b"x" + json.dumps({"nodes": nodes}).encode()[::-1]
    with pytest.raises(ArtifactError, match=r"the Core ML model in .* is damaged"):
        unpack(tmp_path / "a.pte", content, tmp_path / "inside")
    assert not list(tmp_path.iterdir())


def test_inputs_of_another_shape_are_refused(files):
    with timmx.open(files["fp32"].path) as runner:
        with pytest.raises(
            ConfigurationError, match=r"shape \(1, 3, 64, 64\), but got shape \(1, 3, 32, 32\)"
        ):
            runner.run({"input": np.zeros((1, 3, 32, 32), np.float32)})
        with pytest.raises(ConfigurationError, match="takes input, but got image"):
            runner.run({"image": np.zeros((1, 3, 64, 64), np.float32)})


def test_two_open_files_share_the_threads(files):
    image = np.zeros((1, 3, 64, 64), np.float32)
    with timmx.open(files["fp32"].path, threads=1) as one, timmx.open(files["int8"].path, threads=2) as two:
        assert one.run({"input": image})["output"].shape == two.run({"input": image})["output"].shape


def test_logs_of_the_runtime_are_shown_only_on_request(process, files):
    path = files["fp32"].path
    image = next((Path(__file__).parents[2] / "examples/digits/samples/3").glob("*.png"))
    quiet, verbose = (
        timmx_command("predict", path, image, *more, forked=True) for more in ((), ("--verbose",))
    )
    assert quiet.returncode == verbose.returncode == 0
    assert "cpuinfo" not in quiet.stdout + quiet.stderr
    assert "cpuinfo" in verbose.stderr
    assert "cpuinfo" not in verbose.stdout

"""`timmx tensorrt` from command to engine, with a stand-in for TensorRT and the GPU."""

from __future__ import annotations

import importlib.util
import json
import os
import shlex
import shutil
import signal
import subprocess
import time
from pathlib import Path
from typing import ClassVar

import numpy as np
import onnx
import pytest
import timmx
from google.protobuf import text_format
from timmx.base.files import sha256
from timmx.base.progress import Reporter, reporting
from timmx.cli.application import app
from timmx.errors import (
    ArtifactError,
    ConfigurationError,
    RuntimeUnavailable,
    TimmxError,
    UnsupportedError,
    VerificationError,
)
from timmx_tensorrt.plugin import TensorRTBackend
from timmx_tensorrt.sidecar import read, sidecar_path
from torch import nn
from trt.stand_in import VERSIONS
from typer.testing import CliRunner

DIGITS = Path(__file__).parents[2] / "examples" / "digits"
DYNAMIC_BATCH = {"dynamic_batch": True, "batch_size": 4, "batch_max": 8}
CALIBRATION = {"calibration_data": DIGITS / "samples", "calibration_samples": 32}


BOTH = pytest.mark.parametrize("tensorrt", VERSIONS, indirect=True)


@pytest.fixture
def export_engine(export, tensorrt, tmp_path, monkeypatch, digits):
    monkeypatch.chdir(tmp_path)

    def run(model=digits, **options):
        command = TensorRTBackend().create_command()
        return command(model, **{"output": tmp_path / "digits.engine", "device": "cuda"} | options)

    return run


class Tiny(nn.Module):
    """A model for tests in which its numbers do not matter."""

    pretrained_cfg: ClassVar = {"input_size": (3, 16, 16), "architecture": "tiny"}

    def __init__(self):
        super().__init__()
        self.conv = nn.Conv2d(3, 4, 3)

    def forward(self, x):
        return self.conv(x).mean((2, 3))


@pytest.fixture(scope="module")
def typed(export, tmp_path_factory, digits):
    """The digits' typed ONNX with a fixed batch size of 1, and with a dynamic one."""
    folder = tmp_path_factory.mktemp("typed")
    files = {}
    for name, options in (("one", {}), ("dynamic", DYNAMIC_BATCH)):
        files[name] = folder / f"{name}.onnx"
        timmx.export(
            "tensorrt",
            digits,
            output=files[name],
            onnx_only=True,
            mode="fp16",
            softmax=True,
            verify=False,
            **options,
        )
    return files


@pytest.fixture
def build(export_engine, typed):
    """Build from a typed ONNX, which takes a second; from a model it takes several."""
    return lambda name="one", **options: export_engine(None, **{"from_onnx": typed[name]} | options)


def check_verified(result, tensorrt, least_db, batch_sizes=(1,), more_files=()):
    """Check the result of the only build."""
    assert result.verification.status == "verified"
    assert result.verification.snr_db > least_db
    assert result.files == (result.path, sidecar_path(result.path), *more_files)
    assert result.verification.batch_sizes == batch_sizes
    (build,) = tensorrt.builds
    assert build.strongly_typed
    assert ("TF32" in build.flags) is (result.metadata["precision"] != "fp32")


def test_float32_engine_is_built_verified_and_reported_as_json(export_engine, tensorrt, tmp_path, digits):
    arguments = ["tensorrt", digits, "--device", "cuda", "-o", str(tmp_path / "a.engine"), "--json"]
    report = json.loads(CliRunner().invoke(app, arguments).stdout)
    assert report["verification"]["status"] == "verified"
    assert report["verification"]["snr_db"] > 100
    assert report["verification"]["batch_sizes"] == [1]
    assert report["files"] == [str(tmp_path / name) for name in ("a.engine", "a.engine.json")]
    (build,) = tensorrt.builds
    assert build.strongly_typed
    assert "TF32" not in build.flags
    assert read(tmp_path / "a.engine").engine["float32_nodes"] == []


def test_int8_engine_is_built_and_verified(export_engine, tensorrt):
    result = export_engine(mode="int8", **CALIBRATION)
    check_verified(result, tensorrt, 20)


@BOTH
def test_engine_is_the_plan_and_the_sidecar_has_the_metadata(build, typed, tensorrt):
    result = build("dynamic")
    runtime = tensorrt.Runtime(tensorrt.Logger())
    assert runtime.deserialize_cuda_engine(result.path.read_bytes()).num_io_tensors == 2
    sidecar = read(result.path)
    assert sidecar.metadata == result.metadata
    assert sidecar.engine["plan_sha256"] == sha256(result.path)
    assert sidecar.engine["onnx_sha256"] == sha256(typed["dynamic"])
    assert sidecar.engine["tensorrt"] == tensorrt.__version__
    assert sidecar.engine["gpu"] == "NVIDIA L4"
    assert sidecar.metadata["format"]["profile"] == {"min": 1, "opt": 4, "max": 8}


@BOTH
def test_options_reach_the_build(build, tensorrt, tmp_path):
    build(
        workspace=1.5,
        opt_level=5,
        version_compatible=True,
        hardware_compat="ampere-plus",
        timing_cache=tmp_path / "timings" / "cache",
    )
    (record,) = tensorrt.builds
    assert record.strongly_typed
    assert record.memory_pools == {"WORKSPACE": 3 * 2**29}
    assert record.optimization_level == 5
    assert "VERSION_COMPATIBLE" in record.flags
    assert record.hardware_compatibility == "AMPERE_PLUS"
    assert record.timing_cache_entries == 0


@BOTH
def test_second_build_uses_the_timings_of_the_first(build, tensorrt, tmp_path):
    cache = tmp_path / "cache"
    build(timing_cache=cache)
    build(timing_cache=cache)
    assert tensorrt.builds[1].timing_cache_hits > 0
    assert not list(tmp_path.glob(".cache.*"))


def test_concurrent_builds_keep_the_timings_of_both(build, tensorrt, tmp_path):
    build("dynamic", timing_cache=tmp_path / "other")
    cache = tmp_path / "cache"

    def another_build_ends():
        cache.write_bytes((tmp_path / "other").read_bytes())

    tensorrt.trouble.during_build = another_build_ends
    build(timing_cache=cache)
    tensorrt.trouble.during_build = None
    for name in ("one", "dynamic"):
        build(name, timing_cache=cache)
        assert tensorrt.builds[-1].timing_cache_hits > 0


@pytest.mark.parametrize("damaged", [False, True])
def test_unusable_timing_cache_is_reported_and_not_changed(build, put_in, tmp_path, damaged):
    cache = tmp_path / "cache"
    put_in()
    build(timing_cache=cache)
    if damaged:
        cache.write_bytes(b"not timings")
    else:
        put_in(gpu="NVIDIA T4", compute_capability="7.5")
    content = cache.read_bytes()
    result = build(timing_cache=cache)
    assert any("has no timings for this GPU" in note for note in result.notes)
    assert cache.read_bytes() == content


def test_build_reports_progress(build, tensorrt):
    class RecordingReporter(Reporter):
        reports: ClassVar = []

        def advance(self, text, share):
            self.reports.append((text, share))

    tensorrt.trouble.during_build = lambda: time.sleep(0.15)
    with reporting(RecordingReporter()):
        build()
    shares = [share for _, share in RecordingReporter.reports]
    assert shares == sorted(shares)
    assert 0 < shares[-1] <= 1


def test_rebuild_command_in_the_sidecar_builds_the_same_engine(export_engine, tensorrt, tmp_path):
    kept = tmp_path / "digits.onnx"
    result = export_engine(mode="fp16", keep_onnx=kept, opt_level=2, **DYNAMIC_BATCH)
    check_verified(result, tensorrt, 45, batch_sizes=(1, 4, 8), more_files=[kept])
    sidecar = read(result.path)
    assert sidecar.metadata == result.metadata
    assert sidecar.engine["onnx_sha256"] == sha256(kept)
    words = shlex.split(sidecar.engine["rebuild"])
    assert words[:2] == ["timmx", "tensorrt"]
    before = result.path.read_bytes()
    done = CliRunner().invoke(app, words[1:])
    assert done.exit_code == 0, done.output
    assert result.path.read_bytes() == before
    assert "verified" in done.stdout


def test_rebuild_command_of_a_model_gives_the_same_metadata(export_engine, tensorrt):
    result = export_engine(mode="fp16", normalize=True, softmax=True)
    check_verified(result, tensorrt, 45)
    words = shlex.split(read(result.path).engine["rebuild"])
    assert CliRunner().invoke(app, words[1:]).exit_code == 0
    assert read(result.path).metadata == result.metadata


@BOTH
def test_engine_is_built_from_the_typed_onnx(build, typed):
    result = build("dynamic", batch_size=2, batch_max=16)
    assert result.verification.status == "verified"
    assert result.verification.batch_sizes == (1, 2, 16)
    first = TensorRTBackend().read_metadata(typed["dynamic"])
    for key in ("model", "input", "outputs", "labels", "precision"):
        assert result.metadata[key] == first[key]


@pytest.mark.parametrize(
    ("options", "words"),
    [
        ({"normalize": True}, "--normalize applies to a model"),
        ({"mode": "fp16"}, "--mode was set"),
        ({"mode": "fp32"}, "--mode was set"),
        ({"batch_size": 3}, "fixed batch size of 1, but --batch-size is 3"),
        ({"batch_max": 3}, "but it is fixed"),
    ],
)
def test_options_fixed_by_the_typed_onnx_are_refused(build, tmp_path, options, words):
    with pytest.raises((ConfigurationError, ArtifactError), match=words):
        build(**options)
    assert list(tmp_path.iterdir()) == []


FALSE_METADATA = [
    ({"precision": "fp32"}, "says fp32, but its types are fp16"),
    ({"precision": "int99"}, "int99"),
    ({"input": None}, "metadata is not what timmx writes"),
    ({"batch": {}}, "batch is {}"),
    ({"labels": ["a", "b"]}, "2"),
    ({"format": {"profile": {"min": 1}}}, "its profile is"),
    ({"format": {"profile": "wide"}}, "profile"),
    (
        {"outputs": [{"name": "logits", "kind": "logits", "shape": [1, 10]}]},
        "its outputs are output; expected logits",
    ),
    ({"schema": 99}, "schema 99"),
]


@pytest.mark.parametrize(("change", "words"), FALSE_METADATA)
def test_metadata_that_contradicts_the_graph_is_refused(export_engine, typed, tmp_path, change, words):
    model = onnx.load(typed["dynamic"])
    (entry,) = (entry for entry in model.metadata_props if entry.key == "timmx")
    entry.value = json.dumps(json.loads(entry.value) | change)
    onnx.save(model, tmp_path / "edited.onnx")
    with pytest.raises(TimmxError, match=words):
        export_engine(None, from_onnx=tmp_path / "edited.onnx")
    assert [path.name for path in tmp_path.iterdir()] == ["edited.onnx"]


def test_metadata_that_is_not_json_is_refused(export_engine, typed, tmp_path):
    model = onnx.load(typed["one"])
    model.metadata_props[0].value = "{"
    onnx.save(model, tmp_path / "edited.onnx")
    with pytest.raises(ArtifactError, match="not JSON"):
        export_engine(None, from_onnx=tmp_path / "edited.onnx")


def test_folder_as_keep_onnx_is_refused_and_nothing_is_written(export_engine, tmp_path):
    (tmp_path / "kept.onnx").mkdir()
    with pytest.raises(ConfigurationError, match=r"--keep-onnx .* is a folder"):
        export_engine(keep_onnx=tmp_path / "kept.onnx")
    assert [path.name for path in tmp_path.iterdir()] == ["kept.onnx"]


def test_engine_is_written_if_its_timings_cannot_be_saved(build, tensorrt, tmp_path):
    cache = tmp_path / "timings" / "cache"
    tensorrt.trouble.during_build = lambda: (tmp_path / "timings").touch()
    result = build(timing_cache=cache)
    assert result.verification.status == "verified"
    assert any("could not be saved" in note for note in result.notes)


@pytest.mark.parametrize("name", ["model.onnx", "digits.engine", "a_file/cache"])
def test_timing_cache_never_replaces_another_kind_of_file(build, tensorrt, tmp_path, name):
    (tmp_path / "a_file").touch()
    with pytest.raises(ConfigurationError, match="--timing-cache"):
        build(timing_cache=tmp_path / name)
    assert tensorrt.builds == []


def test_onnx_of_another_command_is_refused(export_engine, tmp_path):
    timmx.export("onnx", Tiny(), output=tmp_path / "other.onnx", verify=False)
    with pytest.raises(ArtifactError, match="--onnx-only"):
        export_engine(None, from_onnx=tmp_path / "other.onnx")


FAILURES = [
    ("parse", "No importer for NonZero", UnsupportedError, r"No importer for NonZero at .* \(\w+\)"),
    ("build", "no tactic found", UnsupportedError, "no tactic found"),
    ("profile", "bad shapes", UnsupportedError, "rejects batches from 1 to 8"),
    ("deserialize", "out of memory", ArtifactError, "out of memory"),
    ("context", "out of memory", ArtifactError, "cannot prepare to run the engine: out of memory"),
    ("execute", "illegal address", VerificationError, "illegal address"),
    ("wrong_numbers", True, VerificationError, "the floor is 22"),
    ("corrupt_rows", True, VerificationError, "identical rows of one batch|the floor is 22"),
    ("not_finite", True, VerificationError, "dB"),
    ("no_device", "CUDA initialization failure with error: 35", RuntimeUnavailable, "error: 35"),
]


@BOTH
@pytest.mark.parametrize(("trouble", "value", "error", "words"), FAILURES)
def test_failure_is_reported_and_existing_files_stay(build, tensorrt, tmp_path, trouble, value, error, words):
    old = {tmp_path / name: b"old" for name in ("digits.engine", "digits.engine.json")}
    for path, content in old.items():
        path.write_bytes(content)
    setattr(tensorrt.trouble, trouble, value)
    with pytest.raises(error, match=words):
        build("dynamic", triton=tmp_path / "repository")
    assert {path: path.read_bytes() for path in tmp_path.iterdir()} == old


def test_failure_leaves_no_typed_onnx(export_engine, tensorrt, tmp_path):
    tensorrt.trouble.build = "no tactic found"
    with pytest.raises(UnsupportedError, match="no tactic found"):
        export_engine(Tiny(), keep_onnx=tmp_path / "kept.onnx")
    assert list(tmp_path.iterdir()) == []


def test_error_for_too_little_workspace_names_the_option(build, tensorrt):
    tensorrt.trouble.workspace_needed = 2**31
    with pytest.raises(UnsupportedError, match="--workspace"):
        build(workspace=1)


def test_engine_with_different_outputs_for_equal_rows_is_refused(build, tensorrt):
    tensorrt.trouble.corrupt_rows = True
    with pytest.raises(VerificationError, match="different outputs for 4 identical rows of one batch"):
        build("dynamic", min_snr=-100)


@BOTH
def test_ctrl_c_stops_a_build(build, tensorrt, tmp_path):
    pressed = []

    def press_once():  # a second one would stop the tests
        if not pressed:
            pressed.append(True)
            os.kill(os.getpid(), signal.SIGINT)

    tensorrt.trouble.during_build = press_once
    with pytest.raises(KeyboardInterrupt):
        build()
    assert list(tmp_path.iterdir()) == []


def test_error_says_why_an_engine_does_not_run_on_another_gpu(build, put_in):
    put_in()
    path = build().path
    put_in(gpu="NVIDIA T4", compute_capability="7.5")
    with pytest.raises(RuntimeUnavailable, match=r"capability 8\.9, here 7\.5") as error:
        timmx.open(path)
    assert error.value.hint.startswith("build it here: timmx tensorrt")
    assert "hint:" not in error.value.message


def test_float8_needs_a_gpu_with_it(export_engine, tensorrt, put_in, tmp_path, digits):
    onnx = tmp_path / "typed.onnx"
    result = export_engine(mode="fp8", keep_onnx=onnx, **CALIBRATION)
    check_verified(result, tensorrt, 20, more_files=[onnx])
    for path in result.files[:2]:
        path.unlink()
    tensorrt.builds.clear()
    put_in(gpu="NVIDIA A10", compute_capability="8.6")
    for model, options in (
        (digits, {"mode": "fp8", "random_calibration": True}),
        (None, {"from_onnx": onnx}),
    ):
        with pytest.raises(ConfigurationError, match=r"8\.9 or later, and NVIDIA A10 has 8\.6") as error:
            export_engine(model, **options)
        assert "--mode int8 or fp16" in error.value.hint
    assert tensorrt.builds == []
    assert list(tmp_path.iterdir()) == [onnx]
    put_in(gpu="NVIDIA B200", compute_capability="10.0")
    assert export_engine(None, from_onnx=onnx).metadata["precision"] == "fp8"


def test_engine_on_another_platform_has_a_note(build, put_in):
    put_in()
    path = build(hardware_compat="ampere-plus").path
    put_in(platform="Windows AMD64")
    with timmx.open(path) as runner:
        assert "platform Linux x86_64, here Windows AMD64" in runner.notes[0]


def test_engine_that_differs_from_its_sidecar_is_refused(build, digits):
    path = build().path
    path.write_bytes(path.read_bytes() + b" ")
    with pytest.raises(ArtifactError, match=r"not the engine that digits\.engine\.json describes"):
        timmx.open(path)


def test_engine_runs_without_its_sidecar(build):
    path = build("dynamic").path
    sidecar_path(path).unlink()
    with timmx.open(path) as runner:
        assert runner.inputs[0].shape == ("batch", 3, 64, 64)
        assert runner.batch_sizes == (1, 4, 8)
        assert runner.run({"input": np.zeros((3, 3, 64, 64), np.float32)})["output"].shape == (3, 10)
        with pytest.raises(ConfigurationError, match="batches from 1 to 8"):
            runner.run({"input": np.zeros((9, 3, 64, 64), np.float32)})


def test_file_that_is_not_an_engine_is_refused(tensorrt, tmp_path):
    path = tmp_path / "wrong.engine"
    path.write_bytes(b"not a plan")
    with pytest.raises(ArtifactError, match="not a TensorRT engine"):
        timmx.open(path)
    sidecar_path(path).write_text("{")
    with pytest.raises(ArtifactError, match="not JSON"):
        TensorRTBackend().read_metadata(path)


@pytest.mark.parametrize(
    ("name", "options", "largest", "batch"),
    [("one", {}, 0, [1]), ("dynamic", {}, 8, []), ("dynamic", {"batch_min": 2}, 0, [-1])],
)
def test_triton_repository_has_a_valid_model(build, tmp_path, model_config, name, options, largest, batch):
    result = build(name, triton=tmp_path / "repository", **options)
    folder = tmp_path / "repository" / "digits"
    assert (folder / "1" / "model.plan").read_bytes() == result.path.read_bytes()
    assert (folder / "labels.txt").read_text().split() == [str(digit) for digit in range(10)]
    config = parse_config(folder / "config.pbtxt", model_config)
    assert (config.name, config.platform) == ("digits", "tensorrt_plan")
    assert config.max_batch_size == largest
    assert list(config.input[0].dims) == [*batch, 3, 64, 64]
    assert list(config.output[0].dims) == [*batch, 10]
    assert config.output[0].label_filename == "labels.txt"
    assert list(config.dynamic_batching.preferred_batch_size) == ([4] if largest else [])


def test_folder_of_others_in_a_repository_is_not_replaced(build, tensorrt, tmp_path):
    theirs = tmp_path / "repository" / "digits" / "config.pbtxt"
    theirs.parent.mkdir(parents=True)
    theirs.write_text("theirs")
    with pytest.raises(ConfigurationError, match=r"contains config\.pbtxt, which timmx did not write"):
        build(triton=tmp_path / "repository")
    assert tensorrt.builds == []
    assert theirs.read_text() == "theirs"
    assert not (tmp_path / "digits.engine").exists()


def test_version_of_others_in_a_repository_is_not_replaced(build, tmp_path):
    build(triton=tmp_path / "repository")
    theirs = tmp_path / "repository" / "digits" / "2" / "model.plan"
    theirs.parent.mkdir()
    theirs.write_text("theirs")
    with pytest.raises(ConfigurationError, match="contains 2, which timmx did not write"):
        build(triton=tmp_path / "repository")
    assert theirs.read_text() == "theirs"


@pytest.mark.parametrize("flag", ["output", "from_onnx", "keep_onnx", "timing_cache"])
def test_paths_inside_the_replaced_folder_are_refused(export_engine, typed, tmp_path, flag, digits):
    inside = tmp_path / "repository" / "digits"
    inside.mkdir(parents=True)
    (inside / "timmx.json").write_text("{}")
    (inside / "1").mkdir()
    options = {
        "output": {"output": inside / "digits.engine", "from_onnx": typed["one"]},
        "from_onnx": {"from_onnx": inside / "1" / "model.onnx"},
        "keep_onnx": {"keep_onnx": inside / "1" / "model.onnx"},
        "timing_cache": {"timing_cache": inside / "timings", "from_onnx": typed["one"]},
    }[flag]
    if flag == "from_onnx":
        shutil.copyfile(typed["one"], options["from_onnx"])
    model = digits if flag == "keep_onnx" else None
    with pytest.raises(ConfigurationError, match=f"--{flag.replace('_', '-')} .* is in"):
        export_engine(model, triton=tmp_path / "repository", **options)
    assert (inside / "timmx.json").read_text() == "{}"
    assert (inside / "1" / "model.onnx").exists() is (flag == "from_onnx")


def test_wrong_inputs_are_refused(build):
    path = build().path
    inputs = np.zeros((1, 3, 64, 64), np.float32)
    with timmx.open(path) as runner:
        assert np.isfinite(runner.run({"input": inputs})["output"]).all()
        for dtype in (np.float64, np.float16, np.uint8):
            with pytest.raises(ConfigurationError, match=f"as float32, but got {np.dtype(dtype).name}"):
                runner.run({"input": inputs.astype(dtype)})
        for feeds in ({}, {"x": inputs}, {"input": inputs, "x": inputs}):
            with pytest.raises(ConfigurationError, match="takes input, but got"):
                runner.run(feeds)
    with pytest.raises(ConfigurationError, match="closed"):
        runner.run({"input": inputs})


def test_engine_of_a_module_has_no_rebuild_command(export_engine):
    result = export_engine(Tiny(), mode="fp16", verify=False)
    assert read(result.path).engine["rebuild"] is None


def test_warnings_about_an_edited_onnx_are_notes(build, typed, tmp_path):
    model = onnx.load(typed["one"])
    edited = tmp_path / "edited.onnx"
    scale = onnx.numpy_helper.from_array(np.float16(1), "edited_scale")
    zero = onnx.numpy_helper.from_array(np.int8(0), "edited_zero")
    model.graph.initializer.extend([scale, zero])
    conv = next(node for node in model.graph.node if node.op_type == "Conv")
    nodes = [
        onnx.helper.make_node(
            "QuantizeLinear", [conv.input[0], "edited_scale", "edited_zero"], ["edited_q"], "eq"
        ),
        onnx.helper.make_node(
            "DequantizeLinear", ["edited_q", "edited_scale", "edited_zero"], ["edited"], "ed"
        ),
    ]
    position = list(model.graph.node).index(conv)
    conv.input[0] = "edited"
    for node in reversed(nodes):
        model.graph.node.insert(position, node)
    entry = next(item for item in model.metadata_props if item.key == "timmx")
    entry.value = entry.value.replace('"precision": "fp16"', '"precision": "int8"').replace(
        '"precision":"fp16"', '"precision":"int8"'
    )
    onnx.save(model, edited)
    notes = build(from_onnx=edited, verify=False).notes
    assert any("scale of exactly 1" in note for note in notes)
    assert any("weight is not quantized" in note for note in notes)


def test_model_of_timmx_in_a_repository_is_replaced(build, tmp_path, model_config):
    build(triton=tmp_path / "repository")
    build("dynamic", triton=tmp_path / "repository")
    assert parse_config(tmp_path / "repository" / "digits" / "config.pbtxt", model_config).max_batch_size == 8


@pytest.fixture(scope="session")
def model_config(tmp_path_factory):
    """Triton's ModelConfig, from its client library, installed without dependencies, since it pins old versions."""
    folder = tmp_path_factory.mktemp("tritonclient")
    install = ["uv", "pip", "install", "--no-deps", "--target", str(folder), "tritonclient>=2.50,<3"]
    done = subprocess.run(install, capture_output=True, text=True, check=False)
    if done.returncode != 0:
        pytest.skip(f"tritonclient cannot be installed here: {done.stderr.strip()[-200:]}")
    spec = importlib.util.spec_from_file_location(
        "model_config_pb2", folder / "tritonclient" / "grpc" / "model_config_pb2.py"
    )
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module.ModelConfig


def parse_config(path, model_config):
    return text_format.Parse(path.read_text(), model_config())

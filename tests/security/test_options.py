"""Options with odd values are errors before memory is allocated, and odd processes end in one line."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import timmx
from timmx.cli import app
from timmx.contract import ExportRequest
from timmx.errors import ArtifactError, ConfigurationError, ModelError, TimmxError
from timmx.exporting.session import ModelSession
from typer.testing import CliRunner

GB = 10**9


@pytest.fixture
def small_machine(monkeypatch: pytest.MonkeyPatch) -> None:
    """A machine with 8 GB of memory, whatever this one has."""
    for module in ("model.build", "model.memory"):
        monkeypatch.setattr(f"timmx.{module}.memory_bytes", lambda: 8 * GB)


@pytest.mark.usefixtures("small_machine")
@pytest.mark.parametrize(
    ("options", "reason"),
    [
        ({"in_chans": 100_000}, "2\\*\\*31 - 1"),
        ({"in_chans": 20_000}, "20000 x 160 x 160 need about 61.4 GB of memory"),
        ({"in_chans": 10**9}, "weights take more than"),
        ({"in_chans": 10**30}, "cannot build"),
        ({"num_classes": 10**9}, "weights take more than"),
        ({"input_size": (3, 26_000, 26_000)}, "3 x 26000 x 26000 need about"),
        ({"input_size": (3, 8_000, 8_000)}, "3 x 8000 x 8000 need about"),
        ({"input_size": (10**9, 1, 1)}, "weights take more than"),
        ({"batch_size": 65_536}, "2\\*\\*31 - 1"),
        ({"model_kwargs": ["drop_rate=5"]}, "dropout probability"),
        ({"model_kwargs": ["drop_rate=1e999"]}, "numbers are finite"),
        ({"model_kwargs": ["channels=[1000000000]"]}, "at most 1,000,000"),
        ({"model_kwargs": ["layers=[999999]"], "model": "test_resnet"}, "weight tensors|takes no argument"),
        ({"model_kwargs": ["act_layer=" + "(" * 100_000]}, "texts have at most"),
        ({"mean": (1e300,), "normalize": True}, "-1e6 to 1e6"),
        ({"std": (1e-300,), "normalize": True}, "1e-6 to 1e6"),
        ({"mean": (10**400,), "normalize": True}, "is not a sequence of numbers"),
        ({"min_snr": 10**400}, "is not a number"),
        ({"min_snr": float("nan")}, "not a finite number"),
        ({"batch_size": -1}, "out of range"),
        ({"batch_size": 10**9}, "out of range"),
    ],
)
def test_odd_options_of_an_export_are_errors(
    options: dict[str, Any], reason: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("timmx.model.build._MOST_TENSORS", 500)
    output = tmp_path / "a.pt2"
    with pytest.raises((ConfigurationError, ModelError), match=reason) as caught:
        timmx.export(
            "torch-export", options.pop("model", "test_resnet"), output=output, verify=False, **options
        )
    assert caught.value.hint
    assert not output.exists()


@pytest.mark.usefixtures("small_machine")
def test_ordinary_large_inputs_are_accepted() -> None:
    import timm
    from timmx.model.memory import check_memory

    model = timm.create_model("test_vit", img_size=1280).eval()
    check_memory(model, (3, 1280, 1280), 6)


def test_activations_are_estimated_without_allocating_them() -> None:
    import timm
    from timmx.model.memory import activation_bytes

    model = timm.create_model("test_resnet").eval()
    one, four = (activation_bytes(model, (3, side, side)) for side in (160, 320))
    assert 1e5 < one < 1e8
    assert 3.5 < four / one < 4.5


@pytest.mark.parametrize("name", ["a\0b", "a" * 300, "b/" * 3000, "\ud800"])
@pytest.mark.parametrize("option", ["labels", "checkpoint", "verify_data", "output"])
def test_names_that_no_file_can_have_are_errors(name: str, option: str) -> None:
    with pytest.raises(TimmxError, match="is not a path"):
        timmx.export("torch-export", "test_resnet", **{option: name})


@pytest.mark.parametrize("name", ["a\0b", "a" * 300, "b/" * 3000])
def test_models_and_files_with_such_names_are_errors(name: str, run_timmx) -> None:
    with pytest.raises(ConfigurationError, match="is not a path"):
        ModelSession(ExportRequest(model=f"local-dir:{name}"))
    with pytest.raises(ConfigurationError, match="is not a path"):
        timmx.open(f"{name}.pt2")
    if "\0" in name:  # which no argument of a process can contain
        return
    for command in (
        ["inspect", name],
        ["predict", name, name],
        ["eval", name, "--data", name],
        ["verify", name],
    ):
        done = run_timmx(*command)
        assert done.exit_code == 2, (command, done.stderr)
        assert "error: " in done.stderr
        assert "internal" not in done.stderr


@pytest.mark.parametrize(
    "name", ["a--b", "-a/b", "a/" + "b" * 97, "a/b.git", "a/b@" + "c" * 300, "a..b", "a/b/c"]
)
def test_model_ids_that_the_hub_refuses_are_errors(name: str) -> None:
    with pytest.raises(ConfigurationError, match="is not a Hugging Face model id"):
        ModelSession(ExportRequest(model=f"hf-hub:{name}"))


@pytest.mark.parametrize(("size", "batch"), [((3, 64, 64), 10**12), ((3, 64, 64), 10**6), ((1, 1, 1), 2**31)])
def test_giant_batches_are_refused_before_they_are_allocated(size: tuple[int, int, int], batch: int) -> None:
    from timmx.tools.subject import check_batch_size

    check_batch_size(8, size, "--batch-size")
    with pytest.raises(ConfigurationError, match="is too large for images of"):
        check_batch_size(batch, size, "--batch-size")


@pytest.mark.parametrize(
    ("option", "value"),
    [("--batch-size", "1000000000000"), ("--batch-size", "-1"), ("--workers", "1000000"), ("--top-k", "0")],
)
def test_odd_options_of_predict_are_errors(
    option: str, value: str, exported_digits, digits: str, run_timmx
) -> None:
    image = next(Path(digits.removeprefix("local-dir:")).rglob("*.png"))
    done = run_timmx("predict", exported_digits("onnx", dynamic_batch=True), image, option, value)
    assert done.exit_code == 2
    assert option in done.stderr


def timmx_process(command: str, folder: Path) -> subprocess.CompletedProcess[str]:
    line = command.replace("TIMMX", f"{sys.executable} -m timmx")
    return subprocess.run(
        ["bash", "-c", line], cwd=folder, capture_output=True, text=True, timeout=120, check=False
    )


@pytest.mark.skipif(os.name == "nt", reason="needs a POSIX shell")
@pytest.mark.parametrize(
    ("command", "reason"),
    [
        ("TIMMX inspect a.onnx >&-", "stdout is closed"),
        ("TIMMX inspect a.onnx <&- >/dev/null", "a.onnx does not exist"),
        ("mkdir d; cd d; rmdir ../d; TIMMX inspect a.onnx", "the current folder cannot be used"),
    ],
)
def test_processes_without_a_stream_or_a_folder_end_in_one_line(
    command: str, reason: str, tmp_path: Path
) -> None:
    done = timmx_process(command, tmp_path)
    assert done.returncode == 2, done.stderr
    assert reason in done.stderr
    assert "hint: " in done.stderr
    assert "Traceback" not in done.stderr
    assert "internal error" not in done.stderr


@pytest.mark.skipif(os.name == "nt", reason="needs a POSIX shell")
def test_without_stderr_the_exit_code_still_reports_the_error(tmp_path: Path) -> None:
    done = timmx_process("TIMMX inspect a.onnx 2>&-", tmp_path)
    assert (done.returncode, done.stdout, done.stderr) == (2, "", "")


@pytest.mark.parametrize(
    "error",
    [
        OSError(28, "No space left on device"),
        OSError(30, "Read-only file system", "a"),
        MemoryError(),
        PermissionError(13, "no", "a"),
    ],
)
def test_failures_of_the_system_are_errors_with_a_hint(
    error: Exception, monkeypatch: pytest.MonkeyPatch
) -> None:
    def fail(*_: object, **__: object) -> None:
        raise error

    monkeypatch.setattr("timmx.model.model_info", fail)
    done = CliRunner().invoke(app, ["info", "resnet18"])
    assert done.exit_code == 2
    assert done.stderr.count("\n") == 2
    assert "hint: " in done.stderr


@pytest.mark.parametrize("epoch", ["9" * 20, "9" * 5000, "-1", "1e9", "\udcff"])
def test_an_odd_source_date_epoch_is_an_error(
    epoch: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("SOURCE_DATE_EPOCH", epoch)
    with pytest.raises(ConfigurationError, match="SOURCE_DATE_EPOCH is"):
        timmx.export("torch-export", "test_resnet", output=tmp_path / "a.pt2")


def test_a_read_only_output_is_an_error(tmp_path: Path, digits: str) -> None:
    (tmp_path / "file").write_text("")
    with pytest.raises(ArtifactError):
        timmx.export("torch-export", digits, output=tmp_path / "file" / "a.pt2", verify=False)


def test_odd_csv_files_are_errors(tmp_path: Path) -> None:
    from timmx.tools.eval.dataset import read_dataset

    np.random.default_rng(0)
    digits = "1" * 5000
    for row in (
        f"{'a' * 300}.png,0",
        "a\0.png,0",
        f"a.png,{digits}",
        f"a.png,x{digits}",
        '"' * 200_001,
        "\udcff,0",
    ):
        (tmp_path / "a.csv").write_bytes(b"path,label\n" + row.encode("utf-8", "surrogateescape") + b"\n")
        with pytest.raises(ConfigurationError):
            read_dataset(tmp_path / "a.csv", "a.onnx", None, 2)

"""The command line, for users and for programs."""

from __future__ import annotations

import io
import json
import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest
from timmx.base import WAIT_POLICY, wait_without_spinning


def test_an_export_prints_its_verification(export, run_timmx, capfd, tmp_path, digits):
    """`tests/core/test_registry.py` exports in a new process, and reads its stdout and stderr."""
    done = run_timmx("onnx", digits, "-o", "digits.onnx")
    assert done.exit_code == 0, done.stderr
    assert done.stderr == ""
    assert capfd.readouterr() == ("", "")
    assert "digits.onnx" in done.stdout
    assert "verified" in done.stdout
    assert "20 images" in done.stdout
    assert "top-1 agreement 100.0 %" in done.stdout
    assert [path.name for path in tmp_path.iterdir()] == ["digits.onnx"]


def test_json_is_one_object_on_stdout(export, run_timmx, tmp_path, digits):
    done = run_timmx("torch-export", digits, "--json", "--dynamic-batch")
    result = json.loads(done.stdout)
    assert result["path"] == "digits.pt2"
    assert result["verification"]["status"] == "verified"
    assert result["verification"]["top1_agreement"] == 1.0
    assert result["metadata"]["labels"] == [str(number) for number in range(10)]
    assert result["size_bytes"] == (tmp_path / "digits.pt2").stat().st_size
    assert {"loading", "capturing", "verifying", "publishing"} <= result["seconds"].keys()


def test_an_error_with_json_is_an_object_too(run_timmx):
    done = run_timmx("onnx", "resnet18", "--mean", "0.5", "--json")
    assert done.exit_code == 2
    assert json.loads(done.stdout)["error"]["type"] == "ConfigurationError"
    assert "--normalize" in done.stderr


@pytest.mark.parametrize("arguments", [("info", "no-such-model"), ("onnx", "no-such-model")])
def test_every_command_prints_an_error_as_json(run_timmx, arguments):
    done = run_timmx(*arguments, "--json")
    assert done.exit_code == 2
    assert "no-such-model" in json.loads(done.stdout)["error"]["message"]


def test_a_failed_verification_publishes_nothing_and_shows_the_figures(export, run_timmx, tmp_path, digits):
    output = tmp_path / "digits.pt2"
    output.write_bytes(b"old")
    done = run_timmx("torch-export", digits, "-o", output, "--min-snr", "500", "--json")
    assert done.exit_code == 2
    assert "verification failed" in done.stderr
    error = json.loads(done.stdout)["error"]
    assert error["verification"]["snr_db"] > 100
    assert output.read_bytes() == b"old"
    assert list(tmp_path.iterdir()) == [output]


def test_the_default_name_is_never_overwritten_without_force(export, run_timmx, tmp_path, digits):
    (tmp_path / "digits.pt2").write_bytes(b"mine")
    refused = run_timmx("torch-export", digits)
    assert refused.exit_code == 2
    assert "--force" in refused.stderr
    assert (tmp_path / "digits.pt2").read_bytes() == b"mine"
    assert run_timmx("torch-export", digits, "--force", "--no-verify").exit_code == 0
    assert (tmp_path / "digits.pt2").read_bytes() != b"mine"


def test_a_folder_of_the_user_is_never_replaced(run_timmx, tmp_path, digits):
    (tmp_path / "mine.onnx").mkdir()
    (tmp_path / "mine.onnx" / "precious").touch()
    done = run_timmx("onnx", digits, "-o", "mine.onnx")
    assert done.exit_code == 2
    assert "is a folder" in done.stderr
    assert (tmp_path / "mine.onnx" / "precious").exists()


def test_untrained_weights_are_reported_and_unproven(export, run_timmx):
    done = run_timmx("torch-export", "test_resnet", "--seed", "3", "--json")
    assert done.exit_code == 0
    result = json.loads(done.stdout)
    assert result["verification"]["status"] == "unproven"
    assert result["verification"]["reason"].startswith("untrained weights")
    assert result["metadata"]["model"]["trained"] is False
    assert result["metadata"]["model"]["seed"] == 3
    assert "untrained" in done.stderr


def test_verification_with_the_users_images(export, run_timmx, tmp_path, digits):
    from skimage import data
    from skimage.io import imsave

    folder = tmp_path / "photos" / "deeper"
    folder.mkdir(parents=True)
    for name in ("astronaut", "coffee", "chelsea", "rocket"):
        imsave(folder / f"{name}.png", getattr(data, name)())
    (folder / "broken.jpg").write_bytes(b"no image")
    done = run_timmx("torch-export", digits, "--verify-data", "photos")
    assert done.exit_code == 0
    assert "4 images of photos" in done.stdout
    assert "1 image cannot be read and is left out: broken.jpg" in done.stderr

    (folder / "rocket.png").unlink()
    refused = run_timmx("torch-export", digits, "--verify-data", "photos", "--force")
    assert refused.exit_code == 2
    assert "3 readable images" in refused.stderr


def test_labels_come_from_a_file_and_their_count_is_checked(export, run_timmx, tmp_path, digits):
    names = [f"digit {number}" for number in range(10)]
    (tmp_path / "labels.txt").write_bytes("\ufeff".encode() + "\r\n".join(names).encode())
    done = run_timmx("torch-export", digits, "--labels", "labels.txt", "--no-verify", "--json")
    assert json.loads(done.stdout)["metadata"]["labels"] == names
    (tmp_path / "labels.txt").write_text("\n".join(names[:9]))
    refused = run_timmx("torch-export", digits, "--labels", "labels.txt", "--force")
    assert refused.exit_code == 2
    assert "9" in refused.stderr
    assert "10" in refused.stderr


def test_verbose_shows_steps_and_rewrites(export, run_timmx, digits):
    done = run_timmx("torch-export", digits, "--verbose", "--no-verify")
    assert "[Capturing]" in done.stderr
    assert "fold batch norm" in done.stderr
    assert done.stdout.startswith("digits.pt2")


def test_a_model_without_a_name_is_a_usage_error(run_timmx):
    assert run_timmx("onnx").exit_code == 2
    assert run_timmx("onnx", "").exit_code == 2


@pytest.mark.parametrize(
    "arguments", [("--help",), ("onnx", "--help"), ("torch-export", "--help"), ("doctor",)]
)
def test_help_and_doctor_exit_with_0(process, export, run_timmx, arguments):
    assert run_timmx(*arguments).exit_code == 0


def test_list_and_info_show_models(run_timmx):
    names = run_timmx("list", "test_*").stdout.split()
    assert "test_vit" in names
    assert "resnet50" not in names
    tagged = run_timmx("list", "resnet50", "--pretrained").stdout.split()
    assert "resnet50.a1_in1k" in tagged
    only = json.loads(run_timmx("list", "--family", "xcit", "--json").stdout)
    assert {item["family"] for item in only} == {"xcit"}
    assert run_timmx("list", "no-such-model").exit_code == 2
    facts = json.loads(run_timmx("info", "test_vit", "--json").stdout)
    assert facts["input_size"] == [3, 160, 160]


def test_a_moved_copy_of_the_digits_exports_without_its_samples(export, run_timmx, tmp_path, digits):
    source = Path(digits.removeprefix("local-dir:"))
    (tmp_path / "mine" / "samples").mkdir(parents=True)  # and empty: no reason to refuse
    for name in ("config.json", "model.safetensors"):
        shutil.copy(source / name, tmp_path / "mine")
    done = run_timmx("torch-export", "local-dir:mine")
    assert done.exit_code == 0
    assert done.stdout.startswith("mine.pt2")
    assert "6 synthetic images" in done.stdout


SAMPLES = Path(__file__).resolve().parents[1] / "examples" / "digits" / "samples"


def unread(*arguments: object, together: bool = False) -> subprocess.CompletedProcess[bytes]:
    """`timmx ARGS` with stdout as a pipe that is closed at the other end; with `together`, stderr too."""
    reading, writing = os.pipe()
    os.close(reading)
    try:
        return subprocess.run(
            [sys.executable, "-m", "timmx", *map(str, arguments)],
            stdout=writing,
            stderr=writing if together else subprocess.PIPE,
            timeout=120,
            check=False,
        )
    finally:
        os.close(writing)


@pytest.mark.skipif(os.name != "posix", reason="another system ends no program for a pipe")
@pytest.mark.parametrize(
    "arguments",
    [
        ("predict", "FILE", SAMPLES / "3", "--csv"),
        ("predict", "FILE", SAMPLES / "3", "--json"),
        ("predict", "FILE", SAMPLES / "3" / "0045.png"),
        ("eval", "FILE", "--data", SAMPLES, "--limit", 20),
        ("inspect", "FILE"),
        ("list",),
        ("--help",),
        ("onnx", "--help"),
        ("--version",),
    ],
    ids=lambda arguments: " ".join(map(str, arguments[::3])),
)
def test_a_closed_pipe_ends_the_command_silently(exported_digits, arguments):
    arguments = [exported_digits("onnx") if word == "FILE" else word for word in arguments]
    done = unread(*arguments)
    assert (done.returncode, done.stderr) == (141, b"")
    assert unread(*arguments, together=True).returncode == 141


@pytest.mark.skipif(os.name != "posix", reason="another system ends no program for a pipe")
def test_an_error_keeps_its_exit_code_on_a_closed_pipe(process):
    done = unread("predict", "missing.onnx", SAMPLES, "--json")
    assert done.returncode == 2
    assert done.stderr == b"error: missing.onnx does not exist\nhint: check the path\n"
    assert unread("predict", "missing.onnx", SAMPLES, "--json", together=True).returncode == 2


@pytest.mark.skipif(os.name != "posix", reason="another system ends no program for a pipe")
def test_a_broken_pipe_to_another_process_is_an_internal_error(process, export):
    code = """if True:
        import os
        import timmx.cli.application
        import timmx.tools.inspect

        def broken(file):
            reading, writing = os.pipe()
            os.close(reading)
            os.write(writing, b"a")

        timmx.tools.inspect.inspect_file = broken
        timmx.cli.application.main()
    """
    done = subprocess.run(
        [sys.executable, "-c", code, "inspect", "a.onnx"], capture_output=True, text=True, check=False
    )
    assert done.returncode == 1
    assert done.stderr.startswith("error: internal error in timmx or a dependency: BrokenPipeError")


def test_columns_are_aligned_by_terminal_width():
    from rich.cells import cell_len
    from timmx.base.tables import format_table

    lines = format_table(
        [("label", "n"), ("猫", "1"), ("ラーメン", "12"), ("cafe\N{COMBINING ACUTE ACCENT}", "3")]
    )
    assert {cell_len(line) for line in lines} == {12}
    assert lines[1] == "猫         1"


def test_control_characters_in_a_name_are_escaped():
    from timmx.base.tables import format_table
    from timmx.base.text import shown

    evil = os.fsdecode(b"a\n\x1b[31m\r\x00\xff") + "\x9b\u202e\ud800 \u3000漢é\\n"
    written = r"a\n\x1b[31m\r\x00\xff\x9b\u202e\ud800" + " \u3000漢é\\n"
    assert shown(evil) == shown(shown(evil)) == written
    assert format_table([("name", "n"), (evil, "1")])[1] == f"{written}  1"


def test_a_table_is_not_cut_on_a_narrow_terminal_and_plain_in_a_file(monkeypatch):
    from timmx.base.tables import format_table

    monkeypatch.setenv("COLUMNS", "20")
    monkeypatch.setenv("FORCE_COLOR", "1")
    long = "[bold]" + "long name " * 30 + "1.5"
    assert format_table([("name", "n", ""), (long, "1", ""), ("b", "100", "")]) == [
        f"{'name':<{len(long)}}    n",
        f"{long}    1",
        f"{'b':<{len(long)}}  100",
    ]


class Terminal(io.StringIO):
    def isatty(self) -> bool:
        return True


def test_a_step_with_progress_has_a_bar_on_a_terminal(monkeypatch):
    from timmx.cli.terminal import TerminalReporter

    monkeypatch.setenv("COLUMNS", "100")
    for row in (False, True):
        stream = Terminal()
        reporter = TerminalReporter(stream, verbose=False)
        if row:
            reporter.rows(["a.onnx"])
            reporter.row("a.onnx")
        reporter.step("Opening")
        reporter.step("Asking")
        before = stream.getvalue()
        reporter.advance("300 of 1,000 images", 0.3)
        reporter.close()
        assert "━" not in before
        assert "%" not in before
        shown = stream.getvalue().removeprefix(before)
        assert "Asking: 300 of 1,000 images" in shown
        assert "━" in shown
        assert "30%" in shown
        assert "left" in shown


def test_names_with_brackets_are_not_read_as_markup():
    from timmx.cli.terminal import TerminalReporter

    stream = Terminal()
    reporter = TerminalReporter(stream, verbose=False)
    reporter.step("Asking [b].onnx")
    reporter.advance("photo[/red].png", 0.5)
    reporter.rows(["[out].onnx"])
    reporter.row("[out].onnx")
    reporter.row_done("failed", failed=True)
    reporter.close()
    assert "photo[/red].png" in stream.getvalue()
    assert "[out].onnx: failed" in stream.getvalue()


def test_threads_sleep_while_they_wait_unless_the_user_says_otherwise(monkeypatch):
    monkeypatch.setenv(WAIT_POLICY, "ACTIVE")
    wait_without_spinning()
    assert os.environ[WAIT_POLICY] == "ACTIVE"
    monkeypatch.delenv(WAIT_POLICY)
    wait_without_spinning()
    assert os.environ[WAIT_POLICY] == "PASSIVE"

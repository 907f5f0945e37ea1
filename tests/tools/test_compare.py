"""`timmx compare`: all files of a folder in one table."""

from __future__ import annotations

import json
import shutil
from dataclasses import replace
from pathlib import Path

import pytest
import timmx
from plugins import timmx as in_a_process
from timmx.errors import ArtifactError, ConfigurationError
from timmx.exporting.several import export_many
from timmx.tools.bench.result import BenchResult
from timmx.tools.compare.comparison import FolderComparison, Row, compare
from timmx.tools.compare.report import compare_report

ROOT = Path(__file__).resolve().parents[2]


@pytest.fixture(scope="module")
def made(export, digits: str, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with three artifacts and other files."""
    folder = tmp_path_factory.mktemp("made")
    result = export_many(digits, ["onnx", "onnx:mode=fp16", "torch-export"], folder)
    assert not result.failures
    (folder / "README.md").write_text("Mine.")
    (folder / "notes").mkdir()
    return folder


@pytest.fixture(scope="module")
def few(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Three images of each digit."""
    folder = tmp_path_factory.mktemp("few")
    for source in sorted((ROOT / "examples" / "digits" / "samples").iterdir()):
        (folder / source.name).mkdir()
        for image in sorted(source.glob("*.png"))[:3]:
            shutil.copy(image, folder / source.name)
    return folder


def test_size_precision_and_verification_are_shown_without_running_anything(run_timmx, made):
    done = run_timmx("compare", made, "--no-bench", "--json")
    assert done.exit_code == 0, done.stderr
    rows = {row["name"]: row for row in json.loads(done.stdout)["rows"]}
    assert list(rows) == ["digits-fp16.onnx", "digits.onnx", "digits.pt2"]
    table = run_timmx("compare", made, "--no-bench").stdout
    assert [line.split()[4] for line in table.splitlines()[1:4]] == ["verified"] * 3
    half, full = rows["digits-fp16.onnx"], rows["digits.onnx"]
    assert half["precision"] == "fp16"
    assert half["size_bytes"] == (made / "digits-fp16.onnx").stat().st_size < full["size_bytes"]
    assert 22 < half["snr_db"] < 60 < full["snr_db"]
    assert full["agreement"] == 1.0
    assert full["p50_ms"] is None


def test_all_measurements_are_shown(run_timmx, made, few, digits, tmp_path):
    done = run_timmx(
        "compare", made, "--data", few, "--against", digits, "--seconds", "0.2", "--report", "side.html"
    )
    assert done.exit_code == 0, done.stderr
    title, model, *files = [line for line in done.stdout.splitlines() if line][:5]
    assert title.split() == "file size precision verdict SNR top-1 agrees accuracy p50 images/s".split()
    assert model.startswith("digits (PyTorch)")
    assert [line.split()[0] for line in files] == ["digits-fp16.onnx", "digits.onnx", "digits.pt2"]
    assert all("100.0 %" in line and " ms" in line for line in files)
    page = (tmp_path / "side.html").read_text()
    assert "most accurate" not in page  # all have the same accuracy
    for words in (
        "Accuracy over latency",
        "Confusion matrix of",
        "Latencies",
        "digits-fp16.onnx",
        "digits (PyTorch)",
    ):
        assert words in page


def test_without_data_the_report_shows_snr_over_latency(run_timmx, made, tmp_path):
    folder = tmp_path / "one"
    folder.mkdir()
    for name in ("digits.onnx", "timmx.json"):
        shutil.copy(made / name, folder)
    done = run_timmx("compare", folder, "--seconds", "0.2", "--report", "side.html")
    assert done.exit_code == 0, done.stderr
    assert "accuracy" not in done.stdout
    assert "SNR over latency" in (tmp_path / "side.html").read_text()


def test_a_file_without_a_recorded_verification_names_the_command(
    export, run_timmx, digits, tmp_path, monkeypatch
):
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    timmx.export("torch-export", digits, output=tmp_path / "out" / "digits.pt2", verify=False)
    done = run_timmx("compare", "out", "--no-bench")
    assert done.exit_code == 0
    assert "No verification is recorded for digits.pt2: run timmx verify." in done.stdout


def test_a_changed_file_has_no_recorded_verification(run_timmx, made, tmp_path):
    shutil.copytree(made, tmp_path / "changed")
    shutil.copy(made / "digits-fp16.onnx", tmp_path / "changed" / "digits.onnx")
    rows = {row.name: row for row in compare(tmp_path / "changed", measure_latency=False).rows}
    assert rows["digits.onnx"].precision == "fp16"
    assert rows["digits.onnx"].snr_db is None or rows["digits.onnx"].snr_db < 60


def test_damaged_and_foreign_files_are_left_out_with_the_reason(run_timmx, made, tmp_path):
    shutil.copytree(made, tmp_path / "mixed")
    (tmp_path / "mixed" / "broken.pt2").write_bytes(b"no zip")
    done = run_timmx("compare", "mixed", "--no-bench", "--report", "side.html")
    assert done.exit_code == 0
    assert "Left out: broken.pt2:" in done.stdout
    page = (tmp_path / "side.html").read_text()
    assert "<h2>Left out</h2>" in page
    assert "<wbr>.pt2 file, or is damaged" in page
    assert "digits.onnx" in done.stdout


def summarize(*rows: Row):
    """The summary, the notes and the table of a report on these rows."""
    report = compare_report(FolderComparison(folder=Path("out"), rows=rows), {}, ())
    return report.summary, " ".join(section.note for section in report.sections), report.sections[0]


def test_no_file_is_called_the_fastest_if_latencies_are_not_comparable():
    small = Row(
        name="small.onnx",
        path=Path("small.onnx"),
        backend="onnx",
        input_size=(3, 32, 32),
        size_bytes=10,
        batch_size=1,
        p50_ms=1.0,
        snr_db=90.0,
    )
    assert "Fastest: small.onnx" in summarize(small, replace(small, name="b.onnx", p50_ms=2.0))[0]
    for other in (replace(small, input_size=(3, 64, 64)), replace(small, batch_size=8)):
        summary, notes, _ = summarize(small, replace(other, name="other.onnx", p50_ms=2.0))
        assert "not comparable" in summary
        assert "Fastest" not in summary
        assert "latencies are not comparable" in notes
    assert summarize(small)[0] == "One file: small.onnx. Latency, 1 ms per run."


def test_files_without_an_installed_backend_are_named_with_the_fix(made):
    for disabled, left in (("torch-export", "digits.pt2"), ("onnx,tensorrt,torch-export", "digits.onnx")):
        done = in_a_process("compare", made, "--no-bench", forked=True, TIMMX_DISABLE_BACKENDS=disabled)
        assert f"{left}: backend" in (done.stdout + done.stderr).lower()
        assert "TIMMX_DISABLE_BACKENDS names it" in done.stdout + done.stderr
        assert done.returncode == (0 if disabled == "torch-export" else 2)
        assert "timmx export" not in done.stderr


def test_verifications_on_different_inputs_are_reported(run_timmx, made, tmp_path):
    row = Row(
        name="a.onnx",
        path=Path("a.onnx"),
        backend="onnx",
        input_size=(3, 32, 32),
        size_bytes=10,
        snr_db=90.0,
        inputs="500 images of samples",
    )
    other = replace(row, name="b.pt2", inputs="6 synthetic images")
    assert FolderComparison(folder=Path("out"), rows=(row, replace(row, name="b.pt2"))).mixed_inputs == ""
    assert (
        "a.onnx on 500 images of samples; b.pt2 on 6 synthetic images"
        in FolderComparison(folder=Path(), rows=(row, other)).mixed_inputs
    )
    shutil.copytree(made, tmp_path / "out")
    record = tmp_path / "out" / "timmx.json"
    known = json.loads(record.read_text())
    known["artifacts"]["digits.pt2"]["verification"]["origin"] = "20 images of elsewhere/few"
    record.write_text(json.dumps(known))
    done = run_timmx("compare", "out", "--no-bench", "--report", "side.html")
    assert "digits.pt2 on 20 images of few." in done.stdout
    assert "SNR and agreement are not comparable" in (tmp_path / "side.html").read_text()


def test_unreliable_latencies_are_reported_in_the_report(tmp_path):
    row = Row(
        name="a.onnx",
        path=Path("a.onnx"),
        backend="onnx",
        input_size=(3, 32, 32),
        size_bytes=10,
        batch_size=1,
        p50_ms=1.0,
    )
    found = FolderComparison(
        folder=Path("out"),
        rows=(row,),
        bench=BenchResult(cases=(), base=None, rounds=1, seconds=0.1, warnings=("This machine is noisy.",)),
    )
    assert "Latencies are unreliable" in compare_report(found, {}, ()).summary
    assert "This machine is noisy." in compare_report(found, {}, ()).sections[0].note
    assert found.to_dict()["warnings"] == ["This machine is noisy."]


def test_files_missing_from_the_plot_are_named():
    row = Row(
        name="a.onnx",
        path=Path("a.onnx"),
        backend="onnx",
        input_size=(3, 32, 32),
        size_bytes=10,
        batch_size=1,
        p50_ms=1.0,
        snr_db=90.0,
    )
    notes = summarize(
        row, replace(row, name="same.pt2", snr_db=float("inf")), replace(row, name="b.x", snr_db=None)
    )[1]
    assert "Not shown: same.pt2 (identical to the model, infinite SNR); b.x (no SNR)." in notes


def test_data_that_does_not_fit_is_refused(made, few, tmp_path):
    wrong = tmp_path / "wrong"
    shutil.copytree(few, wrong)
    (wrong / "3").rename(wrong / "three")
    with pytest.raises(ConfigurationError, match="three"):
        compare(made, data=wrong, measure_latency=False)


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        (("nowhere",), "folder nowhere does not exist"),
        (("empty",), "empty has no artifact"),
        (("empty",), "hint: timmx export MODEL --to FORMAT -o empty"),
        (("empty", "--against", "resnet18", "--no-bench"), "hint: leave --no-bench out"),
        (("empty", "--pretrained"), "hint: name the model with --against"),
        (("empty", "--data", "nowhere"), "--data nowhere does not exist"),
    ],
)
def test_invalid_options_are_refused(run_timmx, tmp_path, arguments, said):
    (tmp_path / "empty").mkdir()
    done = run_timmx("compare", *arguments)
    assert done.exit_code == 2
    assert said in done.stderr


def test_a_file_instead_of_a_folder_is_refused(made):
    with pytest.raises(ArtifactError, match="is a file") as caught:
        compare(made / "digits.onnx")
    assert f"timmx inspect {made / 'digits.onnx'}" in caught.value.hint

"""The report of a sweep: counts by family, failures by reason, CSV and Markdown, without torch."""

from __future__ import annotations

import csv
import io
import json
import sys
from typing import TYPE_CHECKING

import pytest
from plugins import timmx
from pyarrow import parquet
from timmx.sweep.cell import Cell, CellStatus
from timmx.sweep.journal import Journal, Run
from timmx.sweep.models import SweepModel
from timmx.sweep.plan import SweepPlan
from timmx.sweep.report import text_report
from timmx.sweep.summary import Summary, summarize

if TYPE_CHECKING:
    from pathlib import Path

PLAN = SweepPlan(
    models=tuple(map(SweepModel, ("resnet18", "resnet34", "resnet50", "test_vit"))),
    targets=("onnx", "litert"),
)


def cell(model: str, target: str, status: CellStatus = CellStatus.VERIFIED, **values) -> Cell:
    family = "resnet" if model.startswith("resnet") else "vision_transformer"
    facts = {"family": family, "weights": "awakened", "parameters": 11_689_512, "key": "k", "backend": target}
    figures = {"snr_db": 102.3, "size_bytes": 46_800_000} if status.passed else {}
    return Cell(**{"model": model, "target": target, "status": status} | facts | figures | values)


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    run = Run(
        command="timmx sweep 'resnet*' --to onnx",
        started="2026-11-28T10:00:00+00:00",
        machine={"cores": "2", "torch": "2.14.1"},
        plan=PLAN.to_json(),
    )
    refused = {
        "status": CellStatus.REFUSED,
        "kind": "UnsupportedError",
        "hint": "use another format",
    }
    with Journal(tmp_path, resume=False) as journal:
        journal.add_run(run)
        journal.add(cell("resnet18", "onnx", CellStatus.CRASHED, message="replaced by the next line"))
        journal.add(cell("resnet18", "onnx"))
        journal.add(cell("resnet34", "onnx"))
        for model, count in (("resnet18", 7), ("resnet34", 31)):
            message = f"{model} has {count} operations | that LiteRT lacks"
            journal.add(cell(model, "litert", message=message, command=f"timmx litert {model}", **refused))
        below = {"status": CellStatus.FAILED, "message": "output has 12.0 dB", "snr_db": 12.04}
        journal.add(cell("test_vit", "litert", command="timmx litert test_vit", **below))
    return tmp_path


def test_text_has_counts_by_family_and_failures_by_reason(folder, run_timmx):
    done = run_timmx("sweep", "report", folder)
    assert done.exit_code == 0
    assert done.stdout.splitlines() == [
        "family              onnx  litert",
        "resnet               2/2     0/2",
        "vision_transformer     -     0/1",
        "all                  2/2     0/3",
        "",
        "2 of 8 cells passed, 3 failed, 3 not run yet (use --resume to continue).",
        "3 models with random weights changed by --awaken.",
        "",
        "litert: refused, 2 models: resnet18 has 7 operations | that LiteRT lacks",
        "  hint: use another format",
        "  timmx litert resnet18",
        "  timmx litert resnet34",
        "",
        "litert: below the floor, 1 model: output has 12.0 dB",
        "  timmx litert test_vit",
    ]


def test_text_has_the_accuracy_of_each_model_and_format(tmp_path):
    cells = [
        cell("test_vit", "onnx", accuracy=0.75, model_accuracy=0.76, top1_agreement=1.0),
        cell("test_vit", "litert:mode=int8", accuracy=0.5, model_accuracy=0.76),
        cell("test_resnet", "onnx"),
    ]
    summary = Summary(
        runs=(),
        models=("test_vit", "test_resnet"),
        targets=("onnx", "litert:mode=int8"),
        cells={item.place: item for item in cells},
        planned=4,
    )
    lines = text_report(summary)
    start = next(number for number, line in enumerate(lines) if line.startswith("top-1 accuracy"))
    words = ["test_vit", "76.0", "%", "75.0", "%", "50.0", "%"]
    assert [line.split() for line in lines[start + 1 :]] == [words]


def test_csv_has_one_row_per_cell(folder, run_timmx):
    done = run_timmx("sweep", "report", folder, "--format", "csv")
    rows = list(csv.DictReader(io.StringIO(done.stdout)))
    assert [(row["model"], row["target"], row["status"]) for row in rows] == [
        ("resnet18", "onnx", "verified"),
        ("resnet18", "litert", "refused"),
        ("resnet34", "onnx", "verified"),
        ("resnet34", "litert", "refused"),
        ("test_vit", "litert", "failed"),
    ]
    assert rows[0]["snr_db"] == "102.3"
    assert rows[1]["command"] == "timmx litert resnet18"


def test_markdown_has_one_row_per_model(folder, run_timmx):
    lines = run_timmx("sweep", "report", folder, "--format", "markdown").stdout.splitlines()
    assert lines[0].startswith("2026-11-28; cores 2, torch 2.14.1. 2 of 8 cells passed")
    assert lines[0].endswith("3 models with random weights changed by --awaken.")
    assert "    timmx sweep 'resnet*' --to onnx" in lines
    assert "| onnx | 2 of 2 | 2 |  |  |" in lines
    assert "| resnet | resnet18 | 11.7 M | 102 dB, 46.8 MB | refused |" in lines
    assert "| vision_transformer | test_vit | 11.7 M |  | below the floor, 12 dB |" in lines
    assert (
        r"| litert | refused | resnet18, resnet34 | resnet18 has 7 operations \| that LiteRT lacks |" in lines
    )


def test_json_has_the_counts(folder, run_timmx):
    content = json.loads(run_timmx("sweep", "report", folder, "--json").stdout)
    assert (content["planned"], content["passed"], content["failed"], content["missing"]) == (8, 2, 3, 3)
    assert content["families"]["resnet"] == {"onnx": [2, 2], "litert": [0, 2]}


def test_the_exit_code_says_whether_cells_failed(tmp_path, folder):
    assert summarize(folder / "sweep.jsonl").exit_code == 2


@pytest.mark.parametrize("name", ["", "none"])
def test_a_folder_without_a_journal_is_an_error(tmp_path, run_timmx, name):
    done = run_timmx("sweep", "report", tmp_path / name)
    assert done.exit_code == 2
    assert "--output" in done.stderr


def test_a_sweep_that_has_not_run_a_cell_has_a_report(tmp_path, run_timmx):
    with Journal(tmp_path, resume=False) as journal:
        journal.add_run(Run(command="", started="", plan=PLAN.to_json()))
    for kind in ("text", "csv", "markdown"):
        assert run_timmx("sweep", "report", tmp_path, "--format", kind).exit_code == 0


def test_the_report_does_not_import_torch(process, folder, tmp_path):
    (tmp_path / "site").mkdir()
    for name in ("torch", "timm", "numpy"):
        (tmp_path / "site" / f"{name}.py").write_text("raise SystemExit('imported')")
    done = timmx("sweep", "report", folder, "--format", "markdown", site=tmp_path / "site")
    assert done.returncode == 0, done.stderr


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["test_vit", "--to", "onnx"], "no output folder is given"),
        (["test_vit", "-o", "out"], "no target is given"),
        (["--to", "onnx", "-o", "out"], "no model is given"),
        (["no_such_*", "--to", "onnx", "-o", "out"], "no model matches"),
        (["test_vit", "--to", "onnx", "-o", "out", "--retry"], "--retry requires --resume"),
        (["-o", "out", "--resume"], "out does not exist"),
        (["-o", "out", "--resume", "--normalize"], "--normalize requires models"),
        (["-o", "out", "--resume", "--keep", "none"], "--keep requires models"),
    ],
)
def test_bad_command_lines_are_refused(run_timmx, tmp_path, arguments, message):
    done = run_timmx("sweep", *arguments)
    assert done.exit_code == 2
    assert message in done.stderr
    assert not (tmp_path / "out").exists()


def test_a_size_has_a_unit(run_timmx):
    done = run_timmx("sweep", "test_vit", "--to", "onnx", "-o", "out", "--limit-memory", "much")
    assert done.exit_code == 2
    assert "is not a size such as 12GB" in done.stderr


def test_a_recipe_with_several_models_is_for_sweeps(run_timmx, tmp_path):
    recipe = tmp_path / "recipe.toml"
    recipe.write_text('model = ["test_vit", "test_nothing"]\noutput = "out"\n[[target]]\nformat = "onnx"\n')
    done = run_timmx("export", "--recipe", recipe)
    assert done.exit_code == 2
    assert "timmx sweep --recipe" in done.stderr
    done = run_timmx("sweep", "--recipe", recipe)
    assert done.exit_code == 2
    assert "has no model 'test_nothing'" in done.stderr


def test_json_lines_and_parquet_have_all_values_of_all_cells(folder, run_timmx, tmp_path):
    with Journal(folder, resume=True) as journal:
        journal.add(cell("resnet34", "onnx", notes=("a note",), versions={"timm": "1.0"}, cpu_seconds=2.5))
    lines = run_timmx("sweep", "report", folder, "--format", "jsonl").stdout.splitlines()
    cells = [Cell.from_json(json.loads(line)) for line in lines]
    assert len(cells) == 5
    assert (cells[2].notes, cells[2].versions, cells[2].cpu_seconds) == (("a note",), {"timm": "1.0"}, 2.5)
    done = run_timmx("sweep", "report", folder, "--parquet", tmp_path / "cells.parquet")
    assert (done.exit_code, done.stdout) == (0, "")
    rows = parquet.read_table(tmp_path / "cells.parquet").to_pylist()
    assert [row["model"] for row in rows] == [cell.model for cell in cells]
    assert rows[2]["notes"] == ["a note"]
    assert rows[2]["versions"] == [("timm", "1.0")]
    assert [row["snr_db"] for row in rows] == [cell.snr_db for cell in cells]
    assert {row["status"] for row in rows} == {"verified", "refused", "failed"}
    run_timmx("sweep", "report", folder, "--parquet", tmp_path / "cells.parquet")  # replaces its own file


def test_a_sweep_is_compared_with_another(folder, run_timmx, tmp_path):
    other = tmp_path / "other"
    with Journal(other, resume=False) as journal:
        journal.add(cell("resnet18", "onnx", CellStatus.FAILED, message="output has 3 dB"))
        journal.add(cell("resnet18", "litert"))
        journal.add(cell("resnet34", "onnx", snr_db=100.0, seconds=4.0))
        journal.add(cell("resnet50", "onnx"))
    done = run_timmx("sweep", "report", folder, "--against", other)
    changes = done.stdout[done.stdout.index("Compared with") :].splitlines()
    assert changes[0] == (
        f"Compared with {other}: 1 newly failing, 1 newly passing, 1 cell passed in both, 2 only here, 1 only there. "
        "Cells took 0.00 times as long (median)."
    )
    assert "newly failing: resnet18 litert: resnet18 has 7 operations | that LiteRT lacks" in changes
    assert "  timmx litert resnet18" in changes
    assert "newly passing: resnet18 onnx: output has 3 dB" in changes
    assert changes[-1].split() == ["resnet34", "onnx", "+2.3", "-4.0"]
    content = json.loads(run_timmx("sweep", "report", folder, "--against", other, "--json").stdout)["changes"]
    assert content["apart"] == [{"model": "resnet34", "target": "onnx", "db": 2.3, "seconds": -4.0}]
    assert [change["command"] for change in content["newly_failing"]] == ["timmx litert resnet18"]


def test_an_html_report_is_written(folder, run_timmx, tmp_path):
    done = run_timmx("sweep", "report", folder, "--html", tmp_path / "out.html", "--against", folder)
    assert (done.exit_code, done.stdout) == (0, "")
    text = (tmp_path / "out.html").read_text("utf-8")
    assert "2 of 8 cells passed, 3 failed" in text
    assert "Compared with" in text
    assert "timmx litert resnet18" in text
    assert "plotly.js v" not in text, "nothing is drawn without accuracy and latency"
    done = run_timmx("sweep", "report", folder, "--html", tmp_path / "out.html", "--format", "csv")
    assert done.stdout.startswith("model,family,")


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["--html", "out.pdf"], "--html out.pdf does not end in .html"),
        (["--parquet", "."], "--parquet . is a folder"),
        (["--parquet", "sweep.jsonl"], "is not a Parquet file; it is left unchanged"),
        (["--against", "nowhere"], "nowhere does not exist"),
        (["--against", ".", "--format", "csv"], "--against shows changes as text, HTML and JSON only"),
        (
            ["--against", ".", "--parquet", "new.parquet"],
            "--against shows changes as text, HTML and JSON only",
        ),
        (["--json", "--format", "csv"], "--json and --format both choose what is printed"),
    ],
)
def test_reports_that_cannot_be_written_are_one_error(folder, run_timmx, arguments, message):
    done = run_timmx("sweep", "report", folder, *arguments)
    assert done.exit_code == 2
    assert message in done.stderr


def test_parquet_without_pyarrow_is_one_error(folder, run_timmx, monkeypatch):
    monkeypatch.setitem(sys.modules, "pyarrow", None)
    done = run_timmx("sweep", "report", folder, "--parquet", "cells.parquet")
    assert done.exit_code == 2
    assert 'uv pip install "timmx-core[parquet]"' in done.stderr

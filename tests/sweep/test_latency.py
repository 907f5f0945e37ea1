"""`timmx sweep --bench` adds the latency of each kept file, from the folder or from a storage."""

from __future__ import annotations

import json
import shutil

from timmx.sweep.journal import JOURNAL_NAME
from timmx.sweep.summary import summarize


def test_stored_files_are_measured_once(run_timmx, export, process, tmp_path):
    out, where = ["-o", tmp_path / "out"], ["--storage", f"file://{tmp_path}/store"]
    done = run_timmx("sweep", "test_resnet", "--to", "torch-export", "--awaken", *out, *where, "--bench")
    assert done.exit_code == 0, done.stderr
    (cell,) = summarize(tmp_path / "out" / JOURNAL_NAME).cells.values()
    assert 0 < cell.latency_ms <= cell.latency_p90_ms
    assert cell.latency_on
    before = (tmp_path / "out" / JOURNAL_NAME).read_text()
    done = run_timmx("sweep", "--resume", "--bench", *out)
    assert done.exit_code == 0, done.stderr
    added = (tmp_path / "out" / JOURNAL_NAME).read_text().removeprefix(before).splitlines()
    assert [list(json.loads(line)) for line in added] == [["run"]], "nothing was measured again"
    lines = run_timmx("sweep", "report", tmp_path / "out", "--format", "csv").stdout.splitlines()
    assert dict(zip(*(line.split(",") for line in lines), strict=False))["latency_ms"] == str(cell.latency_ms)
    plan_again = ("sweep", "--resume", "--bench", *out)
    journal = tmp_path / "out" / JOURNAL_NAME
    journal.write_text(journal.read_text().replace('"latency_on"', '"measured_elsewhere"'))
    shutil.rmtree(tmp_path / "store" / "test_resnet")
    done = run_timmx(*plan_again)
    assert done.exit_code == 0, done.stderr
    (cell,) = summarize(journal).cells.values()
    assert "latency was not measured: " in cell.notes[-1]


def test_latency_needs_files(run_timmx):
    done = run_timmx("sweep", "test_vit", "--to", "onnx", "-o", "out", "--bench", "--keep", "none")
    assert done.exit_code == 2
    assert "--bench measures the files that are kept" in done.stderr


def test_a_file_that_cannot_be_measured_has_a_note(fake, run_timmx, export, process, tmp_path):
    done = run_timmx("sweep", "test_resnet", "--to", "fake", "--awaken", "-o", tmp_path / "out", "--bench")
    assert done.exit_code == 0, done.stderr
    (cell,) = summarize(tmp_path / "out" / JOURNAL_NAME).cells.values()
    assert cell.latency_ms is None
    assert "latency was not measured: " in cell.notes[-1]
    assert "no runtime" in cell.notes[-1]

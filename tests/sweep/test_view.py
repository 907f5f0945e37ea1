"""What a running sweep shows: a table on a terminal, JSON lines, and otherwise nothing."""

from __future__ import annotations

import io
import json
import re
from typing import TYPE_CHECKING

from timmx.cli.sweep_view import SweepView
from timmx.sweep import Cell, CellStatus, Running

if TYPE_CHECKING:
    import pytest


class Terminal(io.StringIO):
    def isatty(self) -> bool:
        return True


def model(**values) -> Running:
    return Running(model="test_vit", **values)


CELL = Cell(
    model="test_vit", target="onnx", backend="onnx", key="k", status=CellStatus.FAILED, message="12 dB"
)


def test_a_terminal_shows_counts_time_left_and_what_runs(monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setenv("COLUMNS", "120")
    stream = Terminal()
    view = SweepView(stream, verbose=False)
    view.started(8, 2)
    view.ended(CELL)
    view.running(
        [model(target="litert", step="Verifying", memory_bytes=1_400_000_000), model(step="Loading")]
    )
    text = re.sub(r"\x1b\[[\d;?]*\w", "", stream.getvalue())
    assert re.search(r"3 of 8 cells, 1 failed, 0:00, about 0:\d\d left", text)
    assert re.search(r"test_vit +litert +Verifying +0:00 +1\.4 GB", text)
    assert re.search(r"test_vit +Loading +0:00", text)
    view.close()
    assert "3 of 8 cells are recorded" in stream.getvalue()


def test_a_pipe_shows_nothing_but_warnings():
    stream = io.StringIO()
    view = SweepView(stream, verbose=False)
    view.started(1, 0)
    view.running([model()])
    view.ended(CELL)
    view.warn("the disk is nearly full")
    view.close()
    assert stream.getvalue() == "warning: the disk is nearly full\n"


def test_json_lines_and_verbose_lines():
    stream, lines = io.StringIO(), io.StringIO()
    view = SweepView(stream, verbose=True, lines_to=lines)
    view.started(1, 0)
    view.ended(CELL)
    view.close()
    assert json.loads(lines.getvalue()) == {"cell": CELL.to_json()}
    assert stream.getvalue().splitlines() == [
        "1 cell, 0 in the journal",
        "test_vit onnx: below the floor, 0.0 s: 12 dB",
    ]

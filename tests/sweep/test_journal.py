"""The journal survives kills and full disks, and refuses what it cannot continue."""

from __future__ import annotations

import json
import os
import resource
from typing import TYPE_CHECKING

import pytest
from timmx.errors import ArtifactError, ConfigurationError
from timmx.sweep.cell import Cell, CellStatus
from timmx.sweep.journal import JOURNAL_NAME, Journal, Run, read_lines

if TYPE_CHECKING:
    from pathlib import Path

RUN = Run(
    command="timmx sweep", started="2026-01-01T00:00:00+00:00", machine={"cores": "2"}, plan={"models": []}
)


def cell(model: str = "resnet18", **values) -> Cell:
    return Cell(
        **{"model": model, "target": "onnx", "backend": "onnx", "key": "k", "status": CellStatus.VERIFIED}
        | values
    )


def write(folder: Path, *cells: Cell) -> Path:
    with Journal(folder, resume=False) as journal:
        journal.add_run(RUN)
        for item in cells:
            journal.add(item)
    return folder / JOURNAL_NAME


def test_what_is_written_is_read_back(tmp_path):
    full = cell(
        snr_db=float("inf"),
        floor_db=60.0,
        notes=("a", "b"),
        versions={"torch": "2"},
        memory_bytes=10,
        seconds=1.5,
    )
    path = write(tmp_path, full, cell("vit"))
    assert list(read_lines(path)) == [RUN, full, cell("vit")]
    assert sorted(item.name for item in tmp_path.iterdir()) == [JOURNAL_NAME]


def test_an_incomplete_last_line_is_left_out_and_removed(tmp_path):
    path = write(tmp_path, cell(), cell("vit"))
    complete = path.read_bytes()
    path.write_bytes(complete[:-10])
    assert [line.model for line in read_lines(path) if isinstance(line, Cell)] == ["resnet18"]
    with Journal(tmp_path, resume=True) as journal:
        journal.add(cell("vit"))
    assert path.read_bytes() == complete


@pytest.mark.parametrize("size", range(0, 40, 13))
def test_an_incomplete_first_line_is_written_again(tmp_path, size):
    path = write(tmp_path)
    header = path.read_bytes().split(b"\n")[0]
    path.write_bytes(header[:size])
    with Journal(tmp_path, resume=True) as journal:
        journal.add(cell())
    assert list(read_lines(path)) == [cell()]


def test_a_second_sweep_of_a_folder_is_refused(tmp_path):
    with Journal(tmp_path, resume=False), pytest.raises(ConfigurationError, match="another sweep is writing"):
        Journal(tmp_path, resume=True)
    with pytest.raises(ConfigurationError, match="has the journal of a sweep") as refused:
        Journal(tmp_path, resume=False)
    assert "--resume" in refused.value.hint


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (b'{"journal": "timmx sweep", "schema": 99}\n', "has schema 99, and this timmx reads schema 1"),
        (b'{"journal": "timmx eval", "schema": 2}\n', "is not the journal of a sweep"),
        (b"model,onnx\nresnet18,1\n", "is not the journal of a sweep"),
        (b"notes", "is not the journal of a sweep"),
        (
            b'{"journal": "timmx sweep", "schema": 1}\n{"cell": {}}\n',
            "is damaged in line 2: a cell has no model",
        ),
        (b'{"journal": "timmx sweep", "schema": 1}\n{"run": 3}\n', "is damaged in line 2"),
        (b'{"journal": "timmx sweep", "schema": 1}\nnonsense\n', "is damaged in line 2"),
    ],
)
def test_other_files_are_refused_and_left(tmp_path, content, message):
    path = tmp_path / JOURNAL_NAME
    path.write_bytes(content)
    with pytest.raises(ConfigurationError, match=message):
        Journal(tmp_path, resume=True)
    assert path.read_bytes() == content
    with pytest.raises(ConfigurationError, match=message):
        list(read_lines(path))


@pytest.mark.parametrize(
    ("name", "value"),
    [
        ("status", "great"),
        ("snr_db", "12"),
        ("size_bytes", -1),
        ("notes", "text"),
        ("versions", {"torch": 2}),
        ("seconds", None),
        ("model", 3),
    ],
)
def test_a_cell_with_an_invalid_value_is_damage(tmp_path, name, value):
    path = write(tmp_path, cell())
    lines = path.read_text().splitlines()
    content = json.loads(lines[-1])
    content["cell"][name] = value
    path.write_text("\n".join([*lines[:-1], json.dumps(content)]) + "\n")
    with pytest.raises(ConfigurationError, match=f"damaged in line 3: {name}"):
        list(read_lines(path))


def test_a_full_disk_leaves_a_valid_journal(tmp_path):
    """A limit on the size of files stands for a full disk."""
    import signal

    old = signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
    soft, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
    journal = Journal(tmp_path, resume=False)
    journal.add(cell("one"))
    size = journal.path.stat().st_size
    resource.setrlimit(resource.RLIMIT_FSIZE, (size + 20, hard))
    try:
        journal.add(cell("two"))
        journal.add(cell("three"))
        assert journal.unwritten == 2
        assert journal.path.stat().st_size == size
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, (soft, hard))
        signal.signal(signal.SIGXFSZ, old)
    journal.add(cell("four"))
    assert journal.unwritten == 0
    journal.close()
    assert [line.model for line in read_lines(journal.path)] == ["one", "two", "three", "four"]


def test_a_folder_that_cannot_be_written_is_refused(tmp_path):
    (tmp_path / "file").touch()
    with pytest.raises(ConfigurationError, match="is a file"):
        Journal(tmp_path / "file", resume=False)
    with pytest.raises(ArtifactError, match="--output"):
        Journal(tmp_path / "file" / "below", resume=False)
    os.mkfifo(tmp_path / JOURNAL_NAME)
    with pytest.raises(ConfigurationError, match="is a pipe"):
        Journal(tmp_path, resume=True)

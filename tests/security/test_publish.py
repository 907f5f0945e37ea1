"""Publishing that is killed at any step, and private folders that someone else has made."""

from __future__ import annotations

import hashlib
import json
import os
import shutil
import signal
import sys
from pathlib import Path

import pytest
from timmx.artifact import publishing, swap
from timmx.artifact.exchange import exchange
from timmx.artifact.publishing import staging
from timmx.errors import ArtifactError

pytestmark = [
    pytest.mark.skipif(os.name == "nt", reason="Windows has no exchange, no fork and no pipes"),
    pytest.mark.usefixtures("process"),
]

FOLDER = ("m.mlpackage/Manifest.json", "m.mlpackage/weights")
PAIR = ("m.onnx", "m.onnx.data")
COMBINATIONS = [
    *((PAIR, True, True), (PAIR, True, False), (PAIR, False, True)),
    *((FOLDER, True, True), (FOLDER, True, False), (FOLDER, False, True)),
]
"""The names, whether the file system exchanges files if it can, and whether there were old files."""


def lay(folder: Path, names: tuple[str, ...], text: str) -> None:
    for name in names:
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        (folder / name).write_text(text)


def state(folder: Path, names: tuple[str, ...]) -> dict[str, str]:
    return {name: (folder / name).read_text() for name in names if (folder / name).exists()}


def publish(folder: Path, names: tuple[str, ...]) -> None:
    output = folder / names[0].partition("/")[0]
    with staging(output) as stage:
        lay(stage.path.parent, names, "new")
        stage.publish([folder / name.partition("/")[0] for name in names])


def killed_states(folder: Path, names: tuple[str, ...], *, old: bool, exchanges: bool):
    """The files after a kill at each file-system step of an export in turn, before the next run and after it."""
    nth = 0
    while True:
        nth += 1
        here = folder / str(nth)
        here.mkdir()
        if old:
            lay(here, names, "old")
        if not (child := os.fork()):
            _export_until_killed(here, names, nth, exchanges)
        killed = os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) == -signal.SIGKILL
        before = state(here, names)
        with staging(here / names[0].partition("/")[0]):
            pass
        yield before, state(here, names)
        assert [path.name for path in here.iterdir() if path.name.startswith(".")] == []
        if not killed:
            return


def _write_killed_states(folder: Path) -> None:
    """For each combination, the states as JSON."""
    os.fsync = lambda descriptor: None  # only needed for power cuts
    if not exchange_works(folder):
        (folder / "no exchange").touch()
    for number, (names, exchanges, old) in enumerate(COMBINATIONS):
        (folder / f"of {number}").mkdir()
        states = list(killed_states(folder / f"of {number}", names, old=old, exchanges=exchanges))
        (folder / f"{number}.json").write_text(json.dumps(states))


CHILD = """
import sys
from pathlib import Path

sys.path.insert(0, sys.argv[1])
import test_publish

test_publish._write_killed_states(Path(sys.argv[2]))
"""


@pytest.fixture(scope="module")
def killed_exports(process, shared) -> Path:
    """The folder that `_write_killed_states` fills, in a process without libraries: a large one forks slowly."""

    def fill(folder: Path) -> None:
        done = process([sys.executable, "-c", CHILD, Path(__file__).parent, folder])
        assert done.returncode == 0, done.stderr

    return shared("killed-exports", fill)


@pytest.fixture(scope="module")
def states(killed_exports):
    """(names, exchanges, old) -> the states before and after the next run, for a kill at each step."""

    def find(*combination) -> list[tuple[dict, dict]]:
        return json.loads((killed_exports / f"{COMBINATIONS.index(combination)}.json").read_text())

    return find


@pytest.fixture
def with_exchange(killed_exports):
    if (killed_exports / "no exchange").exists():
        pytest.skip("this file system has no exchange")


def _export_until_killed(folder: Path, names: tuple[str, ...], nth: int, exchanges: bool) -> None:
    left = nth

    def step(*_: object) -> None:
        nonlocal left
        left -= 1
        if left == 0:
            os.kill(os.getpid(), signal.SIGKILL)

    def counted_exchange(one: Path, other: Path) -> bool:
        step()
        result = exchanges and exchange(one, other)
        step()
        return result

    def patched(name: str):
        real = getattr(os, name)

        def call(*arguments, **more):
            step()
            return real(*arguments, **more)

        return call

    status = 1
    try:
        publishing.exchange = swap.exchange = counted_exchange  # type: ignore[attr-defined]
        for name in ("open", "mkdir", "rename", "replace", "unlink", "rmdir"):
            setattr(os, name, patched(name))
        publish(folder, names)
        status = 0
    finally:
        os._exit(status)


@pytest.mark.parametrize("old", [True, False])
def test_a_folder_is_never_missing_and_needs_no_next_run(with_exchange, states, old):
    seen = [before for before, _ in states(FOLDER, True, old)]
    complete = [dict.fromkeys(FOLDER, "old") if old else {}, dict.fromkeys(FOLDER, "new")]
    assert all(before in complete for before in seen)
    assert all(wanted in seen for wanted in complete)


def exchange_works(folder: Path) -> bool:
    one, other = folder / "one", folder / "other"
    one.mkdir()
    other.touch()
    works = exchange(one, other) and one.is_file()
    for path in (one, other):
        path.unlink() if path.is_file() else path.rmdir()
    return works


@pytest.mark.parametrize(
    ("names", "exchanges", "old"),
    [(PAIR, True, True), (PAIR, True, False), (PAIR, False, True), (FOLDER, False, True)],
)
def test_after_a_kill_the_next_run_finds_the_old_or_the_new_files(states, names, exchanges, old):
    seen = [after for _, after in states(names, exchanges, old)]
    complete = [dict.fromkeys(names, "old") if old else {}, dict.fromkeys(names, "new")]
    assert all(after in complete for after in seen)
    assert all(wanted in seen for wanted in complete)


def test_a_pair_is_never_mixed_and_its_main_file_never_missing(with_exchange, states):
    for before, _ in states(PAIR, True, True):
        assert "m.onnx" in before
        assert len(set(before.values())) == 1


def test_a_companion_created_after_a_kill_is_kept(tmp_path):
    private = plant(tmp_path, {"old": {"m.onnx.data": sha256(b"old")}, "new": {"m.onnx": sha256(b"new")}})
    (private / "old" / "m.onnx.data").write_bytes(b"old")
    (tmp_path / "m.onnx.data").write_text("of the user")
    with staging(tmp_path / "m.onnx"):
        pass
    assert (tmp_path / "m.onnx.data").read_text() == "of the user"


# Private folders that someone else has made


def sha256(content: bytes) -> str:
    return hashlib.sha256(content).hexdigest()


def plant(folder: Path, journal: object) -> Path:
    """A private folder of `m.onnx` with this journal: text, bytes, or JSON values."""
    private = folder / ".m.onnx.timmx"
    for name in ("new", "old"):
        (private / name).mkdir(parents=True)
    if isinstance(journal, str):
        journal = journal.encode()
    (private / "journal").write_bytes(journal if isinstance(journal, bytes) else json.dumps(journal).encode())
    return private


def everything(folder: Path) -> dict[str, object]:
    return {
        str(path.relative_to(folder)): path.read_bytes() if path.is_file() and not path.is_symlink() else None
        for path in folder.rglob("*")
        if path.name not in ("lock", "pid")
    }


def refuse(folder: Path) -> None:
    """Exports to `m.onnx`: an error, and everything is as before. A link, pipe or device is not read."""
    before = everything(folder)
    with pytest.raises(ArtifactError, match=r"\.m\.onnx\.timmx") as caught, staging(folder / "m.onnx"):
        pytest.fail("the work began")
    assert caught.value.hint
    assert everything(folder) == before


OLD_FORMAT = {"aside": ["thesis.tex"], "incoming": ["m.onnx"]}
HASH = sha256(b"planted")


@pytest.mark.parametrize(
    "journal",
    [
        "",
        "{",
        "null",
        "[]",
        "7",
        '"text"',
        b"\xff\xfe{}",
        b"\0" * 1000,
        "[" * 10_000,
        "1" * 10_000,
        '{"old": {"m.onnx": "' + "a" * 10_000_000,
        {},
        OLD_FORMAT,
        {"old": [], "new": []},
        {"old": {}, "new": {}},
        {"old": {}, "new": {"m.onnx": 7}},
        {"old": {}, "new": {"m.onnx": None}},
        {"old": {"m.onnx.data": HASH}, "new": {"m.onnx": HASH}, "more": {}},
    ],
    ids=range(18),
)
def test_a_damaged_journal_is_reported_and_left(tmp_path, journal):
    (tmp_path / "thesis.tex").write_text("mine")
    private = plant(tmp_path, journal)
    (private / "old" / "thesis.tex").write_text("theirs")
    (private / "new" / "m.onnx").write_text("theirs")
    refuse(tmp_path)


@pytest.mark.parametrize(
    "name",
    [
        "thesis.tex",
        "../thesis.tex",
        "m.onnx/../thesis.tex",
        "m./../../thesis.tex",
        "m.\\..\\thesis.tex",
        "/etc/passwd",
        "..",
        ".",
        "",
        "m",
        "m.\0",
        ".bashrc",
    ],
)
def test_a_journal_names_files_of_its_output_only(tmp_path, name):
    (tmp_path / "out").mkdir()
    (tmp_path / "thesis.tex").write_text("mine")
    (tmp_path / "out" / "m.onnx").write_text("mine")
    for journal in (
        {"old": {name: HASH}, "new": {"m.onnx": sha256(b"other")}},
        {"old": {}, "new": {"m.onnx": sha256(b"mine"), name: HASH}},
    ):
        private = plant(tmp_path / "out", journal)
        for source in ("old", "new"):
            (private / source / "thesis.tex").write_bytes(b"planted")
        refuse(tmp_path / "out")
        assert (tmp_path / "thesis.tex").read_text() == "mine"
        for path in sorted(private.rglob("*"), reverse=True):
            path.rmdir() if path.is_dir() else path.unlink()
        private.rmdir()


def test_a_journal_overwrites_and_deletes_nothing(tmp_path):
    """Even one that states the true hashes of the user's files."""
    for name in PAIR:
        (tmp_path / name).write_text("mine")
    mine = sha256(b"mine")
    for number, journal in enumerate(
        (
            {"old": {"m.onnx": HASH, "m.onnx.data": HASH}, "new": {"m.onnx": sha256(b"other")}},
            {"old": {}, "new": {"m.onnx": mine, "m.onnx.data": mine}},
            {"old": {"m.onnx": HASH, "m.onnx.data": HASH}, "new": {"m.onnx": mine, "m.onnx.data": HASH}},
        )
    ):
        private = plant(tmp_path, journal)
        for source in ("old", "new"):
            for name in PAIR:
                (private / source / name).write_bytes(b"planted")
        with staging(tmp_path / "m.onnx"):
            pass
        assert everything(tmp_path) == dict.fromkeys(PAIR, b"mine"), number


def test_a_file_with_another_hash_is_not_restored(tmp_path):
    private = plant(tmp_path, {"old": {"m.onnx.data": HASH}, "new": {"m.onnx": HASH}})
    (private / "old" / "m.onnx.data").write_text("something else")
    refuse(tmp_path)


@pytest.mark.parametrize("what", ["link", "folder of a link", "pipe", "zero", "folder with a pipe"])
def test_only_files_are_restored(tmp_path, what):
    home = tmp_path / "home"
    home.mkdir()
    (home / "m.onnx.data").write_bytes(b"planted")
    folder = tmp_path / "out"
    folder.mkdir()
    private = plant(folder, {"old": {"m.onnx.data": HASH}, "new": {"m.onnx": HASH}})
    path = private / "old" / "m.onnx.data"
    if what == "link":
        path.symlink_to(home / "m.onnx.data")
    elif what == "zero":
        path.symlink_to("/dev/zero")
    elif what == "pipe":
        os.mkfifo(path)
    elif what == "folder with a pipe":
        path.mkdir()
        os.mkfifo(path / "pipe")
    else:
        path.parent.rmdir()
        path.parent.symlink_to(home)
    refuse(folder)
    assert (home / "m.onnx.data").read_bytes() == b"planted"


@pytest.mark.parametrize("name", ["journal", "lock"])
@pytest.mark.parametrize("what", ["link", "dangling link", "zero", "pipe", "folder"])
def test_a_private_file_that_is_not_a_file_is_reported(tmp_path, name, what):
    (tmp_path / "thesis.tex").write_text('{"old": {}, "new": {"m.onnx": ""}}')
    path = plant(tmp_path, {}) / name
    path.unlink(missing_ok=True)
    if what == "folder":
        path.mkdir()
    elif what == "pipe":
        os.mkfifo(path)
    else:
        target = {"link": tmp_path / "thesis.tex", "zero": Path("/dev/zero")}.get(what, tmp_path / "nothing")
        path.symlink_to(target)
    refuse(tmp_path)
    assert not (tmp_path / "nothing").exists()


@pytest.mark.parametrize("name", ["new", "old", "pid", "journal.part"])
@pytest.mark.parametrize("what", ["link", "pipe", "folder"])
def test_links_in_a_private_folder_are_removed_not_followed(tmp_path, name, what):
    home = tmp_path / "home"
    home.mkdir()
    (home / "mine").write_text("mine")
    path = tmp_path / ".m.onnx.timmx" / name
    path.parent.mkdir()
    if what == "pipe":
        os.mkfifo(path)
    elif what == "link":
        path.symlink_to(home)
    else:
        path.mkdir()
        (path / "link").symlink_to(home)
    publish(tmp_path, PAIR)
    assert everything(tmp_path) == {"home": None, "home/mine": b"mine"} | dict.fromkeys(PAIR, b"new")


@pytest.mark.parametrize("what", ["pipe", "link", "file"])
def test_a_private_folder_that_is_not_a_folder_is_reported(tmp_path, what):
    path = tmp_path / ".m.onnx.timmx"
    if what == "pipe":
        os.mkfifo(path)
    elif what == "link":
        path.symlink_to(tmp_path)
    else:
        path.touch()
    refuse(tmp_path)


@pytest.mark.parametrize("where", [".m.onnx.timmx/new", "m.onnx"])
def test_folders_that_are_nested_too_deeply_are_reported(tmp_path, nest, where):
    plant(tmp_path, {"old": {"m.onnx": HASH}, "new": {"m.onnx": HASH}})
    (tmp_path / ".m.onnx.timmx" / "new" / "m.onnx").unlink(missing_ok=True)
    if where != "m.onnx":
        (tmp_path / ".m.onnx.timmx" / "journal").unlink()
    nest(tmp_path / where)
    with pytest.raises(ArtifactError, match="nested too deeply"), staging(tmp_path / "m.onnx"):
        pytest.fail("the work began")


def test_a_journal_without_its_folders_is_closed(tmp_path):
    private = plant(tmp_path, {"old": {}, "new": {"m.onnx": HASH}})
    for name in ("new", "old"):
        shutil.rmtree(private / name)
    publish(tmp_path, ("m.onnx",))
    assert (tmp_path / "m.onnx").read_text() == "new"
    assert not private.exists()


def test_the_process_id_of_another_export_is_only_read_from_a_file(tmp_path):
    with staging(tmp_path / "m.onnx"):
        pid = tmp_path / ".m.onnx.timmx" / "pid"
        pid.unlink()
        for make in (os.mkfifo, lambda path: Path(path).symlink_to("/dev/zero"), Path.mkdir):
            make(pid)
            with pytest.raises(ArtifactError, match=r"m\.onnx is running\n"), staging(tmp_path / "m.onnx"):
                pass
            pid.rmdir() if pid.is_dir() else pid.unlink()

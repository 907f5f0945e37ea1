"""Atomic publishing of an output, tested with real files, kills, full disks and concurrent processes.

Run as a program, this file is an export that is killed or runs at the same time as the test.
"""

from __future__ import annotations

import errno
import os
import random
import resource
import shutil
import signal
import stat
import subprocess
import sys
import tempfile
import threading
import time
from contextlib import contextmanager, nullcontext, suppress
from itertools import count
from pathlib import Path

import pytest
from timmx.artifact import publishing, swap
from timmx.artifact.publishing import staging, writing
from timmx.base.files import artifact_size
from timmx.errors import ArtifactError


def tree(folder: Path) -> dict[str, str]:
    """Everything in a folder, including hidden files: files with their text, folders with a slash."""
    return {
        f"{path.relative_to(folder)}{'/' if path.is_dir() else ''}": "" if path.is_dir() else path.read_text()
        for path in sorted(folder.rglob("*"))
    }


def names(folder: Path) -> list[str]:
    return sorted(path.name for path in folder.iterdir())


def export(output: Path, text: str = "new", **more: str) -> tuple[Path, ...]:
    with staging(output) as stage:
        stage.path.write_text(text)
        for name, content in more.items():
            (stage.path.parent / name).write_text(content)
        return stage.publish()


# Publishing


@pytest.mark.parametrize("old", [None, "old"])
def test_a_single_file_is_published(tmp_path, old):
    output = tmp_path / "m.onnx"
    if old:
        output.write_text(old)
    assert export(output) == (output,)
    assert tree(tmp_path) == {"m.onnx": "new"}


def test_all_files_of_a_backend_are_published_and_the_old_ones_removed(tmp_path):
    output = tmp_path / "m.onnx"
    for name in ("m.onnx", "m.onnx.data", "m.labels", "other.txt"):
        (tmp_path / name).write_text("old")
    with staging(output) as stage:
        stage.path.write_text("new")
        (stage.path.parent / "m.json").write_text("new")
        (stage.path.parent / "m.onnx.data").write_text("new")
        old = [output, tmp_path / "m.onnx.data", tmp_path / "m.labels", tmp_path / "missing"]
        assert stage.publish(old) == (output, tmp_path / "m.json", tmp_path / "m.onnx.data")
    assert tree(tmp_path) == {"m.onnx": "new", "m.json": "new", "m.onnx.data": "new", "other.txt": "old"}


def test_a_companion_has_the_artifacts_stem_and_a_foreign_one_is_refused(tmp_path):
    output, weights = tmp_path / "model.xml", tmp_path / "model.bin"
    assert export(output, **{"model.bin": "new"}) == (output, weights)
    output.unlink()  # now nothing says that model.bin belongs to an artifact
    with pytest.raises(ArtifactError, match=r"model\.bin exists and is not part"):
        export(output, **{"model.bin": "newer"})
    assert tree(tmp_path) == {"model.bin": "new"}


def test_one_file_replaces_a_file_with_a_companion(tmp_path):
    output, data = tmp_path / "m.onnx", tmp_path / "m.onnx.data"
    output.write_text("old")
    data.write_text("old")
    with staging(output) as stage:
        stage.path.write_text("new")
        stage.publish([output, data])
    assert tree(tmp_path) == {"m.onnx": "new"}


@pytest.mark.parametrize("old", [None, "a file", "a folder"])
def test_a_folder_is_published(tmp_path, old):
    output = tmp_path / "m.mlpackage"
    if old == "a file":
        output.write_text("old")
    elif old:
        (output / "stale").mkdir(parents=True)
        (output / "Manifest.json").write_text("old")
    with staging(output) as stage:
        (stage.path / "Data").mkdir(parents=True)
        (stage.path / "Data" / "weights.bin").write_text("new")
        assert stage.publish([output]) == (output,)
    assert tree(output) == {"Data/": "", "Data/weights.bin": "new"}
    assert names(tmp_path) == ["m.mlpackage"]


def test_a_new_file_has_the_permissions_of_the_umask(tmp_path):
    output = tmp_path / "m.mlpackage"
    before = os.umask(0o022)
    try:
        with staging(output) as stage:
            stage.path.mkdir(mode=0o700)
            os.close(tempfile.mkstemp(dir=stage.path)[0])
            os.close(tempfile.mkstemp(dir=stage.path.parent)[0])
            files = stage.publish()
    finally:
        os.umask(before)
    assert [oct(stat.S_IMODE(path.stat().st_mode)) for path in files] == ["0o755", "0o644"]
    assert [oct(stat.S_IMODE(path.stat().st_mode)) for path in output.iterdir()] == ["0o644"]


def test_a_replaced_file_keeps_its_permissions(tmp_path):
    output = tmp_path / "m.onnx"
    output.write_text("old")
    output.chmod(0o600)
    export(output)
    assert stat.S_IMODE(output.stat().st_mode) == 0o600


def test_a_missing_folder_is_created_and_removed_again_if_the_export_fails(tmp_path):
    output = tmp_path / "a" / "b" / "m.onnx"
    with pytest.raises(ArtifactError), staging(output) as stage:
        stage.publish()
    assert tree(tmp_path) == {}
    export(output)
    assert tree(tmp_path) == {"a/": "", "a/b/": "", "a/b/m.onnx": "new"}


# Spellings and links


def test_an_output_is_reported_as_it_was_spelled(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "real").mkdir()
    (tmp_path / "link").symlink_to("real")
    assert export(Path("m.onnx")) == (Path("m.onnx"),)
    assert export(Path("link/m.onnx")) == (Path("link/m.onnx"),)
    assert (tmp_path / "real" / "m.onnx").read_text() == "new"


def test_two_spellings_of_a_path_are_one_output(tmp_path, monkeypatch):
    (tmp_path / "real").mkdir()
    (tmp_path / "link").symlink_to("real")
    (tmp_path / "real" / "latest.onnx").symlink_to("m.onnx")
    monkeypatch.chdir(tmp_path)
    with staging(tmp_path / "real" / "m.onnx"):
        for spelling in ("real/m.onnx", "link/../real/m.onnx", "link/m.onnx", "real/latest.onnx"):
            with pytest.raises(ArtifactError, match="another export"), staging(Path(spelling)):
                pass


@pytest.mark.parametrize("dangling", [True, False])
def test_a_link_stays_and_its_target_is_replaced(tmp_path, dangling):
    (tmp_path / "store").mkdir()
    link, real = tmp_path / "latest.onnx", tmp_path / "store" / "v1.onnx"
    link.symlink_to(real)
    if not dangling:
        real.write_text("old")
    with staging(link) as stage:
        assert stage.path.name == "v1.onnx"
        stage.path.write_text("new")
        assert stage.publish([link]) == (stage.output,) == (real,)
    assert link.is_symlink()
    assert real.read_text() == "new"
    assert names(tmp_path) == ["latest.onnx", "store"]


def test_a_link_to_another_kind_of_file_is_refused(tmp_path):
    (tmp_path / "blob").write_text("shared")
    (tmp_path / "m.onnx").symlink_to("blob")
    with pytest.raises(ArtifactError, match="remove the link"), staging(tmp_path / "m.onnx"):
        pass
    assert names(tmp_path) == ["blob", "m.onnx"]


def test_a_linked_companion_is_replaced_and_its_target_kept(tmp_path):
    output, data = tmp_path / "m.onnx", tmp_path / "m.onnx.data"
    (tmp_path / "store").write_text("weights of others")
    data.symlink_to("store")
    with staging(output) as stage:
        stage.path.write_text("new")
        stage.publish([data])
    assert tree(tmp_path) == {"m.onnx": "new", "store": "weights of others"}


@pytest.mark.parametrize("name", ["m" * 245 + ".onnx", "ж" * 120 + ".onnx", "m.onnx", "-", ".hidden"])
def test_any_file_name_can_be_published(tmp_path, name):
    (tmp_path / name).write_text("old")
    export(tmp_path / name)
    assert tree(tmp_path) == {name: "new"}
    export(tmp_path / name, **{"m.data": "new"})
    assert tree(tmp_path) == {name: "new", "m.data": "new"}


# Refusals


def test_a_name_that_is_too_long_is_refused_before_any_work(tmp_path):
    with pytest.raises(ArtifactError, match=r"cannot write .*too long"), staging(tmp_path / ("m" * 256)):
        pytest.fail("the work began")
    assert tree(tmp_path) == {}


def test_a_parent_that_is_a_file_is_named(tmp_path):
    (tmp_path / "file").write_text("mine")
    for output in (tmp_path / "file" / "m.onnx", tmp_path / "file" / "a" / "m.onnx"):
        with pytest.raises(ArtifactError, match=r"/file\)\nhint: .*choose another --output"), staging(output):
            pytest.fail("the work began")
    assert tree(tmp_path) == {"file": "mine"}


def test_a_read_only_folder_is_named(tmp_path):
    tmp_path.chmod(0o500)
    if os.access(tmp_path, os.W_OK):
        pytest.skip("permission bits do not bind root; the read-only file system below covers it")
    with pytest.raises(ArtifactError, match="Permission denied"), staging(tmp_path / "m.onnx"):
        pytest.fail("the work began")


@pytest.mark.parametrize("output", ["/dev/null", "/"])
def test_an_output_that_cannot_be_an_artifact_is_refused(output):
    with pytest.raises(ArtifactError), staging(Path(output)):
        pytest.fail("the work began")
    assert stat.S_ISCHR(Path("/dev/null").stat().st_mode)


@pytest.mark.parametrize("named", [True, False])
def test_a_file_never_replaces_a_folder(tmp_path, named):
    output = tmp_path / "results"
    output.mkdir()
    (output / "thesis.tex").write_text("mine")
    with staging(output) as stage:
        stage.path.write_text("new")
        with pytest.raises(ArtifactError, match="results is a folder"):
            stage.publish([output] if named else [])
    assert tree(tmp_path) == {"results/": "", "results/thesis.tex": "mine"}


def test_a_folder_that_is_not_the_old_artifact_is_never_replaced(tmp_path):
    output = tmp_path / "results"
    output.mkdir()
    (output / "thesis.tex").write_text("mine")
    with staging(output) as stage:
        stage.path.mkdir()
        with pytest.raises(ArtifactError, match="results is a folder"):
            stage.publish()
    assert tree(tmp_path) == {"results/": "", "results/thesis.tex": "mine"}


@pytest.mark.parametrize("name", ["../mine.txt", "sub/mine.txt", "sub/..", "link/mine.txt"])
def test_nothing_outside_the_outputs_folder_is_removed(tmp_path, name):
    folder = tmp_path / "out"
    (folder / "sub").mkdir(parents=True)
    (folder / "link").symlink_to("..")
    for path in (folder / "m.onnx", folder / "sub" / "mine.txt", tmp_path / "mine.txt"):
        path.write_text("old")
    before = tree(tmp_path)
    with staging(folder / "m.onnx") as stage:
        stage.path.write_text("new")
        with pytest.raises(ArtifactError, match="is not in the folder of"):
            stage.publish([folder / name])
    assert tree(tmp_path) == before


def test_a_link_in_place_of_the_private_folder_is_not_followed(tmp_path):
    (tmp_path / "home" / "new").mkdir(parents=True)
    (tmp_path / "home" / "new" / "mine.txt").write_text("mine")
    (tmp_path / ".m.onnx.timmx").symlink_to("home")
    with pytest.raises(ArtifactError, match="was not created by timmx"), staging(tmp_path / "m.onnx"):
        pytest.fail("the work began")
    assert (tmp_path / "home" / "new" / "mine.txt").read_text() == "mine"
    assert names(tmp_path / "home") == ["new"]


def test_a_backend_that_writes_nothing_is_reported(tmp_path):
    (tmp_path / "m.onnx").write_text("old")
    with staging(tmp_path / "m.onnx") as stage:
        (stage.path.parent / "elsewhere.onnx").write_text("new")
        with pytest.raises(ArtifactError, match=r"did not write m\.onnx"):
            stage.publish()
    assert tree(tmp_path) == {"m.onnx": "old"}


# Interruptions

BUNDLE = {"m.pkg/": "", "m.pkg/weights": "new", "m.pkg.json": "new", "m.pkg.idx": "new"}
OLD_BUNDLE = {
    "m.pkg/": "",
    "m.pkg/weights": "old",
    "m.pkg/w2": "old",
    "m.pkg.json": "old",
    "m.pkg.data": "old",
}


def lay_bundle(folder: Path) -> None:
    for name, text in OLD_BUNDLE.items():
        if name.endswith("/"):
            (folder / name).mkdir(parents=True)
        else:
            (folder / name).write_text(text)


def export_bundle(folder: Path) -> None:
    """Replace a folder and two files by a folder and two files: every kind of replacement."""
    with staging(folder / "m.pkg") as stage:
        stage.path.mkdir()
        (stage.path / "weights").write_text("new")
        for name in ("m.pkg.json", "m.pkg.idx"):
            (stage.path.parent / name).write_text("new")
        stage.publish([folder / name for name in ("m.pkg", "m.pkg.json", "m.pkg.data")])


MEMORY = "/dev/shm" if Path("/dev/shm").is_dir() else None
"""2,000 folders take a fifth of the time of a busy disk."""


def without_exchange(monkeypatch) -> None:
    for module in (publishing, swap):
        monkeypatch.setattr(module, "exchange", lambda one, other: False)


@pytest.mark.parametrize("error", [ZeroDivisionError, KeyboardInterrupt])
@pytest.mark.parametrize(
    ("nth", "exchanges"), [(nth, count == 5) for count in (5, 7) for nth in range(1, count + 1)]
)
def test_a_publish_that_fails_at_any_move_changes_nothing(tmp_path, monkeypatch, nth, exchanges, error):
    lay_bundle(tmp_path)
    if not exchanges:
        without_exchange(monkeypatch)
    real, calls = Path.rename, count(1)

    def rename(self: Path, target: Path) -> Path:
        if next(calls) == nth:
            raise error
        return real(self, target)

    monkeypatch.setattr(Path, "rename", rename)
    with pytest.raises(error):
        export_bundle(tmp_path)
    assert tree(tmp_path) == OLD_BUNDLE
    monkeypatch.undo()
    export_bundle(tmp_path)
    assert tree(tmp_path) == BUNDLE


@pytest.mark.parametrize("how", ["kill", "interrupt"])
@pytest.mark.parametrize("publish", ["works", "fails"])
@pytest.mark.parametrize("exchanges", ["exchange", pytest.param("no exchange", marks=pytest.mark.slow)])
def test_an_export_interrupted_at_any_step_leaves_the_old_or_the_new_artifact(
    process, how, publish, exchanges
):
    """Killed before every disk operation, and interrupted at every line that moves or deletes files, each once.

    If publishing itself fails, at the second of three new names, only the steps after the failure; if that process is
    then killed, the next run completes what it cannot undo.
    """
    with tempfile.TemporaryDirectory(dir=MEMORY) as root:
        points, old, new = (int(number) for number in run("break_off", how, publish, exchanges, root).split())
    assert points == old + new > {"kill": 15, "interrupt": 100}[how]
    assert old > 5
    assert new > 5 or publish == "fails"


def break_off(how: str, publish: str, exchanges: str, root: str) -> None:
    os.fsync = lambda descriptor: None  # only needed for power cuts
    if exchanges == "no exchange":
        without_exchange(pytest.MonkeyPatch())
    old = new = 0
    for nth in count(1):
        folder = Path(root, str(nth))
        lay_bundle(folder)
        reached = (killed_at if how == "kill" else interrupted_at)(nth, folder, publish == "fails")
        if how == "interrupt":  # the output must be restored without another run
            seen = {name: text for name, text in tree(folder).items() if not name.startswith(".")}
            assert seen in (OLD_BUNDLE, BUNDLE), (nth, seen)
        with staging(folder / "m.pkg"):  # the next run, which does not need to publish
            pass
        seen = tree(folder)
        undone = publish == "fails" and how == "interrupt"
        assert seen in ((OLD_BUNDLE,) if undone else (OLD_BUNDLE, BUNDLE)), (nth, seen)
        old, new = old + (seen == OLD_BUNDLE), new + (seen == BUNDLE)
        shutil.rmtree(folder)
        if not reached:
            print(nth, old, new)
            return


def killed_at(nth: int, folder: Path, publish_fails: bool) -> bool:
    def hook(event: str, arguments: tuple[object, ...]) -> None:
        if event in ("open", "os.mkdir", "os.rename", "os.remove", "os.rmdir", "os.chmod"):
            fuse.step(lambda: os.kill(os.getpid(), signal.SIGKILL))

    fuse = Fuse(nth, lit=not publish_fails)
    if not (child := os.fork()):
        sys.addaudithook(hook)
        with fail_at_rename(fuse) if publish_fails else nullcontext(), suppress(ArtifactError):
            export_bundle(folder)
        os._exit(0)
    return os.waitpid(child, 0)[1] != 0


def interrupted_at(nth: int, folder: Path, publish_fails: bool) -> bool:
    def trace(frame, event, argument):
        code = frame.f_code
        if code.co_filename not in (publishing.__file__, swap.__file__, shutil.__file__):
            return None
        if code.co_name in ("_sha256", "_open_file", "is_folder", "sync", "_make_durable"):  # move nothing
            return None
        if event == "line":
            fuse.step(lambda: signal.raise_signal(signal.SIGINT))
        return trace

    fuse = Fuse(nth, lit=not publish_fails)
    with (
        fail_at_rename(fuse) if publish_fails else nullcontext(),
        suppress(KeyboardInterrupt, ArtifactError),
    ):
        sys.settrace(trace)
        try:
            export_bundle(folder)
        finally:
            sys.settrace(None)
    return fuse.left <= 0


class Fuse:
    """Calls a function at the n-th step after it is lit."""

    def __init__(self, steps: int, lit: bool) -> None:
        self.left, self.lit = steps, lit

    def step(self, act) -> None:
        self.left -= self.lit
        if self.left == 0 and self.lit:
            act()


@contextmanager
def fail_at_rename(fuse: Fuse):
    """Fail to move the second of the three new names."""
    real = Path.rename

    def rename(self: Path, target: Path) -> Path:
        if self.name == "m.pkg.idx" and not fuse.lit:
            fuse.lit = True
            raise OSError(errno.EIO, "Input/output error")
        return real(self, target)

    Path.rename = rename  # type: ignore[method-assign]
    try:
        yield
    finally:
        Path.rename = real  # type: ignore[method-assign]


@pytest.mark.parametrize("stop", [signal.SIGINT, signal.SIGKILL])
def test_an_export_that_is_stopped_while_writing_leaves_the_old_artifact(process, tmp_path, stop):
    output = tmp_path / "sub" / "m.onnx"
    with rival(output) as process:
        assert len(names(output.parent)) == 1
        process.send_signal(stop)
        process.wait(timeout=60)
        if stop == signal.SIGINT:
            assert tree(tmp_path) == {}
        export(output)
    assert tree(tmp_path) == {"sub/": "", "sub/m.onnx": "new"}


# Concurrent exports


def test_a_second_export_is_refused_at_once_with_the_process_id_of_the_first(process, tmp_path):
    output = tmp_path / "m.onnx"
    output.write_text("old")
    with rival(output) as process:
        start = time.monotonic()
        with pytest.raises(ArtifactError) as refused, staging(output):
            pytest.fail("the work began")
        assert time.monotonic() - start < 2
        assert str(refused.value) == (
            f"another export to {output} is running in process {process.pid}\n"
            "hint: wait for it, or choose another --output"
        )
        export(tmp_path / "m2.onnx")  # another output is not locked
    assert output.read_text() == "old"


def test_many_concurrent_exports_to_one_output_never_mix_their_files(process):
    """Four processes of two threads publish pairs of files, fail, and are killed, for 1.5 s."""
    with tempfile.TemporaryDirectory(dir=MEMORY) as root:
        output = Path(root, "out", "m.onnx")
        export(output, "first", **{"m.onnx.data": "first"})
        killed, published, mixed = (int(number) for number in run("hammer", output, f"{root}/log").split())
        with staging(output):
            pass
        seen = tree(output.parent)
    assert mixed == 0
    assert sorted(seen) == ["m.onnx", "m.onnx.data"]
    assert seen["m.onnx"] == seen["m.onnx.data"] != "first"
    assert killed > 10
    assert published > 10


def hammer(output: str, log: str) -> None:
    deadline = time.monotonic() + 1.5
    killed = 0
    Path(log).touch()
    children: dict[int, float] = {}
    while time.monotonic() < deadline:
        if len(children) < 4:
            if not (child := os.fork()):
                random.seed()
                for _ in range(2):
                    threading.Thread(target=compete, args=(Path(output), log)).start()
                time.sleep(60)
            children[child] = time.monotonic() + random.uniform(0.01, 0.3)
        for child, end in [*children.items()]:
            if time.monotonic() > end:
                os.kill(child, signal.SIGKILL)
                os.waitpid(child, 0)
                del children[child]
                killed += 1
        time.sleep(0.001)
    for child in children:
        os.kill(child, signal.SIGKILL)
        os.waitpid(child, 0)
    events = Path(log).read_text().split()
    print(killed, events.count("published"), events.count("mixed"))


def compete(output: Path, log: str) -> None:
    data = output.with_name("m.onnx.data")
    while True:
        token = f"{random.random()}"
        with suppress(ArtifactError, ZeroDivisionError), staging(output) as stage:
            happened = "mixed" if output.read_text() != data.read_text() else "published"
            stage.path.write_text(token)
            (stage.path.parent / data.name).write_text(token)
            if random.random() < 0.2:
                _ = 1 / 0
            stage.publish([output, data])
            with Path(log).open("a") as file:
                file.write(f"{happened}\n")


def test_concurrent_exports_that_fail_leave_nothing(tmp_path):
    output = tmp_path / "m.onnx"

    def fail() -> None:
        for _ in range(10):
            with suppress(ArtifactError, ZeroDivisionError), staging(output):
                _ = 1 / 0

    threads = [threading.Thread(target=fail) for _ in range(8)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert tree(tmp_path) == {}


# Where writing fails


@pytest.fixture
def small_disk(tmp_path):
    """A file system of 1 MiB."""
    disk = tmp_path / "disk"
    disk.mkdir()
    if subprocess.run(
        ["mount", "-t", "tmpfs", "-o", "size=1m", "tmpfs", disk], capture_output=True
    ).returncode:
        pytest.skip("mounting takes root; the file size limit below covers the same way of failing")
    yield disk
    subprocess.run(["umount", "-l", disk], check=True)


def fill(path: Path) -> None:
    with suppress(OSError), path.open("wb", buffering=0) as file:
        while file.write(bytes(4096)):
            pass


def test_a_full_disk_is_reported_and_the_old_artifact_is_kept(small_disk):
    output = small_disk / "m.onnx"
    output.write_text("old")
    with pytest.raises(ArtifactError) as failed, staging(output) as stage, writing(stage.path):
        stage.path.write_bytes(bytes(2**21))
    assert str(failed.value) == (
        f"cannot write {output}: No space left on device ({small_disk})\n"
        "hint: free some space, or choose another --output"
    )
    assert tree(small_disk) == {"m.onnx": "old"}


def test_a_disk_that_is_full_when_publishing_keeps_the_old_artifact(small_disk):
    output = small_disk / "m.onnx"
    output.write_text("old")
    with staging(output) as stage:
        stage.path.write_text("new")
        fill(stage.path.parent / "m.onnx.data")
        with pytest.raises(ArtifactError, match="No space left"):
            stage.publish()
    assert tree(small_disk) == {"m.onnx": "old"}


def test_a_disk_that_is_full_before_the_work_is_reported(small_disk):
    (small_disk / "m.onnx").write_text("old")
    fill(small_disk / "other")
    with pytest.raises(ArtifactError, match="No space left"), staging(small_disk / "m.onnx"):
        pytest.fail("the work began")
    assert names(small_disk) == ["m.onnx", "other"]


def test_a_read_only_file_system_is_reported_before_any_work(small_disk):
    (small_disk / "m.onnx").write_text("old")
    subprocess.run(["mount", "-o", "remount,ro", small_disk], check=True)
    for output in (small_disk / "m.onnx", small_disk / "sub" / "m.onnx"):
        with pytest.raises(ArtifactError, match="Read-only file system"), staging(output):
            pytest.fail("the work began")
    assert tree(small_disk) == {"m.onnx": "old"}


def test_a_file_that_is_too_large_is_reported(process, tmp_path):
    (tmp_path / "m.onnx").write_text("old")
    assert "File too large" in run("write_too_much", tmp_path / "m.onnx")
    assert tree(tmp_path) == {"m.onnx": "old"}


def write_too_much(output: str) -> None:
    resource.setrlimit(resource.RLIMIT_FSIZE, (4096, 4096))
    try:
        with staging(Path(output)) as stage, writing(stage.path):
            stage.path.write_bytes(bytes(8192))
    except ArtifactError as exc:
        print(exc)


def test_a_staged_path_that_cannot_be_written_is_reported(tmp_path):
    with staging(tmp_path / "m.onnx") as stage:
        stage.path.mkdir()
        with pytest.raises(ArtifactError, match="Is a directory"), writing(stage.path):
            stage.path.write_text("new")
    assert tree(tmp_path) == {}


def test_errors_other_than_of_writing_are_not_translated(tmp_path):
    with staging(tmp_path / "m.onnx") as stage:
        for error in (
            FileNotFoundError(errno.ENOENT, "", str(tmp_path / "weights.pt")),
            OSError("odd"),
            KeyError(),
        ):
            with pytest.raises(type(error)) as passed, writing(stage.path):
                raise error
            assert passed.value is error


# Sizes


def test_the_size_of_files_and_folders_in_bytes(tmp_path):
    package = tmp_path / "m.mlpackage"
    (package / "Data").mkdir(parents=True)
    (package / "Data" / "weights.bin").write_bytes(bytes(1000))
    (package / "Manifest.json").write_bytes(bytes(20))
    (package / "link").symlink_to(package / "Data" / "weights.bin")
    (package / "loop").symlink_to(package)
    (tmp_path / "m.json").write_bytes(bytes(3))
    (tmp_path / "latest.json").symlink_to("m.json")
    assert artifact_size([package, tmp_path / "m.json"]) == 1023
    assert artifact_size([tmp_path / "latest.json"]) == 3
    assert artifact_size([]) == 0
    with pytest.raises(ArtifactError, match="missing cannot be read"):
        artifact_size([tmp_path / "missing"])


# This file as a program


def run(function: str, *arguments: object) -> str:
    command = [sys.executable, __file__, function, *map(str, arguments)]
    done = subprocess.run(command, capture_output=True, text=True, timeout=60)
    assert done.returncode == 0, done.stderr
    return done.stdout


@contextmanager
def rival(output: Path):
    """Another process that exports to `output` until the block ends."""
    command = [sys.executable, __file__, "hold", str(output)]
    with subprocess.Popen(
        command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=subprocess.PIPE
    ) as process:
        assert process.stdout.readline() == b"writing\n", process.stderr.read()
        yield process
        process.stdin.close()


def hold(output: str) -> None:
    with staging(Path(output)) as stage:
        stage.path.write_text("rival")
        print("writing", flush=True)
        sys.stdin.read()


if __name__ == "__main__":
    {f.__name__: f for f in (break_off, hammer, hold, write_too_much)}[sys.argv[1]](*sys.argv[2:])


@pytest.mark.skipif(
    not Path("/proc/self").exists(), reason="no /proc here; a read-only folder is tested above"
)
def test_a_folder_that_cannot_be_created_is_not_reported_as_a_second_export():
    with pytest.raises(ArtifactError) as caught, staging(Path("/proc/model.onnx")):
        pass
    assert "is running" not in str(caught.value)

"""Files of a sweep at fsspec URLs: complete or absent, and a storage that refuses them fails its cells only."""

from __future__ import annotations

import json
import uuid

import fsspec
import pytest
from timmx.errors import ArtifactError, ConfigurationError
from timmx.sweep.cell import CellStatus
from timmx.sweep.choices import Keep
from timmx.sweep.models import SweepModel
from timmx.sweep.plan import SweepPlan, make_plan
from timmx.sweep.start import run_sweep
from timmx.sweep.storage import TEMPORARY, Storage
from timmx.sweep.watching import Watcher


@pytest.fixture(params=["memory", "file"])
def url(request, tmp_path) -> str:
    return f"memory://{uuid.uuid4().hex}" if request.param == "memory" else f"file://{tmp_path}/store"


def stored(url: str) -> dict[str, bytes]:
    """All files below a URL by their relative path."""
    files, root = fsspec.url_to_fs(url)
    return {
        path.removeprefix(root).lstrip("/"): files.cat_file(path)
        for path in files.find(root)
        if files.isfile(path)
    }


def test_a_file_or_folder_replaces_an_earlier_one(url, tmp_path):
    storage = Storage(url)
    storage.check()
    one, folder = tmp_path / "a.onnx", tmp_path / "a.mlpackage"
    (folder / "Data").mkdir(parents=True)
    (folder / "Data" / "model").write_text("first")
    (folder / "old").write_text("old")
    for text in ("first", "second"):
        one.write_text(text)
        (folder / "Data" / "model").write_text(text)
        storage.put(one, "m/a.onnx")
        storage.put(folder, "m/a.mlpackage")
        (folder / "old").unlink(missing_ok=True)
    assert stored(url) == {"m/a.onnx": b"second", "m/a.mlpackage/Data/model": b"second"}
    assert storage.exists("m/a.onnx")
    storage.get("m/a.mlpackage", tmp_path / "back")
    assert (tmp_path / "back" / "Data" / "model").read_text() == "second"


def test_the_marker_of_a_killed_sweep_is_removed(url):
    files, root = fsspec.url_to_fs(url)
    files.makedirs(root, exist_ok=True)
    for name in ("mine-1", "other-1"):
        files.pipe_file(f"{root}/{name}", b"timmx")
    with Storage(url).marker("mine-") as name:
        assert Storage(url).exists(name)
        assert stored(url).keys() == {name, "other-1"}, "another sweep to the same storage may be running"
    assert stored(url).keys() == {"other-1"}


def test_what_a_killed_process_left_is_removed(url, tmp_path):
    files, root = fsspec.url_to_fs(url)
    files.makedirs(f"{root}/m/{TEMPORARY}1-a.mlpackage", exist_ok=True)
    for name in (f"m/{TEMPORARY}1-a.mlpackage/part", f"m/{TEMPORARY}2-a.onnx", "m/a.onnx"):
        files.pipe_file(f"{root}/{name}", b"half")
    Storage(url).remove_unfinished("m")
    assert stored(url) == {"m/a.onnx": b"half"}


def test_a_refused_file_leaves_the_earlier_one(tmp_path):
    storage = Storage(f"file://{tmp_path}/store")
    (tmp_path / "a").write_text("first")
    storage.put(tmp_path / "a", "m/a")
    with pytest.raises(ArtifactError, match=r"store/m/a cannot be written: .*"):
        storage.put(tmp_path / "missing", "m/a")
    assert [path.name for path in (tmp_path / "store" / "m").iterdir()] == ["a"]
    (tmp_path / "store" / "file").write_text("a file where a folder is needed")
    with pytest.raises(ArtifactError, match="store/file/a cannot be written"):
        storage.put(tmp_path / "a", "file/a")


@pytest.mark.parametrize(
    ("url", "message", "hint"),
    [
        ("nothing://x", "Protocol not known: nothing", "use a URL of fsspec"),
        ("s3://bucket/x", r"the package for s3:// is not installed", r"timmx-core\[s3\]"),
        ("gs://bucket/x", r"the package for gs:// is not installed", r"timmx-core\[gs\]"),
    ],
)
def test_a_url_that_cannot_be_used_is_one_error(url, message, hint):
    with pytest.raises(ConfigurationError, match=message) as caught:
        Storage(url)
    caught.match(hint)


def test_storage_stores_what_is_kept(tmp_path):
    with pytest.raises(ConfigurationError, match="--keep none keeps no files"):
        make_plan(
            [SweepModel("test_vit")], ["onnx"], tmp_path, options={}, keep=Keep.NONE, storage="memory://x"
        )
    here, there = (SweepPlan(models=(), targets=("onnx",), storage=url) for url in ("", "memory://x"))
    assert here.keys(SweepModel("test_vit")) != there.keys(SweepModel("test_vit")), (
        "exported again for a storage"
    )


def test_a_folder_is_found_again_from_elsewhere(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    plan = make_plan([SweepModel("test_vit")], ["onnx"], tmp_path / "out", options={}, storage="stored")
    assert plan.storage == str(tmp_path / "stored")


@pytest.mark.parametrize(
    ("options", "said"),
    [
        (("--storage", "memory://a"), "in the memory of a process that ends"),
        (("--ray", "auto", "--ray-gpus", "1.5"), "--ray-gpus 1.5 is neither an integer nor less than 1"),
    ],
)
def test_what_would_lose_files_or_break_off_is_refused(run_timmx, options, said):
    done = run_timmx("sweep", "test_vit", "--to", "onnx", "-o", "out", *options)
    assert done.exit_code == 2
    assert said in done.stderr


@pytest.mark.usefixtures("process", "export", "fake")
def test_a_sweep_stores_its_files_and_continues(tmp_path):
    url, out = f"file://{tmp_path}/store", tmp_path / "out"
    sweep = {
        "models": [SweepModel("test_resnet")],
        "folder": out,
        "options": {"awaken": True},
        "storage": url,
    }
    run_sweep(targets=["fake"], **sweep)
    summary = run_sweep(targets=["fake", "fake:do=slow"], resume=True, **sweep)
    assert [cell.file for cell in summary.cells.values()] == [
        "test_resnet/test_resnet.fake",
        "test_resnet/test_resnet-slow.fake",
    ]
    files = stored(url)
    assert sorted(files) == [
        f"test_resnet/{name}" for name in ("test_resnet-slow.fake", "test_resnet.fake", "timmx.json")
    ]
    recorded = json.loads(files["test_resnet/timmx.json"])["artifacts"]
    assert list(recorded) == ["test_resnet-slow.fake", "test_resnet.fake"]
    assert [path.name for path in out.iterdir()] == ["sweep.jsonl"]


@pytest.mark.usefixtures("process", "export", "fake")
def test_a_storage_that_refuses_files_fails_the_cells_and_the_journal_survives(tmp_path):
    store = tmp_path / "store"

    class Lost(Watcher):
        def started(self, total: int, kept: int) -> None:
            store.rmdir()
            store.write_text("not a folder any more")

    sweep = {"targets": ["fake", "fake:do=refuse"], "options": {"awaken": True}, "storage": f"file://{store}"}
    models = [SweepModel("test_resnet")]
    summary = run_sweep(models, folder=tmp_path / "out", watcher=Lost(), **sweep)
    first, second = summary.cells.values()
    assert (first.status, first.kind) == (CellStatus.REFUSED, "ArtifactError")
    assert "store/test_resnet" in first.message
    assert "--storage and its credentials" in first.hint
    assert second.message == "this format has no operation 17"
    store.unlink()
    summary = run_sweep(models, folder=tmp_path / "out", resume=True, **sweep)
    assert [cell.status for cell in summary.cells.values()] == [CellStatus.UNPROVEN, CellStatus.REFUSED]

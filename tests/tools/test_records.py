"""Results of verification are found for files with the same bytes, in any folder, and for no others."""

from __future__ import annotations

import hashlib
import json
import os
import shutil
from pathlib import Path

import platformdirs
import pytest
from timmx.artifact import changes, records
from timmx.cli.terminal import working

FIGURES = {"status": "verified", "reason": "", "snr_db": 101.5, "outputs": []}


@pytest.fixture
def cache(tmp_path, monkeypatch):
    """An empty cache folder."""
    monkeypatch.setattr(platformdirs, "user_cache_path", lambda *_, **__: tmp_path / "cache")
    return tmp_path / "cache" / "verifications"


@pytest.fixture
def file(tmp_path):
    path = tmp_path / "a.bin"
    path.write_bytes(b"weights")
    return path


@pytest.fixture
def folder(tmp_path):
    path = tmp_path / "a.pack"
    (path / "data").mkdir(parents=True)
    (path / "data" / "b").write_bytes(b"b")
    (path / "a").write_bytes(b"a")
    return path


def test_a_copy_has_its_record_and_a_changed_file_does_not(cache, file, tmp_path):
    assert records.recall(file, (file,)) is None
    records.remember((file,), FIGURES, ("a note",))
    found = records.recall(file, (file,))
    assert found["verification"] == FIGURES
    assert found["notes"] == ["a note"]
    assert found["measured"].startswith("20")
    copy = tmp_path / "elsewhere" / "b.bin"
    copy.parent.mkdir()
    shutil.copy(file, copy)
    assert records.recall(copy, (copy,)) == found
    copy.write_bytes(b"weightz")
    assert records.recall(copy, (copy,)) is None


def test_the_digest_of_a_file_is_that_of_sha256sum(file):
    assert records.digest((file,)) == hashlib.sha256(b"weights").hexdigest()


def test_a_folder_is_identified_by_names_and_contents(cache, folder):
    first = records.digest((folder,))
    assert records.digest((folder.rename(folder.with_name("b.pack")),)) == first
    folder = folder.with_name("b.pack")
    (folder / "a").rename(folder / "c")
    renamed = records.digest((folder,))
    (folder / "c").write_bytes(b"c")
    assert len({first, renamed, records.digest((folder,))}) == 3


def test_companions_are_part_of_the_digest(file, tmp_path):
    companion = tmp_path / "a.bin.data"
    companion.write_bytes(b"1")
    first = records.digest((file, companion))
    companion.write_bytes(b"2")
    assert len({records.digest((file,)), first, records.digest((file, companion))}) == 3


def test_the_manifest_in_the_folder_has_priority_if_the_hash_matches(cache, file):
    records.remember((file,), FIGURES)
    entry = {"sha256": records.digest((file,)), "verification": FIGURES | {"snr_db": 99.0}}
    manifest = file.with_name("timmx.json")
    manifest.write_text(json.dumps({"artifacts": {file.name: entry}}))
    found = records.recall(file, (file,))
    assert (found["verification"]["snr_db"], found["source"]) == (99.0, str(manifest))
    for other in ({"artifacts": {file.name: entry | {"sha256": "0"}}}, {"artifacts": []}, [], {"a": 1}):
        manifest.write_text(json.dumps(other))
        assert records.recall(file, (file,))["verification"] == FIGURES
    manifest.write_text("{torn")
    assert records.recall(file, (file,))["verification"] == FIGURES


def test_a_skipped_verification_replaces_no_record(cache, file):
    records.remember((file,), {"status": "skipped", "reason": "--no-verify was given"})
    assert records.recall(file, (file,)) is None
    records.remember((file,), FIGURES)
    records.remember((file,), {"status": "skipped", "reason": "--no-verify was given"})
    assert records.recall(file, (file,))["verification"] == FIGURES


def test_an_unusable_cache_is_ignored(cache, file):
    cache.parent.write_text("a file where the folder should be")
    records.remember((file,), FIGURES)
    assert records.recall(file, (file,)) is None


def test_a_truncated_record_is_ignored(cache, file):
    records.remember((file,), FIGURES)
    (record,) = cache.iterdir()
    record.write_text(record.read_text()[:20])
    assert records.recall(file, (file,)) is None


def test_the_oldest_records_are_dropped(cache, file):
    cache.mkdir(parents=True)
    for number in range(1005):
        record = cache / f"{number:04}.json"
        record.write_text("{}")
        os.utime(record, (number, number))
    records.remember((file,), FIGURES)
    assert len(list(cache.iterdir())) == 1000
    assert not (cache / "0000.json").exists()
    assert (cache / "1004.json").exists()
    assert records.recall(file, (file,)) is not None


def test_the_verification_of_an_export_is_recorded(export, cache, digits, run_timmx, tmp_path):
    done = run_timmx("torch-export", digits, "-o", "a.pt2", "--json")
    assert done.exit_code == 0
    path = tmp_path / "a.pt2"
    found = records.recall(path, (path,))
    assert found["verification"] == json.loads(done.stdout)["verification"]


def test_a_damaged_record_next_to_the_file_is_reported(file, cache, capsys):
    with working(verbose=False):
        (file.parent / records.MANIFEST_NAME).write_text("{")
        assert records.recall(file, [file]) is None
    assert f"{file.parent / records.MANIFEST_NAME} is damaged" in capsys.readouterr().err


@pytest.fixture
def check():
    """Compares an artifact with the file that timmx wrote: returns the warning."""
    return lambda *files, **metadata: changes.ChangeCheck(files, metadata).finish()


def test_a_changed_file_is_noticed_by_the_record_of_its_export(cache, file, check):
    assert check(file) == ""
    changes.remember_export((file,), {})
    assert check(file) == ""
    before = hashlib.sha256(file.read_bytes()).hexdigest()
    file.write_bytes(b"weighty")
    after = hashlib.sha256(file.read_bytes()).hexdigest()
    warning = check(file)
    assert "a.bin is not the file that timmx wrote" in warning
    assert before[:12] in warning
    assert after[:12] in warning
    records.remember((file,), FIGURES)  # timmx verify
    assert check(file) == ""
    file.write_bytes(b"other")
    changes.remember_export((file,), {})
    assert check(file) == ""


def test_a_changed_file_is_noticed_by_the_manifest_next_to_it(cache, folder, check, capsys):
    manifest = folder.parent / records.MANIFEST_NAME
    manifest.write_text(json.dumps({"artifacts": {"a.pack": {"sha256": records.digest((folder,))}}}))
    assert check(folder) == ""
    (folder / "data" / "b").write_bytes(b"c")
    assert str(manifest) in check(folder)
    for damaged in ("", "[]", '{"artifacts": []}'):
        manifest.write_text(damaged)
        with working(verbose=False):
            assert check(folder) == ""
        assert f"{manifest} is damaged" in capsys.readouterr().err
    manifest.write_text('{"artifacts": {"a.pack": {"sha256": 1}}}')
    assert check(folder) == ""


def test_a_file_that_was_moved_and_changed_is_noticed_by_its_metadata(cache, file, check):
    changes.remember_export((file,), {"weights": "1"})
    moved = file.rename(file.parent / "moved.bin")
    assert check(moved, weights="1") == ""
    moved.write_bytes(b"weightz")
    assert check(moved, weights="2") == ""
    warning = check(moved, weights="1")
    assert (
        "moved.bin has the metadata of a file that timmx exported on this machine, and is not that file"
        in warning
    )
    changes.remember_export((moved,), {"weights": "1"})  # another converter's
    assert check(moved.rename(file.parent / "b.bin"), weights="1") == ""


def test_a_file_that_was_renamed_and_changed_is_noticed_by_the_manifest(cache, file, check):
    entries = {"a.bin": {"sha256": records.digest((file,))}, "b.bin": {}, "c.bin": []}
    (file.parent / records.MANIFEST_NAME).write_text(json.dumps({"artifacts": entries}))
    renamed = file.rename(file.parent / "renamed.bin")
    assert check(renamed) == ""
    renamed.write_bytes(b"weightz")
    assert "renamed.bin is none of the files in" in check(renamed)
    changes.remember_export((renamed,), {})  # an export of its own into this folder
    assert check(renamed) == ""


def test_a_large_file_is_hashed_once_for_each_state(cache, file, check, monkeypatch):
    file.write_bytes(bytes(5 * 10**6))
    hashed = []
    monkeypatch.setattr(records, "sha256", lambda path: hashed.append(path) or "0" * 64)
    assert check(file) == ""
    assert not hashed  # nothing is known of it
    changes.remember_export((file,), {})
    assert check(file) == ""
    assert len(hashed) == 1
    info = file.stat()
    os.utime(file, ns=(info.st_atime_ns, info.st_mtime_ns + 10**9))
    for _ in range(2):
        assert check(file) == ""
        assert len(hashed) == 2


def test_a_cache_that_cannot_be_written_is_ignored(cache, file, check):
    cache.parent.write_text("not a folder")
    changes.remember_export((file,), {})
    assert check(file) == ""


def test_an_export_is_remembered_and_a_flipped_bit_in_it_is_reported(
    cache, export, digits, tmp_path, run_timmx
):
    path = export("onnx", digits, tmp_path / "digits.onnx", verify=False).path
    image = next(Path(digits.removeprefix("local-dir:")).glob("samples/3/*.png"))
    arguments = (
        ("predict", path, image),
        ("eval", path, "--data", image.parents[1], "--limit", 2),
    )
    for words in arguments:
        assert "is not the file that timmx wrote" not in run_timmx(*words).stderr
    content = bytearray(path.read_bytes())
    content[len(content) // 2] ^= 1  # in the weights
    path.write_bytes(content)
    for words in arguments:
        result = run_timmx(*words)
        assert result.exit_code == 0
        assert "warning: digits.onnx is not the file that timmx wrote" in result.stderr
    path.write_bytes(b"no ONNX file")
    assert run_timmx(*arguments[0]).exit_code == 2

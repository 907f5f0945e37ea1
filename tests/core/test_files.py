"""Atomic writing: a file is replaced completely or not at all, whatever interrupts the writing."""

from __future__ import annotations

import os
import stat
import subprocess
import sys
import threading
from pathlib import Path

import pytest
from timmx.base.files import atomic_write, may_replace, same_file
from timmx.base.text import locale_problem


def names(folder: Path) -> list[str]:
    return sorted(path.name for path in folder.iterdir())


def write(path: Path, text: str) -> None:
    with atomic_write(path) as file:
        file.write(text)


def test_readers_see_the_old_content_until_the_new_is_complete(tmp_path):
    path = tmp_path / "new" / "folder" / "cache.json"
    write(path, "old")
    with atomic_write(path) as file:
        file.write("new")
        file.flush()
        assert path.read_text() == "old"
    assert path.read_text() == "new"
    assert names(path.parent) == ["cache.json"]


@pytest.mark.parametrize("error", [OSError, KeyboardInterrupt])
def test_a_write_that_fails_leaves_the_old_file_and_nothing_else(tmp_path, error):
    path = tmp_path / "cache.json"
    write(path, "old")

    def pieces():
        yield "half"
        raise error

    with pytest.raises(error), atomic_write(path) as file:
        file.writelines(pieces())
    assert path.read_text() == "old"
    assert names(tmp_path) == ["cache.json"]


def test_bytes_and_newlines_are_written_unchanged(tmp_path):
    with atomic_write(tmp_path / "bytes", "wb") as file:
        file.write(b"\r\n\0")
    assert (tmp_path / "bytes").read_bytes() == b"\r\n\0"
    with atomic_write(tmp_path / "text", newline="", errors="surrogateescape") as file:
        file.write("é\udcff\r\n")
    assert (tmp_path / "text").read_bytes() == b"\xc3\xa9\xff\r\n"


def test_a_link_stays_and_its_target_is_replaced(tmp_path):
    target, link = tmp_path / "there" / "real", tmp_path / "link"
    target.parent.mkdir()
    link.symlink_to(target)
    write(link, "through a link to nothing")
    write(link, "through a link")
    assert link.is_symlink()
    assert target.read_text() == "through a link"
    assert names(target.parent) == ["real"]


@pytest.mark.skipif(os.name == "nt", reason="Windows has no permission bits")
def test_permission_bits_are_those_of_the_old_file_or_of_the_umask(tmp_path):
    path = tmp_path / "report.html"
    before = os.umask(0o027)
    try:
        write(path, "new")
        assert stat.S_IMODE(path.stat().st_mode) == 0o640
        path.chmod(0o606)
        write(path, "newer")
        assert stat.S_IMODE(path.stat().st_mode) == 0o606
    finally:
        os.umask(before)


@pytest.mark.skipif(os.name == "nt", reason="Windows has no /dev")
def test_a_device_and_a_pipe_are_written_directly(process, tmp_path):
    write(Path(os.devnull), "gone")
    assert Path(os.devnull).is_char_device()
    code = "from pathlib import Path; from timmx.base.files import atomic_write\n"
    code += "with atomic_write(Path('/dev/stdout')) as file: file.write('a,b')"
    found = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert found.stdout == "a,b"


def test_threads_that_write_one_file_do_not_mix(tmp_path):
    path, texts = tmp_path / "cache.json", [digit * 100_000 for digit in "0123456789"]
    threads = [threading.Thread(target=write, args=(path, text)) for text in texts]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert path.read_text() in texts
    assert names(tmp_path) == ["cache.json"]


def test_a_folder_at_the_path_is_an_error(tmp_path):
    with pytest.raises(IsADirectoryError):
        write(tmp_path, "text")


def test_only_files_of_the_same_kind_may_be_replaced(tmp_path):
    page = tmp_path / "page.html"
    for content, expected in ((b"", True), (b"\n <HTML lang>", True), (b"my notes", False)):
        page.write_bytes(content)
        assert may_replace(page, "--report", b"<!doctype html", b"<html") is expected
    assert may_replace(tmp_path / "new.html", "--report", b"<html")
    assert may_replace(Path(os.devnull), "--report", b"<html"), "a device is not replaced"


def test_different_paths_of_one_file_are_recognized(tmp_path):
    one, hard, link, folder = (tmp_path / name for name in ("one", "hard", "link", "folder"))
    one.touch()
    folder.mkdir()
    os.link(one, hard)
    link.symlink_to(one)
    (tmp_path / "to nothing").symlink_to(tmp_path / "new")
    for path in (hard, link, folder / ".." / "one"):
        assert same_file(one, path)
    assert same_file(tmp_path / "new", tmp_path / "to nothing")
    assert not same_file(one, tmp_path / "new")


def test_a_utf8_path_under_another_locale_is_not_called_a_path_without_utf8(monkeypatch):
    assert locale_problem("a\udcff") == ""
    monkeypatch.setattr(os, "fsencode", lambda path: path.encode("ascii", "surrogateescape"))
    monkeypatch.setattr(sys, "getfilesystemencoding", lambda: "ascii")
    under_c = "mö.onnx".encode().decode("ascii", "surrogateescape")  # as Python reads it with LC_ALL=C
    assert (
        locale_problem(under_c) == "the locale of this process is not UTF-8 (it is ascii), and this path is"
    )

"""Label files in common formats."""

from __future__ import annotations

import json

import pytest
from timmx.errors import ConfigurationError
from timmx.model.labels import read_labels


@pytest.mark.parametrize(
    ("name", "data"),
    [
        ("lines.txt", b"cat\ndog\nno bird\n"),
        ("no-end.txt", b"cat\ndog\nno bird"),
        ("windows.txt", b"cat\r\ndog\r\nno bird\r\n\r\n"),
        ("bom.txt", b"\xef\xbb\xbfcat\ndog\nno bird\n"),
        ("utf16.txt", "cat\r\ndog\r\nno bird\r\n".encode("utf-16")),
        ("blanks.txt", b"cat\n\ndog\n\nno bird\n"),
        ("spaces.txt", b"  cat\t\ndog \n no bird\n\n \n"),
        ("list.json", b'["cat", "dog", "no bird"]'),
        ("bom.json", b'\xef\xbb\xbf["cat", "dog", "no bird"]'),
        ("map.json", b'{"2": "no bird", "0": "cat", "1": "dog"}'),
        ("map.txt", b'{"0": "cat", "1": "dog", "2": "no bird"}'),
    ],
)
def test_every_file_format_gives_the_names_in_order(tmp_path, name, data):
    (tmp_path / name).write_bytes(data)
    assert read_labels(tmp_path / name) == ("cat", "dog", "no bird")


def test_names_of_several_classes_get_their_class_index(tmp_path):
    (tmp_path / "imagenet.txt").write_text("crane\nheron\ncrane\n")
    assert read_labels(tmp_path / "imagenet.txt") == ("crane (0)", "heron", "crane (2)")


def test_names_from_python_are_stripped():
    assert read_labels(["cat", " dog "]) == ("cat", "dog")


def test_names_in_other_scripts_and_with_special_characters(tmp_path):
    names = ["Käfer", "猫", "a\u2028b", "[unknown]", "x, y"]
    (tmp_path / "a.txt").write_text("\n".join(names), encoding="utf-8")
    (tmp_path / "b.json").write_text(json.dumps(names), encoding="utf-8")
    assert read_labels(tmp_path / "a.txt") == read_labels(tmp_path / "b.json") == tuple(names)


@pytest.mark.parametrize(
    ("name", "data", "words"),
    [
        ("a.txt", b"", "has no names"),
        ("a.txt", b" \n\n", "has no names"),
        ("a.json", b'["cat", " "]', "class 1 has a blank name"),
        ("a.txt", b"cat\nd\xffg\n", "not UTF-8"),
        ("a.json", b'["cat", ', "not valid JSON: .* line 1"),
        ("a.json", b'"cat"', "JSON list of names"),
        ("a.json", b'["cat", 3]', "name of class 1 is 3"),
        ("a.json", b'{"0": "cat", "2": "dog"}', "must be 0 to 1"),
        ("a.json", b'{"1": "cat", "2": "dog"}', "must be 0 to 1"),
        ("a.json", b'{"0": "cat", "0": "dog"}', "'0' is given twice"),
        ("a.json", b'{"first": "cat"}', "not a class index"),
        ("a.json", b'{"cat": 0, "dog": 2}', "maps names to numbers"),
    ],
)
def test_invalid_labels_are_refused(tmp_path, name, data, words):
    (tmp_path / name).write_bytes(data)
    with pytest.raises(ConfigurationError, match=words) as caught:
        read_labels(tmp_path / name)
    assert name in str(caught.value)


def test_unreadable_label_files_are_reported(tmp_path):
    with pytest.raises(ConfigurationError, match="No such file"):
        read_labels(tmp_path / "nowhere.txt")
    with pytest.raises(ConfigurationError, match="cannot be read"):
        read_labels(tmp_path)

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


@pytest.mark.parametrize(
    "content",
    [
        *("0. cat\n1. dog\n", "0) cat\n1) dog\n", "[0] cat\n[1] dog\n", "#0 cat\n#1 dog\n", "0|cat\n1|dog\n"),
        *("0=cat\n1=dog\n", "0 - cat\n1 - dog\n", "0 -> cat\n1 -> dog\n", "- 0: cat\n- 1: dog\n"),
        *("cat 0\ndog 1\n", "dog: 1\ncat: 0\n", "cat=0\ndog=1\n", "dog,1\ncat,0\n", "cat (0)\ndog (1)\n"),
        *(
            "0: 'cat',\n1: 'dog',\n",
            "'cat',\n'dog'\n",
            '"cat"\n"dog"\n',
            "- cat\n- dog\n",
            "names:\n- cat\n- dog\n",
        ),
        *('"0","cat"\n"1","dog"\n', '"id","name"\n"1","dog"\n"0","cat"\n', "id;name\n0;cat\n1;dog\n"),
        *("id,name,descr\n0,cat,Felis catus\n1,dog,Canis\n", ",class,label\n0,0,cat\n1,1,dog\n"),
        *(
            "# classes\ncat\ndog\n",
            "# classes\n{0: 'cat', 1: 'dog'}\n",
            "classes = ['cat', 'dog']\n",
            "('cat', 'dog')",
        ),
        *(
            "n02119789 0 cat\nn02100735 1 dog\n",
            "n02119789\tcat\nn02100735\tdog\n",
            "n02119789,cat\nn02100735,dog\n",
        ),
        "0 n02119789 cat\n1 n02100735 dog\n",
    ],
)
def test_numbers_quotes_and_marks_are_not_part_of_names(tmp_path, content):
    (tmp_path / "labels.txt").write_text(content)
    assert read_labels(tmp_path / "labels.txt") == ("cat", "dog")


def test_wordnet_ids_with_class_indices_are_names_in_that_order(tmp_path):
    (tmp_path / "labels.txt").write_text("n01440764 1\nn01443537 0\n")
    assert read_labels(tmp_path / "labels.txt") == ("n01443537", "n01440764")


@pytest.mark.parametrize(
    ("content", "reason"),
    [
        ("0 cat\n1 dog\n3 elk\n", "they are 0, 1, 3"),
        ("0 cat\n1 dog\n1 elk\n", "1 is given 2 times"),
        ("2 cat\n3 dog\n4 elk\n", "they are 2, 3, 4"),
        ("281 tabby\n282 tiger cat\n285 Egyptian cat\n", "they are 281, 282, 285"),
        ("1. cat\n2. dog\n", "numbered from 1 to 2"),
        ("cat 1\ndog 2\n", "numbered from 1 to 2"),
        ("cat,0\ndog,2\nelk,3\n", "they are 0, 2, 3"),
        ("cat 0\ndog 2\nelk 3\n", "they are 0, 2, 3"),
        ("0 cat\n1 dog\nelk\n", "2 of its 3 lines begin with a number"),
        ("cat 0\ndog 1\nelk\n", "2 of its 3 lines end with a number"),
        ("0-cat\n1-dog\n2-elk\n", "3 of its 3 lines begin with a number"),
        ("0 stars\n1 star\n2 stars\n", "many names are equal"),
        ("n02119789 1 kit_fox\nn02100735 2 English_setter\n", "numbered from 1 to 2"),
        ("n01440764 0\nn01443537 2\n", "they are 0, 2"),
        ("0,cat,Felis catus\n1,dog,Canis\n", "3 columns"),
        ("cat\tFelis\ndog\tCanis\n", "2 columns separated by a tab"),
        ("cat,Felis\ndog,Canis\n", "2 columns separated by a comma"),
        ("label,count\ncat,1\ndog,0\n", "2 columns"),
        ("cat;dog;elk\n", "one line, with 3 values"),
        ("cat,\ndog,\nelk\n", "lines end with"),
        ("label\ncat\ndog\n", "could be a header"),
        ("{0: 'cat', '0': 'dog'}", "given twice"),
        ("{0: 'cat', 0: 'dog'}", "given twice"),
        ("path: ../x\nnames:\n  0: cat\n  1: dog\n", "part of a document"),
        ("item {\n  id: 1\n  name: 'cat'\n}\n", "part of a document"),
        ("<html></html>\n", "part of a document"),
        ("cat\0\ndog\n", "control character"),
        ("cat " + 5000 * "x" + "\n", "a line of 5,004 characters"),
        ("0::cat\n1::dog\n", "would begin with ':'"),
        ("class_0 cat\nclass_1 dog\n", "numbered from 0, in a form that is not known"),
        ("label_0: cat\nlabel_1: dog\n", "numbered from 0"),
        ("id=0 name=cat\nid=1 name=dog\n", "numbered from 0"),
        ("0.0 cat\n1.0 dog\n", "numbered from 0"),
        ('"0" cat\n"1" dog\n', "numbered from 0"),
        ("'0': 'cat'\n'1': 'dog'\n", "numbered from 0"),
        ("0~cat\n1~dog\n", "numbered from 0"),
        ("{1} cat\n{2} dog\n", "numbered from 1"),
        ("0cat\n1dog\n", "numbered from 0"),
        ("0x0 cat\n0x1 dog\n", "numbered from 0"),
        ("-1: bg\n0: cat\n1: dog\n", "2 of its 3 lines begin with a number"),
        ("0\uff1acat\n1\uff1adog\n", "numbered from 0"),  # a full-width colon
        ("\u2460 cat\n\u2461 dog\n", "numbered from 1"),  # circled digits
        ("cat\n1 dog\nelk\n3 fox\n", "some of its lines begin with their number"),
        ("a) cat\nb) dog\n", "numbered with letters"),
        ("I. cat\nII. dog\n", "numbered with letters"),
        ("<li>cat</li>\n<li>dog</li>\n", "part of a document"),
        ('item { id: 1 name: "cat" }\nitem { id: 2 name: "dog" }\n', "part of a document"),
        ("0: n01440764, tench\n1: n01443537, goldfish\n", "WordNet ID"),
        ("tench n01440764\ngoldfish n01443537\n", "WordNet ID"),
    ],
)
def test_numbers_and_columns_that_cannot_be_read_with_certainty_are_refused(tmp_path, content, reason):
    (tmp_path / "labels.txt").write_text(content)
    with pytest.raises(ConfigurationError, match=reason) as caught:
        read_labels(tmp_path / "labels.txt")
    assert caught.value.hint


@pytest.mark.parametrize(
    "names",
    [
        *(
            ["7-Eleven", "3 musketeers", "cat", "dog"],
            ["101 dalmatian", "cat"],
            ["Boeing 737", "Airbus A320", "Cessna 172"],
        ),
        *(
            ["Acura RL Sedan 2012", "Audi S4 2012"],
            ["black bear, Ursus", "cat, Felis"],
            ["12-inch", "7-inch", "LP"],
        ),
        *(
            ["0.5 mm", "1.5 mm"],
            ["3D printer", "2nd floor"],
            ["C++", "C#", "[unknown]"],
            [":)", ":("],
            ["0", "1", "2"],
        ),
        *(
            ["digit 0", "digit 1"],
            ["C. albicans", "C. glabrata"],
            ["A1 road", "A3 road"],
        ),
        *(["AC/DC", "a;b", "x|y"], ["rock 'n' roll", '12" record'], ["label", "cat"], ["3 musketeers"]),
    ],
)
def test_numbers_and_marks_of_single_names_stay(tmp_path, names):
    (tmp_path / "labels.txt").write_text("\n".join(names) + "\n")
    assert read_labels(tmp_path / "labels.txt") == tuple(names)


def test_utf16_without_a_byte_order_mark_is_named(tmp_path):
    (tmp_path / "labels.txt").write_bytes("cat\ndog\n".encode("utf-16-le"))
    with pytest.raises(ConfigurationError, match="UTF-16 or UTF-32 without a byte order mark"):
        read_labels(tmp_path / "labels.txt")

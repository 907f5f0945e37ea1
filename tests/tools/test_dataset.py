"""Labeled images: folders and CSVs that match an artifact, and one clear error for those that do not."""

from __future__ import annotations

import os
import shutil
from collections import Counter
from pathlib import Path

import pytest
from timmx.base.progress import Reporter, reporting
from timmx.errors import ConfigurationError
from timmx.tools.eval.dataset import read_dataset

SAMPLES = Path(__file__).resolve().parents[2] / "examples" / "digits" / "samples"
DIGITS = tuple("0123456789")


class Heard(Reporter):
    """Records warnings."""

    def __init__(self):
        self.warnings = []

    def warn(self, text):
        self.warnings.append(text)


@pytest.fixture
def heard():
    found = Heard()
    with reporting(found):
        yield found.warnings


@pytest.fixture
def folder(tmp_path):
    """A function that creates class folders with the given numbers of images."""

    def make(**counts):
        for name, count in counts.items():
            (tmp_path / "data" / name).mkdir(parents=True)
            for number in range(count):
                shutil.copy(next(SAMPLES.glob("3/*.png")), tmp_path / "data" / name / f"{number}.png")
        return tmp_path / "data"

    return make


def table(tmp_path, *lines):
    file = tmp_path / "images.csv"
    file.write_text("\n".join(lines), "utf-8")
    return file


def refusal(*arguments, **options):
    with pytest.raises(ConfigurationError) as caught:
        read_dataset(*arguments, **options)
    return str(caught.value)


def test_folders_are_matched_with_labels_by_name():
    found = read_dataset(SAMPLES, "f.onnx", DIGITS, 10)
    assert len(found.images) == found.total == 500
    assert all(image.path.parent.name == DIGITS[image.truth] for image in found.images)
    assert found.images[0].name == "0/0010.png"


def test_labels_in_another_order_give_other_numbers():
    found = read_dataset(SAMPLES, "f.onnx", DIGITS[::-1], 10)
    assert {image.truth for image in found.images if image.name.startswith("0/")} == {9}


def test_images_at_any_depth_count_and_hidden_folders_do_not(folder, tmp_path):
    data = folder(cat=1, dog=1)
    shutil.copytree(data / "cat", data / "cat" / "deeper" / "still")
    shutil.copytree(data / "cat", data / ".cache")
    found = read_dataset(data, "f.onnx", ("cat", "dog"), 2)
    assert Counter(image.truth for image in found.images) == {0: 2, 1: 1}


def test_a_mismatch_shows_both_sides_and_the_fix(folder):
    said = refusal(folder(cat=1, dog=1, cow=1), "f.onnx", ("dog", "tabby", "horse"), 3)
    assert "3 folder names; f.onnx has no class for 2 of them: cat, cow" in said
    assert "its 3 classes are dog, tabby, horse\n" in said
    assert "hint: give --class-map FILE" in said


def test_a_mismatch_of_many_shows_the_first_and_how_many_more(folder):
    said = refusal(folder(**{f"n{number}": 1 for number in range(12)}), "f.onnx", DIGITS, 10)
    assert "n0, n1, n2, n3, n4 and 7 more" in said
    assert "0, 1, 2, 3, 4 and 5 more" in said


def test_a_class_map_matches_other_names_with_the_classes(folder, tmp_path):
    (tmp_path / "map.txt").write_text("katze\nhund\n", "utf-8")
    found = read_dataset(folder(hund=2, katze=1), "f.onnx", ("cat", "dog"), 2, tmp_path / "map.txt")
    assert Counter(image.truth for image in found.images) == {1: 2, 0: 1}
    assert found.classes == ("cat", "dog")


@pytest.mark.parametrize(
    ("content", "said"),
    [
        ("cat\n", "has 1 name (cat), and the file has 2 classes"),
        ("cat\ncat\n", "more than once: cat"),
        ("cat\ncow\n", "f.onnx has no class for 1 of them: dog; the 2 names of --class-map"),
        (None, "cannot be read"),
    ],
)
def test_a_class_map_that_does_not_fit_is_refused(folder, tmp_path, content, said):
    if content:
        (tmp_path / "map.txt").write_text(content, "utf-8")
    assert said in refusal(folder(cat=1, dog=1), "f.onnx", None, 2, tmp_path / "map.txt")


def test_without_labels_the_folders_are_the_classes_and_a_warning_says_so(folder, heard):
    found = read_dataset(folder(cat=1, ape=1, bee=0), "f.onnx", None, 3)
    assert found.classes == ("ape", "bee", "cat")
    assert [image.truth for image in found.images] == [0, 2]
    assert "used as the classes in sorted order." in heard[0]


def test_without_labels_numbers_in_names_count_by_value_as_in_timm(folder, heard):
    from timm.data.readers.reader_image_folder import find_images_and_targets

    data = folder(n2=1, n10=1, N3=1)
    found = read_dataset(data, "f.onnx", None, 3)
    _, by_name = find_images_and_targets(str(data))
    assert {name: number for number, name in enumerate(found.classes)} == by_name
    assert "(numbers by value, as in timm, unlike torchvision)" in heard[0]


def test_without_labels_another_number_of_folders_is_refused(folder):
    said = refusal(folder(cat=1, dog=1), "f.onnx", None, 3)
    assert "does not name its 3 classes" in said
    assert "2 folders (cat, dog)" in said
    assert "hint: give --class-map FILE" in said


@pytest.mark.parametrize(
    ("arrange", "said"),
    [
        (lambda data: None, "neither folders nor images"),
        (lambda data: (data / "cat").mkdir(), "no images in its folders"),
        (
            lambda data: shutil.copy(next(SAMPLES.glob("3/*.png")), data),
            "1 image, but no folders with images",
        ),
    ],
)
def test_a_folder_without_class_folders_is_refused(tmp_path, arrange, said):
    arrange(tmp_path)
    assert said in refusal(tmp_path, "f.onnx", DIGITS, 10)


def test_images_outside_the_class_folders_are_reported(folder, heard):
    data = folder(cat=1, dog=1)
    shutil.copy(data / "cat" / "0.png", data)
    assert len(read_dataset(data, "f.onnx", ("cat", "dog"), 2).images) == 2
    assert "1 image directly in" in heard[0]


@pytest.mark.parametrize("header", ["path,label", "Label , PATH,split", None])
def test_a_csv_with_and_without_header(tmp_path, folder, header):
    folder(cat=1, dog=2)
    rows = [("data/cat/0.png", "cat"), ("data/dog/0.png", "dog"), ("data/dog/1.png", "dog")]
    lines = [
        f"{label},{path},x" if header and "split" in header else f"{path},{label}" for path, label in rows
    ]
    found = read_dataset(
        table(tmp_path, *([header] if header else []), *lines, ""), "f.onnx", ("cat", "dog"), 2
    )
    assert [(image.name, image.truth) for image in found.images] == [
        ("data/cat/0.png", 0),
        ("data/dog/0.png", 1),
        ("data/dog/1.png", 1),
    ]


def test_numbers_that_are_names_are_read_as_names_with_a_warning(tmp_path, folder, heard):
    folder(cat=1)
    file = table(tmp_path, "path,label", "data/cat/0.png,0")
    assert read_dataset(file, "f.onnx", ("1", "0"), 2).images[0].truth == 1
    assert "read as class names, not as class indices: 0 is class 1." in heard[0]
    read_dataset(file, "f.onnx", ("0", "1"), 2)
    assert len(heard) == 1


def test_numbers_that_are_not_names_are_class_indices(tmp_path, folder, heard):
    folder(cat=2)
    file = table(tmp_path, "path,label", "data/cat/0.png,1", "data/cat/1.png,0")
    for labels in (("cat", "dog"), None):
        assert [image.truth for image in read_dataset(file, "f.onnx", labels, 2).images] == [1, 0]
    assert heard == []


def test_a_mixture_of_names_and_numbers_is_refused(tmp_path, folder):
    folder(cat=10)
    lines = [f"data/cat/{number}.png,{number}" for number in range(10)]
    file, labels = table(tmp_path, "path,label", *lines), tuple(map(str, range(1, 11)))
    said = refusal(file, "f.onnx", labels, 10)
    assert "names of classes in f.onnx (1, 2, 3, 4, 5 and 4 more)" in said
    assert "can only be class indices (0); the 10 names are 1, 2, 3, 4, 5 and 5 more\n" in said
    assert "or give --class-map FILE" in said.partition("hint: ")[2]
    (tmp_path / "map.txt").write_text("\n".join(map(str, range(10))), "utf-8")
    found = read_dataset(file, "f.onnx", labels, 10, tmp_path / "map.txt")
    assert [image.truth for image in found.images] == list(range(10))
    assert "(cat) and labels that can only be class indices (1)" in refusal(
        table(tmp_path, "path,label", "data/cat/0.png,cat", "data/cat/1.png,1"), "f.onnx", ("cat", "dog"), 2
    )


@pytest.mark.parametrize(
    ("lines", "said"),
    [
        ([], "is empty"),
        (["path,label"], "has a header, but no images"),
        (["file,class", "data/cat/0.png,cat"], "needs the columns path and label, but has file, class"),
        (["data/cat/0.png", "data/cat/0.png"], "put path,label into its first line"),
        (["path,label", "data/cat/0.png,"], "has no label in line 2"),
        (["path,label", "data/cat/0.png,cat,dog"], "has 3 cells in line 2, more than its first line"),
        (["data/cat/0.png,cat", "data/cat/0.png,cat,dog"], "has 3 cells in line 2"),
        (["path,label,label", "data/cat/0.png,cat,dog"], "has several columns label"),
        (["path,label", "data/cat/0.png;cat"], "is in line 2 separated by semicolons"),
        (["sep=;", "path;label", "data/cat/0.png;cat"], "is separated by semicolons"),
        (["path,label", "data/cat/0.png,cat;dog"], "separate several labels of an image with |"),
        (["path,label", "data/cat/0.png,cow"], "1 label; f.onnx has no class for 1 of them: cow"),
        (["path,label", "data/cat/0.png,2"], "has no class for 1 of them: 2; its 2 classes are cat, dog"),
        (
            ["path,label", "a.png,cat", "b.png,cat", "c.png,dog", "d.png,dog", "data/cat/0.png,cat"],
            "5 images, of which 4 do not exist",
        ),
    ],
)
def test_a_csv_that_does_not_fit_is_refused(tmp_path, folder, lines, said):
    folder(cat=1)
    found = refusal(table(tmp_path, *lines), "f.onnx", ("cat", "dog"), 2)
    assert said in found


def test_the_first_missing_images_of_a_csv_are_named(tmp_path):
    said = refusal(table(tmp_path, "path,label", *[f"{x}.png,cat" for x in "abcde"]), "f", ("cat", "dog"), 2)
    assert "a.png, b.png, c.png and 2 more" in said


@pytest.mark.parametrize(
    ("data", "said", "hint"),
    [
        (b"path label\n3/a.png 3\n", "separated by spaces", "save it with commas"),
        (b"3/a.png 3\n3/b.png 3\n", "separated by spaces", "save it with commas"),
        ("path,label\n3/a.png,3\n".encode("utf-16"), "in UTF-16", "save it as UTF-8"),
        ("path,label\n3/a.png,3\n".encode("utf-16-le"), "in UTF-16", "save it as UTF-8"),
        (b"path,label\nC:\\data\\3\\a.png,3\n", "do not exist", "paths of Windows"),
        (b"path,label\n\\\\server\\3\\a.png,3\n", "do not exist", "paths of Windows"),
        (b"path,label\n3\\a.png,3\n", "do not exist", "write / instead"),
    ],
)
def test_a_csv_of_another_kind_is_named(tmp_path, data, said, hint):
    (tmp_path / "images.csv").write_bytes(data)
    with pytest.raises(ConfigurationError, match=said) as error:
        read_dataset(tmp_path / "images.csv", "f.onnx", ("3", "4"), 2)
    if os.sep == "/" or "do not exist" not in said:
        assert hint in error.value.hint


def test_a_binary_file_is_refused_as_a_csv():
    assert "cannot be read as a CSV in UTF-8" in refusal(next(SAMPLES.glob("3/*.png")), "f.onnx", DIGITS, 10)


@pytest.mark.parametrize("most", [1, 7, 10, 33, 499, 500, 900])
def test_a_limit_is_balanced_over_the_classes(most):
    found = read_dataset(SAMPLES, "f.onnx", DIGITS, 10).limited(most)
    counts = Counter(image.truth for image in found.images)
    assert len(found.images) == min(most, 500)
    assert found.total == 500
    if most < 480:
        assert max(counts.values()) - min(counts.get(truth, 0) for truth in range(10)) <= 1


def test_a_limit_takes_more_images_of_large_classes_if_others_are_small(folder):
    found = read_dataset(folder(cat=1, dog=9), "f.onnx", ("cat", "dog"), 2).limited(6)
    assert Counter(image.truth for image in found.images) == {0: 1, 1: 5}

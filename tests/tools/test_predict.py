"""`timmx predict`: the most likely classes of images, folders and globs; and the stream of images that it uses."""

from __future__ import annotations

import csv
import gc
import io
import json
import os
import shutil
import signal
import subprocess
import sys
import threading
from pathlib import Path

import numpy as np
import pytest
import timmx
from PIL import Image
from timmx.base.threads import usable_cores
from timmx.errors import ArtifactError
from timmx.tools.subject.stream import answers, open_for_stream
from timmx.tools.subject.subject import describe, open_subject

SAMPLES = Path(__file__).resolve().parents[2] / "examples" / "digits" / "samples"


@pytest.fixture(scope="module")
def one(exported_digits) -> Path:
    """A file with a batch size of 1."""
    return exported_digits("onnx")


@pytest.fixture(scope="module")
def many(exported_digits) -> Path:
    """A file with a dynamic batch size."""
    return exported_digits("onnx", dynamic_batch=True)


@pytest.fixture(scope="module")
def three(exported_digits) -> Path:
    """A file with a batch size of 3 that returns probabilities."""
    return exported_digits("torch-export", batch_size=3, softmax=True)


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """photos/: two digits in subfolders, one directly in it, a damaged image, and a text file."""
    photos = tmp_path / "photos"
    for digit in (3, 7):
        (photos / f"of {digit}").mkdir(parents=True)
        shutil.copy(sample(digit), photos / f"of {digit}" / f"a{digit}.png")
    Image.open(sample(5)).convert("RGB").save(photos / "five.JPG")
    (photos / "note.txt").write_text("no image")
    return photos


def sample(digit: int) -> Path:
    return sorted((SAMPLES / str(digit)).glob("*.png"))[1]


def paths_of(result) -> list[str]:
    return [image["path"] for image in json.loads(result.stdout)["images"]]


def test_digits_are_classified_correctly(run_timmx, one: Path) -> None:
    result = run_timmx("predict", one, *map(sample, range(10)), "--json")
    assert result.exit_code == 0
    found = json.loads(result.stdout)
    assert (found["file"], found["model"], found["unreadable"]) == (str(one), "digits", [])
    assert [image["predictions"][0]["label"] for image in found["images"]] == list("0123456789")
    for image in found["images"]:
        shares = [guess["probability"] for guess in image["predictions"]]
        assert len(shares) == 5
        assert shares == sorted(shares, reverse=True)
        assert sum(shares) <= 1.00001


def test_exif_orientations_and_the_limit_of_pixels(run_timmx, one: Path, tmp_path: Path) -> None:
    exif = Image.Exif()
    exif[0x0112] = 3
    Image.open(sample(6)).rotate(180).save(tmp_path / "turned.png", exif=exif)
    labels = [
        json.loads(run_timmx("predict", one, "turned.png", "--json", *flags).stdout)["images"][0][
            "predictions"
        ][0]["label"]
        for flags in ((), ("--exif",))
    ]
    assert labels[0] != "6"
    assert labels[1] == "6"
    side = Image.open(sample(6)).width
    assert run_timmx("predict", one, "turned.png", "--max-pixels", side**2).exit_code == 0
    result = run_timmx("predict", one, "turned.png", "--max-pixels", side**2 - 1)
    assert result.exit_code == 2
    assert "hint: raise the limit with --max-pixels" in result.stderr


def test_files_folders_and_globs(run_timmx, one: Path, folder: Path) -> None:
    def asked(*names: str) -> list[str]:
        result = run_timmx("predict", one, *names, "--json", "--top-k", 1)
        assert result.exit_code == 0, result.stderr
        return paths_of(result)

    five, three, seven = "photos/five.JPG", "photos/of 3/a3.png", "photos/of 7/a7.png"
    assert asked("photos") == [five, three, seven]
    assert asked("photos/*/*.png") == [three, seven]
    assert sorted(asked("photos/**")) == [five, three, seven]
    assert asked("photos/**/*.png", five) == [three, seven, five]
    assert asked("photos/of ?") == [three, seven]
    assert asked(seven, "photos", seven) == [seven, five, three]
    assert asked(str(folder / "*.JPG")) == [str(folder / "five.JPG")]
    shutil.copy(folder / "five.JPG", folder / "picture[1].weird")
    assert asked("photos/picture[1].weird") == ["photos/picture[1].weird"]
    assert asked("photos/*.weird") == ["photos/picture[1].weird"]


def test_text_csv_and_json_agree(run_timmx, one: Path, folder: Path) -> None:
    images = json.loads(run_timmx("predict", one, "photos", "--json", "--top-k", 2).stdout)["images"]
    rows = [
        [image["path"], str(rank), str(guess["class"]), guess["label"], guess["probability"]]
        for image in images
        for rank, guess in enumerate(image["predictions"], 1)
    ]
    head, *found = csv.reader(io.StringIO(run_timmx("predict", one, "photos", "--csv", "--top-k", 2).stdout))
    assert head == ["path", "rank", "class", "label", "probability"]
    assert [[*row[:4], float(row[4])] for row in found] == rows
    lines = run_timmx("predict", one, "photos", "--top-k", 2).stdout.splitlines()
    assert lines[0].split() == ["image", "rank", "class", "label", "probability"]
    assert [line.rsplit(maxsplit=4) for line in lines[1:]] == [[*row[:4], f"{row[4]:.4f}"] for row in rows]
    assert len({len(line) for line in lines}) == 1


@pytest.mark.skipif(sys.platform != "linux", reason="elsewhere file names are Unicode")
def test_odd_file_names_do_not_break_the_table(run_timmx, one: Path, tmp_path: Path) -> None:
    (tmp_path / "odd").mkdir()
    names = [os.fsdecode(name) for name in (b"a\nb\x1b[31m.png", b"z\xff.png")]
    for name in names:
        shutil.copy(sample(3), tmp_path / "odd" / name)
    shown = [r"odd/a\nb\x1b[31m.png", r"odd/z\xff.png"]
    text = run_timmx("predict", one, "odd", "--top-k", 1).stdout
    assert [line.split()[0] for line in text.splitlines()] == ["image", *shown]
    _, *rows = csv.reader(io.StringIO(run_timmx("predict", one, "odd", "--csv", "--top-k", 1).stdout))
    assert [row[0] for row in rows] == [f"odd/{names[0]}", shown[1]]
    assert paths_of(run_timmx("predict", one, "odd", "--json")) == [f"odd/{name}" for name in names]


def test_odd_names_do_not_break_the_table_on_a_terminal() -> None:
    from timmx.cli.predict import _table
    from timmx.tools.predict.prediction import Guess, Prediction, Predictions

    name = os.fsdecode(b"a\n\x1b[31m\xff.png")
    guesses = (Guess(3, "cat\x1b[2J\ud800", 0.75), Guess(4, "ネコ\n", 0.25))
    predictions = Predictions(
        file=Path("a.onnx"),
        model="a",
        exclusive=True,
        images=(Prediction(Path(name), guesses),),
        unreadable=(),
    )
    assert [line.split() for line in _table(predictions, name_once=True).splitlines()] == [
        ["image", "class", "label", "probability"],
        [r"a\n\x1b[31m\xff.png", "3", r"cat\x1b[2J\ud800", "0.7500"],
        ["4", r"ネコ\n", "0.2500"],
    ]


def test_labels_of_wide_characters_keep_columns_aligned(
    export, run_timmx, digits: str, tmp_path: Path, folder: Path
) -> None:
    from rich.cells import cell_len

    (tmp_path / "labels.txt").write_text("零\n一\n二\n三つ\n四\nfive\n六\n七\n八\n九", "utf-8")
    timmx.export(
        "torch-export", digits, output=tmp_path / "j.pt2", labels=tmp_path / "labels.txt", verify=False
    )
    lines = run_timmx("predict", "j.pt2", "photos").stdout.splitlines()
    assert "三つ" in "".join(lines)
    assert len({cell_len(line) for line in lines}) == 1


def test_top_k_larger_than_the_number_of_classes_shows_all(run_timmx, three: Path) -> None:
    found = json.loads(run_timmx("predict", three, sample(4), "--top-k", 50, "--json").stdout)
    shares = [guess["probability"] for guess in found["images"][0]["predictions"]]
    assert len(shares) == 10
    assert sum(shares) == pytest.approx(1, abs=1e-4)


def test_formats_agree(run_timmx, exported_digits, one: Path, many: Path, three: Path) -> None:
    lite = exported_digits("litert")
    names = list(map(str, map(sample, (0, 1, 2, 3, 5, 6, 9))))
    found = [
        [
            (guess["class"], guess["probability"])
            for image in json.loads(run_timmx("predict", file, *names, "--json").stdout)["images"]
            for guess in image["predictions"][:1]
        ]
        for file in (one, many, three, lite)
    ]
    for other in found[1:]:
        np.testing.assert_allclose(other, found[0], atol=1e-5)


def test_bad_images_are_named_and_left_out(run_timmx, many: Path, folder: Path) -> None:
    (folder / "bad.png").write_bytes(b"nothing")
    (folder / "cut.png").write_bytes(sample(3).read_bytes()[:90])
    (folder / "empty.gif").touch()
    result = run_timmx("predict", many, "photos", "--json")
    assert result.exit_code == 0
    found = json.loads(result.stdout)
    assert len(found["images"]) == 3
    assert [entry["path"] for entry in found["unreadable"]] == [
        f"photos/{name}" for name in ("bad.png", "cut.png", "empty.gif")
    ]
    for entry in found["unreadable"]:
        assert f"warning: {entry['path']} cannot be read as an image" in result.stderr


def test_no_valid_image_is_an_error(run_timmx, many: Path, folder: Path) -> None:
    for name in ("bad.png", "worse.png"):
        (folder / name).write_bytes(b"nothing")
    result = run_timmx("predict", many, "photos/bad.png")
    assert result.exit_code == 2
    assert result.stderr.count("photos/bad.png cannot be read as an image") == 1
    assert result.stdout == ""
    result = run_timmx("predict", many, "photos/w*.png", "photos/worse.png", "photos/bad.png")
    assert result.exit_code == 2
    assert "error: none of these 2 images can be read\nhint: " in result.stderr
    assert result.stderr.count("warning: ") == 2


def test_nan_outputs_are_not_predictions(export, run_timmx, folder: Path, tmp_path: Path) -> None:
    import timm

    model = timm.create_model(f"local-dir:{SAMPLES.parent}", pretrained=True).eval()
    model.classifier.weight.data.fill_(3e38)  # overflows
    timmx.export("torch-export", model, output=tmp_path / "nan.pt2", verify=False)
    for extra in ((), ("--csv",)):
        result = run_timmx("predict", "nan.pt2", "photos", *extra)
        assert (result.exit_code, result.stdout) == (2, "")
        assert "warning: nan.pt2 returns NaN or infinity for photos/five.JPG" in result.stderr
        assert (
            "error: none of these 3 images has a finite output\nhint: timmx verify nan.pt2" in result.stderr
        )
    result = run_timmx("predict", "nan.pt2", "photos/five.JPG", "--json")
    assert result.exit_code == 2
    assert "returns NaN" in json.loads(result.stdout, parse_constant=pytest.fail)["error"]["message"]


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        (["nothing.png"], "image or folder nothing.png does not exist"),
        (["void"], "void has no images"),
        (["*.png"], "no image matches '*.png'"),
        (["photos", "--top-k", "0"], "--top-k 0"),
        (["photos", "--batch-size", "0"], "--batch-size 0"),
        (["photos", "--batch-size", "4"], "has a fixed batch size of 1, not 4"),
        (["photos", "--workers", "0"], "--workers 0 is less than 1"),
        (["photos", "--csv", "--json"], "hint: give only one of them"),
    ],
)
def test_invalid_arguments_are_refused(
    run_timmx, one: Path, folder: Path, tmp_path: Path, arguments: list[str], said: str
) -> None:
    (tmp_path / "void").mkdir()
    result = run_timmx("predict", one, *arguments)
    assert result.exit_code == 2
    assert said in result.stderr
    assert [line.partition(": ")[0] for line in result.stderr.splitlines()] == ["error", "hint"]


def test_a_missing_file_is_reported(run_timmx, folder: Path) -> None:
    result = run_timmx("predict", "missing.onnx", "photos", "--json")
    assert result.exit_code == 2
    assert json.loads(result.stdout)["error"]["message"] == "missing.onnx does not exist"


def test_a_file_that_does_not_rank_classes_is_refused(exported_digits, run_timmx, folder: Path) -> None:
    result = run_timmx("predict", exported_digits("torch-export", num_classes=0, verify=False), "photos")
    assert result.exit_code == 2
    assert "outputs embedding, not classes" in result.stderr
    assert "hint: use timmx.open in Python" in result.stderr


def test_a_file_that_takes_no_images_is_refused(export, run_timmx, folder: Path, tmp_path: Path) -> None:
    timmx.export(
        "torch-export",
        "test_resnet",
        output=tmp_path / "five.pt2",
        in_chans=5,
        input_size=(5, 64, 64),
        verify=False,
    )
    result = run_timmx("predict", "five.pt2", "photos")
    assert result.exit_code == 2
    assert "5 channels, so its input is" in result.stderr


def test_classes_without_names_are_shown_as_numbers(export, run_timmx, folder: Path, tmp_path: Path) -> None:
    timmx.export(
        "torch-export",
        "test_resnet",
        output=tmp_path / "t.pt2",
        num_classes=3,
        input_size=(3, 64, 64),
        verify=False,
    )
    lines = run_timmx("predict", "t.pt2", "photos/five.JPG").stdout.splitlines()
    assert lines[0].split() == ["image", "rank", "class", "probability"]
    assert sorted(line.split()[2] for line in lines[1:]) == ["0", "1", "2"]
    found = json.loads(run_timmx("predict", "t.pt2", "photos/five.JPG", "--json").stdout)
    assert {guess["label"] for guess in found["images"][0]["predictions"]} == {None}


def test_neither_torch_nor_timm_is_imported(one: Path) -> None:
    code = (
        "import sys; from timmx.cli.application import app; app(['predict', *sys.argv[1:]], standalone_mode=False); "
        "print(sorted({'torch', 'timm', 'torchvision'} & set(sys.modules)))"
    )
    done = subprocess.run(
        [sys.executable, "-c", code, one, sample(8)], capture_output=True, text=True, check=True
    )
    assert done.stdout.splitlines()[-1] == "[]"
    assert done.stderr == ""


@pytest.mark.parametrize("workers", [None, 1, 5])
@pytest.mark.parametrize("batch_size", [None, 1, 7])
def test_the_stream_gives_each_image_its_own_answer(
    many: Path, batch_size: int | None, workers: int | None, tmp_path: Path
) -> None:
    bad = tmp_path / "bad.png"
    bad.write_bytes(b"nothing")
    paths = [bad, *sorted(SAMPLES.rglob("*.png"))[::17], bad, sample(1), bad]
    with open_subject(many, batch_size) as subject:
        found = list(answers(subject, paths, workers=workers))
        assert [answer.path for answer in found] == paths
        for answer in found:
            assert (answer.probabilities is None) == bool(answer.error) == (answer.path == bad)
            if answer.probabilities is not None:
                alone = subject.probabilities(subject.preprocessor.read(answer.path)[None])[0]
                np.testing.assert_allclose(answer.probabilities, alone, atol=1e-5)
    assert not decoders()


def test_a_stream_that_is_closed_early_leaves_no_threads(many: Path) -> None:
    with open_subject(many) as subject:
        stream = answers(subject, sorted(SAMPLES.rglob("*.png")), workers=3)
        next(stream)
        assert decoders()
        stream.close()
        assert not decoders()
        stream = answers(subject, sorted(SAMPLES.rglob("*.png")), workers=3)
        next(stream)
        del stream
        gc.collect()
        assert not decoders()
        assert list(answers(subject, [])) == []


def test_ctrl_c_ends_the_threads(many: Path) -> None:
    paths = sorted(SAMPLES.rglob("*.png"))

    def interrupted(subject) -> None:
        for number, _ in enumerate(answers(subject, paths)):
            if number == 20:
                signal.raise_signal(signal.SIGINT)

    with open_subject(many) as subject, pytest.raises(KeyboardInterrupt):
        interrupted(subject)
    gc.collect()
    assert not decoders()


def test_only_the_next_images_are_read_ahead(many: Path) -> None:
    taken = []

    class Watched(list):
        def __iter__(self):
            for path in super().__iter__():
                taken.append(path)
                yield path

    with open_subject(many, 4) as subject:
        for number, _ in enumerate(answers(subject, Watched(sorted(SAMPLES.rglob("*.png"))), workers=2)):
            assert len(taken) <= number + 4 + 4 + 2


@pytest.mark.skipif(usable_cores() < 2, reason="one core leaves no choice of threads")
def test_a_file_opened_for_many_images_gives_the_same_answers(many: Path, one: Path) -> None:
    paths = sorted(SAMPLES.rglob("*.png"))[:80]
    for file in (many, one):
        with open_for_stream(describe(file)) as chosen, open_subject(file) as plain:
            for first, second in zip(answers(chosen, paths), answers(plain, paths), strict=True):
                np.testing.assert_allclose(first.probabilities, second.probabilities, atol=1e-5)
    bad = [Path("nowhere.png")] * 70
    with open_for_stream(describe(many)) as subject:
        assert all(answer.error for answer in answers(subject, bad))


def test_the_stream_refuses_a_file_that_does_not_rank_classes(exported_digits) -> None:
    path = exported_digits("torch-export", num_classes=0, verify=False)
    with open_subject(path) as subject, pytest.raises(ArtifactError, match="not classes"):
        answers(subject, [sample(1)])


def decoders() -> list[str]:
    return [thread.name for thread in threading.enumerate() if thread.name.startswith("timmx-decode")]

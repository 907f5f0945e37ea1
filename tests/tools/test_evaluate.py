"""`timmx eval`: accuracy of exported files on real images, errors, and interrupted runs."""

from __future__ import annotations

import csv
import json
import os
import re
import shutil
import signal
import subprocess
import sys
import time
from dataclasses import replace
from pathlib import Path

import forks
import numpy as np
import pytest
import timmx
from filelock import FileLock
from PIL import Image
from timmx.errors import ArtifactError, ConfigurationError
from timmx.tools.eval.accuracy import Paired, wilson
from timmx.tools.eval.running import evaluate

DIGITS = Path(__file__).resolve().parents[2] / "examples" / "digits"
SAMPLES = DIGITS / "samples"


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    return tmp_path_factory.mktemp("exported")


@pytest.fixture(scope="module")
def file(exported_digits):
    return exported_digits("onnx", dynamic_batch=True)


@pytest.fixture(scope="module")
def blurred(export, folder):
    """The digits model with noise on its weights, which is less accurate, and without labels."""
    import timm
    import torch

    model = timm.create_model(f"local-dir:{DIGITS}", pretrained=True).eval()
    generator = torch.Generator().manual_seed(0)
    with torch.no_grad():
        for parameter in model.parameters():
            parameter += (
                0.05 * parameter.std(correction=0) * torch.randn(parameter.shape, generator=generator)
            )
    model.pretrained_cfg = {key: value for key, value in model.pretrained_cfg.items() if "label" not in key}
    return timmx.export("onnx", model, output=folder / "blurred.onnx", verify=False).path


@pytest.fixture(scope="module")
def found(file):
    return evaluate(file, SAMPLES)


@pytest.fixture
def some(tmp_path):
    """A copy of two classes that a test can change."""
    for name in ("3", "8"):
        shutil.copytree(SAMPLES / name, tmp_path / "some" / name)
    return tmp_path / "some"


def same_figures(one, other):
    timeless = {"seconds": 0, "images_per_s": None, "resumed": 0}
    return one.to_dict() | timeless == other.to_dict() | timeless


def test_accuracy_equals_that_of_pytorch_with_timms_transform(found):
    import timm
    import torch
    from PIL import Image

    model = timm.create_model(f"local-dir:{DIGITS}", pretrained=True).eval()
    transform = timm.data.create_transform(**timm.data.resolve_data_config(model=model))
    paths = sorted(SAMPLES.glob("*/*.png"))
    with torch.inference_mode():
        inputs = torch.stack([transform(Image.open(path).convert("RGB")) for path in paths])
        order = model(inputs).argsort(dim=1, descending=True)
    truth = torch.tensor([int(path.parent.name) for path in paths])[:, None]
    ranks = (order == truth).int().argmax(dim=1)
    assert found.count == len(found.images) == 500
    assert found.top1 == (ranks == 0).double().mean().item() == 0.996
    assert found.top5 == (ranks < 5).double().mean().item()
    assert [item.read for item in found.readings] == order[:, 0].tolist()
    assert found.top1_interval == wilson(498, 500)
    assert found.images_per_s > 0


def test_classes_and_confusions_add_up(found):
    assert [item.name for item in found.per_class] == list("0123456789")
    assert sum(item.count for item in found.per_class) == sum(found.confusion.values()) == 500
    assert sum(item.right for item in found.per_class) == found.right == 498
    wrong = found.confused()
    assert sum(count for *_, count in wrong) == 2
    by_name = {item.name: item for item in found.per_class}
    assert all(by_name[truth].confused_with == (read, count) for truth, read, count in wrong)


def test_a_csv_gives_the_same_result_as_folders(file, found, tmp_path):
    lines = [f"{path},{path.parent.name}" for path in sorted(SAMPLES.glob("*/*.png"))]
    (tmp_path / "images.csv").write_text("\n".join(["path,label", *lines]))
    assert evaluate(file, tmp_path / "images.csv", workers=1).readings == found.readings


def test_images_that_cannot_be_read_are_named_and_not_counted(file, some, run_timmx):
    bad = sorted((some / "3").iterdir())[:2]
    bad[0].write_bytes(b"no image")
    bad[1].write_bytes(bad[1].read_bytes()[:60])
    done = run_timmx("eval", file, "--data", some, "--csv", "out.csv")
    assert done.exit_code == 0
    assert "2 images cannot be read" in done.stderr
    assert "97 of 97 correct" in done.stdout or "96 of 97 correct" in done.stdout
    assert f"3/{bad[0].name}" in done.stdout
    assert f"3/{bad[1].name}" in done.stdout
    with Path("out.csv").open(newline="") as stream:
        rows = list(csv.DictReader(stream))
    assert len(rows) == 99
    unreadable = [row for row in rows if row["error"]]
    assert [row["path"] for row in unreadable] == [f"3/{path.name}" for path in bad]
    assert all(row["read"] == row["right"] == "" for row in unreadable)


def test_exif_orientations_are_applied_on_request(file, digits, export, tmp_path, run_timmx):
    exif = Image.Exif()
    exif[0x0112] = 3
    for path in sorted((SAMPLES / "6").glob("*.png"))[:5]:
        (tmp_path / "turned" / "6").mkdir(parents=True, exist_ok=True)
        Image.open(path).rotate(180).save(tmp_path / "turned" / "6" / path.name, exif=exif)
    arguments = ("eval", file, "--data", tmp_path / "turned", "--json", "--resume", tmp_path / "journal")
    assert json.loads(run_timmx(*arguments).stdout)["right"] < 3
    assert run_timmx(*arguments, "--exif").exit_code == 2  # the journal is of images as they are stored
    assert json.loads(run_timmx(*arguments[:-2], "--exif").stdout)["right"] == 5
    stated = export("onnx", digits, tmp_path / "exif.onnx", exif=True, verify=False).path
    arguments = ("eval", stated, "--data", tmp_path / "turned", "--json")
    assert json.loads(run_timmx(*arguments).stdout)["right"] == 5
    assert json.loads(run_timmx(*arguments, "--no-exif").stdout)["right"] < 3
    assert "turn as the EXIF orientation says" in run_timmx("inspect", stated).stdout
    assert "ImageOps.exif_transpose(image)" in run_timmx("inspect", stated, "--snippet", "python").stdout
    result = run_timmx(*arguments, "--max-pixels", 10)
    assert result.exit_code == 2
    assert "hint: raise the limit with --max-pixels" in result.stderr


def test_images_of_12_bits_are_refused_until_their_depth_is_stated(file, tmp_path, run_timmx):
    for path in SAMPLES.glob("*/0*.png"):
        values = np.asarray(Image.open(path).convert("L")).astype(np.uint16) * 16
        (tmp_path / "deep" / path.parent.name).mkdir(parents=True, exist_ok=True)
        Image.fromarray(values).save(tmp_path / "deep" / path.parent.name / path.name)
    result = run_timmx("eval", file, "--data", tmp_path / "deep", "--json")
    assert result.exit_code == 2
    assert "--image-bits 12" in result.stderr
    assert result.stderr.count("of 65,535") == 1  # the error, without the warning
    result = json.loads(
        run_timmx("eval", file, "--data", tmp_path / "deep", "--json", "--image-bits", 12).stdout
    )
    assert result["top1"] > 0.9


@pytest.mark.skipif(sys.platform != "linux", reason="elsewhere file names are Unicode")
def test_odd_file_names_are_shown_in_the_text_and_in_the_report(file, tmp_path, run_timmx):
    data = tmp_path / os.fsdecode(b"data\xfe") / "3"
    data.mkdir(parents=True)
    sample = next((SAMPLES / "3").iterdir())
    for name in (b"\xff.png", b"a\n\x1b[31m.png"):
        shutil.copy(sample, data / os.fsdecode(name))
        (data / os.fsdecode(b"bad" + name)).write_bytes(b"no image")
    done = run_timmx("eval", file, "--data", data.parent, "--report", "out.html", "--csv", "out.csv")
    assert done.exit_code == 0, done.stderr
    assert rf"on {tmp_path}/data\xfe: 4 images" in done.stdout
    assert "\n  3/bad\\xff.png\n" in done.stdout
    assert "\n  3/bada\\n\\x1b[31m.png\n" in done.stdout
    assert "\x1b" not in done.stdout
    assert r"bad\xff.png" in Path("out.html").read_text("utf-8")
    assert b"3/\xff.png" in Path("out.csv").read_bytes()


def test_no_readable_image_is_an_error(file, some):
    for path in some.glob("*/*.png"):
        path.write_bytes(b"no image")
    with pytest.raises(ConfigurationError, match="none of the 99 images can be read"):
        evaluate(file, some)


def test_nan_outputs_count_as_wrong(export, folder, some, run_timmx):
    import timm

    model = timm.create_model(f"local-dir:{DIGITS}", pretrained=True).eval()
    model.classifier.weight.data.fill_(3e38)  # overflows
    file = timmx.export(
        "torch-export", model, output=folder / "nan.pt2", verify=False, labels=list("0123456789")
    ).path
    done = run_timmx("eval", file, "--data", some, "--json")
    assert json.loads(done.stdout)["top1"] == 0
    assert json.loads(done.stdout)["not_numbers"] == 99
    assert "NaN or infinity for 99 images of 99: counted as wrong" in done.stderr


def test_one_image_that_cannot_be_read_is_reported_in_the_singular(file, some, run_timmx):
    bad = next((some / "3").iterdir())
    bad.write_bytes(b"no image")
    done = run_timmx("eval", file, "--data", some)
    assert f"1 image cannot be read and is left out: {bad.name}." in done.stderr
    assert "1 image cannot be read (not counted):" in done.stdout


def test_a_limit_is_reported(file, run_timmx):
    done = run_timmx("eval", file, "--data", SAMPLES, "--limit", 30)
    assert "30 images of 500 (--limit), 10 classes" in done.stdout
    assert done.stdout.count("100.0 %") >= 9


def test_few_classes_have_no_top5(export, folder, some, awakened):
    file = timmx.export(
        "torch-export",
        "test_resnet",
        checkpoint=awakened("test_resnet", num_classes=2),
        num_classes=2,
        input_size=(3, 64, 64),
        labels=["3", "8"],
        output=folder / "two.pt2",
        verify=False,
    ).path
    found = evaluate(file, some)
    assert found.top5 is None
    assert found.top5_interval is None


def test_a_file_that_ranks_no_classes_is_refused(exported_digits):
    file = exported_digits("torch-export", num_classes=0, verify=False)
    with pytest.raises(ArtifactError, match="not classes"):
        evaluate(file, SAMPLES)


def test_the_original_model_agrees(file, digits, run_timmx):
    done = run_timmx("eval", file, "--data", SAMPLES, "--limit", 100, "--against", digits, "--json")
    assert done.exit_code == 0, done.stderr
    against = json.loads(done.stdout)["against"]
    assert against["agreement"] == 1
    assert against["drop"] == 0
    assert against["disagreements"] == []
    low, high = against["drop_interval"]
    assert low < 0 < high


def test_another_file_is_compared_image_by_image(file, blurred, found, run_timmx):
    done = run_timmx(
        "eval",
        blurred,
        "--data",
        SAMPLES,
        "--against",
        file,
        "--json",
        "--csv",
        "o.csv",
        "--report",
        "o.html",
    )
    assert done.exit_code == 0, done.stderr
    result = json.loads(done.stdout)
    other = result["against"]
    assert other["top1"] == found.top1 > result["top1"]
    assert other["drop"] == pytest.approx(other["top1"] - result["top1"])
    assert other["drop_interval"][0] < other["drop"] < other["drop_interval"][1]
    apart = [row for row in result["predictions"] if row["read"] != row["against_read"]]
    assert [row["path"] for row in apart] == [row["path"] for row in other["disagreements"]]
    assert len(apart) == round(500 * (1 - other["agreement"])) > 0
    with Path("o.csv").open(newline="") as stream:
        rows = list(csv.DictReader(stream))
    assert sum(row["read"] != row["against_read"] for row in rows) == len(apart)
    page = Path("o.html").read_text("utf-8")
    assert all(row["path"] in page for row in apart)


def test_the_text_names_the_first_disagreements(file, blurred, run_timmx):
    done = run_timmx("eval", blurred, "--data", SAMPLES, "--against", file)
    assert "classified differently" in done.stdout
    assert "McNemar" in done.stdout
    assert len(done.stdout.splitlines()) < 45


def test_files_of_other_classes_are_not_compared(file, exported_digits):
    labels = [f"digit {number}" for number in range(10)]
    other = exported_digits("torch-export", labels=labels, verify=False)
    with pytest.raises(ConfigurationError, match="hint: compare files with the same classes"):
        evaluate(file, SAMPLES, against=other)


def test_input_files_are_never_overwritten(file, some, tmp_path, run_timmx):
    here = tmp_path / "here"
    here.mkdir()
    artifact = Path(shutil.copy(file, here / "digits.onnx"))
    lines = [f"{path},{path.parent.name},x" for path in sorted(some.glob("*/*.png"))]
    data, class_map, link = here / "data.csv", here / "map.html", here / "link.csv"
    data.write_text("\n".join(["path,label,read,x", *lines]))
    class_map.write_text("\n".join(map(str, range(10))))
    link.symlink_to(artifact)
    other, image, page = here / "other.html", here / "image.csv", here / "page.html"
    shutil.copy(next(some.glob("3/*.png")), image)
    page.write_text("my notes")
    os.link(data, here / "hard.csv")
    before = {path: path.read_bytes() for path in here.iterdir()}
    cases = [
        (["--csv", artifact], "--csv .* is not a CSV of timmx eval"),
        (["--csv", link], "is not a CSV of timmx eval"),
        (["--csv", image], "is not a CSV of timmx eval"),
        (["--csv", data], "is the same as --data"),
        (["--csv", here / "hard.csv"], "is the same as --data"),
        (["--report", class_map], "is not HTML"),
        (["--report", page], "is not HTML"),
        (["--resume", artifact], "is the same as FILE"),
        (["--resume", link], "is the same as FILE"),
        (["--resume", class_map], "is the same as --class-map"),
        (["--resume", other, "--report", other], "--resume .* is the same as --report"),
        (["--csv", other, "--report", here / ".." / "here" / "other.html"], "is the same as --csv"),
        (["--resume", link, "--against", link], "is the same as FILE"),
    ]
    for arguments, said in cases:
        done = run_timmx("eval", artifact, "--data", data, "--class-map", class_map, *arguments)
        assert done.exit_code == 2, arguments
        assert re.search(said, done.stderr), done.stderr
        assert re.search("^hint: name a(nother| new) file", done.stderr, re.MULTILINE)
        assert len(done.stderr.splitlines()) == 2
        assert {path: path.read_bytes() for path in here.iterdir()} == before


def test_nothing_is_written_into_an_artifact_that_is_a_folder(exported_digits, some, tmp_path, run_timmx):
    package = exported_digits("coreml")
    for flag, name in (("--csv", "new.csv"), ("--resume", "journal"), ("--report", "new.html")):
        done = run_timmx("eval", package, "--data", some, flag, package / name)
        assert done.exit_code == 2
        assert f"{flag} {package / name} lies in FILE {package}" in done.stderr
        assert not (package / name).exists()


def test_an_earlier_csv_is_replaced_and_a_link_stays_a_link(file, some, tmp_path, run_timmx):
    Path("link.csv").symlink_to("real.csv")
    for limit in (10, 4):
        done = run_timmx(
            "eval", file, "--data", some, "--limit", limit, "--csv", "link.csv", "--report", "o.html"
        )
        assert done.exit_code == 0, done.stderr
        assert len(Path("real.csv").read_text().splitlines()) == 1 + limit
    assert Path("link.csv").is_symlink()
    assert sorted(path.name for path in Path().iterdir() if "csv" in path.name) == ["link.csv", "real.csv"]


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        (["missing.onnx", "--data", SAMPLES], "missing.onnx does not exist"),
        (["FILE", "--data", "nowhere"], "--data nowhere does not exist"),
        (["FILE", "--data", SAMPLES, "--pretrained"], "hint: name the model with --against"),
        (["FILE", "--data", SAMPLES, "--limit", 0], "--limit 0"),
        (["FILE", "--data", SAMPLES, "--workers", 0], "--workers 0 is less than 1"),
        (["FILE", "--data", SAMPLES, "--batch-size", 0], "--batch-size 0 is less than 1"),
        (["FILE", "--data", SAMPLES, "--batch-size", -1], "--batch-size -1 is less than 1"),
        (["FILE", "--data", SAMPLES, "--report", "out.txt"], "hint: name it out.html"),
        (
            ["FILE", "--data", SAMPLES, "--csv", "no/such/folder.csv"],
            "--csv no/such/folder.csv cannot be written",
        ),
        (["FILE", "--data", SAMPLES, "--against", "missing.onnx"], "missing.onnx does not exist"),
        (["FILE", "--data", SAMPLES, "--against", "FILE", "--seed", 1], "hint: leave --seed out"),
        (["FILE", "--data", SAMPLES, "--resume", SAMPLES], "is the same as --data"),
    ],
)
def test_invalid_options_are_refused_with_a_hint(file, arguments, said, run_timmx):
    done = run_timmx("eval", *(file if item == "FILE" else item for item in arguments))
    assert done.exit_code == 2
    assert said in done.stderr
    first, *further = done.stderr.splitlines()
    assert first.startswith("error: ")
    assert len(further) <= 1
    assert all(line.startswith("hint: ") for line in further)
    assert done.stdout == ""


def test_an_interrupted_run_continues_with_the_same_result(file, found, tmp_path):
    journal = tmp_path / "journal.jsonl"
    assert same_figures(evaluate(file, SAMPLES, resume=journal), found)
    whole = journal.read_bytes()
    lines = whole.splitlines(keepends=True)
    journal.write_bytes(b"".join(lines[:301]) + lines[301][:20])
    again = evaluate(file, SAMPLES, resume=journal)
    assert same_figures(again, found)
    assert again.resumed == 296  # complete batches of 8
    assert journal.read_bytes() == whole
    at_once = evaluate(file, SAMPLES, resume=journal)
    assert at_once.resumed == 500
    assert at_once.images_per_s is None
    assert same_figures(at_once, found)


@pytest.mark.parametrize("length", [0, 1, 40])
def test_a_run_interrupted_in_the_first_line_starts_again(file, found, tmp_path, length):
    journal = tmp_path / "journal.jsonl"
    evaluate(file, SAMPLES, resume=journal, limit=20)
    journal.write_bytes(journal.read_bytes()[:length])
    assert evaluate(file, SAMPLES, resume=journal, limit=20).resumed == 0


def test_a_journal_records_both_classifiers(file, blurred, tmp_path):
    journal = tmp_path / "journal.jsonl"
    options = {"against": file, "resume": journal, "limit": 50}
    first = evaluate(blurred, SAMPLES, **options)
    lines = journal.read_bytes().splitlines(keepends=True)
    journal.write_bytes(b"".join(lines[:-7]))
    second = evaluate(blurred, SAMPLES, **options)
    assert replace(second.against, seconds=0, images_per_s=0) == replace(
        first.against, seconds=0, images_per_s=0
    )
    with pytest.raises(
        ConfigurationError, match=r"of an evaluation against digits.onnx \(.*, not against blurred.onnx \("
    ):
        evaluate(blurred, SAMPLES, against=blurred, resume=journal, limit=50)


def test_a_journal_of_another_evaluation_is_refused_and_left_unchanged(file, blurred, some, tmp_path):
    journal = tmp_path / "journal.jsonl"
    evaluate(file, some, resume=journal)
    before = journal.read_bytes()
    with pytest.raises(ConfigurationError, match=r"of digits.onnx \(sha256 .*, not of blurred.onnx"):
        evaluate(blurred, SAMPLES, resume=journal)
    with pytest.raises(ConfigurationError, match=r"on some \(images 99, .*, not on samples \(images 500"):
        evaluate(file, SAMPLES, resume=journal)
    with pytest.raises(ConfigurationError, match="on some"):
        evaluate(file, some, resume=journal, limit=10)
    next((some / "3").iterdir()).rename(some / "3" / "renamed.png")
    with pytest.raises(ConfigurationError, match="on some"):
        evaluate(file, some, resume=journal)
    assert journal.read_bytes() == before


def test_a_changed_image_is_reported_even_with_the_same_size_and_time(file, some, tmp_path):
    journal = tmp_path / "journal.jsonl"
    evaluate(file, some, resume=journal)
    before, image = journal.read_bytes(), sorted((some / "3").iterdir())[4]
    stat = image.stat()
    image.write_bytes(bytes(reversed(image.read_bytes())))
    os.utime(image, ns=(stat.st_atime_ns, stat.st_mtime_ns))
    with pytest.raises(ConfigurationError, match=f"prediction for 3/{image.name}, which has changed since"):
        evaluate(file, some, resume=journal)
    assert journal.read_bytes() == before


def test_images_that_could_not_be_read_are_tried_again(file, blurred, some, tmp_path):
    journal = tmp_path / "journal.jsonl"
    whole = evaluate(file, some, against=blurred)
    bad = {path: path.read_bytes() for path in sorted((some / "3").iterdir())[1:4:2]}
    for path in bad:
        path.write_bytes(b"no image")
    first = evaluate(file, some, resume=journal, against=blurred)
    assert [name for name, _ in first.unreadable] == [f"3/{path.name}" for path in bad]
    before = journal.read_bytes()
    again = evaluate(file, some, resume=journal, against=blurred)
    assert again.resumed == 97
    assert again.unreadable == first.unreadable
    assert journal.read_bytes() == before
    for path, content in bad.items():
        path.write_bytes(content)
    repaired = evaluate(file, some, resume=journal, against=blurred)
    assert repaired.resumed == 97
    assert repaired.top1 == whole.top1
    assert [item.read for item in repaired.readings] == [item.read for item in whole.readings]
    assert [item.read for item in repaired.against.readings] == [item.read for item in whole.against.readings]
    assert evaluate(file, some, resume=journal, against=blurred).resumed == 99


def test_a_renamed_file_continues_its_journal(file, some, tmp_path):
    journal = tmp_path / "journal.jsonl"
    evaluate(file, some, resume=journal)
    renamed = shutil.copy(file, tmp_path / "renamed.onnx")
    assert evaluate(Path(renamed), some, resume=journal).resumed == 99


@pytest.mark.parametrize("content", [b"my notes", b"{}\n", b'{"journal": 1}\n[]\n', b"\x89PNG\r\n\x1a\n\0"])
def test_another_file_is_not_taken_for_a_journal(file, some, tmp_path, content):
    (tmp_path / "notes").write_bytes(content)
    with pytest.raises(ConfigurationError, match="is not a journal of timmx eval"):
        evaluate(file, some, resume=tmp_path / "notes")
    assert (tmp_path / "notes").read_bytes() == content


def test_a_damaged_journal_is_reported_with_the_line(file, some, tmp_path):
    journal = tmp_path / "journal.jsonl"
    evaluate(file, some, resume=journal)
    lines = journal.read_bytes().splitlines(keepends=True)
    entry = json.loads(lines[5])
    changes = [
        {"read": "x"},
        {"read": 99},
        {"read": -1},
        {"read": True},
        {"read": None},
        {"rank": 10},
        {"rank": 1.0},
        {"probability": "1"},
        {"probability": float("nan")},
        {"error": 1},
        {"unreadable": "yes"},
        {"unreadable": True},
        {"image": "4"},
        {"image": -1},
        {"image": 3},
        {"of": "second"},
        {"of": []},
        {"content": None},
        {"more": 1},
        {"against": {}},
    ]
    for damage in (
        b"garbage\n",
        b"[]\n",
        b"7\n",
        lines[7],
        *(json.dumps(entry | it).encode() + b"\n" for it in changes),
    ):
        journal.write_bytes(b"".join([*lines[:5], damage, *lines[6:]]))
        with pytest.raises(ConfigurationError, match="damaged in line 6"):
            evaluate(file, some, resume=journal)
    for further in (json.dumps(entry | {"image": 99}).encode() + b"\n", lines[5], b'{"against": []}\n'):
        journal.write_bytes(b"".join([*lines, further]))
        with pytest.raises(ConfigurationError, match="damaged in line 101"):
            evaluate(file, some, resume=journal)


def test_two_runs_do_not_write_one_journal(file, some, tmp_path):
    journal, link = tmp_path / "journal", tmp_path / "link"
    evaluate(file, some, resume=journal)
    assert [path for path in tmp_path.iterdir() if "lock" in path.name] == []
    before = journal.read_bytes()
    link.symlink_to(journal)
    with FileLock(tmp_path / ".journal.timmx-lock"):
        for path in (journal, link):
            with pytest.raises(ConfigurationError, match="is being written by another run"):
                evaluate(file, some, resume=path)
    assert journal.read_bytes() == before
    assert evaluate(file, some, resume=link).resumed == 99
    assert [path for path in tmp_path.iterdir() if "lock" in path.name] == []


def test_a_journal_works_on_a_file_system_without_locks(file, some, tmp_path):
    (tmp_path / ".journal.timmx-lock").mkdir()
    evaluate(file, some, resume=tmp_path / "journal")
    assert evaluate(file, some, resume=tmp_path / "journal").resumed == 99


@pytest.mark.parametrize(("blow", "status"), [(signal.SIGINT, 130), (signal.SIGKILL, -signal.SIGKILL)])
def test_after_ctrl_c_and_after_a_kill_the_same_command_continues(file, tmp_path, blow, status):
    paths = sorted(SAMPLES.glob("*/*.png"))
    lines = [f"{path},{path.parent.name}" for path in paths * 2]
    (tmp_path / "images.csv").write_text("\n".join(["path,label", *lines]))
    command = [
        sys.executable,
        "-m",
        "timmx",
        "eval",
        str(file),
        "--data",
        "images.csv",
        "--resume",
        "j",
        "--json",
    ]
    process = forks.Popen(command, cwd=tmp_path, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)
    try:
        journal = tmp_path / "j"
        while not (journal.exists() and journal.stat().st_size > 2_000):
            assert process.poll() is None, process.communicate()
            time.sleep(0.01)
        process.send_signal(blow)
        _, said = process.communicate(timeout=60)
    finally:
        process.kill()
        process.wait()
    assert process.returncode == status
    if blow == signal.SIGINT:
        assert "run the same command to continue" in said
        assert "Traceback" not in said
    done = forks.run(command, cwd=tmp_path)
    assert done.returncode == 0, done.stderr
    result = json.loads(done.stdout)
    assert 0 < result["resumed"] < result["count"] == 1_000
    assert result["right"] == 2 * 498
    assert done.stderr == ""


def test_no_torch_is_imported_without_a_model(file, tmp_path):
    code = (
        "import sys; from timmx.cli.application import app\n"
        f"try: app(['eval', {str(file)!r}, '--data', {str(SAMPLES)!r}, '--limit', '20', '--report', 'r.html'])\n"
        "except SystemExit as exc: assert not exc.code\n"
        "assert not {'torch', 'timm'} & set(sys.modules)"
    )
    subprocess.run([sys.executable, "-c", code], cwd=tmp_path, check=True)


def test_intervals_equal_those_of_the_papers():
    # Newcombe, Statistics in Medicine 17 (1998): 857-872, table I, method 3; 2635-2650, table II, method 10.
    assert wilson(81, 263) == pytest.approx((0.2553, 0.3662), abs=5e-5)
    assert wilson(0, 20) == pytest.approx((0, 0.1611), abs=5e-5)
    assert wilson(29, 29) == pytest.approx((0.8830, 1), abs=5e-5)
    assert Paired(36, 12, 2, 0).interval == pytest.approx((0.0569, 0.3404), abs=5e-5)


def test_the_exact_test_equals_the_binomial_test():
    assert Paired(5, 12, 2, 3).p_value == pytest.approx(2 * (1 + 14 + 91) / 2**14)
    assert Paired(5, 0, 0, 3).p_value == 1
    assert Paired(5, 4, 4, 3).p_value == 1
    assert 0 < Paired(0, 30_000, 29_000, 0).p_value < 0.001

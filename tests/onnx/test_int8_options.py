"""`timmx onnx --mode int8` refuses wrong options before torch is imported, and wrong calibration data, with a hint."""

from __future__ import annotations

import json
import shutil
import sys

import pytest
import timmx
from conftest import DIGITS
from timmx.testing import awakened_model

SAMPLES = DIGITS / "samples"

REFUSED = [
    (("--mode", "int8"), "--mode int8 requires typical images", "use --calibration-data FOLDER"),
    (
        ("--mode", "int8", "--calibration-data", "empty"),
        "empty and its subfolders hold 0 images; at least 4 are required",
        "name a folder with more images",
    ),
    (("--mode", "int8", "--calibration-data", "absent"), "absent does not exist", "name a folder of images"),
    (
        ("--mode", "int8", "--calibration-data", "images", "--random-calibration"),
        "cannot be combined",
        "use only one of them",
    ),
    (
        ("--mode", "int8", "--calibration-samples", "8"),
        "requires --calibration-data",
        "add --calibration-data",
    ),
    (
        ("--mode", "int8", "--max-drop", "1"),
        "--max-drop requires --calibration-data",
        "add --calibration-data FOLDER, with one subfolder per class",
    ),
    (
        ("--mode", "int8", "--random-calibration", "--max-drop", "1"),
        "--max-drop requires --calibration-data",
        "add --calibration-data FOLDER",
    ),
    *(
        (
            ("--mode", "int8", "--calibration-data", "images", "--max-drop", value),
            f"--max-drop {value} is not from 0 to 100 percentage points",
            "use, for example, --max-drop 0.5",
        )
        for value in ("-1", "101", "nan")
    ),
    *(
        (
            ("--mode", "int8", "--calibration-data", "images", "--max-drop", "1", *flags),
            f"--max-drop requires classes{reason}",
            "leave one of them out",
        )
        for flags, reason in (
            (("--num-classes", "0"), ", but with --num-classes 0 the model has none"),
            (("--features",), ", but with --features the model has none"),
            (("--multi-label",), " that exclude each other, but with --multi-label they do not"),
        )
    ),
    *(
        (
            (*flags, *mode),
            f"{flags[0]} requires --mode int8, but --mode is {name}",
            "use --mode int8, or leave",
        )
        for flags in (
            ("--reduce-range",),
            ("--calibration-data", "images"),
            ("--random-calibration",),
            ("--calibration-method", "mse"),
            ("--max-drop", "1"),
        )
        for name, mode in (("fp32", ()), ("weight-int8", ("--mode", "weight-int8")))
    ),
]
"""Options, and parts of the message and of the hint."""


@pytest.fixture
def folders(tmp_path):
    """Two folders of the current one: `images` with five images, and `empty`."""
    (tmp_path / "empty").mkdir()
    (tmp_path / "images").mkdir()
    for image in sorted((SAMPLES / "3").iterdir())[:5]:
        shutil.copy(image, tmp_path / "images")


@pytest.mark.parametrize(("options", "message", "hint"), REFUSED, ids=[" ".join(case[0]) for case in REFUSED])
def test_wrong_options_are_refused_with_a_hint(options, message, hint, folders, run_timmx, tmp_path):
    done = run_timmx("onnx", "test_resnet", *options)
    assert done.exit_code == 2
    shown = " ".join(done.stderr.split())
    assert shown.startswith("error: ")
    problem, _, fix = shown.partition(" hint: ")
    assert message in problem
    assert fix.startswith(hint)
    assert sorted(path.name for path in tmp_path.iterdir()) == ["empty", "images"]


def test_refusals_import_nothing_heavy(process, folders, tmp_path):
    code = (
        "import sys, json\n"
        "from typer.testing import CliRunner\n"
        "from timmx.cli.application import app\n"
        "codes = [CliRunner().invoke(app, ['onnx', 'test_resnet', *options]).exit_code\n"
        "         for options in json.loads(sys.argv[1])]\n"
        "heavy = ('torch', 'timm', 'numpy', 'onnx', 'onnx_ir', 'onnxscript', 'onnxruntime', 'networkx')\n"
        "print(json.dumps([sorted(set(codes)), [name for name in heavy if name in sys.modules]]))"
    )
    options = json.dumps([options for options, *_ in REFUSED])
    done = process([sys.executable, "-c", code, options], cwd=tmp_path)
    assert done.returncode == 0, done.stderr
    assert json.loads(done.stdout) == [[2], []]


def refused(export, tmp_path, model, data, **options) -> timmx.TimmxError:
    """The error of an export whose calibration data does not fit the model."""
    output = tmp_path / "a.onnx"
    with pytest.raises(timmx.ConfigurationError) as caught:
        export("onnx", model, output, mode="int8", calibration_data=data, calibration_samples=16, **options)
    assert caught.value.exit_code == 2
    assert not output.exists()
    return caught.value


def test_a_drop_needs_classes(export, tmp_path):
    model = awakened_model("test_resnet", num_classes=0)
    error = refused(export, tmp_path, model, SAMPLES, max_drop=1)
    assert "--max-drop needs a model with one output of classes that exclude each other" in error.message
    assert "leave --max-drop out; --min-snr" in error.hint


def test_folders_that_are_partly_named_after_classes_are_refused_with_a_drop(export, digits, tmp_path):
    data = tmp_path / "data"
    for name in ("3", "4", "5"):
        shutil.copytree(SAMPLES / name, data / ("other" if name == "5" else name))
    error = refused(export, tmp_path, digits, data, max_drop=1)
    assert error.message.endswith(
        "has folders that are not named after a class of the model: 1 of 3, such as other"
    )
    assert error.hint.startswith(
        "rename them after a class or its number, or leave them out; the classes are 0, 1, 2 and so on"
    )


def test_folders_of_other_names_are_compared_with_the_model_in_float(export, digits, tmp_path):
    shutil.copytree(SAMPLES / "3", tmp_path / "data" / "photos")
    result = export(
        "onnx",
        digits,
        tmp_path / "a.onnx",
        mode="int8",
        calibration_data=tmp_path / "data",
        max_drop=100,
        verify=False,
    )
    plan = result.metadata["format"]["quantization_plan"]
    assert (plan["max_drop"], plan["drop_of"]) == (100, "agreement")
    assert plan["measured_drop"] >= 0


def test_numbered_folders_are_the_classes_of_a_model_without_names(export, tmp_path):
    model = awakened_model("test_resnet", num_classes=10)
    result = export(
        "onnx",
        model,
        tmp_path / "a.onnx",
        mode="int8",
        calibration_data=SAMPLES,
        calibration_samples=16,
        max_drop=100,
        verify=False,
    )
    assert result.metadata["format"]["quantization_plan"]["drop_of"] == "accuracy"


@pytest.mark.parametrize(("count", "warned"), [(15, True), (16, False)])
def test_fewer_than_16_images_are_a_warning(export, digits, tmp_path, count, warned):
    (tmp_path / "data").mkdir()
    images = sorted(SAMPLES.glob("*/*"))
    for number, image in enumerate(images[:: len(images) // count][:count]):
        shutil.copy(image, tmp_path / "data" / f"{number}.png")
    result = export(
        "onnx", digits, tmp_path / "a.onnx", mode="int8", calibration_data=tmp_path / "data", verify=False
    )
    few = [note for note in result.notes if "fewer than 16" in note]
    assert len(few) == warned
    if warned:
        assert "Calibrated on 15 images of" in few[0]
        assert "128 are recommended" in few[0]

"""Models whose classes do not exclude each other, and models with one logit: sigmoid instead of softmax."""

from __future__ import annotations

import csv
import json
from typing import TYPE_CHECKING

import numpy as np
import pytest
import timmx
import torch
from PIL import Image
from timmx.contract.metadata import Metadata, OutputKind
from timmx.errors import ArtifactError, ConfigurationError
from timmx.tools.subject.subject import describe
from torch import nn

if TYPE_CHECKING:
    from pathlib import Path

COLORS = ("red", "green", "blue")
SCALE, BIAS = 8.0, -4.0


class Brightness(nn.Module):
    """Logits of the channels' means: 8 * mean - 4, for pixels in [0, 1]; `classes` of the three channels."""

    def __init__(self, classes: int = 3) -> None:
        super().__init__()
        self.head = nn.Linear(3, classes)
        self.head.weight.data = SCALE * torch.eye(3)[:classes]
        self.head.bias.data.fill_(BIAS)
        self.num_classes = classes
        self.pretrained_cfg = {
            "input_size": (3, 8, 8),
            "mean": (0.0,) * 3,
            "std": (1.0,) * 3,
            "crop_pct": 1.0,
            "interpolation": "nearest",
        }

    def forward(self, x):
        return self.head(x.mean((2, 3)))


def sigmoid(x: float) -> float:
    return 1 / (1 + np.exp(-x))


def probability(pixel: int) -> float:
    """Of a class whose channel has this value, 0 to 255."""
    return sigmoid(SCALE * pixel / 255 + BIAS)


PICTURES = {
    "red.png": (230, 20, 20),
    "yellow.png": (230, 200, 20),
    "black.png": (0, 0, 0),
    "white.png": (255, 255, 255),
    "dim.png": (120, 60, 100),
}


@pytest.fixture(scope="module")
def pictures(tmp_path_factory) -> Path:
    folder = tmp_path_factory.mktemp("pictures")
    for name, color in PICTURES.items():
        Image.new("RGB", (8, 8), color).save(folder / name)
    return folder


@pytest.fixture(scope="module")
def exported(export, tmp_path_factory):
    """A file of `Brightness` as torch-export: (classes, **options) -> path."""
    made: dict = {}

    def make(classes: int = 3, **options) -> Path:
        key = (classes, *sorted(options.items()))
        if key not in made:
            path = tmp_path_factory.mktemp("heads") / "colors.pt2"
            made[key] = export(
                "torch-export", Brightness(classes), path, labels=list(COLORS[:classes]), **options
            )
        return made[key].path

    make.results = made
    return make


def guesses(done) -> dict[str, dict[str, float]]:
    assert done.exit_code == 0, done.stderr
    return {
        image["path"].rpartition("/")[2]: {item["label"]: item["probability"] for item in image["predictions"]}
        for image in json.loads(done.stdout)["images"]
    }


HEADS = {"logits": {}, "sigmoid": {"sigmoid": True}}


@pytest.mark.parametrize("head", HEADS)
def test_one_logit_gives_one_probability_by_sigmoid(exported, pictures, run_timmx, head):
    found = guesses(run_timmx("predict", exported(1, **HEADS[head]), pictures, "--json"))
    assert found == {
        name: {"red": pytest.approx(probability(color[0]), abs=1e-5)} for name, color in PICTURES.items()
    }
    assert found["black.png"]["red"] < 0.02
    assert found["white.png"]["red"] > 0.98


@pytest.mark.parametrize("head", HEADS)
def test_multi_label_files_give_all_classes_with_their_own_probability(exported, pictures, run_timmx, head):
    path = exported(multi_label=True, **HEADS[head])
    found = guesses(run_timmx("predict", path, pictures, "--json"))
    for name, color in PICTURES.items():
        expected = {label: probability(value) for label, value in zip(COLORS, color, strict=True)}
        assert found[name] == pytest.approx(expected, abs=1e-5)
        assert list(found[name].values()) == sorted(found[name].values(), reverse=True)
    assert json.loads(run_timmx("predict", path, pictures, "--json").stdout)["exclusive"] is False
    assert len(guesses(run_timmx("predict", path, pictures, "--json", "--top-k", 1))["red.png"]) == 1


def test_sigmoid_alone_keeps_exclusive_classes(exported, pictures, run_timmx):
    """As models that were trained with a binary loss on images of one class each."""
    path = exported(sigmoid=True)
    done = run_timmx("predict", path, pictures / "white.png", "--json")
    assert guesses(done)["white.png"] == pytest.approx(dict.fromkeys(COLORS, probability(255)), abs=1e-5)
    assert json.loads(done.stdout)["exclusive"] is True


@pytest.mark.parametrize(
    ("classes", "options", "kind", "activation", "exclusive"),
    [
        (3, {}, "logits", "none", True),
        (3, {"softmax": True}, "probabilities", "softmax", True),
        (3, {"sigmoid": True}, "probabilities", "sigmoid", True),
        (3, {"multi_label": True}, "logits", "none", False),
        (3, {"multi_label": True, "sigmoid": True}, "probabilities", "sigmoid", False),
        (1, {}, "logits", "none", False),
        (1, {"sigmoid": True}, "probabilities", "sigmoid", False),
    ],
)
def test_metadata_states_activation_and_exclusion(
    exported, run_timmx, classes, options, kind, activation, exclusive
):
    path = exported(classes, **options)
    (output,) = json.loads(run_timmx("inspect", path, "--json").stdout)["metadata"]["outputs"]
    assert output == {
        "name": "output",
        "kind": kind,
        "shape": [1, classes],
        "activation": activation,
        "exclusive": exclusive,
    }
    shown = next(line for line in run_timmx("inspect", path).stdout.splitlines() if line.startswith("output"))
    assert ("classes do not exclude each other" in shown) is not exclusive
    assert ("by sigmoid" in shown) is (activation == "sigmoid")


def without_head(path: Path, **changes) -> dict:
    """The metadata as an earlier timmx wrote it, with changes of the output."""
    content = json.loads(json.dumps(describe(path).metadata.to_json()))
    (output,) = content["outputs"]
    del output["activation"], output["exclusive"]
    output |= changes
    return content


def test_files_of_earlier_versions_mean_what_they_meant(exported):
    path = exported()

    def head(content: dict) -> tuple[str, bool]:
        (output,) = Metadata.parse(path, content).outputs
        return str(output.activation), output.exclusive

    assert head(without_head(path)) == ("none", True)
    assert head(without_head(path, kind="probabilities")) == ("softmax", True)
    assert head(without_head(exported(1))) == ("none", False)


@pytest.mark.parametrize(
    "changes",
    [
        {"activation": "tanh"},
        {"activation": "softmax"},
        {"kind": "probabilities", "activation": "none"},
        {"kind": "probabilities", "activation": "softmax", "exclusive": False},
        {"exclusive": "yes"},
        {"activation": ["none"]},
    ],
)
def test_heads_that_contradict_themselves_are_refused(exported, changes):
    path = exported()
    with pytest.raises(ArtifactError, match=r"outputs\[0\]\.(activation|exclusive)"):
        Metadata.parse(path, without_head(path, **changes))


def test_softmax_over_one_class_is_refused(exported, export, tmp_path, run_timmx):
    with pytest.raises(ConfigurationError, match="softmax over one class is 1") as caught:
        exported(1, softmax=True)
    assert "--sigmoid" in caught.value.hint
    done = run_timmx("torch-export", "test_resnet", "--num-classes", 1, "--softmax")
    assert done.exit_code == 2
    assert "softmax over one class is 1" in done.stderr
    older = Metadata.parse(tmp_path, without_head(exported(1), kind="probabilities"))
    assert older.outputs[0].kind is OutputKind.PROBABILITIES
    file = describe(exported(1))
    with pytest.raises(ArtifactError, match="output is 1 for every image"):
        type(file)(**vars(file) | {"metadata": older}).require_classes()


@pytest.mark.parametrize(
    ("options", "words"),
    [
        ({"softmax": True, "sigmoid": True}, "--softmax and --sigmoid cannot be combined"),
        ({"softmax": True, "multi_label": True}, "--softmax and --multi-label cannot be combined"),
        ({"sigmoid": True, "features": True}, "--sigmoid requires classes"),
        ({"multi_label": True, "num_classes": 0}, "--multi-label requires classes"),
    ],
)
def test_contradicting_options_are_refused(tmp_path, options, words):
    with pytest.raises(ConfigurationError, match=words):
        timmx.export("torch-export", "test_resnet", output=tmp_path / "x.pt2", **options)


@pytest.mark.parametrize("flag", ["sigmoid", "multi_label"])
def test_a_model_without_classes_is_refused(export, tmp_path, flag):
    model = Brightness()
    model.num_classes = 0
    with pytest.raises(ConfigurationError, match=f"--{flag.replace('_', '-')} needs a model with one output"):
        export("torch-export", model, tmp_path / "x.pt2", **{flag: True})


@pytest.mark.parametrize("options", [{"multi_label": True}, {"multi_label": True, "sigmoid": True}])
def test_agreement_is_that_of_the_decisions_on_labels(exported, run_timmx, options):
    path = exported(**options)
    report = next(result for result in exported.results.values() if result.path == path).verification
    assert report.label_agreement == 1.0
    assert report.top1_agreement is None
    shown = run_timmx("inspect", path).stdout
    assert "agreement on labels at 0.5 100.0 %" in shown
    assert "top-1" not in shown
    assert "labels agree" in run_timmx("compare", path.parent, "--no-bench").stdout

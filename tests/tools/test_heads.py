"""Models whose classes do not exclude each other, and models with one logit: sigmoid instead of softmax."""

from __future__ import annotations

import csv
import json
import shutil
import subprocess
from dataclasses import replace
from typing import TYPE_CHECKING

import numpy as np
import pytest
import timm
import timmx
import torch
import tree_sitter
import tree_sitter_kotlin
import tree_sitter_swift
from PIL import Image
from timmx.contract.metadata import Metadata, OutputKind
from timmx.contract.options import ExportRequest
from timmx.contract.snippet import Snippet
from timmx.errors import ArtifactError, ConfigurationError
from timmx.model.load import load_model
from timmx.tools.eval.dataset import read_dataset
from timmx.tools.eval.multi_label import average_precision
from timmx.tools.eval.running import evaluate
from timmx.tools.predict.prediction import predict
from timmx.tools.snippets import javascript, kotlin, python, swift
from timmx.tools.snippets.facts import Facts
from timmx.tools.subject.against import request_for
from timmx.tools.subject.subject import _sigmoid, describe
from timmx_litert import task_metadata
from timmx_litert.export import _task_metadata
from torch import nn

if TYPE_CHECKING:
    from pathlib import Path

COLORS = ("red", "green", "blue")
SCALE, BIAS = 8.0, -4.0


class Brightness(nn.Module):
    """Logits of the channels' means: 8 * mean - 4, for pixels in [0, 1]; `classes` of the three channels."""

    def __init__(self, classes: int = 3) -> None:
        super().__init__()
        self.convolution = nn.Conv2d(3, 3, 3, padding=1, bias=False)
        self.convolution.weight.data = nn.init.dirac_(self.convolution.weight.data)  # its output is its input
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
        return self.head(self.convolution(x).mean((2, 3)))


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
        image["path"].rpartition("/")[2]: {
            item["label"]: item["probability"] for item in image["predictions"]
        }
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


TAGS = {
    "red.png": "red",
    "yellow.png": "red|green",
    "black.png": "",
    "white.png": "red|green|blue",
    "dim.png": "blue",
}


def write_rows(path: Path, rows: list[tuple[str, str]]) -> Path:
    with path.open("w", newline="") as stream:
        csv.writer(stream).writerows([("path", "label"), *rows])
    return path


@pytest.fixture
def tags(pictures) -> Path:
    """One row per image, with labels separated by vertical bars."""
    return write_rows(pictures / "tags.csv", list(TAGS.items()))


@pytest.fixture
def rows(pictures) -> Path:
    """One row per label."""
    pairs = [(name, label) for name, labels in TAGS.items() for label in labels.split("|")]
    return write_rows(pictures / "rows.csv", pairs)


def test_average_precision_is_the_one_of_scikit_learn():
    """Values of sklearn.metrics.average_precision_score, computed by hand: equal scores are one step."""
    truth = np.array([0, 0, 1, 1], bool)
    assert average_precision(truth, np.array([0.1, 0.4, 0.35, 0.8])) == pytest.approx(0.5 + 0.5 * 2 / 3)
    assert average_precision(truth, np.full(4, 0.5)) == 0.5
    assert average_precision(truth, np.array([1.0, 1.0, 0.0, 0.0])) == 0.5
    assert average_precision(~truth, np.array([0.9, 0.8, 0.1, 0.2])) == 1.0
    assert average_precision(np.zeros(4, bool), np.arange(4.0)) is None


def test_large_logits_keep_their_order_as_probabilities():
    logits = np.linspace(17, 30, 100, dtype=np.float32)
    truth = np.random.default_rng(0).random(100) < 0.4
    assert average_precision(truth, _sigmoid(logits)) == average_precision(truth, logits)
    np.testing.assert_allclose(_sigmoid(-logits), np.exp(-logits.astype(np.float64)), rtol=1e-6)


@pytest.mark.parametrize("head", HEADS)
@pytest.mark.parametrize("form", ["tags", "rows"])
def test_eval_gives_the_mean_average_precision(exported, request, run_timmx, head, form):
    """blue is ranked white, dim, then three equal ones: all right. No label of dim reaches 0.5."""
    path = exported(multi_label=True, **HEADS[head])
    done = run_timmx("eval", path, "--data", request.getfixturevalue(form), "--json")
    assert done.exit_code == 0, done.stderr
    found = json.loads(done.stdout)
    assert found["mean_average_precision"] == pytest.approx(1.0)
    assert (found["count"], found["exact"], found["decisions"]) == (5, 0.8, pytest.approx(14 / 15))
    assert {
        item["name"]: (item["count"], item["precision"], item["recall"]) for item in found["per_class"]
    } == {
        "red": (3, 1.0, 1.0),
        "green": (2, 1.0, 1.0),
        "blue": (2, 1.0, 0.5),
    }
    labels = {item["path"]: (item["labels"], item["read"], item["right"]) for item in found["predictions"]}
    assert labels["yellow.png"] == (["red", "green"], ["red", "green"], True)
    assert labels["black.png"] == ([], [], True)
    assert labels["dim.png"] == (["blue"], [], False)


def test_wrong_labels_lower_the_average_precision_of_their_class(exported, pictures):
    """green: yellow (0.88) is the second of white, yellow, dim, and its label is removed: 1/2 * (1 + 2/3)."""
    labels = TAGS | {"yellow.png": "red", "dim.png": "blue|green"}
    found = evaluate(exported(multi_label=True), write_rows(pictures / "other.csv", list(labels.items())))
    by_name = {item.name: item.average_precision for item in found.per_class}
    assert by_name == pytest.approx({"red": 1.0, "green": (1 + 2 / 3) / 2, "blue": 1.0})
    assert found.mean_average_precision == pytest.approx((2 + 5 / 6) / 3)


def test_text_csv_report_and_journal_of_multi_label_evaluations(exported, tags, run_timmx, tmp_path):
    path, sigmoid = exported(multi_label=True), exported(multi_label=True, sigmoid=True)
    arguments = ("eval", path, "--data", tags, "--against", sigmoid, "--resume", "journal")
    done = run_timmx(*arguments, "--csv", "out.csv", "--report", "out.html")
    assert done.exit_code == 0, done.stderr
    assert "mAP     100.0 %" in done.stdout
    assert "4 of 5 images with all labels right at 0.5" in done.stdout
    assert "All decisions at 0.5 are the same." in done.stdout
    with (tmp_path / "out.csv").open(newline="") as stream:
        table = {row["path"]: row for row in csv.DictReader(stream)}
    assert (table["yellow.png"]["label"], table["yellow.png"]["read"]) == ("red|green", "red|green")
    assert float(table["dim.png"]["probability of green"]) == pytest.approx(probability(60), abs=1e-5)
    assert "Average precision per class" in (tmp_path / "out.html").read_text("utf-8")
    again = json.loads(run_timmx(*arguments, "--json").stdout)
    assert (again["resumed"], again["mean_average_precision"]) == (5, pytest.approx(1.0))


def test_nan_is_wrong_for_every_label(export, tmp_path, tags):
    class NotANumber(Brightness):
        def forward(self, x):
            return super().forward(x) * float("inf") * 0

    path = export(
        "torch-export", NotANumber(), tmp_path / "nan.pt2", labels=COLORS, multi_label=True, verify=False
    ).path
    found = evaluate(path, tags)
    assert (found.not_numbers, found.scores.exact, found.scores.decisions) == (5, 0, 0)
    assert found.mean_average_precision < 0.5


@pytest.mark.parametrize("data", ["0 and 1", "names", "folders"])
def test_eval_of_one_logit(exported, pictures, run_timmx, tmp_path, data):
    """red is in red, yellow and white: 0.5 is reached by these, and by none of the others."""
    names = {"red.png": 1, "yellow.png": 1, "black.png": 0, "white.png": 1, "dim.png": 1}
    if data == "0 and 1":
        source = write_rows(pictures / "one.csv", [(name, str(value)) for name, value in names.items()])
    elif data == "names":
        pairs = [(name, "red" if value else "other") for name, value in names.items()]
        source = write_rows(pictures / "one.csv", pairs)
    else:
        source = tmp_path / "folders"
        for name, value in names.items():
            (source / ("red" if value else "other")).mkdir(parents=True, exist_ok=True)
            shutil.copy(pictures / name, source / ("red" if value else "other") / name)
    done = run_timmx("eval", exported(1), "--data", source, "--json")
    assert done.exit_code == 0, done.stderr
    found = json.loads(done.stdout)
    assert (found["count"], found["mean_average_precision"], found["exact"]) == (5, 1.0, 0.8)
    assert found["classes"] == ["red"]
    assert ("count as images without it" in done.stderr) is (data != "0 and 1")


@pytest.mark.parametrize(
    ("labels", "classes", "words"),
    [
        (["cat", "dog"], ["red"], "has one class, red, and .* has the labels cat, dog"),
        (["0", "1"], ["0"], "unclear which of them"),
        (["0", "0"], ["red"], "no image of .* has a label"),
        (["", ""], ["red", "green"], "no image of .* has a label"),
        (["red|pink", ""], ["red", "green"], "no class for 1 of them: pink"),
    ],
)
def test_labels_that_do_not_fit_are_errors(tmp_path, labels, classes, words):
    for number in range(len(labels)):
        (tmp_path / f"{number}.png").touch()
    data = write_rows(tmp_path / "x.csv", [(f"{number}.png", label) for number, label in enumerate(labels)])
    with pytest.raises(ConfigurationError, match=words):
        read_dataset(data, "f.onnx", classes, len(classes), exclusive=False)


def test_several_labels_for_exclusive_classes_are_errors(tags, rows):
    for data in (tags, rows):
        with pytest.raises(ConfigurationError, match="has no label in line"):
            read_dataset(data, "f.onnx", COLORS, 3)
        data.write_text("\n".join(line for line in data.read_text().splitlines() if not line.endswith(",")))
        with pytest.raises(ConfigurationError, match=r"classes of f\.onnx exclude each other") as caught:
            read_dataset(data, "f.onnx", COLORS, 3)
        assert "--multi-label" in caught.value.hint


def test_indices_and_names_with_bars_are_labels(tmp_path):
    for name in "ab":
        (tmp_path / name).touch()
    data = write_rows(tmp_path / "x.csv", [("a", "0|2"), ("b", "1")])
    assert [image.truths for image in read_dataset(data, "f", COLORS, 3, exclusive=False).images] == [
        (0, 2),
        (1,),
    ]
    data = write_rows(tmp_path / "x.csv", [("a", "x|y"), ("b", "x|y|z")])
    found = read_dataset(data, "f", ("x|y", "z", "x", "y"), 4, exclusive=False)
    assert [image.truths for image in found.images] == [(0,), (1, 2, 3)]


def test_two_folders_of_a_nameless_class_are_in_timms_order(tmp_path):
    for name in ("9", "10"):
        (tmp_path / name).mkdir()
        (tmp_path / name / "a.png").touch()
    found = read_dataset(tmp_path, "f", None, 1, exclusive=False)
    assert {image.name: image.truths for image in found.images} == {"9/a.png": (), "10/a.png": (0,)}


def test_compare_shows_the_mean_average_precision(exported, tags, run_timmx, tmp_path):
    folder = tmp_path / "files"
    folder.mkdir()
    shutil.copy(exported(multi_label=True), folder / "a.pt2")
    done = run_timmx("compare", folder, "--no-bench", "--data", tags, "--report", "out.html")
    assert done.exit_code == 0, done.stderr
    head, row = done.stdout.splitlines()[:2]
    assert "labels agree" in head
    assert head.rstrip().endswith("mAP")
    assert row.rstrip().endswith("100.0 %")
    text = (tmp_path / "out.html").read_text("utf-8")
    assert "Mean average precision: 100.0 %" in text
    assert "Confusion matrix" not in text
    found = json.loads(run_timmx("compare", folder, "--no-bench", "--data", tags, "--json").stdout)
    assert (found["rows"][0]["mean_average_precision"], found["rows"][0]["top1"]) == (pytest.approx(1), None)


def test_files_with_other_heads_are_not_compared(exported, tags):
    with pytest.raises(ConfigurationError, match="exclude each other, and those of"):
        evaluate(exported(multi_label=True), tags, against=exported())


@pytest.fixture(params=["one logit", "several", "several sigmoid", "no labels"])
def facts(request, exported):
    """Of a file whose classes do not exclude each other, and whether its output is logits."""
    path = exported(
        1 if request.param == "one logit" else 3,
        **({} if request.param == "one logit" else {"multi_label": True}),
        **({"sigmoid": True} if "sigmoid" in request.param else {}),
    )
    found = Facts.of(path, describe(path).metadata)
    return replace(found, labels=None) if request.param == "no labels" else found


LOGITS = np.array([2.0, -1.0, 0.5], np.float32)


def shown_lines(facts: Facts) -> tuple[np.ndarray, list[str]]:
    """An output of the file, and what code should print for it."""
    logits = LOGITS[: facts.answers[0]]
    names = facts.labels or [str(number) for number in range(len(logits))]
    lines = [f"{name} {sigmoid(value):.6f}" for name, value in zip(names, logits, strict=True)]
    return (logits if facts.to_probabilities == "sigmoid" else sigmoid(logits)), lines


def test_python_code_shows_each_probability(facts, capsys):
    output, lines = shown_lines(facts)
    exec("\n".join(python._answer(facts)), {"np": np, "output": output[None], "labels": facts.labels})
    assert capsys.readouterr().out.splitlines() == lines


@pytest.mark.skipif(shutil.which("node") is None, reason="node is not installed")
def test_javascript_code_shows_each_probability(facts):
    output, lines = shown_lines(facts)
    code = f"const output = {output.tolist()}; const labels = {json.dumps(facts.labels)};"
    done = subprocess.run(
        ["node", "-e", "\n".join([code, *javascript._answer(facts)])],
        text=True,
        capture_output=True,
        check=True,
    )
    assert done.stdout.splitlines() == lines


@pytest.mark.parametrize(
    ("compose", "grammar", "result"),
    [
        (kotlin.compose, tree_sitter_kotlin, "List<Pair<String, Float>>"),
        (swift.compose, tree_sitter_swift, "[(String, Float)]"),
    ],
)
def test_kotlin_and_swift_code_returns_each_probability(facts, compose, grammar, result):
    code = compose(facts, Snippet(load=("val a = 1",) if "Pair" in result else ("let a = 1",)))
    tree = tree_sitter.Parser(tree_sitter.Language(grammar.language())).parse(code.encode())
    assert not tree.root_node.has_error, code
    assert result in code
    assert "best" not in code
    assert (("1 / (1 + exp(-" in code), "sum" in code) == (facts.to_probabilities == "sigmoid", False)


def test_note_that_a_checkpoint_was_trained_for_sigmoid(tmp_path):
    import argparse

    model = timm.create_model("test_resnet", num_classes=4)

    def notes(bce_loss: bool, **options) -> list[str]:
        args = argparse.Namespace(bce_loss=bce_loss, num_classes=4)
        torch.save({"arch": "x", "state_dict": model.state_dict(), "args": args}, tmp_path / "c.pth.tar")
        request = ExportRequest(model="test_resnet", checkpoint=tmp_path / "c.pth.tar", **options)
        return [note for note in load_model(request).notes if "bce_loss" in note]

    (note,) = notes(True)
    assert note.startswith("c.pth.tar was trained with bce_loss, for probabilities by sigmoid: --sigmoid")
    assert notes(True, sigmoid=True) == notes(False) == []


def test_the_model_of_a_file_is_loaded_with_its_head(exported):
    heads = (
        (3, {"sigmoid": True}),
        (3, {"multi_label": True}),
        (3, {"multi_label": True, "sigmoid": True}),
        (3, {"softmax": True}),
    )
    for classes, options in heads:
        request = request_for(describe(exported(classes, **options)).metadata, "test_resnet")
        assert {name for name in ("softmax", "sigmoid", "multi_label") if getattr(request, name)} == {
            *options
        }


@pytest.fixture(scope="module")
def core_ml(export, tmp_path_factory):
    """The description of a Core ML file of `Brightness`, and its result: (classes, **options)."""

    def make(classes: int = 3, **options):
        import coremltools as ct

        path = tmp_path_factory.mktemp("coreml") / "colors.mlpackage"
        result = export("coreml", Brightness(classes), path, labels=list(COLORS[:classes]), **options)
        return ct.models.MLModel(str(path), skip_model_load=True).get_spec().description, result

    return make


def test_core_ml_classifier_of_several_labels(core_ml, pictures):
    description, result = core_ml(classifier=True, multi_label=True, sigmoid=True)
    assert any("classLabel is only the most likely one" in note for note in result.notes)
    assert not any("holds logits" in note for note in result.notes)
    assert result.verification.label_agreement == 1.0
    texts = [output.shortDescription for output in description.output]
    assert all("Classes do not exclude each other" in text for text in texts)
    (image,) = predict(result.path, [str(pictures / "yellow.png")]).images
    found = {guess.label: guess.probability for guess in image.guesses}
    assert found == pytest.approx(
        {label: probability(value) for label, value in zip(COLORS, (230, 200, 20), strict=True)}, abs=2e-3
    )


def test_core_ml_classifier_of_one_class_is_refused(core_ml):
    with pytest.raises(ConfigurationError, match="classLabel is the same for every image"):
        core_ml(1, classifier=True, sigmoid=True)


def test_task_metadata_of_litert_states_the_head(exported):
    def described(classes: int = 3, **options) -> dict:
        metadata = describe(exported(classes, **options)).metadata
        content = task_metadata.read(_task_metadata(metadata, metadata.labels), exported())
        (graph,) = content["subgraph_metadata"]
        (output,) = graph["output_tensor_metadata"]
        return output

    sigmoid = described(multi_label=True, sigmoid=True)
    assert sigmoid["stats"] == {"max": [1.0], "min": [0.0]}
    assert sigmoid["description"].startswith("Probabilities. Classes do not exclude each other")
    assert described(1)["description"].startswith(
        "Logits; sigmoid converts them to probabilities. Classes do"
    )
    assert "stats" not in described(1)
    assert described()["description"] == "Logits; softmax converts them to probabilities"

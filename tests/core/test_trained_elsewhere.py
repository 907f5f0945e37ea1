"""Checkpoints of other trainers, and of models that were not built with timm's defaults."""

from __future__ import annotations

import argparse
import json
from typing import TYPE_CHECKING

import pytest
import timm
import torch
from safetensors.torch import save_file
from timmx.contract.options import ExportRequest
from timmx.errors import ConfigurationError, ModelError
from timmx.model.load import load_model
from timmx.model.source import find_source

if TYPE_CHECKING:
    from pathlib import Path


def build(name: str, **arguments) -> torch.nn.Module:
    with torch.random.fork_rng():
        torch.manual_seed(5)
        model = timm.create_model(name, **arguments)
        for key, tensor in model.state_dict().items():
            if tensor.is_floating_point():
                tensor.uniform_(0.1, 0.5) if "running_var" in key else tensor.uniform_(-0.2, 0.3)
    return model.eval()


@pytest.fixture(scope="module")
def trained() -> torch.nn.Module:
    return build("test_resnet", num_classes=7)


def load(path: Path, model: str = "test_resnet", **options):
    return load_model(ExportRequest(**{"model": model, **options}, checkpoint=path))


def save_training(path: Path, model: torch.nn.Module, **args) -> Path:
    """As timm's train.py does."""
    torch.save({"arch": "x", "state_dict": model.state_dict(), "args": argparse.Namespace(**args)}, path)
    return path


def outputs_differ(loaded, model: torch.nn.Module, size: tuple[int, int] = (64, 64)) -> float:
    inputs = torch.rand(2, 3, *size, generator=torch.Generator().manual_seed(0))
    with torch.no_grad():
        return float((loaded.model(inputs) - model(inputs)).abs().max())


@pytest.mark.parametrize(
    ("name", "arguments", "args", "note"),
    [
        ("test_resnet", {"global_pool": "max"}, {"gp": "max"}, "global_pool max"),
        ("test_efficientnet", {"bn_eps": 0.1}, {"bn_eps": 0.1}, "bn_eps 0.1"),
        ("test_resnet", {"output_stride": 8}, {"model_kwargs": {"output_stride": 8}}, "output_stride 8"),
        ("test_resnet", {"in_chans": 3, "num_classes": 4}, {"num_classes": 4}, "num_classes 4"),
        ("test_vit", {"global_pool": "avg"}, {"model_kwargs": {"global_pool": "avg"}}, "global_pool avg"),
    ],
)
def test_the_model_is_built_as_it_was_trained(tmp_path, name, arguments, args, note):
    model = build(name, **arguments)
    empty = {
        "mean": None,
        "gp": None,
        "bn_eps": None,
        "model_kwargs": {},
        "interpolation": "",
        "img_size": None,
    }
    loaded = load(save_training(tmp_path / "c.pth.tar", model, **{**empty, **args}), name)
    assert outputs_differ(loaded, model, (160, 160)) == 0
    assert f"From the options that c.pth.tar was trained with: {note}." in loaded.notes


def test_channels_and_size_of_training_are_taken(tmp_path):
    model = build("test_vit", in_chans=1, img_size=96)
    path = save_training(tmp_path / "c.pth", model, input_size=[1, 96, 96], model_kwargs={"img_size": 96})
    loaded = load(path, "test_vit")
    assert loaded.data_config.input_size == (1, 96, 96)
    assert "input size 96 x 96" in loaded.notes[0]


def test_a_size_of_training_applies_to_models_of_any_size(tmp_path, trained):
    path = save_training(tmp_path / "c.pth", trained, img_size=96, num_classes=7)
    assert load(path).data_config.input_size == (3, 96, 96)
    assert load(path, input_size=(3, 128, 128)).data_config.input_size == (3, 128, 128)


def test_options_override_those_of_training(tmp_path, trained):
    path = save_training(tmp_path / "c.pth", trained, gp="max", num_classes=9, in_chans=4)
    loaded = load(path, model_kwargs=("global_pool=avg",), num_classes=7, in_chans=3)
    assert outputs_differ(loaded, trained) == 0
    assert not any("was trained with" in note for note in loaded.notes)


@pytest.mark.parametrize(
    ("args", "words"),
    [
        ({"bn_eps": 0.1}, "trained with bn_eps=0.1: test_resnet takes no argument 'bn_eps'"),
        ({"model_kwargs": {"shape": 5}}, "trained with shape=5: test_resnet takes no argument 'shape'"),
        ({"model_kwargs": {"pretrained_cfg_overlay": {"file": "x"}}}, "pretrained_cfg_overlay"),
        ({"gp": 10**400}, "gp|global_pool"),
    ],
)
def test_options_of_training_that_do_not_apply_are_refused(tmp_path, trained, args, words):
    path = save_training(tmp_path / "c.pth", trained, num_classes=7, **args)
    with pytest.raises(ConfigurationError, match=words):
        load(path)


def prefixed(state, prefix):
    return {prefix + name: tensor for name, tensor in state.items()}


@pytest.mark.parametrize(
    "wrap",
    [
        lambda state: {"state_dict": {**prefixed(state, "model."), "criterion.weight": torch.ones(7)}},
        lambda state: {**prefixed(state, "net."), "ema_model.step": torch.ones(1)},
        lambda state: {**prefixed(state, "model."), **prefixed(state, "model_ema.module.")},
        lambda state: {"state_dict": prefixed(state, "module.backbone."), "loss": 1.0},
        lambda state: {"net": state, "epoch": 3},
        lambda state: {"network": prefixed(state, "_orig_mod."), "acc": 0.5},
        lambda state: {"model": prefixed(state, "module."), "head": {"weight": torch.ones(3)}},
        lambda state: {"model": state, "opt": {"state": {}, "hypers": [{"lr": 0.1}]}},
    ],
)
def test_the_tensors_that_match_the_model_are_found(tmp_path, trained, wrap):
    torch.save(wrap(dict(trained.state_dict())), tmp_path / "c.ckpt")
    assert outputs_differ(load(tmp_path / "c.ckpt", num_classes=7), trained) == 0


def test_tensors_that_are_not_loaded_are_named(tmp_path, trained):
    state = {**prefixed(trained.state_dict(), "model."), "criterion.weight": torch.ones(7)}
    torch.save({"state_dict": state}, tmp_path / "c.ckpt")
    notes = load(tmp_path / "c.ckpt", num_classes=7).notes
    assert notes[0] == (
        "c.ckpt: the weights are the tensors under model; not loaded: 1 key (criterion.weight)."
    )


def test_two_models_in_one_file_are_refused(tmp_path, trained):
    state = dict(trained.state_dict())
    for content in (
        {"model": state, "net": state},
        {**prefixed(state, "student."), **prefixed(state, "teacher.")},
    ):
        torch.save(content, tmp_path / "c.pth")
        with pytest.raises(ModelError, match=r"several models that match: (model, net|student, teacher)"):
            load(tmp_path / "c.pth", num_classes=7)


def change_one(model: torch.nn.Module, name: str, change) -> dict[str, torch.Tensor]:
    state = {key: tensor.clone() for key, tensor in model.state_dict().items()}
    state[name] = change(state[name])
    return state


CHANGES = [
    ("conv1.0.weight", lambda x: (x * 100).to(torch.int8), "conv1.0.weight' is int8, not float"),
    ("fc.bias", lambda x: x > 0, "fc.bias' is bool, not float"),
    (
        "conv1.0.weight",
        lambda x: x.index_fill(0, torch.tensor(3), torch.nan),
        "conv1.0.weight has NaN or inf",
    ),
    ("conv1.1.running_var", lambda x: x / 0, "conv1.1.running_var has NaN or inf"),
]


@pytest.mark.parametrize(("name", "change", "words"), CHANGES)
def test_weights_that_are_not_finite_floats_are_refused(tmp_path, trained, name, change, words):
    state = change_one(trained, name, change)
    torch.save(state, tmp_path / "c.pth")
    save_file(state, tmp_path / "c.safetensors")
    for path in (tmp_path / "c.pth", tmp_path / "c.safetensors"):
        with pytest.raises(ModelError, match=words):
            load(path, num_classes=7)


@pytest.mark.parametrize(("name", "change", "words"), CHANGES)
def test_a_local_dir_with_weights_that_are_not_finite_floats_is_refused(
    tmp_path, trained, name, change, words
):
    timm.models.save_for_hf(trained, tmp_path / "m", model_config={"num_classes": 7})
    for file in (tmp_path / "m").glob("*.bin"):
        file.unlink()
    save_file(change_one(trained, name, change), tmp_path / "m" / "model.safetensors")
    with pytest.raises(ModelError, match=words):
        load_model(ExportRequest(model=f"local-dir:{tmp_path / 'm'}"))


def test_integers_under_other_names_are_refused(tmp_path):
    model = build("test_vit")
    torch.save(change_one(model, "pos_embed", lambda x: (x * 100).to(torch.int16)), tmp_path / "c.pth")
    with pytest.raises(ModelError, match="pos_embed is int16, where the model has float32"):
        load(tmp_path / "c.pth", "test_vit")


def test_a_quantized_model_of_torch_is_refused(tmp_path):
    state = {"fc.scale": torch.ones(1), "fc._packed_params._packed_params": (torch.ones(2), None)}
    torch.save({"state_dict": state}, tmp_path / "c.pth")
    with pytest.raises(ModelError, match="of a quantized model"):
        load(tmp_path / "c.pth", num_classes=7)


def test_missing_weights_are_refused_whatever_the_config_says(tmp_path, trained):
    timm.models.save_for_hf(trained, tmp_path / "m", model_config={"num_classes": 7})
    folder = tmp_path / "m"
    config = json.loads((folder / "config.json").read_text())
    config.setdefault("model_args", {})["pretrained_strict"] = False
    (folder / "config.json").write_text(json.dumps(config))
    load_model(ExportRequest(model=f"local-dir:{folder}"))
    state = trained.state_dict()
    half = {name: state[name] for name in list(state)[::2]}
    for file in folder.glob("pytorch_model.*"):
        file.unlink()
    save_file(half, folder / "model.safetensors")
    with pytest.raises(ModelError, match="keys missing"):
        load_model(ExportRequest(model=f"local-dir:{folder}"))


@pytest.mark.parametrize(
    ("content", "labels", "words"),
    [
        ({"id2label": {"0": "ant", "2": "cat"}}, {}, "no name for class index 1"),
        ({"id2label": {"0": "ant", "1": "LABEL_1"}}, {}, "transformers' defaults"),
        ({"id2label": {"0": "LABEL_0", "1": "LABEL_1"}}, {}, ""),
        ({"id2label": {"0": "ant", "1": "bee"}}, {}, ""),
        ({"id2label": {"0": "ant", "2": "cat"}}, {"labels": ["ant", "bee"]}, ""),
        ({"problem_type": "multi_label_classification"}, {}, "add --multi-label"),
        ({"problem_type": "multi_label_classification"}, {"multi_label": True}, ""),
        ({"problem_type": "multi_label_classification"}, {"num_classes": 0}, ""),
        ({"problem_type": "single_label_classification"}, {}, ""),
    ],
)
def test_what_a_config_of_transformers_says_and_is_not_used_is_a_note(tmp_path, content, labels, words):
    content = {"architecture": "test_resnet", "num_classes": 2, "model_type": "timm_wrapper"} | content
    (tmp_path / "config.json").write_text(json.dumps(content))
    notes = find_source(ExportRequest(model=f"local-dir:{tmp_path}", **labels), weights=False).notes
    assert len(notes) == bool(words)
    assert words in " ".join(notes)


def test_a_model_saved_by_transformers_is_loaded(tmp_path, trained):
    timm.models.save_for_hf(trained, tmp_path / "m", model_config={"num_classes": 7})
    folder = tmp_path / "m"
    for file in folder.glob("*.bin"):
        file.unlink()
    save_file(prefixed(trained.state_dict(), "timm_model."), folder / "model.safetensors")
    config = json.loads((folder / "config.json").read_text())
    names = ["ant", "bee", "cat", "dog", "elk", "fox", "gnu"]
    config |= {
        "model_args": None,
        "model_type": "timm_wrapper",
        "id2label": {str(i): n for i, n in enumerate(names)},
    }
    (folder / "config.json").write_text(json.dumps(config))
    loaded = load_model(ExportRequest(model=f"local-dir:{folder}"))
    assert outputs_differ(loaded, trained) == 0
    assert loaded.labels == tuple(names)

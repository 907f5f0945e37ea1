"""Checkpoints of other trainers, and of models that were not built with timm's defaults."""

from __future__ import annotations

import argparse
import datetime
import json
from typing import TYPE_CHECKING

import numpy as np
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


def save_folder(folder: Path, model: torch.nn.Module, state=None, name="model.safetensors", **config) -> str:
    """As timm's save_for_hf or transformers' save_pretrained does; `config` overrides keys of config.json."""
    timm.models.save_for_hf(model, folder, model_config={"num_classes": model.num_classes})
    for file in (*folder.glob("*.bin"), *folder.glob("*.safetensors")):
        file.unlink()
    content = json.loads((folder / "config.json").read_text()) | config
    (folder / "config.json").write_text(json.dumps(content))
    state = dict(model.state_dict()) if state is None else state
    save_file(state, folder / name) if name.endswith("safetensors") else torch.save(state, folder / name)
    return f"local-dir:{folder}"


def load_folder(model: str, **options):
    return load_model(ExportRequest(model=model, **options))


def embed(model: torch.nn.Module, inputs: torch.Tensor) -> torch.Tensor:
    with torch.no_grad():
        return model.forward_head(model.forward_features(inputs), pre_logits=True)


@pytest.mark.parametrize("prefix", ["", "timm_model."])
def test_an_embedding_and_a_new_classifier_have_the_weights_of_a_local_dir(tmp_path, trained, prefix):
    model = save_folder(tmp_path / "m", trained, prefixed(trained.state_dict(), prefix))
    inputs = torch.rand(2, 3, 64, 64, generator=torch.Generator().manual_seed(0))
    embedding = load_folder(model, num_classes=0)
    with torch.no_grad():
        assert torch.allclose(embedding.model(inputs), embed(trained, inputs))
    new = load_folder(model, num_classes=5)
    assert torch.allclose(embed(new.model, inputs), embed(trained, inputs))
    assert new.seed == 0
    assert new.notes[0] == "The classifier is new and untrained: 5 classes, where the weights have 7."
    pyramid = load_folder(model, features=True)
    with torch.no_grad():
        assert torch.equal(pyramid.model(inputs)[-1], trained.forward_features(inputs))


@pytest.mark.parametrize("options", [{"num_classes": 5}, {"num_classes": 0}, {"features": True}, {}])
def test_a_local_dir_that_lacks_or_exceeds_the_models_weights_is_refused(tmp_path, trained, options):
    state = dict(trained.state_dict())
    lacking = {name: tensor for name, tensor in state.items() if not name.startswith("layer3")}
    model = save_folder(tmp_path / "a", trained, lacking)
    with pytest.raises(ModelError, match=r"20 keys missing \(layer3"):
        load_folder(model, **options)
    model = save_folder(tmp_path / "b", trained, {**state, "extra.weight": torch.ones(3)})
    with pytest.raises(ModelError, match=r"1 key unexpected \(extra\.weight\)"):
        load_folder(model, **options)


def test_a_local_dir_with_another_number_of_classes_than_its_weights_is_refused(tmp_path, trained):
    model = save_folder(tmp_path / "m", trained, model_args={"num_classes": 5})
    with pytest.raises(
        ModelError,
        match=r"classifier of 7 classes.*states 5\nhint: use --num-classes 7 .* or --num-classes 5",
    ):
        load_folder(model)
    whole = load_folder(model, num_classes=7)
    assert outputs_differ(whole, trained) == 0
    assert whole.seed is None
    assert load_folder(model, num_classes=5).seed == 0


def test_a_config_without_model_args_does_not_give_a_random_classifier(tmp_path, trained):
    model = save_folder(tmp_path / "m", trained, model_args=None, num_classes=5)
    with pytest.raises(ModelError, match="classifier of 7 classes"):
        load_folder(model)


def change(state, factor=2.0):
    return {name: tensor * factor if tensor.is_floating_point() else tensor for name, tensor in state.items()}


def test_ema_weights_of_a_local_dir_are_loaded_on_request_only(tmp_path, trained):
    averaged = build("test_resnet", num_classes=7)
    averaged.load_state_dict(change(trained.state_dict(), 0.5))
    content = {"state_dict": trained.state_dict(), "state_dict_ema": averaged.state_dict()}
    model = save_folder(tmp_path / "m", trained, content, "pytorch_model.bin")
    plain = load_folder(model)
    assert outputs_differ(plain, trained) == 0
    assert plain.notes == ("pytorch_model.bin also has EMA weights (state_dict_ema): --use-ema loads them.",)
    assert outputs_differ(load_folder(model, use_ema=True), averaged) == 0


def test_the_options_of_training_in_a_local_dir_are_taken(tmp_path):
    model = build("test_resnet", num_classes=7, global_pool="max")
    content = {"state_dict": model.state_dict(), "args": argparse.Namespace(gp="max")}
    folder = save_folder(tmp_path / "m", model, content, "pytorch_model.bin", model_args=None)
    loaded = load_folder(folder)
    assert outputs_differ(loaded, model) == 0
    assert "From the options that pytorch_model.bin was trained with: global_pool max." in loaded.notes


@pytest.mark.parametrize("options", [{"num_classes": 0}, {"features": True}])
@pytest.mark.parametrize("prefix", ["model.", "module.backbone."])
def test_prefixes_are_found_without_a_classifier(tmp_path, trained, prefix, options):
    state = {**prefixed(trained.state_dict(), prefix), "criterion.weight": torch.ones(7)}
    torch.save({"state_dict": state}, tmp_path / "c.ckpt")
    loaded = load(tmp_path / "c.ckpt", **options)
    inputs = torch.rand(1, 3, 64, 64)
    with torch.no_grad():
        output = loaded.model(inputs)
        expected = trained.forward_features(inputs) if "features" in options else embed(trained, inputs)
        assert torch.allclose(output[-1] if "features" in options else output, expected)
    assert "not loaded: 1 key (criterion.weight)" in loaded.notes[0]


OTHER = torch.ones(3)


@pytest.mark.parametrize(
    "wrap",
    [
        lambda state: {**prefixed(state, "_orig_mod."), "criterion.weight": OTHER},
        lambda state: {**prefixed(state, "module."), "n_averaged": torch.tensor(4)},
        lambda state: {"module": state, "optimizer": {"exp_avg": OTHER}},
        lambda state: {"state_dict": {"x": OTHER}, "net": state},
        lambda state: {"state_dict": {}, "model": state},
        lambda state: {"state_dict": {"model": state}},
        lambda state: {**prefixed(state, "model."), **prefixed(build("test_resnet").state_dict(), "model2.")},
        lambda state: {"model": state, "counts": {"weight": torch.ones(3, dtype=torch.long)}},
        lambda state: {**prefixed(change(state), "model_ema."), **prefixed(state, "semantic.net.")},
        lambda state: {k.replace("layer1.", "layer1._orig_mod."): v for k, v in state.items()},
        lambda state: {k: v.reshape(1) if "num_batches" in k else v for k, v in state.items()},
    ],
)
def test_the_one_matching_model_of_a_file_is_found(tmp_path, trained, wrap):
    torch.save(wrap(dict(trained.state_dict())), tmp_path / "c.ckpt")
    assert outputs_differ(load(tmp_path / "c.ckpt", num_classes=7), trained) == 0


@pytest.mark.parametrize(
    "wrap",
    [
        lambda state: {**state, **prefixed(change(state), "module.")},
        lambda state: {**prefixed(change(state), "_orig_mod."), **state},
        lambda state: {"model": state, "module": change(state)},
        lambda state: {**prefixed(state, "schema.net."), **prefixed(change(state), "net.")},
    ],
)
def test_weights_under_two_prefixes_are_refused(tmp_path, trained, wrap):
    torch.save(wrap(dict(trained.state_dict())), tmp_path / "c.pth")
    with pytest.raises(ModelError, match="several models that match"):
        load(tmp_path / "c.pth", num_classes=7)


def test_two_tensors_of_one_name_are_refused(tmp_path, trained):
    state = dict(trained.state_dict())
    state["layer1._orig_mod.0.conv1.weight"] = state["layer1.0.conv1.weight"] * 2
    torch.save(state, tmp_path / "c.pth")
    with pytest.raises(ModelError, match=r"two tensors layer1\.0\.conv1\.weight"):
        load(tmp_path / "c.pth", num_classes=7)


@pytest.mark.parametrize(
    "wrap",
    [
        lambda state, averaged: {"model": state, "ema": averaged},
        lambda state, averaged: {"state_dict": state, "model_ema": {"module": averaged}},
        lambda state, averaged: {**prefixed(state, "model."), **prefixed(averaged, "ema_model.module.")},
    ],
)
def test_ema_weights_are_found_by_their_name(tmp_path, trained, wrap):
    averaged = build("test_resnet", num_classes=7)
    averaged.load_state_dict(change(trained.state_dict(), 0.5))
    torch.save(wrap(dict(trained.state_dict()), dict(averaged.state_dict())), tmp_path / "c.pth")
    plain = load(tmp_path / "c.pth", num_classes=7)
    assert outputs_differ(plain, trained) == 0
    assert any("--use-ema loads them" in note for note in plain.notes)
    assert outputs_differ(load(tmp_path / "c.pth", num_classes=7, use_ema=True), averaged) == 0


def test_a_file_with_ema_weights_only_is_refused_without_use_ema(tmp_path, trained):
    state = {**prefixed(trained.state_dict(), "ema_model."), "criterion.weight": torch.ones(7)}
    torch.save(state, tmp_path / "c.pth")
    with pytest.raises(ModelError, match=r"only EMA weights \(ema_model\)\nhint: add --use-ema"):
        load(tmp_path / "c.pth", num_classes=7)


def test_what_is_missing_under_a_prefix_is_named(tmp_path, trained):
    state = {**prefixed(trained.state_dict(), "model."), "criterion.weight": torch.ones(7)}
    del state["model.layer1.0.conv1.weight"]
    torch.save({"state_dict": state}, tmp_path / "c.ckpt")
    with pytest.raises(ModelError, match=r"test_resnet: 1 key missing \(layer1\.0\.conv1\.weight\)\n"):
        load(tmp_path / "c.ckpt", num_classes=7)


@pytest.mark.parametrize(
    "options",
    [
        {"args": {"gp": "max", "num_classes": 7}},
        {"args": {"gp": None, "model_kwargs": "{'global_pool': 'max'}"}},
        {"args": argparse.Namespace(model_kwargs="global_pool=max num_classes=7")},
        {"args": argparse.Namespace(model_kwargs=argparse.Namespace(global_pool="max"))},
        {"hyper_parameters": {"global_pool": "max", "lr": 0.1, "pretrained": True, "drop_rate": 0.2}},
        {"hyper_parameters": {"model_name": "test_resnet", "model_kwargs": {"global_pool": "max"}}},
        {"hyper_parameters": {"args": argparse.Namespace(model="test_resnet", gp="max")}},
        {"hyper_parameters": {"cfg": {"model": {"name": "test_resnet", "global_pool": "max"}, "lr": 0.1}}},
        {"hyper_parameters": {"backbone": "test_resnet", "timm_kwargs": {"global_pool": "max"}}},
        {"hyper_parameters": argparse.Namespace(gp="max")},
        {"config": {"model": "test_resnet", "global_pool": "max"}},
        {"opt": argparse.Namespace(model="test_resnet", gp="max", mean=None, img_size=None)},
        {"settings": {"train": {"gp": "max"}}, "optimizer": {"param_groups": [{"lr": 0.1}], "gp": "avg"}},
        {"global_pool": "max"},
        {
            "args": {
                "gp": None,
                "model_kwargs": {"global_pool": "max", "pretrained": True, "scriptable": True},
            }
        },
    ],
)
def test_options_of_training_are_read_however_they_were_stored(tmp_path, options):
    model = build("test_resnet", num_classes=7, global_pool="max")
    torch.save({"state_dict": model.state_dict(), **options}, tmp_path / "c.ckpt")
    loaded = load(tmp_path / "c.ckpt", num_classes=7)
    assert outputs_differ(loaded, model) == 0
    assert loaded.notes == ("From the options that c.ckpt was trained with: global_pool max.",)


def test_options_that_contradict_each_other_are_refused_unless_one_is_chosen(tmp_path):
    model = build("test_resnet", num_classes=7, global_pool="max")
    content = {"state_dict": model.state_dict(), "config": {"global_pool": "max"}, "opt": {"gp": "avg"}}
    torch.save(content, tmp_path / "c.pth")
    with pytest.raises(
        ModelError, match=r"several values of global_pool: 'max' and 'avg'\nhint: .*--model-kwargs"
    ):
        load(tmp_path / "c.pth", num_classes=7)
    loaded = load(tmp_path / "c.pth", num_classes=7, model_kwargs=("global_pool=max",))
    assert outputs_differ(loaded, model) == 0
    torch.save(content | {"args": {"gp": "avg"}, "opt": {}}, tmp_path / "c.pth")
    with pytest.raises(ModelError, match="several values of global_pool: 'avg' and 'max'"):
        load(tmp_path / "c.pth", num_classes=7)


def test_the_data_config_of_a_lightning_module_is_taken(tmp_path, trained):
    data = {"mean": [0.1] * 3, "std": [0.2] * 3, "img_size": 96, "crop_pct": 1.0, "interpolation": "bilinear"}
    for hyper in ({"hyper_parameters": data}, {"datamodule_hyper_parameters": data}):
        torch.save({"state_dict": trained.state_dict(), **hyper}, tmp_path / "c.ckpt")
        loaded = load(tmp_path / "c.ckpt", num_classes=7)
        config = loaded.data_config
        assert (config.mean, config.std, config.crop_pct) == ((0.1,) * 3, (0.2,) * 3, 1.0)
        assert config.input_size == (3, 96, 96)
        assert "input size 96 x 96, mean (0.1, 0.1, 0.1)" in loaded.notes[0]
    unclear = {
        "mean": 0.5,
        "std": 0.02,
        "img_size": [96],
        "input_size": 3,
        "crop_pct": "a",
        "interpolation": None,
    }
    torch.save({"state_dict": trained.state_dict(), "hyper_parameters": unclear}, tmp_path / "c.ckpt")
    assert load(tmp_path / "c.ckpt", num_classes=7).notes == ()


def test_bn_tf_of_older_versions_of_timm_is_an_epsilon(tmp_path):
    model = build("test_efficientnet", bn_eps=1e-3)
    loaded = load(save_training(tmp_path / "c.pth", model, bn_tf=True, bn_eps=None), "test_efficientnet")
    assert outputs_differ(loaded, model, (160, 160)) == 0
    assert loaded.notes == ("From the options that c.pth was trained with: bn_eps 0.001.",)


def test_the_config_next_to_a_checkpoint_is_taken(tmp_path):
    model = build("test_resnet", num_classes=7, global_pool="max")
    save_folder(tmp_path / "m", model, model_args={"global_pool": "max"})
    loaded = load(tmp_path / "m" / "model.safetensors")
    assert outputs_differ(loaded, model) == 0
    assert "global_pool max" in loaded.notes[0]
    for content in ("{", "[]", '{"architecture": "test_resnet"}'):  # of something else
        (tmp_path / "m" / "config.json").write_text(content)
        assert load(tmp_path / "m" / "model.safetensors", num_classes=7).notes == ()


@pytest.mark.parametrize(
    ("old", "new"),
    [
        ("layer1.", "layer1._checkpoint_wrapped_module."),
        ("layer1.", "layer1._fsdp_wrapped_module."),
        ("layer1.", "layer1.module."),
        ("layer1.0.", "layer1.0._fsdp_wrapped_module._checkpoint_wrapped_module."),
    ],
)
def test_names_of_wrapped_modules_are_found(tmp_path, trained, old, new):
    state = {name.replace(old, new): tensor for name, tensor in trained.state_dict().items()}
    torch.save({"state_dict": state}, tmp_path / "c.pth")
    assert outputs_differ(load(tmp_path / "c.pth", num_classes=7), trained) == 0


def test_a_loss_next_to_plain_weights_is_not_loaded(tmp_path, trained):
    torch.save(trained.state_dict() | {"criterion.weight": torch.ones(7)}, tmp_path / "c.pth")
    loaded = load(tmp_path / "c.pth", num_classes=7)
    assert outputs_differ(loaded, trained) == 0
    assert "not loaded: 1 key (criterion.weight)" in loaded.notes[0]
    torch.save(trained.state_dict() | {"layer5.weight": torch.ones(7)}, tmp_path / "c.pth")
    with pytest.raises(ModelError, match=r"1 key unexpected \(layer5.weight\)"):
        load(tmp_path / "c.pth", num_classes=7)


def test_paths_dates_and_numbers_of_numpy_are_read(tmp_path):
    model = build("test_efficientnet", bn_eps=0.1)
    args = {"bn_eps": np.float64(0.1), "data_dir": tmp_path, "epochs": np.int32(3), "seed": np.bool_(True)}
    content = {
        "args": argparse.Namespace(**args),
        "date": datetime.datetime.now(),
        "rng": np.random.get_state(),
    }
    torch.save({"state_dict": model.state_dict(), **content}, tmp_path / "c.pth")
    assert outputs_differ(load(tmp_path / "c.pth", "test_efficientnet"), model, (160, 160)) == 0


def test_an_option_that_cannot_be_read_is_refused_if_it_matters(tmp_path):
    model = build("test_efficientnet", bn_eps=0.1)
    save_training(tmp_path / "c.pth", model, bn_eps=np.array([0.1, 0.2]))
    with pytest.raises(ConfigurationError, match="bn_eps"):
        load(tmp_path / "c.pth", "test_efficientnet")


def test_weights_of_a_module_are_checked_too():
    module = build("test_resnet")
    with torch.no_grad():
        module.bn1.running_var[0] = -1.0
    with pytest.raises(ModelError, match=r"bn1\.running_var is a variance with negative values"):
        load_model(ExportRequest(model=module))
    with torch.no_grad():
        module.bn1.running_var[0] = 1.0
        module.fc.weight[0] = float("nan")
    with pytest.raises(ModelError, match=r"fc\.weight has NaN or infinity"):
        load_model(ExportRequest(model=module))


def test_float8_without_scales_is_refused(tmp_path, trained):
    state = {name: tensor.to(torch.float8_e4m3fn) for name, tensor in trained.state_dict().items()}
    torch.save({"state_dict": state}, tmp_path / "c.pth")
    with pytest.raises(ModelError, match="is float8_e4m3fn, without the scales of its values"):
        load(tmp_path / "c.pth", num_classes=7)


def test_arguments_of_the_models_constructor_are_taken_from_hyperparameters(tmp_path):
    model = build("test_resnet", num_classes=7, output_stride=8)
    hyper = {"output_stride": 8, "hidden": 3, "patience": 5, "loss": "ce"}
    torch.save({"state_dict": model.state_dict(), "hyper_parameters": hyper}, tmp_path / "c.ckpt")
    loaded = load(tmp_path / "c.ckpt", num_classes=7)
    assert outputs_differ(loaded, model) == 0
    assert loaded.notes == ("From the options that c.ckpt was trained with: output_stride 8.",)


def test_model_kwargs_that_cannot_be_read_are_refused(tmp_path, trained):
    path = save_training(tmp_path / "c.pth", trained, num_classes=7, model_kwargs="{'global_pool': ")
    with pytest.raises(ModelError, match=r"model_kwargs=.*cannot be read\nhint: .*--model-kwargs"):
        load(path)


def test_random_interpolation_of_training_is_the_models_own(tmp_path, trained):
    path = save_training(tmp_path / "c.pth", trained, num_classes=7, interpolation="random")
    loaded = load(path)
    assert loaded.data_config.interpolation == "bilinear"
    assert "c.pth was trained with random interpolation: the model's own, bilinear, is used." in loaded.notes


def save_as(path: Path, name: str, model: torch.nn.Module, **content) -> Path:
    args = argparse.Namespace(model=name)
    torch.save({"arch": name, "state_dict": model.state_dict(), "args": args, **content}, path)
    return path


def test_a_checkpoint_of_another_architecture_that_fits_is_refused(tmp_path):
    model = timm.create_model("tf_efficientnet_lite0", num_classes=3)
    path = save_as(tmp_path / "c.pth", "tf_efficientnet_lite0.in1k", model)
    with pytest.raises(
        ModelError,
        match=r"as tf_efficientnet_lite0, not efficientnet_lite0: .*\nhint: export tf_efficientnet_lite0\.in1k",
    ):
        load(path, "efficientnet_lite0", num_classes=3)
    assert load(path, "tf_efficientnet_lite0", num_classes=3).notes == ()


def test_the_data_config_of_the_stated_tag_is_used(tmp_path):
    model = timm.create_model("vit_tiny_patch16_224", num_classes=3)
    path = save_as(tmp_path / "c.pth", "vit_tiny_patch16_224.augreg_in21k_ft_in1k", model)
    assert load(path, "vit_tiny_patch16_224", num_classes=3).notes == ()
    model = timm.create_model("resnet18", num_classes=3)
    for stated in (
        "resnet18.fb_swsl_ig1b_ft_in1k",
        "hf-hub:timm/resnet18.fb_swsl_ig1b_ft_in1k",
        "swsl_resnet18",
    ):
        path = save_as(tmp_path / "c.pth", stated, model)
        loaded = load(path, "resnet18", num_classes=3)
        assert loaded.name == "resnet18"
        assert loaded.data_config.interpolation == "bilinear"
        assert (
            "c.pth was trained as resnet18.fb_swsl_ig1b_ft_in1k: the data config of this tag"
            in loaded.notes[0]
        )
    requested = load(path, "resnet18.a1_in1k", num_classes=3)
    assert requested.data_config.interpolation == "bicubic"
    assert "differs from resnet18.a1_in1k in interpolation" in requested.notes[0]


@pytest.mark.parametrize(
    "name", ["resnet", "my_own_resnet", "local-dir:runs/a", "test_resnet.unknown", 3, None]
)
def test_names_that_timm_does_not_know_are_ignored(tmp_path, trained, name):
    torch.save({"arch": name, "state_dict": trained.state_dict()}, tmp_path / "c.pth")
    assert load(tmp_path / "c.pth", num_classes=7).notes == ()


def save_shards(folder: Path, state) -> None:
    names = list(state)
    half = len(names) // 2
    files = {
        "model-00001-of-00002.safetensors": names[:half],
        "model-00002-of-00002.safetensors": names[half:],
    }
    for file, own in files.items():
        save_file({name: state[name] for name in own}, folder / file)
    index = {"metadata": {}, "weight_map": {name: file for file, own in files.items() for name in own}}
    (folder / "model.safetensors.index.json").write_text(json.dumps(index))


def test_weights_in_several_files_are_loaded_by_their_index(tmp_path, trained):
    model = save_folder(tmp_path / "m", trained)
    (tmp_path / "m" / "model.safetensors").unlink()
    save_shards(tmp_path / "m", prefixed(trained.state_dict(), "timm_model."))
    assert outputs_differ(load_folder(model), trained) == 0
    index, shard = (
        tmp_path / "m" / "model.safetensors.index.json",
        tmp_path / "m" / "model-00002-of-00002.safetensors",
    )
    assert outputs_differ(load(index, num_classes=7), trained) == 0
    with pytest.raises(ModelError, match=r"keys missing.*\nhint: .*name the index"):
        load(shard, num_classes=7)
    shard.unlink()
    with pytest.raises(
        ConfigurationError, match=r"index\.json: .*model-00002-of-00002\.safetensors cannot be read"
    ):
        load_folder(model)


@pytest.mark.parametrize(
    "text",
    [
        "{",
        "[]",
        '{"weight_map": {}}',
        '{"weight_map": {"a": "../x.safetensors"}}',
        '{"weight_map": {"a": 3}}',
    ],
)
def test_an_index_that_names_no_files_in_its_folder_is_refused(tmp_path, text):
    (tmp_path / "model.safetensors.index.json").write_text(text)
    with pytest.raises(ModelError, match=r"model\.safetensors\.index\.json"):
        load(tmp_path / "model.safetensors.index.json")


def test_batch_norms_for_training_only_are_left_out(tmp_path, trained):
    split = timm.layers.convert_splitbn_model(build("test_resnet", num_classes=7), 2)
    split.load_state_dict(trained.state_dict(), strict=False)
    loaded = load(save_training(tmp_path / "c.pth", split, split_bn=True), num_classes=7)
    assert outputs_differ(loaded, trained) == 0
    assert "of batch norms for training only (split_bn)" in loaded.notes[0]

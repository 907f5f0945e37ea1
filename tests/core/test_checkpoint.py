"""Weights files of users: every common format, and every kind of damage."""

from __future__ import annotations

import argparse
import os
import pickle
from typing import TYPE_CHECKING

import pytest
import timm
import torch
from safetensors.torch import save_file
from timmx.contract.options import ExportRequest
from timmx.errors import ConfigurationError, ModelError
from timmx.model.load import load_model

if TYPE_CHECKING:
    from pathlib import Path


@pytest.fixture(scope="module")
def trained() -> torch.nn.Module:
    """A model in which every tensor differs from a new model's."""
    with torch.random.fork_rng():
        torch.manual_seed(7)
        model = timm.create_model("test_resnet", num_classes=5)
        for tensor in model.state_dict().values():
            if tensor.is_floating_point():
                tensor.uniform_(0.1, 1.0)
    return model.eval()


def load(path: Path, **options):
    return load_model(ExportRequest(**{"model": "test_resnet", "num_classes": 5, **options}, checkpoint=path))


def same(left: torch.nn.Module, right: torch.nn.Module) -> bool:
    state = right.state_dict()
    return all(torch.equal(tensor, state[name]) for name, tensor in left.state_dict().items())


def prefixed(model: torch.nn.Module, prefix: str) -> dict[str, torch.Tensor]:
    return {prefix + name: tensor for name, tensor in model.state_dict().items()}


@pytest.mark.parametrize(
    ("name", "wrap"),
    [
        ("plain.pth", lambda model: model.state_dict()),
        ("plain.bin", lambda model: model.state_dict()),
        ("nested.pt", lambda model: {"model": model.state_dict(), "epoch": 3}),
        ("parallel.pth.tar", lambda model: {"state_dict": prefixed(model, "module.")}),
        ("compiled.pth", lambda model: prefixed(model, "_orig_mod.")),
        ("both.pth", lambda model: {"state_dict": prefixed(model, "_orig_mod.module.")}),
        ("lightning.ckpt", lambda model: {"state_dict": prefixed(model, "model.")}),
    ],
)
def test_every_weight_is_loaded_from_every_wrapper(tmp_path, trained, name, wrap):
    torch.save(wrap(trained), tmp_path / name)
    loaded = load(tmp_path / name)
    assert same(loaded.model, trained)
    assert loaded.trained
    assert loaded.source == "checkpoint"
    assert loaded.name == "test_resnet"
    assert loaded.seed is None
    assert not loaded.model.training


def test_safetensors_are_loaded(tmp_path, trained):
    save_file(trained.state_dict(), tmp_path / "weights.safetensors")
    assert same(load(tmp_path / "weights.safetensors").model, trained)


def test_pickles_from_before_torch_1_6_are_loaded(tmp_path, trained):
    torch.save(trained.state_dict(), tmp_path / "old.pth", _use_new_zipfile_serialization=False)
    assert same(load(tmp_path / "old.pth").model, trained)


def test_batch_norm_counters_may_be_missing(tmp_path, trained):
    state = {name: tensor for name, tensor in trained.state_dict().items() if "num_batches" not in name}
    torch.save(state, tmp_path / "old.pth")
    loaded = load(tmp_path / "old.pth").model
    assert torch.equal(loaded.fc.weight, trained.fc.weight)


def test_a_timm_training_checkpoint_sets_the_data_config(tmp_path, trained):
    averaged = {name: tensor + 1 for name, tensor in trained.state_dict().items()}
    args = argparse.Namespace(mean=[0.1, 0.2, 0.3], std=None, crop_pct=0.8, img_size=96, lr=0.1)
    path = tmp_path / "model_best.pth.tar"
    torch.save(
        {
            "epoch": 9,
            "arch": "test_resnet",
            "state_dict": trained.state_dict(),
            "state_dict_ema": averaged,
            "args": args,
            "version": 2,
            "metric": 81.5,
        },
        path,
    )
    plain, ema = load(path), load(path, use_ema=True)
    assert same(plain.model, trained)
    assert torch.equal(ema.model.fc.weight, averaged["fc.weight"])
    assert any("--use-ema" in note for note in plain.notes)
    assert not any("--use-ema" in note for note in ema.notes)
    assert plain.data_config.mean == (0.1, 0.2, 0.3)
    assert plain.data_config.crop_pct == 0.8
    assert plain.data_config.input_size == (3, 96, 96)
    assert any("input size 96 x 96, mean (0.1, 0.2, 0.3), crop_pct 0.8" in note for note in plain.notes)


def test_missing_ema_weights_are_reported(tmp_path, trained):
    torch.save({"state_dict": trained.state_dict()}, tmp_path / "a.pth")
    save_file(trained.state_dict(), tmp_path / "a.safetensors")
    for name in ("a.pth", "a.safetensors"):
        with pytest.raises(ModelError, match="leave --use-ema out"):
            load(tmp_path / name, use_ema=True)
    torch.save({"state_dict_ema": trained.state_dict()}, tmp_path / "only.pth")
    with pytest.raises(ModelError, match="add --use-ema to load them"):
        load(tmp_path / "only.pth")


def test_a_pickle_that_would_run_code_is_refused_and_does_not_run(tmp_path):
    witness = tmp_path / "witness"

    class Trap:
        def __reduce__(self):
            return os.mkdir, (str(witness),)

    torch.save({"state_dict": {"a": torch.zeros(1)}, "args": Trap()}, tmp_path / "zip.pth")
    (tmp_path / "bare.pth").write_bytes(pickle.dumps({"state_dict": Trap()}))
    for name in ("zip.pth", "bare.pth"):
        with pytest.raises(ModelError, match=r"loading it would run code \((posix|nt|os)\.mkdir\)"):
            load(tmp_path / name)
        assert not witness.exists()


def test_a_pickled_model_is_refused(tmp_path, trained):
    torch.save(trained, tmp_path / "model.pth")
    with pytest.raises(ModelError, match=r"(?s)would run code.*timm.*save model.state_dict"):
        load(tmp_path / "model.pth")


def test_damaged_files_are_reported(tmp_path, trained):
    torch.save(trained.state_dict(), tmp_path / "whole.pth")
    whole = (tmp_path / "whole.pth").read_bytes()
    (tmp_path / "half.pth").write_bytes(whole[: len(whole) // 2])
    save_file(trained.state_dict(), tmp_path / "whole.safetensors")
    whole = (tmp_path / "whole.safetensors").read_bytes()
    (tmp_path / "half.safetensors").write_bytes(whole[: len(whole) // 2])
    (tmp_path / "page.pth").write_text("<html>404 Not Found</html>")
    (tmp_path / "noise.safetensors").write_bytes(bytes(range(256)))
    for name in ("half.pth", "half.safetensors", "page.pth", "noise.safetensors"):
        with pytest.raises(ModelError, match="is damaged or not a") as caught:
            load(tmp_path / name)
        assert name in str(caught.value)
        assert "\n" not in caught.value.message
        assert "save" in caught.value.hint


def test_paths_that_are_not_weights_files_are_refused(tmp_path):
    (tmp_path / "empty.pth").touch()
    (tmp_path / "weights.onnx").write_bytes(b"x")
    (tmp_path / "pointer.safetensors").write_text(
        "version https://git-lfs.github.com/spec/v1\noid sha256:0\n"
    )
    (tmp_path / "folder.pth").mkdir()
    for name, words in {
        "empty.pth": "is empty",
        "weights.onnx": r"read from \.safetensors",
        "pointer.safetensors": "git lfs pull",
        "folder.pth": "is a folder",
        "missing.pth": "No such file",
    }.items():
        with pytest.raises(ConfigurationError, match=words):
            load(tmp_path / name)


def test_files_without_weights_are_refused(tmp_path):
    torch.save({"epoch": 1, "loss": 0.5}, tmp_path / "log.pth")
    torch.save([torch.zeros(2)], tmp_path / "list.pth")
    with pytest.raises(ModelError, match="no weights \\(its keys: epoch, loss\\)"):
        load(tmp_path / "log.pth")
    with pytest.raises(ModelError, match="holds a list"):
        load(tmp_path / "list.pth")


def test_weights_of_another_architecture_are_reported_with_their_keys(tmp_path):
    other = timm.create_model("test_vit")
    torch.save({"state_dict": other.state_dict(), "arch": "test_vit"}, tmp_path / "vit.pth")
    with pytest.raises(ModelError) as caught:
        load(tmp_path / "vit.pth")
    message = caught.value.message
    own = len([name for name in timm.create_model("test_resnet").state_dict() if "num_batches" not in name])
    assert f"{own} keys missing (conv1.0.weight, " in message
    assert f"{len(other.state_dict())} keys unexpected (cls_token, " in message
    assert caught.value.hint == "export test_vit, the architecture stated in the checkpoint"


@pytest.mark.parametrize(
    ("saved", "requested", "hint"),
    [
        ({"num_classes": 10}, {"num_classes": 5}, r"hint: use --num-classes 10$"),
        ({"num_classes": 5, "in_chans": 1}, {"num_classes": 5}, r"hint: use .*--in-chans 1$"),
        ({"num_classes": 7, "in_chans": 4}, {"num_classes": 5}, r"(?=.*--num-classes 7)(?=.*--in-chans 4)"),
        ({"num_classes": 0}, {"num_classes": 5}, r"(?s)2 keys missing.*hint: use --num-classes 0$"),
    ],
)
@pytest.mark.parametrize("name", ["test_resnet", "test_vit"])
def test_the_hint_names_the_flag_that_makes_a_checkpoint_fit(tmp_path, name, saved, requested, hint):
    torch.save(timm.create_model(name, **saved).state_dict(), tmp_path / "a.pth")
    with pytest.raises(ModelError, match=hint):
        load_model(ExportRequest(model=name, checkpoint=tmp_path / "a.pth", **requested))


def test_a_size_that_can_be_resampled_does_not_hide_the_hint(tmp_path):
    torch.save(timm.create_model("test_vit", num_classes=7, img_size=96).state_dict(), tmp_path / "a.pth")
    with pytest.raises(ModelError, match=r"(?s)2 keys of another shape.*hint: use --num-classes 7$"):
        load_model(ExportRequest(model="test_vit", checkpoint=tmp_path / "a.pth"))


def test_an_embedding_drops_the_classifier(tmp_path, trained):
    torch.save(trained.state_dict(), tmp_path / "a.pth")
    loaded = load(tmp_path / "a.pth", num_classes=0)
    image = torch.rand(1, 3, 64, 64)
    with torch.no_grad():
        expected = trained.forward_head(trained.forward_features(image), pre_logits=True)
        assert torch.allclose(loaded.model(image), expected)
    assert loaded.num_classes == 0


@pytest.mark.parametrize("name", ["test_resnet", "test_vit", "test_efficientnet", "test_byobnet"])
def test_a_feature_pyramid_has_the_checkpoints_weights(tmp_path, name):
    whole = timm.create_model(name, num_classes=3).eval()
    torch.save(whole.state_dict(), tmp_path / "a.pth")
    loaded = load_model(ExportRequest(model=name, checkpoint=tmp_path / "a.pth", features=True))
    timms = timm.create_model(
        name, num_classes=3, features_only=True, pretrained=True,
        pretrained_cfg_overlay={"file": str(tmp_path / "a.pth"), "num_classes": 3},
    )  # fmt: skip
    pyramid = timms.eval()
    image = torch.rand(1, *loaded.data_config.input_size)
    with torch.no_grad():
        for got, expected in zip(loaded.model(image), pyramid(image), strict=True):
            assert torch.equal(got, expected)
    assert loaded.num_classes == 0


def test_names_of_original_repositories_are_converted(tmp_path):
    """Checkpoints of DeiT and others are {'model': ...}; ConvNeXt's have other names."""
    model = timm.create_model("convnext_atto", num_classes=3)
    foreign = {}
    for name, tensor in model.state_dict().items():
        for ours, theirs in (
            ("stages.", "stages."),
            ("stem.0", "downsample_layers.0.0"),
            ("stem.1", "downsample_layers.0.1"),
            ("head.fc.", "head."),
            ("head.norm.", "norm."),
            (".conv_dw.", ".dwconv."),
            (".mlp.fc1.", ".pwconv1."),
            (".mlp.fc2.", ".pwconv2."),
        ):
            name = name.replace(ours, theirs)
        parts = name.split(".")
        if parts[0] == "stages" and parts[2] == "blocks":
            name = ".".join([*parts[:2], *parts[3:]])
        elif parts[0] == "stages" and parts[2] == "downsample":
            name = ".".join(["downsample_layers", *parts[1:2], *parts[3:]])
        foreign[name] = tensor
    torch.save({"model": foreign}, tmp_path / "convnext.pth")
    loaded = load_model(
        ExportRequest(model="convnext_atto", num_classes=3, checkpoint=tmp_path / "convnext.pth")
    )
    assert same(loaded.model, model)
    assert any("converted" in note for note in loaded.notes)


def test_position_embeddings_follow_the_input_size(tmp_path):
    model = timm.create_model("test_vit", num_classes=3, img_size=96)
    torch.save(model.state_dict(), tmp_path / "a.pth")
    loaded = load_model(
        ExportRequest(model="test_vit", num_classes=3, checkpoint=tmp_path / "a.pth", input_size=(3, 128, 64))
    )
    assert loaded.model.pos_embed.shape[1] == 1 + 8 * 4
    assert torch.equal(loaded.model.head.weight, model.head.weight)
    assert loaded.model(torch.rand(1, 3, 128, 64)).shape == (1, 3)
    assert any("pos_embed" in note for note in loaded.notes)


def test_a_family_whose_weights_cannot_be_resized_is_reported(tmp_path):
    model = timm.create_model("gmlp_ti16_224", num_classes=3)
    torch.save(model.state_dict(), tmp_path / "a.pth")
    with pytest.raises(ModelError, match=r"are for 224 x 224 pixels.*\nhint: leave --input-size out"):
        load_model(
            ExportRequest(
                model="gmlp_ti16_224", num_classes=3, checkpoint=tmp_path / "a.pth", input_size=(3, 256, 256)
            )
        )

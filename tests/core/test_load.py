"""Loading of named models, folders and modules: weights, data config, labels and notes."""

from __future__ import annotations

import hashlib
import json
import shutil
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import timm
import torch
from safetensors.numpy import load_file
from safetensors.torch import save_file
from timmx.contract.options import ExportRequest
from timmx.errors import ConfigurationError, ModelError
from timmx.model.load import LoadedModel, load_model


def load(model, **options) -> LoadedModel:
    return load_model(ExportRequest(model=model, **options))


@pytest.fixture
def folder(tmp_path: Path, digits: str) -> Path:
    """A copy of the committed local-dir, for changes."""
    copy = tmp_path / "mine"
    shutil.copytree(digits.removeprefix("local-dir:"), copy, ignore=shutil.ignore_patterns("samples", "*.py"))
    return copy


def test_awaken_gives_the_weights_of_the_conformance_kit():
    from timmx.model import hash_weights
    from timmx.testing import awakened_model

    loaded = load("test_resnet", awaken=True)
    assert loaded.weights_sha256 == hash_weights(awakened_model("test_resnet"))
    assert (loaded.trained, loaded.awakened, loaded.conclusive) == (False, True, True)
    assert any("--awaken" in note for note in loaded.notes)
    assert not load("test_resnet").conclusive


def test_trained_weights_are_not_awakened(folder: Path):
    with pytest.raises(ConfigurationError, match="--awaken is for untrained weights"):
        load(f"local-dir:{folder}", awaken=True)


def edit_config(folder: Path, **changes) -> None:
    path = folder / "config.json"
    config = json.loads(path.read_text())
    path.write_text(json.dumps({**config, **changes}))


def test_a_plain_name_has_untrained_weights_and_a_note():
    loaded = load("test_resnet.r160_in1k")
    assert not loaded.trained
    assert loaded.seed == 0
    assert (loaded.name, loaded.architecture, loaded.source) == (
        "test_resnet.r160_in1k",
        "test_resnet",
        "timm",
    )
    assert loaded.license is None
    assert any("untrained" in note and "--pretrained" in note for note in loaded.notes)
    assert not loaded.model.training


def test_untrained_weights_depend_only_on_the_seed():
    torch.manual_seed(123)
    before = torch.get_rng_state()
    first, again, other = load("test_resnet"), load("test_resnet"), load("test_resnet", seed=1)
    assert torch.equal(torch.get_rng_state(), before)
    assert first.weights_sha256 == again.weights_sha256 != other.weights_sha256
    assert other.seed == 1


def test_a_local_dir_has_weights_labels_and_samples(digits):
    loaded = load(digits)
    weights = load_file(Path(digits.removeprefix("local-dir:")) / "model.safetensors")
    for name, tensor in loaded.model.state_dict().items():
        assert np.array_equal(tensor.numpy(), weights[name])
    assert loaded.trained
    assert (loaded.name, loaded.source, loaded.seed) == ("digits", "local-dir", None)
    assert loaded.num_classes == 10
    assert loaded.labels == tuple("0123456789")
    assert loaded.samples == Path(digits.removeprefix("local-dir:")) / "samples"
    config = json.loads((loaded.samples.parent / "config.json").read_text())
    assert list(loaded.data_config.mean) == config["pretrained_cfg"]["mean"]
    assert loaded.data_config.input_size == tuple(config["pretrained_cfg"]["input_size"])


def test_the_documented_hash_can_be_recomputed_with_numpy(digits):
    digest = hashlib.sha256()
    weights = load_file(Path(digits.removeprefix("local-dir:")) / "model.safetensors")
    for name, array in sorted(weights.items()):
        digest.update(f"{name} {array.dtype} {','.join(map(str, array.shape))}\n".encode())
        digest.update(array.tobytes())
    assert load(digits).weights_sha256 == digest.hexdigest()


def test_other_classes_on_trained_weights_are_a_new_classifier(digits):
    loaded = load(digits, num_classes=4, seed=3)
    assert loaded.num_classes == 4
    assert loaded.labels is None
    assert loaded.seed == 3
    assert any(
        "classifier is new and untrained: 4 classes, where the weights have 10" in n for n in loaded.notes
    )
    assert any("10 label names are left out" in note for note in loaded.notes)
    assert torch.equal(loaded.model.conv_stem.weight, load(digits).model.conv_stem.weight)


def test_zero_classes_give_an_embedding(digits):
    loaded = load(digits, num_classes=0)
    assert loaded.num_classes == 0
    assert loaded.labels is None
    assert loaded.model(torch.rand(1, *loaded.data_config.input_size)).ndim == 2
    assert not loaded.notes


def test_trained_stems_are_adapted_to_other_channels(digits):
    own = load(digits).data_config.input_size[0]
    loaded = load(digits, in_chans=own + 2)
    assert loaded.data_config.input_size[0] == own + 2
    assert loaded.model(torch.rand(1, *loaded.data_config.input_size)).shape == (1, 10)
    assert any(f"from {own} to {own + 2} channels" in note for note in loaded.notes)


@pytest.mark.parametrize("channels", [1, 2, 4, 7])
@pytest.mark.parametrize("model", ["test_resnet", "test_vit"])
def test_any_number_of_channels_is_supported(model, channels):
    by_flag = load(model, in_chans=channels)
    by_size = load(model, input_size=(channels, 96, 96))
    for loaded in (by_flag, by_size):
        assert loaded.data_config.input_size[0] == channels
        assert len(loaded.data_config.mean) == len(loaded.data_config.std) == channels
        assert loaded.model(torch.rand(1, *loaded.data_config.input_size)).shape == (1, 1000)


def test_mean_and_std_for_other_numbers_of_channels():
    equal = load("test_resnet", in_chans=1)  # its mean and std are 0.5 for each channel
    assert (equal.data_config.mean, equal.data_config.std) == ((0.5,), (0.5,))
    averaged = load("resnet10t", in_chans=1)
    assert averaged.data_config.mean == pytest.approx([np.mean([0.485, 0.456, 0.406])])
    assert any("average" in note and "--mean" in note for note in averaged.notes)
    given = load("test_resnet", in_chans=4, mean=(0.1,), std=(1.0, 2.0, 3.0, 4.0))
    assert given.data_config.mean == (0.1,) * 4
    assert given.data_config.std == (1.0, 2.0, 3.0, 4.0)


@pytest.mark.parametrize(
    ("options", "words"),
    [
        ({"mean": (0.1, 0.2)}, "2 values, but the model takes 3 channels"),
        ({"std": (0.1, 0.0, 0.2)}, "above 0"),
        ({"mean": (float("nan"),)}, "finite"),
    ],
)
def test_invalid_mean_and_std_are_refused(options, words):
    with pytest.raises(ConfigurationError, match=words):
        load("test_resnet", **options)


@pytest.mark.parametrize(
    ("pair", "words"),
    [
        ("drop_rat=0.1", "did you mean drop_rate"),
        ("nonsense_zzz=1", r"use one of .*drop_path_rate.*global_pool"),
        ("num_classes=3", "use --num-classes"),
        ("img_size=64", "use --input-size"),
        ("checkpoint_path='x'", "use --checkpoint"),
        ("pretrained_strict=False", "leave it out"),
    ],
)
def test_model_kwargs_that_are_refused(pair, words):
    with pytest.raises(ConfigurationError, match=words):
        load("test_resnet", model_kwargs=[pair])


def test_fields_of_a_configuration_are_suggested():
    with pytest.raises(ConfigurationError, match="did you mean stem_type"):
        load("test_byobnet", model_kwargs=["stem_typ='x'"])


def test_model_kwargs_reach_the_model():
    loaded = load("test_vit", model_kwargs=["global_pool='avg'", "depth=2"])
    assert loaded.model.global_pool == "avg"
    assert len(loaded.model.blocks) == 2
    with pytest.raises(ModelError, match=r"timm cannot build test_resnet with global_pool='nonsense'"):
        load("test_resnet", model_kwargs=["global_pool=nonsense"])


def test_feature_pyramids():
    loaded = load("test_resnet", features=True, out_indices=(1, -1))
    shapes = [tuple(level.shape) for level in loaded.model(torch.rand(1, 3, 160, 160))]
    assert shapes == [(1, 32, 40, 40), (1, 96, 5, 5)]
    assert loaded.num_classes == 0
    with pytest.raises(ConfigurationError, match="--out-indices 9: test_resnet has the levels 0 to 4"):
        load("test_resnet", features=True, out_indices=(9,))


def test_unknown_models_and_tags_are_refused():
    with pytest.raises(ModelError, match="did you mean test_resnet"):
        load("test_resnt")
    with pytest.raises(
        ModelError, match=r"resnet18 has no weights tagged 'a9_in1k'\nhint: use one of its tags: a1_in1k"
    ):
        load("resnet18.a9_in1k")


def test_a_deprecated_name_loads_the_current_model():
    loaded = load("tv_resnet34")
    assert loaded.architecture == "resnet34"
    assert any("old name" in note for note in loaded.notes)


def test_pretrained_without_weights_in_timm_is_refused():
    with pytest.raises(ModelError, match="no pretrained weights for regnetz_b16_evos"):
        load("regnetz_b16_evos", pretrained=True)


class TestFolders:
    def test_missing_folder_or_config(self, tmp_path):
        with pytest.raises(ConfigurationError, match="does not exist"):
            load(f"local-dir:{tmp_path / 'nowhere'}")
        with pytest.raises(ConfigurationError, match=r"(?s)no config\.json.*--checkpoint"):
            load(f"local-dir:{tmp_path}")

    def test_config_that_is_none(self, folder):
        config = folder / "config.json"
        for text, words in (
            ("{", "not valid JSON.*line 1"),
            ("[]", "does not name"),
            ('{"architecture": 3}', "does not name"),
            ('{"architecture": "test_resnt"}', "did you mean test_resnet"),
        ):
            config.write_text(text)
            with pytest.raises((ConfigurationError, ModelError), match=words):
                load(f"local-dir:{folder}")

    def test_no_weights_file(self, folder):
        (folder / "model.safetensors").unlink()
        with pytest.raises(ModelError, match=r"(?s)no weights file.*--checkpoint"):
            load(f"local-dir:{folder}")

    def test_several_weights_files(self, folder):
        (folder / "model.safetensors").rename(folder / "a.safetensors")
        shutil.copy(folder / "a.safetensors", folder / "b.safetensors")
        with pytest.raises(
            ModelError, match=r"a\.safetensors, b\.safetensors\)\nhint: name one with --checkpoint"
        ):
            load(f"local-dir:{folder}")
        assert load(f"local-dir:{folder}", checkpoint=folder / "b.safetensors").trained

    def test_damaged_weights(self, folder):
        weights = folder / "model.safetensors"
        weights.write_bytes(weights.read_bytes()[:5000])
        with pytest.raises(ModelError, match="damaged"):
            load(f"local-dir:{folder}")

    def test_weights_of_another_model(self, folder):
        state = timm.create_model("test_vit").state_dict()
        save_file(state, folder / "model.safetensors")
        with pytest.raises(ModelError, match=r"does not fit test_efficientnet: .* keys missing"):
            load(f"local-dir:{folder}")

    def test_wrong_number_of_labels(self, folder):
        edit_config(folder, label_names=["a", "b"])
        loaded = load(f"local-dir:{folder}")
        assert loaded.labels is None
        assert any("2 label names are left out" in note for note in loaded.notes)

    def test_what_timm_saves_comes_back(self, tmp_path):
        """timm's own save_for_hf, with another size, channels and construction arguments."""
        from timm.models import save_for_hf

        model = timm.create_model("test_vit", num_classes=3, in_chans=1, img_size=96, depth=3).eval()
        save_for_hf(model, tmp_path, model_config={"label_names": ["x", "y", "z"]})
        loaded = load(f"local-dir:{tmp_path}")
        assert loaded.data_config.input_size == (1, 96, 96)
        assert loaded.labels == ("x", "y", "z")
        image = torch.rand(1, 1, 96, 96)
        with torch.no_grad():
            assert torch.equal(loaded.model(image), model(image))


class TestModules:
    def test_is_used_as_it_is(self):
        module = timm.create_model("test_resnet", num_classes=3).train()
        before = {name: tensor.clone() for name, tensor in module.state_dict().items()}
        loaded = load(module, input_size=(3, 96, 64))
        assert loaded.model is module
        assert not loaded.owned
        assert module.training
        assert all(torch.equal(tensor, before[name]) for name, tensor in module.state_dict().items())
        assert (loaded.source, loaded.trained, loaded.num_classes) == ("module", True, 3)
        assert loaded.data_config.input_size == (3, 96, 64)

    def test_size_and_channels_that_it_was_built_with(self):
        loaded = load(timm.create_model("test_vit", img_size=96, in_chans=2))
        assert loaded.data_config.input_size == (2, 96, 96)
        assert len(loaded.data_config.mean) == 2

    def test_a_size_that_it_cannot_take(self):
        module = timm.create_model("levit_128s")
        with pytest.raises(ConfigurationError, match=r"LevitDistilled cannot take 256 x 256.*224 x 224"):
            load(module, input_size=(3, 256, 256))
        assert all(not tensor.is_meta for tensor in module.state_dict().values())

    def test_module_without_timms_configuration(self):
        module = torch.nn.Sequential(
            torch.nn.Conv2d(3, 4, 3), torch.nn.AdaptiveAvgPool2d(1), torch.nn.Flatten()
        )
        with pytest.raises(ConfigurationError, match="pretrained_cfg = dict\\(input_size="):
            load(module)
        module.pretrained_cfg = {"input_size": (3, 32, 32), "num_classes": 4, "mean": (0.5,) * 3}
        loaded = load(module, labels=("a", "b", "c", "d"))
        assert loaded.data_config.mean == (0.5, 0.5, 0.5)
        assert loaded.labels == ("a", "b", "c", "d")

    def test_neither_name_nor_module(self):
        with pytest.raises(ConfigurationError, match=r"a name or a torch\.nn\.Module"):
            load(3)


def test_the_number_of_labels_is_checked(digits, tmp_path):
    path = tmp_path / "labels.txt"
    path.write_text("".join(f"digit {number}\n" for number in range(10)))
    assert load(digits, labels=path).labels == tuple(f"digit {number}" for number in range(10))
    with pytest.raises(ConfigurationError, match="1 name, but the model has 10 classes"):
        load(digits, labels=("one",))


def test_invalid_options_are_refused_without_torch(process, tmp_path):
    """Names, folders, files and arguments are checked before anything heavy is imported."""
    code = """
import sys
from timmx.errors import TimmxError
from timmx.model.load import load_model
from timmx.contract.options import ExportRequest
for options in (
    {"model": "local-dir:nowhere"},
    {"model": "owner/name"},
    {"model": "resnet18", "model_kwargs": ["num_classes=3"]},
    {"model": "resnet18", "checkpoint": __import__("pathlib").Path("nowhere.pth")},
):
    try:
        load_model(ExportRequest(**options))
    except TimmxError:
        continue
    raise SystemExit(f"{options} went through")
raise SystemExit(bool({"torch", "timm"} & set(sys.modules)))
"""
    subprocess.run([sys.executable, "-c", code], cwd=tmp_path, check=True)

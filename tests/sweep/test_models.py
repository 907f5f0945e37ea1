"""The models of a sweep: names, patterns, files and folders, and what is wrong with them."""

from __future__ import annotations

from pathlib import Path

import pytest
from timmx.errors import ConfigurationError, TimmxError
from timmx.sweep.models import SweepModel, find_models, folder_names


def names(words, files=(), **options) -> list[str]:
    return [model.name for model in find_models(words, files, **options)]


def test_patterns_names_and_ids_are_found_in_order():
    found = names(["test_vit", "test_res*", "hf-hub:timm/resnet18.a1_in1k", "test_vit*"])
    assert found[:2] == ["test_vit", "test_resnet"]
    assert found[2] == "hf-hub:timm/resnet18.a1_in1k"
    assert len(found) == len(set(found))
    assert all(name.startswith("test_vit") for name in found[3:])


def test_patterns_match_pretrained_models_only_on_request():
    assert "resnet18" in names(["resnet18*"], pretrained=True)
    everything, trained = names(["vit_*"]), names(["vit_*"], pretrained=True)
    assert set(trained) < set(everything)


@pytest.mark.parametrize(
    ("words", "message", "hint"),
    [
        ([], "no model is given", "--models FILE"),
        (["no_such_*"], "no model matches 'no_such_*'", "timmx list"),
        (["resnet18", "resnet18"], "'resnet18' is given twice", "once"),
        (["resnet180"], "has no model 'resnet180'", "resnet18"),
        (["resnet18.imaginary"], "no weights tagged 'imaginary'", "a1_in1k"),
        (["./missing/"], "does not exist", "path"),
        (["hf-hub:a/b/c"], "is not a Hugging Face model id", "hf-hub:OWNER/NAME"),
        (["resnet180", "vitt"], "2 models cannot be used: timm ", "'vitt': did you mean"),
    ],
)
def test_invalid_models_are_refused(words, message, hint, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    with pytest.raises(TimmxError) as refused:
        find_models(words)
    assert message in refused.value.message
    assert hint in refused.value.hint


def test_a_file_has_one_model_per_line(tmp_path: Path, digits: str):
    folder = Path(digits.removeprefix("local-dir:"))
    (tmp_path / "link").symlink_to(folder)
    listing = tmp_path / "models.txt"
    listing.write_text("# my models\ntest_vit\n\n  test_resnet  # small\nlocal-dir:link\n")
    assert names([], [listing]) == ["test_vit", "test_resnet", f"local-dir:{tmp_path / 'link'}"]
    listing.write_text("test_vit\ntest_vit\n")
    with pytest.raises(ConfigurationError, match=r"models\.txt, line 2: 'test_vit' is given twice"):
        find_models([], [listing])
    listing.write_bytes(b"\xff\xfe\x00")
    with pytest.raises(ConfigurationError, match="not UTF-8"):
        find_models([], [listing])
    with pytest.raises(ConfigurationError, match=r"--models .* cannot be read"):
        find_models([], [tmp_path / "none.txt"])


def test_a_folder_is_searched_for_checkpoints(tmp_path: Path):
    runs = tmp_path / "runs"
    (runs / "a").mkdir(parents=True)
    (runs / "a" / "args.yaml").write_text("lr: 0.1\nmodel: resnet18\nnum_classes: 3\n")
    for name in ("model_best.pth.tar", "last.pth.tar", "checkpoint-3.pth.tar"):
        (runs / "a" / name).write_bytes(b"x")
    (runs / "b" / "saved").mkdir(parents=True)
    (runs / "b" / "saved" / "config.json").write_text('{"architecture": "test_vit"}')
    (runs / "b" / "saved" / "model.safetensors").write_bytes(b"x")
    (runs / "resnet50.a1_in1k.safetensors").write_bytes(b"x")
    (runs / "notes.txt").write_text("")
    assert set(find_models([f"{runs}/"])) == {
        SweepModel("resnet18", runs / "a" / "model_best.pth.tar"),
        SweepModel(f"local-dir:{runs / 'b' / 'saved'}"),
        SweepModel("resnet50.a1_in1k", runs / "resnet50.a1_in1k.safetensors"),
    }
    (runs / "c.pth").write_bytes(b"x")
    with pytest.raises(
        ConfigurationError, match=r"the model of the checkpoint \S*c\.pth is unknown"
    ) as refused:
        find_models([f"{runs}/"])
    assert "resnet50.safetensors" in refused.value.hint


def test_a_folder_without_checkpoints_is_refused(tmp_path: Path):
    with pytest.raises(ConfigurationError, match="has no checkpoints"):
        find_models([f"{tmp_path}/"])


def test_folders_of_equal_names_differ():
    models = [SweepModel("hf-hub:a/x"), SweepModel("local-dir:one/x"), SweepModel("local-dir:two/x")]
    first, second, third = folder_names(models)
    assert first == "a--x"
    assert second != third
    assert second.startswith("x-")

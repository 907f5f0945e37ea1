"""The cached index of models: fast, complete, and never the cause of an error."""

from __future__ import annotations

import json
import subprocess
import sys
from concurrent.futures import ThreadPoolExecutor

import pytest
import timm
from timmx.contract.options import ExportRequest
from timmx.errors import ConfigurationError, ModelError
from timmx.model import index


@pytest.fixture
def cache(tmp_path, monkeypatch):
    """An empty cache folder."""
    monkeypatch.setattr(index.platformdirs, "user_cache_path", lambda *_, **__: tmp_path / "cache")
    return tmp_path / "cache"


def test_the_index_lists_the_models_of_timm(cache):
    built = index.load_index()
    assert list(built.models) == timm.list_models()
    assert {
        f"{model.name}.{tag}" if tag else model.name
        for model in built.models.values()
        for tag in model.pretrained
    } == set(timm.list_pretrained())
    assert built.models["resnet50"].family == "resnet"
    assert built.models["resnet50"].tags[0] == timm.get_pretrained_cfg("resnet50").tag
    assert index.load_index(build=False) == built


def test_a_second_call_and_completion_import_neither_torch_nor_timm(process, tmp_path):
    code = """
import sys
from timmx.model.index import completions, load_index, search
assert completions("res") == []  # completion does not build the index
if len(sys.argv) > 1:
    load_index()
else:
    raise SystemExit(bool({"torch", "timm"} & set(sys.modules)))
"""
    environment = {"XDG_CACHE_HOME": str(tmp_path), "HOME": str(tmp_path), "PATH": ""}
    run = [sys.executable, "-c"]
    subprocess.run([*run, code], env=environment, check=True)
    subprocess.run([*run, code, "build"], env=environment, check=True)
    code = """
import sys
from timmx.model.index import completions, load_index, search
assert "resnet18" in completions("resn")
assert "resnet18.a1_in1k" in completions("resnet18.")
assert search("resnet18")
raise SystemExit(bool({"torch", "timm"} & set(sys.modules)))
"""
    subprocess.run([*run, code], env=environment, check=True)


@pytest.mark.parametrize(
    "damage",
    [
        b"",
        b"{",
        b"null",
        b"[1, 2]",
        b'{"schema": 999, "timm": "1", "models": {}, "deprecated": {}}',
        b'{"schema": 1, "timm": "1", "models": {}, "deprecated": {}}',
        b'{"schema": 1, "timm": "1", "models": {"a": {"family": "b"}}, "deprecated": {}}',
        b'{"schema": 1, "timm": "1", "models": {"a": 3}, "deprecated": []}',
        b"\xff\xfe\x00",
        "half",
    ],
)
def test_a_damaged_cache_is_built_again(cache, damage):
    whole = index.load_index()
    (path,) = cache.iterdir()
    data = path.read_bytes()
    path.write_bytes(data[: len(data) // 2] if damage == "half" else damage)
    assert index.completions("resnet18") == []
    assert index.load_index() == whole
    assert json.loads(path.read_text())["schema"] == 1
    assert [file.name for file in cache.iterdir()] == [path.name]


def test_a_cache_that_cannot_be_written_is_ignored(cache):
    cache.write_text("a file where the folder should be")
    assert index.load_index().models
    assert index.completions("resnet") == []
    assert cache.read_text() == "a file where the folder should be"


def test_several_processes_can_write_the_cache(cache):
    with ThreadPoolExecutor(8) as pool:
        found = list(pool.map(lambda _: index.load_index(), range(16)))
    assert all(one == found[0] for one in found)
    assert len(list(cache.iterdir())) == 1


def test_search_by_name_family_and_weights(cache):
    def names(*arguments, **options):
        return [model.name for model in index.search(*arguments, **options)]

    assert names("resnet18") == [name for name in timm.list_models() if "resnet18" in name]
    assert names("RESNET18*") == timm.list_models("resnet18*")
    assert names("*.lvd142m") == [
        name for name in timm.list_models() if any(tag == "lvd142m" for tag in tags_of(name))
    ]
    assert names(family="levit") == timm.list_models(module="levit")
    assert "regnetz_b16_evos" in names("regnetz")
    assert "regnetz_b16_evos" not in names("regnetz", pretrained=True)
    assert names("no such model") == []


def tags_of(name: str) -> list[str]:
    return [full.partition(".")[2] for full in timm.list_models(f"{name}.*", include_tags=True)]


@pytest.mark.parametrize(
    ("typed", "meant"),
    [
        ("resnet5O", "resnet50"),
        ("resnet-50", "resnet50"),
        ("ResNet50", "resnet50"),
        ("efficientnetb0", "efficientnet_b0"),
        ("vit_base_patch16", "vit_base_patch16_224"),
        ("mobilenet_v3_small", "mobilenetv3_small_100"),
    ],
)
def test_similar_names_are_suggested(cache, typed, meant):
    with pytest.raises(ModelError) as caught:
        index.check_name(typed)
    assert meant in caught.value.hint


def test_unknown_names_are_refused_with_suggestions(cache):
    for name, error, words in (
        ("resnet5O", ModelError, "did you mean resnet50"),
        ("resnet18.zzz", ModelError, "use one of its tags: a1_in1k"),
        ("qqqqqqqqqq", ModelError, "timmx list PATTERN"),
        ("timm/resnet18", ConfigurationError, "hf-hub:OWNER/NAME"),
        ("hf-hub:", ConfigurationError, "not a Hugging Face model id"),
        ("hf-hub:a/b/c", ConfigurationError, "not a Hugging Face model id"),
        ("ftp:resnet18", ConfigurationError, "not a timm model name"),
    ):
        with pytest.raises(error, match=words):
            index.check_model_name(ExportRequest(model=name))
    for name in ("resnet18", "resnet18.a1_in1k", "hf-hub:timm/resnet18.a1_in1k@main", "tv_resnet34"):
        index.check_model_name(ExportRequest(model=name))

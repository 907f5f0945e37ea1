"""Invalid values in untrusted files are errors that name the value; none is published that a command cannot read."""

from __future__ import annotations

import argparse
import copy
import json
import shutil
from pathlib import Path
from typing import Any

import pytest
import torch
from timmx import registry
from timmx.contract import ExportRequest, Metadata, Precision, parse_json_object
from timmx.errors import ArtifactError, ConfigurationError, ModelError, TimmxError
from timmx.exporting.job import Job
from timmx.exporting.recipe import read_recipe
from timmx.exporting.session import ModelSession
from timmx.model import read_labels
from timmx.model.checkpoint import read_checkpoint
from timmx.model.folder import read_local_config
from timmx.model.load import load_model

MODEL = Path(__file__).resolve().parents[2] / "examples" / "digits"

ODD: tuple[Any, ...] = (
    *(None, True, 0, -1, 10**9, 10**30, 10**400, -0.5, 1e-300, 1e308, float("nan"), float("inf")),
    *("", "x", "\ud800", "\x1b[31m", "\0", "a" * 20_000),
    *([], [None], [0], [10**400] * 3, [float("nan")] * 3, [0, 0, 0], [3, 10**9, 10**9], ["a", "b", "c"]),
    *({}, {"a": 1}, {"a": {"b": [1]}}),
)
DEEP = "[" * 100_000 + "]" * 100_000

KEYS = (
    *("architecture", "num_classes", "num_features", "label_names", "model_args", "pretrained_cfg"),
    *(
        f"pretrained_cfg.{key}"
        for key in ("input_size", "interpolation", "crop_pct", "crop_mode", "mean", "std")
    ),
    *(f"pretrained_cfg.{key}" for key in ("num_classes", "license", "state_dict", "pool_size", "first_conv")),
    *(f"model_args.{key}" for key in ("num_classes", "in_chans", "drop_rate", "depth")),
)


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    copied = tmp_path / "mine"
    copied.mkdir()
    for name in ("config.json", "model.safetensors"):
        shutil.copy(MODEL / name, copied)
    return copied


@pytest.mark.parametrize("text", ["[" + "{}," * 2_000_001 + "0]", '{"a": [' + "1," * 4_000_001 + "0]}"])
def test_json_of_many_values_is_not_parsed(folder, text, monkeypatch):
    """A list of `{}` takes 30 times the memory of its text."""
    monkeypatch.setattr(json, "loads", None)
    (folder / "config.json").write_text(text)
    with pytest.raises(ConfigurationError, match="more than 4,000,000 values"):
        read_local_config(folder)
    with pytest.raises(ArtifactError, match="more than 4,000,000 values"):
        parse_json_object(folder / "config.json", text.encode())


def set_key(folder: Path, key: str, value: Any) -> None:
    config = json.loads((MODEL / "config.json").read_text())
    *outer, last = key.split(".")
    at = config
    for name in outer:
        at = at[name]
    at[last] = value
    (folder / "config.json").write_text(json.dumps(config))


def config_error(folder: Path) -> ConfigurationError | None:
    try:
        read_local_config(folder)
    except ConfigurationError as exc:
        return exc
    return None


@pytest.mark.parametrize("key", KEYS)
def test_odd_values_of_a_config_are_errors_or_fit(folder: Path, key: str) -> None:
    for value in ODD:
        set_key(folder, key, value)
        error = config_error(folder)
        if error is not None:
            assert error.hint, (key, value)
            assert len(str(error)) < 1500
            str(error).encode()


@pytest.mark.parametrize(
    ("key", "value", "allowed"),
    [
        ("pretrained_cfg.interpolation", "random", "one of nearest, bilinear, bicubic"),
        ("pretrained_cfg.interpolation", 3, "one of nearest, bilinear, bicubic"),
        ("pretrained_cfg.crop_mode", "middle", "one of center, squash, border"),
        ("pretrained_cfg.crop_pct", 1e-9, "a number from 0.1 to 10"),
        ("pretrained_cfg.crop_pct", "0.9", "a number from 0.1 to 10"),
        ("pretrained_cfg.mean", [None, None, None], "a number from -1e6 to 1e6, or a list"),
        ("pretrained_cfg.mean", [1e308] * 3, "a number from -1e6 to 1e6, or a list"),
        ("pretrained_cfg.std", [0, 0, 0], "a number from 1e-6 to 1e6, or a list"),
        ("pretrained_cfg.input_size", [3, 10**9, 10**9], "channels, height and width"),
        ("pretrained_cfg.input_size", [3, -1, 224], "channels, height and width"),
        ("pretrained_cfg.num_classes", -5, "an integer from 0 to 2**31 - 1"),
        ("pretrained_cfg.state_dict", {"a": [1]}, "left out"),
        ("pretrained_cfg.license", 5, "text"),
        ("label_names", 5, "a list of names"),
        ("model_args", [1], "an object"),
        ("model_args.num_classes", -1, "an integer from 0 to 2**31 - 1"),
    ],
)
def test_the_key_and_what_is_allowed_are_named(folder: Path, key: str, value: Any, allowed: str) -> None:
    set_key(folder, key, value)
    with pytest.raises(ConfigurationError) as caught:
        ModelSession(ExportRequest(model=f"local-dir:{folder}", verify=False))
    assert key in caught.value.message
    assert allowed in caught.value.hint


@pytest.mark.parametrize(
    ("text", "reason"),
    [
        (DEEP, "64 levels"),
        ('{"a": ' * 65 + "1" + "}" * 65, "64 levels"),
        ('{"crop_pct": NaN}', "NaN is not a JSON number"),
        ('{"crop_pct": 1e999}', "too large"),
        ('{"num_classes": ' + "1" * 5000 + "}", "too large"),
        ('{"crop_pct": 1, "crop_pct": 2}', "'crop_pct' is given twice"),
        (r'{"architecture": "\ud800"}', "half of a surrogate pair"),
        ("", "Expecting value"),
        ("{", "Expecting property name"),
    ],
)
def test_json_beyond_the_limits_is_an_error(folder: Path, text: str, reason: str) -> None:
    (folder / "config.json").write_text(text)
    with pytest.raises(ConfigurationError, match=reason):
        read_local_config(folder)
    with pytest.raises(ArtifactError, match=reason):
        parse_json_object(Path("a.onnx"), text)


@pytest.mark.parametrize(
    ("arguments", "reason"),
    [
        ({"drop_rate": "x"}, "fails on inputs of 3 x 64 x 64"),
        ({"channel_multiplier": 1000.0}, "this machine has"),
        ({"depth_multiplier": 100.0}, "more than 500 weight tensors"),
        ({"drop_path_rate": float("1e300")}, "numbers are finite and at most 1,000,000"),
        ({"act_layer": "a" * 20_000}, "texts have at most"),
    ],
)
def test_model_arguments_of_a_config_are_bounded(
    folder: Path, arguments: dict[str, Any], reason: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("timmx.model.build._MOST_TENSORS", 500)
    set_key(folder, "model_args", arguments)
    with pytest.raises(TimmxError, match=reason) as caught:
        ModelSession(ExportRequest(model=f"local-dir:{folder}", verify=False))
    assert len(caught.value.message) < 1500


@pytest.mark.parametrize(
    ("key", "value"),
    [
        ("crop_mode", "middle"),
        ("interpolation", "cubic"),
        ("crop_pct", 1e-9),
        ("license", 5),
        ("mean", [None] * 3),
    ],
)
def test_a_module_with_an_odd_configuration_is_refused(key: str, value: Any) -> None:
    import timm

    model = timm.create_model("test_resnet").eval()
    model.pretrained_cfg[key] = value
    with pytest.raises(ConfigurationError, match=rf"pretrained_cfg: {key} is"):
        load_model(ExportRequest(model=model))


@pytest.mark.parametrize(
    ("key", "value"),
    [("crop_pct", "x"), ("mean", ["a"]), ("img_size", "big"), ("interpolation", 5), ("mean", torch.ones(3))],
)
def test_odd_training_options_of_a_checkpoint_are_refused(tmp_path: Path, key: str, value: Any) -> None:
    import timm

    state = timm.create_model("test_resnet").state_dict()
    torch.save({"state_dict": state, "args": argparse.Namespace(**{key: value})}, tmp_path / "a.pth")
    with pytest.raises(
        ConfigurationError, match=r"was trained with: (input_size|crop_pct|mean|interpolation) is"
    ):
        load_model(ExportRequest(model="test_resnet", checkpoint=tmp_path / "a.pth"))


def odd_state(kind: str) -> Any:
    weight = torch.ones(3, 3)
    match kind:
        case "no text":
            return {1: weight, ("a",): weight}
        case "meta":
            return {"fc.weight": torch.ones(3, 3, device="meta")}
        case "sparse":
            return {"fc.weight": weight.to_sparse()}
        case "quantized":
            return {"fc.weight": torch.quantize_per_tensor(weight, 0.1, 0, torch.qint8)}
        case "complex":
            return {"fc.weight": weight.to(torch.complex64)}
        case "scalar":
            return {"fc.weight": torch.tensor(1.0)}
        case "nested":
            return {"state_dict": {"state_dict": {"fc.weight": weight}}}
        case "list":
            return [weight]
    return weight


@pytest.mark.parametrize(
    "kind", ["no text", "meta", "sparse", "quantized", "complex", "scalar", "nested", "list", "tensor"]
)
def test_checkpoints_of_odd_content_are_errors(tmp_path: Path, kind: str) -> None:
    torch.save(odd_state(kind), tmp_path / "a.pth")
    with pytest.raises(TimmxError) as caught:
        load_model(ExportRequest(model="test_resnet", checkpoint=tmp_path / "a.pth"))
    assert caught.value.hint


@pytest.mark.parametrize(
    ("kind", "suffix"),
    [*((kind, ".pth") for kind in ("meta", "sparse", "quantized", "complex")), ("complex", ".safetensors")],
)
def test_one_odd_tensor_among_good_ones_is_an_error(tmp_path: Path, kind: str, suffix: str) -> None:
    import timm
    from safetensors.torch import save_file

    state = timm.create_model("test_resnet").state_dict()
    name = "layer1.0.conv1.weight"
    odd = state[name].clone()
    if kind == "meta":
        odd = odd.to("meta")
    elif kind == "sparse":
        odd = odd.to_sparse()
    elif kind == "complex":
        odd = odd.to(torch.complex64)
    else:
        odd = torch.quantize_per_tensor(odd, 0.1, 0, torch.qint8)
    state[name] = odd
    path = tmp_path / f"a{suffix}"
    if suffix == ".pth":
        torch.save(state, path)
    else:
        save_file(state, path)
    with pytest.raises(ModelError, match=name):
        load_model(ExportRequest(model="test_resnet", checkpoint=path))


@pytest.mark.parametrize(
    "content",
    [
        b"\xff" * 8 + b"{}",
        (2**62).to_bytes(8, "little") + b"{}",
        (10).to_bytes(8, "little") + b"{",
        (2).to_bytes(8, "little") + b"[]",
        len(DEEP).to_bytes(8, "little") + DEEP.encode(),
        (66).to_bytes(8, "little") + b'{"a":{"dtype":"F32","shape":[4294967296],"data_offsets":[0,16]}}  ',
        (66).to_bytes(8, "little")
        + b'{"a":{"dtype":"F99","shape":[1],"data_offsets":[0,4]}}            1234',
    ],
)
def test_damaged_safetensors_are_errors(tmp_path: Path, content: bytes) -> None:
    (tmp_path / "a.safetensors").write_bytes(content)
    with pytest.raises(ModelError, match="damaged or not a safetensors file"):
        read_checkpoint(tmp_path / "a.safetensors")


@pytest.mark.parametrize(
    "content",
    [
        b'["\\ud800", "b"]',
        DEEP.encode(),
        b'{"0": "a", "0": "b"}',
        b'{"99999999999999999999": "a"}',
        b'{"' + b"1" * 5000 + b'": "a"}',
        b"[NaN]",
        b"[" + b"1" * 5000 + b"]",
        b'[["a"], {}]',
        b"\xed\xa0\x80",
    ],
)
def test_odd_label_files_are_errors(tmp_path: Path, content: bytes) -> None:
    (tmp_path / "a.json").write_bytes(content)
    with pytest.raises(ConfigurationError) as caught:
        read_labels(tmp_path / "a.json")
    assert caught.value.hint
    str(caught.value).encode()


def test_labels_that_are_not_text_are_refused_from_python_too() -> None:
    with pytest.raises(ConfigurationError, match="not UTF-8 text"):
        read_labels(["a", "\ud800"])


@pytest.mark.parametrize(
    "content",
    [
        "a = " + "[" * 20_000 + "]" * 20_000,
        "a = " + "{b = " * 5_000 + "1" + "}" * 5_000,
        "batch_size = " + "9" * 5000,
        'model = "a\\u0000b"\noutput = "a\\u0000b"',
        "\0",
    ],
)
def test_odd_recipes_are_errors(tmp_path: Path, content: str) -> None:
    from timmx.exporting import export_many

    (tmp_path / "a.toml").write_text(content)

    def export() -> None:
        recipe = read_recipe(tmp_path / "a.toml")
        (model,) = recipe.models or (None,)
        export_many(model, ["torch-export"], recipe.output, **recipe.options)

    with pytest.raises(TimmxError):
        export()


def test_metadata_is_checked_by_the_reader_of_all_commands(export, folder: Path) -> None:
    session = ModelSession(ExportRequest(model=f"local-dir:{folder}", verify=False))
    job = Job(session, Path("a.pt2"), registry.load("torch-export"))
    good = job.metadata(Precision.FP32).to_json()
    assert Metadata.from_json(good).to_json() == good
    for facts in ({"names": {"a": float("nan")}}, {"names": "\ud800"}):
        with pytest.raises(ConfigurationError, match="metadata of this export is not valid"):
            job.metadata(Precision.FP32, **facts)
    for key, value in (
        ("crop_mode", "middle"),
        ("interpolation", "cubic"),
        ("crop_pct", 1e-9),
        ("std", [0.0] * 3),
    ):
        damaged = copy.deepcopy(good)
        damaged["input"][key] = value
        with pytest.raises(ArtifactError, match=rf"input\.{key} is"):
            Metadata.parse(Path("a.pt2"), damaged)

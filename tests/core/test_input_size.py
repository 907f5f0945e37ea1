"""Input sizes other than a model's own: accepted if the model supports them, else refused with sizes that work."""

from __future__ import annotations

import re

import pytest
import torch
from timmx.contract.options import ExportRequest
from timmx.errors import ConfigurationError
from timmx.model.info import model_info
from timmx.model.load import load_model


def load(model: str, *size: int):
    return load_model(ExportRequest(model=model, input_size=size))


@pytest.mark.parametrize(
    ("model", "height", "width"),
    [
        ("test_vit", 96, 128),
        ("swin_tiny_patch4_window7_224", 128, 96),
        ("test_maxvit", 96, 128),
        ("test_coatnet", 96, 96),
        ("test_efficientnet", 61, 47),
        ("levit_128s", 160, 160),
        ("xcit_nano_12_p8_224", 96, 64),
        ("hiera_tiny_224", 128, 128),
    ],
)
def test_the_model_is_built_for_a_size_that_works(model, height, width):
    loaded = load(model, 3, height, width)
    assert loaded.data_config.input_size == (3, height, width)
    with torch.no_grad():
        assert loaded.model(torch.rand(1, 3, height, width)).shape == (1, 1000)


@pytest.mark.parametrize(
    ("model", "height", "width", "reason"),
    [
        ("vit_tiny_patch16_224", 200, 200, "patches of 16 x 16 pixels"),
        ("test_vit", 100, 96, "divisible by patch size"),
        ("swin_tiny_patch4_window7_224", 62, 62, "patches of 4 x 4"),
        ("test_maxvit", 100, 100, "divisible by window|not a multiple"),
        ("levit_128s", 100, 96, "not a multiple"),
        ("xcit_nano_12_p8_224", 60, 60, "divide image dimensions evenly"),
        ("vgg11", 16, 16, "too small"),
    ],
)
def test_a_size_that_fails_is_refused_with_sizes_that_work(model, height, width, reason):
    with pytest.raises(ConfigurationError, match=reason) as caught:
        load(model, 3, height, width)
    near = re.findall(r"--input-size 3 (\d+) (\d+)", str(caught.value))
    assert near
    for near_height, near_width in near:
        info = model_info(ExportRequest(model=model, input_size=(3, int(near_height), int(near_width))))
        assert info.multiply_adds


PATCHES = [
    *(
        "vit_tiny_patch16_224",
        "vit_small_patch14_dinov2",
        "vit_small_patch16_dinov3",
        "deit_tiny_patch16_224",
    ),
    *("beit_base_patch16_224", "eva02_tiny_patch14_224", "vit_relpos_small_patch16_224"),
    *("levit_128s", "levit_384_s8", "gcvit_xxtiny", "test_maxvit", "swinv2_tiny_window8_256", "halonet26t"),
    *("swin_tiny_patch4_window7_224", "flexivit_small", "test_vit", "resnet18", "samvit_base_patch16_224"),
]


def rule_agrees_with_timm(model: str) -> bool:
    """Whether sizes that the rule refuses are refused by timm too, and a multiple by neither."""
    from timmx.model.fill import Plan
    from timmx.model.index import load_index
    from timmx.model.patches import check_patches, rule_of
    from timmx.model.source import find_source

    assert load_index()
    rule = rule_of(model)
    if rule is None:
        return True
    side = 14 * rule.step
    allowed = ExportRequest(model=model, input_size=(3, side, side))
    check_patches(allowed)
    offsets = {1}
    if "patches of" not in rule.reason:  # that of a patch is the same for all its divisors
        Plan(allowed, find_source(allowed, weights=False))
        offsets.add(rule.step // 2)
    for offset in offsets:
        request = ExportRequest(model=model, input_size=(3, side + offset, side + offset))
        with pytest.raises(ConfigurationError, match=rule.reason):
            check_patches(request)
        with pytest.raises(ConfigurationError, match="cannot take"):
            Plan(request, find_source(request, weights=False))
    return True


@pytest.mark.parametrize("model", PATCHES)
def test_sizes_that_names_rule_out_are_those_that_timm_refuses(model):
    assert rule_agrees_with_timm(model)


@pytest.mark.slow
def test_the_rule_of_sizes_holds_for_all_models():
    from timmx.model import load_index

    index = load_index()
    assert index is not None
    assert all(rule_agrees_with_timm(name) for name in index.models)


def test_a_size_that_a_name_rules_out_is_refused_without_torch(process, tmp_path):
    from plugins import timmx
    from timmx.model import load_index

    assert load_index()  # it is cached now
    for name in ("torch", "timm"):
        (tmp_path / f"{name}.py").write_text("raise SystemExit('imported')")
    done = timmx(
        "onnx", "vit_tiny_patch16_224", "--input-size", "3", "200", "201", site=tmp_path, cwd=tmp_path
    )
    assert done.returncode == 2
    assert "patches of 16 x 16 pixels do not cover it" in done.stderr
    assert "--input-size 3 192 192 or --input-size 3 208 208" in done.stderr


def test_a_model_with_a_fixed_size_suggests_that_size():
    with pytest.raises(ConfigurationError, match=r"nearest valid size: --input-size 3 224 224$"):
        load("efficientformer_l1", 3, 256, 256)


def test_a_size_is_refused_before_weights_are_downloaded(tmp_path):
    """No network is used: the size does not work with any weights."""
    with pytest.raises(ConfigurationError, match="cannot take 200 x 200"):
        load_model(ExportRequest(model="vit_tiny_patch16_224", pretrained=True, input_size=(3, 200, 200)))

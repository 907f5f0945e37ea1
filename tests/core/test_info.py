"""`timmx info`: published figures, without weights and without a network."""

from __future__ import annotations

import json

import pytest
import timm
import torch
from timmx.contract.options import ExportRequest
from timmx.errors import ModelError
from timmx.model.info import model_info


@pytest.mark.parametrize(
    ("name", "million_parameters", "giga_multiply_adds"),
    [
        # timm's published results; transformers with attention's own products counted
        ("resnet50", 25.56, 4.1),
        ("vit_base_patch16_224", 86.6, 17.6),
        ("efficientnet_b0", 5.29, 0.39),
        ("mobilenetv3_large_100", 5.48, 0.22),
        ("convnext_tiny", 28.6, 4.5),
        ("swin_tiny_patch4_window7_224", 28.3, 4.5),
        ("cait_xxs24_224", 12.0, 2.5),
        ("pit_ti_224", 4.8, 0.7),
    ],
)
def test_parameters_and_multiply_adds_match_published_figures(name, million_parameters, giga_multiply_adds):
    info = model_info(name)
    assert info.parameters / 1e6 == pytest.approx(million_parameters, rel=0.01)
    assert info.multiply_adds / 1e9 == pytest.approx(giga_multiply_adds, rel=0.04)


def test_the_data_config_matches_timm():
    info = model_info("vit_base_patch16_224.augreg_in21k")
    cfg = timm.get_pretrained_cfg("vit_base_patch16_224.augreg_in21k")
    assert (info.mean, info.std, info.interpolation) == (cfg.mean, cfg.std, cfg.interpolation)
    assert (info.crop_pct, info.crop_mode, info.input_size) == (cfg.crop_pct, cfg.crop_mode, cfg.input_size)
    assert (info.num_classes, info.license) == (cfg.num_classes, cfg.license)
    assert info.hub_id == "timm/vit_base_patch16_224.augreg_in21k"
    assert info.family == "vision_transformer"
    assert "augreg2_in21k_ft_in1k" in info.tags


def test_options_change_the_model():
    small = model_info(ExportRequest(model="resnet50", input_size=(1, 112, 112), num_classes=0))
    assert small.input_size == (1, 112, 112)
    assert small.num_classes == 0
    assert small.multiply_adds == pytest.approx(model_info("resnet50").multiply_adds / 4, rel=0.1)
    assert len(small.mean) == 1


def test_facts_of_a_local_dir(digits):
    info = model_info(digits)
    assert info.name == "digits"
    assert info.num_classes == 10
    assert info.labels == tuple("0123456789")
    assert info.parameters == sum(tensor.numel() for tensor in model_parameters(digits))


def model_parameters(digits: str) -> list[torch.Tensor]:
    return list(timm.create_model(digits, pretrained=True).parameters())


def test_facts_as_json_and_as_rows():
    info = model_info("resnet18")
    assert json.loads(json.dumps(info.to_dict()))["parameters"] == 11_689_512
    rows = dict(info.rows())
    assert rows["parameters"] == "11.7 M (11,689,512)"
    assert rows["multiply-adds"] == "1.81 G at 224 x 224"


def test_random_state_is_not_changed():
    torch.manual_seed(5)
    before = torch.get_rng_state()
    model_info("test_vit")
    assert torch.equal(torch.get_rng_state(), before)


def test_a_model_with_billions_of_parameters_takes_no_memory():
    info = model_info("vit_giant_patch14_dinov2")
    assert info.parameters > 1_100_000_000


def test_an_unknown_model_is_refused():
    with pytest.raises(ModelError, match="did you mean resnet50"):
        model_info("resnet5O")

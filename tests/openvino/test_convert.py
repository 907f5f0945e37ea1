"""Conversion with OpenVINO's front end: what is refused, and what `openvino.convert_model` does not do."""

from __future__ import annotations

import re

import openvino
import pytest
import timm
import torch
from timmx.errors import UnsupportedError
from timmx.registry import load
from torch import nn


class Spectrum(nn.Module):
    """An operation that OpenVINO's front end does not have."""

    pretrained_cfg = {  # noqa: RUF012 - as timm's models have it
        "input_size": (3, 32, 32),
        "mean": (0.5,) * 3,
        "std": (0.5,) * 3,
        "interpolation": "bicubic",
        "crop_pct": 1.0,
    }

    def forward(self, x):
        return torch.linalg.svd(x[:, 0])[1]


def test_an_operation_that_openvino_lacks_is_named(export, tmp_path):
    with pytest.raises(UnsupportedError, match=r"cannot convert this model: .*svd") as caught:
        export("openvino", Spectrum(), tmp_path / "m.xml", verify=False)
    assert "timmx onnx" in caught.value.hint
    assert "\n" not in caught.value.message
    assert not list(tmp_path.iterdir())


def test_nodes_are_not_named_by_numbers_of_the_process(export, tmp_path):
    names = []
    for part in ("first", "second"):
        path = export("openvino", "test_vit", tmp_path / part / "m.xml", seed=0, verify=False).path
        names.append(re.findall(r'<layer id="\d+" name="([^"]+)"', path.read_text()))
    assert names[0] == names[1]
    assert len(set(names[0])) == len(names[0])


def test_sizes_of_the_input_are_static(export, tmp_path):
    path = export("openvino", "test_resnet", tmp_path / "m.xml", verify=False).path
    model = openvino.Core().read_model(path)
    assert model.input("input").get_partial_shape().to_string() == "[1,3,160,160]"
    assert not model.is_dynamic()


def test_convert_model_forgets_the_sizes_of_the_input(export):
    """Why timmx calls the front end itself. If this fails, OpenVINO keeps them."""
    model = timm.create_model("test_resnet").eval()
    program = torch.export.export(model, (torch.zeros(1, 3, 160, 160),))
    assert openvino.convert_model(program).is_dynamic()


class Products(nn.Module):
    """A weight that is multiplied with several matrices."""

    pretrained_cfg = Spectrum.pretrained_cfg

    def __init__(self):
        super().__init__()
        self.weight = nn.Parameter(torch.randn(32, 16))

    def forward(self, x):
        return (x @ self.weight).mean((1, 2))


def test_a_weight_of_several_products_is_stored_once(export, tmp_path):
    path = export("openvino", Products(), tmp_path / "m.xml").path
    assert load("openvino").inspect(path)["parameters"] < 2 * 32 * 16

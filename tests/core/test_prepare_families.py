"""Rewrites are exact for every family of timm, tested with its cheapest model."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
import timm
import torch
from timmx.model.preparation import prepare
from timmx.testing import awaken

FAMILIES = json.loads((Path(__file__).parent.parent / "families.json").read_text())

# Norms that do not follow a single layer: they are before a convolution (densenet, visformer), or after a
# sum, a concatenation (nasnet) or an activation (convmixer).
KEPT_NORMS = {
    "convmixer_768_32": 65,
    "densenet121": 62,
    "dpn48b": 21,
    "efficientformerv2_s0": 1,
    "halonet_h1": 19,
    "inception_next_atto": 15,
    "nasnetalarge": 4,
    "nextvit_small": 1,
    "pnasnet5large": 4,
    "resnetv2_18": 9,
    "starnet_s050": 1,
    "swiftformer_xs": 5,
    "test_coatnet": 2,
    "visformer_tiny": 24,
    "xception41p": 12,
    "xcit_nano_12_p8_224": 12,
}


@pytest.mark.slow
@pytest.mark.parametrize("name", FAMILIES)
def test_every_rewrite_is_exact_for_every_family(name: str) -> None:
    torch.manual_seed(0)
    model = awaken(timm.create_model(name))
    before = sum(parameter.numel() for parameter in model.parameters())
    size = model.pretrained_cfg["input_size"]
    inputs = torch.randn(4 if before < 80e6 else 2, *size, generator=torch.Generator().manual_seed(1))
    with torch.no_grad():
        reference = model(inputs)

    result = prepare(model, inputs, reference, in_place=True)

    assert all(rewrite.snr_db > 80 for rewrite in result.rewrites)
    after = sum(parameter.numel() for parameter in result.model.parameters())
    assert after <= before
    kinds = [type(module).__name__ for module in result.model.modules()]
    assert sum("BatchNorm" in kind for kind in kinds) == KEPT_NORMS.get(name, 0)
    assert not any("StdConv" in kind for kind in kinds)

"""Every family of timm, by its cheapest model: each rewrite that applies is exact there."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
import timm
import torch
from timmx.model.prepare import prepare
from timmx.testing import awaken

FAMILIES = json.loads((Path(__file__).parent.parent / "families.json").read_text())

# Norms that follow no single layer: before an activation, after a sum, a concatenation or an activation.
KEPT_NORMS = {
    "convmixer_768_32": 65,
    "densenet121": 62,
    "dpn48b": 21,
}


@pytest.mark.slow
@pytest.mark.parametrize("name", FAMILIES)
def test_every_rewrite_is_exact_for_every_family(name: str) -> None:
    torch.manual_seed(0)
    model = awaken(timm.create_model(name))
    size = model.pretrained_cfg["input_size"]
    inputs = torch.randn(4, *size, generator=torch.Generator().manual_seed(1))
    with torch.no_grad():
        reference = model(inputs)
    before = sum(parameter.numel() for parameter in model.parameters())

    result = prepare(model, inputs, reference, in_place=True)

    assert all(rewrite.snr_db > 80 for rewrite in result.rewrites)
    after = sum(parameter.numel() for parameter in result.model.parameters())
    assert after <= before
    kinds = [type(module).__name__ for module in result.model.modules()]
    assert sum("BatchNorm" in kind for kind in kinds) == KEPT_NORMS.get(name, 0)
    assert not any("StdConv" in kind for kind in kinds)

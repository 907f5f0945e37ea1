"""Prepared models: fewer operations and parameters, the same outputs, and a caller's module unchanged."""

from __future__ import annotations

import copy
import gc
import weakref

import pytest
import timm
import torch
from timm.layers import BatchNormAct2d
from timm.models.byobnet import MobileOneBlock
from timm.utils import freeze
from timmx.errors import UnsupportedError
from timmx.model.preparation import PreparedModel, output_tensors, prepare
from timmx.testing import awaken
from torch import nn


def inputs_for(size: tuple[int, ...], count: int = 4) -> torch.Tensor:
    return torch.randn(count, *size, generator=torch.Generator().manual_seed(1))


def answers(model: nn.Module, inputs: torch.Tensor):
    with torch.no_grad():
        return model.eval()(inputs)


def prepared(model: nn.Module, inputs: torch.Tensor, in_place: bool = False) -> PreparedModel:
    return prepare(model, inputs, answers(model, inputs), in_place=in_place)


def awake(name: str, size: int, **options) -> tuple[nn.Module, torch.Tensor]:
    torch.manual_seed(0)
    model = awaken(timm.create_model(name, **options), input_size=(3, size, size))
    return model, inputs_for((3, size, size))


def kinds(model: nn.Module) -> set[str]:
    return {type(module).__name__ for module in model.modules()}


def counts(result: PreparedModel) -> dict[str, int]:
    return {rewrite.name: rewrite.count for rewrite in result.rewrites}


@pytest.mark.parametrize(
    ("name", "size", "expected"),
    [
        ("test_resnet", 160, {"fold batch norm": 15}),
        ("test_efficientnet", 160, {"fold batch norm": 13}),
        ("tf_mobilenetv3_small_minimal_100", 96, {"fold batch norm": 34}),
        ("test_nfnet", 160, {"standardize weights": 25}),
        ("resnetv2_50x1_bit", 64, {"standardize weights": 53}),
        ("test_vit", 160, {}),
        ("repvit_m1", 96, {"reparameterize": 133}),
        ("levit_128s", 224, {"reparameterize": 52}),
        ("efficientvit_m0", 224, {"reparameterize": 113}),
        ("repghostnet_050", 96, {"reparameterize": 32, "fold batch norm": 48}),
        ("fastvit_t8", 128, {"reparameterize": 40, "fold batch norm": 10}),
        ("mobileone_s0", 64, {"reparameterize": 43}),
    ],
)
def test_a_prepared_model_has_the_same_outputs(name: str, size: int, expected: dict[str, int]) -> None:
    model, inputs = awake(name, size)
    reference = answers(model, inputs)
    before = sum(parameter.numel() for parameter in model.parameters())
    result = prepare(model, inputs, reference, in_place=False)
    assert counts(result) == expected
    assert all(rewrite.snr_db >= 80 for rewrite in result.rewrites)
    torch.testing.assert_close(answers(result.model, inputs), reference, rtol=1e-3, atol=1e-3)
    assert sum(p.numel() for p in result.model.parameters()) <= before
    assert not {"BatchNorm2d", "BatchNorm1d", "BatchNormAct2d"} & kinds(result.model)
    assert not any("StdConv" in kind for kind in kinds(result.model))


def test_norms_before_their_convolution_are_kept() -> None:
    model, inputs = awake("resnetv2_18", 64)
    result = prepared(model, inputs)
    assert counts(result) == {"fold batch norm": 8}
    assert sum(isinstance(module, BatchNormAct2d) for module in result.model.modules()) == 9


def test_the_root_module_is_reparameterized() -> None:
    torch.manual_seed(0)
    block = MobileOneBlock(8, 8)
    result = prepared(block, inputs_for((8, 6, 6)), in_place=True)
    assert result.model.reparam_conv is not None
    assert counts(result) == {"reparameterize": 1}


def test_a_callers_module_is_not_changed() -> None:
    model, inputs = awake("test_resnet", 96)
    reference = answers(model, inputs)
    seen = []
    model.layer1.register_forward_hook(lambda *_: seen.append(1))
    model.train()
    model.fc.weight.requires_grad_(False)
    before = copy.deepcopy(model)
    calls = len(seen)

    result = prepare(model, inputs, reference, in_place=False)

    assert model.training
    assert len(model.layer1._forward_hooks) == 1
    assert [type(module) for module in model.modules()] == [type(module) for module in before.modules()]
    assert all(not m._forward_pre_hooks for m in model.modules())
    for (name, old), (_, new) in zip(before.named_parameters(), model.named_parameters(), strict=True):
        assert torch.equal(old, new), name
        assert old.requires_grad == new.requires_grad, name
        assert old.device == new.device, name
    for old, new in zip(before.buffers(), model.buffers(), strict=True):
        assert torch.equal(old, new)
    assert not result.model.training
    assert {id(p) for p in model.parameters()}.isdisjoint(id(p) for p in result.model.parameters())
    assert all(not m._forward_pre_hooks for m in result.model.modules())
    assert len(seen) > calls  # the copy carries the caller's hooks


def test_in_place_preparation_frees_the_norms() -> None:
    model, inputs = awake("test_resnet", 96)
    norms = [weakref.ref(m) for m in model.modules() if isinstance(m, nn.BatchNorm2d)]
    result = prepared(model, inputs, in_place=True)
    assert result.model is model
    gc.collect()
    assert norms
    assert not any(norm() for norm in norms)


def test_frozen_models_stay_frozen() -> None:
    model, inputs = awake("levit_128s", 224)
    result = prepared(model.requires_grad_(False), inputs)
    assert not any(parameter.requires_grad for parameter in result.model.parameters())


def test_frozen_batch_norms_are_folded() -> None:
    model, inputs = awake("test_resnet", 96)
    freeze(model)
    assert "FrozenBatchNorm2d" in kinds(model)
    result = prepared(model, inputs)
    assert counts(result) == {"fold batch norm": 15}


def test_a_model_that_has_run_with_gradients_can_be_copied() -> None:
    model, inputs = awake("levit_128s", 224)
    model(inputs[:1])  # leaves attention biases with a history in its cache
    assert counts(prepared(model, inputs)) == {"reparameterize": 52}


@pytest.mark.parametrize("name", ["test_resnet", "test_efficientnet", "test_byobnet", "repvit_m1"])
def test_feature_pyramids(name: str) -> None:
    model, inputs = awake_features(name)
    result = prepared(model, inputs)
    features = answers(result.model, inputs)
    assert len(features) > 2
    assert result.rewrites


def awake_features(name: str) -> tuple[nn.Module, torch.Tensor]:
    torch.manual_seed(0)
    model = timm.create_model(name, features_only=True)
    return model.eval(), inputs_for((3, 96, 96))


def test_gradient_checkpointing_does_not_hide_the_dataflow() -> None:
    model, inputs = awake("test_resnet", 96)
    model.set_grad_checkpointing(True)
    assert counts(prepared(model, inputs)) == {"fold batch norm": 15}


class Fusible(nn.Module):
    """A block whose `fuse` has the relative error `error`."""

    def __init__(self, error: float, offset: float = 0.0) -> None:
        super().__init__()
        torch.manual_seed(0)
        self.layer, self.error, self.offset = nn.Linear(8, 8), error, offset

    def fuse(self) -> nn.Module:
        fused = Fusible(self.error, self.offset)
        fused.layer.weight.data *= 1 + self.error
        return fused

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return self.layer(x) + self.offset


def test_a_rewrite_that_is_not_exact_is_reported_by_name() -> None:
    model = nn.Sequential(Fusible(error=1e-3))
    model.pretrained_cfg = {"architecture": "resnet_of_mine"}
    with pytest.raises(
        UnsupportedError, match=r"'reparameterize' changes what resnet_of_mine .* 6\d dB[^\n]*\nhint: report"
    ):
        prepared(model, inputs_for((8,), count=64))


def test_rounding_is_not_mistaken_for_a_wrong_rewrite() -> None:
    inputs = inputs_for((8,), count=64)
    offset = 3e4  # shared by all outputs: float32 then resolves the signal to some 50 dB
    result = prepared(nn.Sequential(Fusible(error=1e-5, offset=offset)), inputs)
    assert 40 < result.rewrites[0].snr_db < 80
    with pytest.raises(UnsupportedError, match="reparameterize"):
        prepared(nn.Sequential(Fusible(error=1e-1, offset=offset)), inputs)


@pytest.mark.parametrize("name", ["starnet_s050", "efficientvit_b0"])
def test_untrained_weights_with_large_rounding_errors_are_prepared(name: str) -> None:
    torch.manual_seed(0)
    result = prepared(timm.create_model(name), inputs_for((3, 224, 224)))
    assert result.rewrites[0].snr_db < 80


def test_a_rewrite_that_breaks_the_model_is_reported_by_name() -> None:
    class Broken(Fusible):
        def fuse(self) -> nn.Module:
            return nn.Linear(3, 3)

    with pytest.raises(UnsupportedError, match="no longer runs after the rewrite 'reparameterize'") as caught:
        prepared(nn.Sequential(Broken(0.0)), inputs_for((8,)))
    assert isinstance(caught.value.__cause__, RuntimeError)


def test_outputs_may_be_tuples_and_dicts() -> None:
    class Several(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.conv, self.norm = nn.Conv2d(3, 4, 3), nn.BatchNorm2d(4)

        def forward(self, x: torch.Tensor):
            return {"a": self.norm(self.conv(x)), "b": (x.mean(1), [x * 2])}

    assert counts(prepared(Several(), inputs_for((3, 9, 9)))) == {"fold batch norm": 1}
    with pytest.raises(UnsupportedError, match="int"):
        output_tensors((torch.ones(1), 3))

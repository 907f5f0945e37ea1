"""Folding of batch norms into the layer before them, only where it does not change the output."""

from __future__ import annotations

import pytest
import torch
from timm.layers import BatchNormAct2d, Conv2dSame, StdConv2d
from timmx.model.preparation import PreparedModel, output_tensors, prepare
from torch import nn


def inputs_for(size: tuple[int, ...]) -> torch.Tensor:
    return torch.randn(4, *size, generator=torch.Generator().manual_seed(1))


def prepared(model: nn.Module, inputs: torch.Tensor) -> PreparedModel:
    with torch.no_grad():
        return prepare(model, inputs, model.eval()(inputs), in_place=False)


def kinds(model: nn.Module) -> set[str]:
    return {type(module).__name__ for module in model.modules()}


class Net(nn.Module):
    """A convolution, a norm with statistics, and a custom forward."""

    def __init__(self, forward, conv: nn.Module | None = None, norm: nn.Module | None = None) -> None:
        super().__init__()
        torch.manual_seed(0)
        self.conv = conv or nn.Conv2d(4, 4, 3, padding=1)
        self.norm = norm or nn.BatchNorm2d(4)
        self.other = nn.Conv2d(4, 4, 3, padding=1)
        self.act = nn.ReLU(inplace=True)
        with torch.no_grad():
            for name, tensor in self.norm.state_dict().items():
                if tensor.is_floating_point():
                    tensor.uniform_(0.5, 2) if "var" in name else tensor.normal_()
        self._forward = forward

    def forward(self, x: torch.Tensor):
        return self._forward(self, x)


FOLDABLE = {
    "plain": Net(lambda net, x: net.norm(net.conv(x))),
    "no bias": Net(lambda net, x: net.norm(net.conv(x)), nn.Conv2d(4, 4, 3, bias=False)),
    "grouped, dilated, strided": Net(
        lambda net, x: net.norm(net.conv(x)), nn.Conv2d(4, 8, 3, 2, 2, 2, groups=4), nn.BatchNorm2d(8)
    ),
    "reflected padding": Net(
        lambda net, x: net.norm(net.conv(x)), nn.Conv2d(4, 4, 3, padding=1, padding_mode="reflect")
    ),
    "SAME padding": Net(lambda net, x: net.norm(net.conv(x)), Conv2dSame(4, 4, 3, stride=2)),
    "standardized": Net(lambda net, x: net.norm(net.conv(x)), StdConv2d(4, 4, 3)),
    "without affine": Net(lambda net, x: net.norm(net.conv(x)), norm=nn.BatchNorm2d(4, affine=False)),
    "with activation": Net(lambda net, x: net.norm(net.conv(x)), norm=BatchNormAct2d(4)),
    "synchronized": Net(lambda net, x: net.norm(net.conv(x)), norm=nn.SyncBatchNorm(4)),
    "in one dimension": Net(
        lambda net, x: net.norm(net.conv(x.flatten(2))), nn.Conv1d(4, 4, 3), nn.BatchNorm1d(4)
    ),
    "linear": Net(lambda net, x: net.norm(net.conv(x.mean((2, 3)))), nn.Linear(4, 6), nn.BatchNorm1d(6)),
    "shape read": Net(lambda net, x: (y := net.conv(x), net.norm(y) * y.shape[1])[1]),
    "later in place": Net(lambda net, x: net.act(net.norm(net.conv(x)))),
}


@pytest.mark.parametrize("case", FOLDABLE)
def test_a_norm_that_is_the_only_reader_of_a_layer_is_folded(case: str) -> None:
    net, inputs = FOLDABLE[case], inputs_for((4, 9, 9))
    result = prepared(net, inputs)
    assert result.rewrites[-1].name == "fold batch norm"
    assert result.rewrites[-1].count == 1
    assert result.rewrites[-1].snr_db > 100
    assert not any("BatchNorm" in kind for kind in kinds(result.model))
    assert any("BatchNorm" in kind for kind in kinds(net))


def hooked(module: nn.Module) -> nn.Module:
    module.register_forward_hook(lambda _module, _args, output: output + 1)
    return module


def shared(net: Net) -> Net:
    net.other.weight = net.conv.weight
    return net


NOT_FOLDABLE = {
    "output also read": Net(lambda net, x: (y := net.conv(x), net.norm(y) + y)[1]),
    "output changed in place": Net(lambda net, x: net.norm(net.act(net.conv(x)))),
    "output returned": Net(lambda net, x: (y := net.conv(x), {"raw": y, "normed": net.norm(y)})[1]),
    "output seen through a view": Net(lambda net, x: (y := net.conv(x), net.norm(y) + y.mT.mT)[1]),
    "view normalized": Net(lambda net, x: net.norm(net.conv(x).transpose(2, 3))),
    "layer used twice": Net(lambda net, x: net.norm(net.conv(net.conv(x)))),
    "norm used twice": Net(lambda net, x: net.norm(net.conv(x)) + net.norm(net.other(x))),
    "weight shared": shared(Net(lambda net, x: net.norm(net.conv(x)) + net.other(x))),
    "weight read": Net(lambda net, x: net.norm(net.conv(x)) * net.conv.weight.mean()),
    "scale read": Net(lambda net, x: net.norm(net.conv(x)) * net.norm.weight.mean()),
    "layer hooked": Net(lambda net, x: net.norm(net.conv(x)), hooked(nn.Conv2d(4, 4, 3))),
    "norm hooked": Net(lambda net, x: net.norm(net.conv(x)), norm=hooked(nn.BatchNorm2d(4))),
    "no statistics": Net(
        lambda net, x: net.norm(net.conv(x)), norm=nn.BatchNorm2d(4, track_running_stats=False)
    ),
    "other axis": Net(lambda net, x: net.norm(net.conv(x.flatten(2))), nn.Linear(81, 7), nn.BatchNorm1d(4)),
}


@pytest.mark.parametrize("case", NOT_FOLDABLE)
def test_a_norm_is_kept_where_folding_would_change_the_output(case: str) -> None:
    net, inputs = NOT_FOLDABLE[case], inputs_for((4, 9, 9))
    with torch.no_grad():
        reference = output_tensors(net.eval()(inputs))
    result = prepared(net, inputs)
    assert result.rewrites == ()
    with torch.no_grad():
        outputs = output_tensors(result.model(inputs))
    assert all(map(torch.equal, reference, outputs))


def test_a_norm_with_two_names_is_removed_from_both() -> None:
    net = Net(lambda net, x: net.alias(net.conv(x)))
    net.alias = net.norm
    result = prepared(net, inputs_for((4, 9, 9)))
    assert isinstance(result.model.alias, nn.Identity)
    assert isinstance(result.model.norm, nn.Identity)

"""What is rewritten for ExecuTorch computes the same, and runs in XNNPACK."""

from __future__ import annotations

import numpy as np
import pytest
import timmx
import torch
import torch.nn.functional as F  # noqa: N812 - torch's own customary name
from timmx_executorch.lower import lower
from timmx_executorch.matrices import as_matrices
from timmx_executorch.quantize import LayerQuantizer, layers, quantize
from torch import nn
from witnesses import Does

IMAGE = torch.randn(2, 4, 12, 12, generator=torch.Generator().manual_seed(0))


@pytest.mark.parametrize(
    "function",
    [
        lambda x: F.scaled_dot_product_attention(x, x, x),
        lambda x: F.scaled_dot_product_attention(x, x, x, is_causal=True, scale=0.3),
        lambda x: F.scaled_dot_product_attention(x, x[:, :2], x[:, :2], enable_gqa=True),
        lambda x: F.scaled_dot_product_attention(x, x, x, torch.eye(12)),
        lambda x: x @ x.transpose(-1, -2),
        lambda x: x.softmax(-1),
        lambda x: x.softmax(1),
        F.hardsigmoid,
        F.silu,
        lambda x: F.gelu(x, approximate="tanh"),
        lambda x: F.pad(x, (-1, 1, -2, -1), value=0.5),
        lambda x: F.avg_pool2d(x, 3, 2, 1),
        lambda x: F.avg_pool2d(x, 2, 2, ceil_mode=True),
        lambda x: x.mean((2, 3)),
        lambda x: x.roll((2, -1), (2, 3)),
        lambda x: torch.stack(x.unbind(1)[::2]),
        lambda x: torch.cat(x.split(3, 2)[::-1], 2),
        lambda x: torch.cat(x.chunk(2, 3)[::-1], 3),
        lambda x: F.interpolate(x, (7, 9), mode="bicubic", antialias=True),
    ],
)
def test_rewrite_is_exact(function):
    program = torch.export.export(Does(function), (IMAGE,))
    lowered = lower(program, IMAGE, None)
    torch.testing.assert_close(lowered.module()(IMAGE), function(IMAGE), rtol=1e-5, atol=1e-5)


@pytest.mark.parametrize(
    "layer",
    [
        nn.Conv2d(4, 6, 3, padding=1),
        nn.Conv2d(4, 6, 3, stride=2, padding=1),
        nn.Conv2d(4, 6, (5, 2), stride=(1, 3), dilation=(2, 1)),
        nn.Conv2d(4, 6, 1, stride=2, bias=False),
        nn.Conv2d(4, 6, 4, stride=4),
        nn.Conv2d(4, 6, 5, stride=5),
        nn.Linear(12, 5),
    ],
)
def test_layer_as_a_matrix_is_exact(layer):
    program = torch.export.export(layer.eval(), (IMAGE,))
    module = as_matrices(lower(program, IMAGE, None))
    assert not module.graph.find_nodes(op="call_function", target=torch.ops.aten.conv2d.default)
    torch.testing.assert_close(module(IMAGE), layer(IMAGE), rtol=1e-5, atol=1e-5)


def test_small_weights_keep_eight_bits():
    layer = nn.Linear(12, 5).eval()
    nn.init.uniform_(layer.weight, -0.001, 0.001)
    program = lower(torch.export.export(layer, (IMAGE,)), IMAGE, None)
    (node,) = (found.node for found in layers(program))
    module = quantize(program, LayerQuantizer({node}, activations=False), IMAGE)
    torch.testing.assert_close(module(IMAGE), layer(IMAGE), rtol=0, atol=5e-5)


CONFIG = {
    "input_size": (3, 32, 32),
    "mean": (0.5,) * 3,
    "std": (0.5,) * 3,
    "interpolation": "bilinear",
    "crop_pct": 1.0,
}


class Same(nn.Module):
    """Convolutions with padding `same`, of even and odd size, as in pytorch/executorch issue 20517."""

    pretrained_cfg = CONFIG

    def __init__(self):
        super().__init__()
        self.even = nn.Conv2d(3, 8, (4, 2), padding="same")
        self.odd = nn.Conv2d(8, 8, 3, dilation=2, padding="same")
        self.head = nn.Linear(8, 5)

    def forward(self, x):
        return self.head(F.relu(self.odd(F.relu(self.even(x)))).mean((2, 3)))


@pytest.mark.parametrize("mode", ["dynamic-int8", "int8"])
def test_padding_same_runs_in_xnnpack(export, tmp_path, mode):
    torch.manual_seed(0)
    options = {"random_calibration": True, "calibration_samples": 8} if mode == "int8" else {}
    result = timmx.export(
        "executorch",
        Same().eval(),
        output=tmp_path / "same.pte",
        input_size=(3, 32, 32),
        mode=mode,
        **options,
    )
    assert result.verification.status == "verified"
    assert result.metadata["format"]["delegated_share"] == 1
    with timmx.open(result.path) as runner:
        assert np.isfinite(runner.run({"input": np.zeros((1, 3, 32, 32), np.float32)})["output"]).all()


class Shortcut(nn.Module):
    """Two convolutions of one input, of strides 1 and 2, as in a regnety_002."""

    pretrained_cfg = CONFIG

    def __init__(self):
        super().__init__()
        self.main, self.shortcut = nn.Conv2d(3, 8, 1), nn.Conv2d(3, 8, 1, stride=2)

    def forward(self, x):
        return (F.avg_pool2d(self.main(x).relu(), 2) + self.shortcut(x)).flatten(1)


def test_layers_with_ranges_of_each_run_share_an_input(export, tmp_path):
    torch.manual_seed(0)
    result = export(
        "executorch", Shortcut().eval(), tmp_path / "a.pte", input_size=(3, 32, 32), mode="dynamic-int8"
    )
    assert result.verification.snr_db > 30
    assert result.metadata["format"]["stored_operations"] == 2


class After(nn.Module):
    """A function of a convolution's output, averaged."""

    pretrained_cfg = CONFIG

    def __init__(self, function):
        super().__init__()
        self.conv = nn.Conv2d(3, 8, 3)
        self.function = function

    def forward(self, x):
        return self.function(self.conv(x)).mean((2, 3))


@pytest.mark.parametrize(
    "function",
    [
        lambda x: x * x.softmax(-1),  # each row of a map by itself, as in an efficientformerv2_s0
        lambda x: F.gelu(x, approximate="tanh"),  # as in a mobilenetv5_base
        lambda x: F.pad(x, (-1, 1, -1, 1)),  # as in a nasnetalarge
    ],
)
def test_what_xnnpack_would_compute_wrongly(export, tmp_path, function):
    torch.manual_seed(0)
    result = export("executorch", After(function).eval(), tmp_path / "a.pte", input_size=(3, 32, 32))
    assert result.verification.snr_db > 100
    assert result.metadata["format"]["delegated_share"] == 1

"""`lower` closes each gap of litert-torch 0.10 exactly, and the gap is still there without the rewrite.

A test `..._is_needed` fails when a later litert-torch no longer needs the rewrite: then remove the rewrite.
"""

from __future__ import annotations

import math

import numpy as np
import pytest
import torch
import torch.nn.functional as F  # noqa: N812 - torch's own customary name
from ai_edge_litert import schema_py_generated as schema
from timmx.base.snr import SignalToNoise
from timmx.capture.trace import capture
from timmx_litert.convert import IOAdapter, quiet
from timmx_litert.lower import lower
from timmx_litert.runner import open_interpreter
from torch import nn
from witnesses import Does

pytestmark = pytest.mark.usefixtures("export")


class Rotated(nn.Module):
    """Uses constants that are halves of one tensor, like eva02's sines and cosines."""

    def __init__(self):
        super().__init__()
        for index in range(8):
            both = torch.randn(16, 64, generator=torch.Generator().manual_seed(index))
            self.register_buffer(f"first{index}", both[:, :32])
            self.register_buffer(f"second{index}", both[:, 32:])

    def forward(self, input):
        for index in range(8):
            input = (input * getattr(self, f"first{index}")).sin() + getattr(self, f"second{index}")
        return input


class WithNorm(nn.Module):
    def __init__(self, norm, channels):
        super().__init__()
        self.norm = norm(channels)
        generator = torch.Generator().manual_seed(0)
        with torch.no_grad():
            for tensor in (self.norm.weight, self.norm.bias, self.norm.running_mean, self.norm.running_var):
                tensor.copy_(torch.rand(channels, generator=generator) + 0.5)

    def forward(self, input):
        return self.norm(input.relu()).relu()


def relative_positions(x):
    """Like halonet: a sum of rank 5 in which both sides are expanded."""
    x = x.reshape(4, 6, 1, 8, 1)
    wide = x.expand(-1, -1, 5, -1, 1).permute(0, 1, 3, 2, 4)
    high = x.permute(0, 1, 3, 2, 4).expand(-1, -1, -1, 5, 3)
    return (wide + high).reshape(1, -1)


def windows(x):
    """Swin's partition of (N, H, W, C) into windows of 2 x 2, with an intermediate tensor of rank 6."""
    n, h, w, c = x.shape
    return x.reshape(n, h // 2, 2, w // 2, 2, c).permute(0, 1, 3, 2, 4, 5).reshape(-1, 4, c).softmax(-1)


def transposed_product(x):
    """Like efficientvim: a product of two transposes, itself transposed."""
    keys = F.layer_norm(x, (8,))
    weights = x.transpose(1, 2).softmax(-1)[:, :5]
    return torch.matmul(keys.transpose(1, 2), weights.transpose(1, 2)).transpose(1, 2) * 2


def one_feature(x):
    """Like csatv2: attention over a map with one channel."""
    query, key, value = F.linear(x.flatten(1).unsqueeze(-1), torch.tensor([[0.5], [2.0], [3.0]])).unbind(-1)
    return torch.matmul(torch.matmul(query, key.transpose(-1, -2)).tanh(), value)


def shared_keys(x):
    """Like mobilenetv5: one key and one value for all heads."""
    return F.scaled_dot_product_attention(x, x[:, :1] * 0.5, x[:, 1:2] + 1)


def folded(x):
    """Like volo: overlapping windows."""
    return F.fold(F.unfold(x, 3, padding=1, stride=2), (6, 8), 3, padding=1, stride=2)


PIXELS, HEADS, TOKENS = (4, 6, 8), (4, 6, 8), (6, 8)

REFUSED = {
    "product of transposes": (transposed_product, TOKENS),
    "product over one feature": (one_feature, TOKENS),
    "fold": (folded, PIXELS),
    "relative positions": (relative_positions, PIXELS),
    "transposed expansion": (
        lambda x: x.reshape(24, 1, 8).expand(24, 5, 8).transpose(1, 2).reshape(1, -1) * 2,
        PIXELS,
    ),
    "antialiased bicubic": (lambda x: F.interpolate(x, (3, 11), mode="bicubic", antialias=True), PIXELS),
    "antialiased bilinear": (lambda x: F.interpolate(x, (3, 4), mode="bilinear", antialias=True), PIXELS),
}
"""Refused by litert-torch 0.10, or converted to a file that the runtime refuses."""

WRONG = {
    "shared keys": (shared_keys, HEADS),
}
"""Converted to another function, without an error."""

COSTLY = {
    "windows": (windows, PIXELS),
    "bicubic": (lambda x: F.interpolate(x, (9, 5), mode="bicubic"), PIXELS),
    "uneven average": (lambda x: F.adaptive_avg_pool2d(x, (5, 3)), PIXELS),
    "unfold": (lambda x: F.unfold(x, (3, 2), padding=1, stride=2), PIXELS),
    "attention in windows": (
        lambda x: F.scaled_dot_product_attention(*[x.reshape(1, 2, 2, 6, 8)] * 3).reshape(1, -1),
        HEADS,
    ),
    "causal attention": (lambda x: F.scaled_dot_product_attention(x, x, x, is_causal=True, scale=0.3), HEADS),
    "causal shared keys": (
        lambda x: F.scaled_dot_product_attention(x, x[:, :2], x[:, :2], is_causal=True, enable_gqa=True),
        HEADS,
    ),
}
"""Converted correctly, but to more operations, or to ones that the GPU delegate lacks."""

ALSO_REWRITTEN = {
    "attention of one head": (lambda x: F.scaled_dot_product_attention(x, x, x), TOKENS),
    "masked attention": (
        lambda x: F.scaled_dot_product_attention(x, x, x, attn_mask=torch.ones(6, 6).tril().bool()),
        HEADS,
    ),
}
"""Also rewritten, because the rewrite matches them too."""

FUNCTIONS = REFUSED | WRONG | COSTLY | ALSO_REWRITTEN


def random(shape, count=3):
    return torch.randn(count, *shape, generator=torch.Generator().manual_seed(0))


def snr_db(reference, answer):
    ratio = SignalToNoise()
    ratio.update(reference, answer)
    return ratio.snr_db


def convert(module, inputs, nhwc=False):
    with quiet():
        import litert_torch

        example = inputs[:1].permute(0, 2, 3, 1).contiguous() if nhwc else inputs[:1]
        adapter = IOAdapter(module, ("output",), nhwc=nhwc, pixel_bytes=False)
        return litert_torch.convert(adapter, sample_kwargs={"input": example}).model_content()


def run(content, inputs, nhwc=False):
    signature = open_interpreter(content).get_signature_runner()
    if nhwc:
        inputs = inputs.permute(0, 2, 3, 1).contiguous()
    return np.concatenate([signature(input=one.numpy())["output"] for one in inputs.split(1)])


def operations(content):
    """The kinds of the operations, and the highest rank of a tensor."""
    model = schema.ModelT.InitFromPackedBuf(content, 0)
    names = {number: name for name, number in vars(schema.BuiltinOperator).items()}
    (graph,) = model.subgraphs
    codes = [max(code.builtinCode, code.deprecatedBuiltinCode) for code in model.operatorCodes]
    return [names[codes[one.opcodeIndex]] for one in graph.operators], max(
        len(tensor.shape) for tensor in graph.tensors if tensor.shape is not None
    )


@torch.no_grad()
def check(module, shape, nhwc=False):
    """Check that `lower` keeps the function, and litert-torch after it; return the file."""
    inputs = random(shape)
    module.eval()
    reference = torch.cat([module(one) for one in inputs.split(1)]).numpy()
    lowered = lower(capture(module, inputs[:1], dynamic=False))
    assert snr_db(reference, torch.cat([lowered(one) for one in inputs.split(1)]).numpy()) >= 110
    content = convert(lowered, inputs, nhwc)
    assert snr_db(reference, run(content, inputs, nhwc)) >= 100
    return content


@pytest.mark.parametrize("gap", FUNCTIONS)
def test_rewrite_is_exact(gap):
    function, shape = FUNCTIONS[gap]
    kinds, rank = operations(check(Does(function), shape))
    assert rank <= 4
    assert "GATHER_ND" not in kinds


@pytest.mark.parametrize("gap", REFUSED)
def test_rewrite_of_refused_function_is_needed(gap):
    function, shape = REFUSED[gap]
    inputs = random(shape)
    module = capture(Does(function), inputs[:1], dynamic=False).module()
    with pytest.raises((RuntimeError, ValueError, NotImplementedError)):
        run(convert(module, inputs), inputs)


@pytest.mark.parametrize("gap", WRONG)
def test_rewrite_of_wrongly_converted_function_is_needed(gap):
    function, shape = WRONG[gap]
    inputs = random(shape)
    content = convert(capture(Does(function), inputs[:1], dynamic=False).module(), inputs)
    reference = torch.cat([function(one) for one in inputs.split(1)]).numpy()
    assert snr_db(reference, run(content, inputs)) < 60


@pytest.mark.parametrize("gap", COSTLY)
def test_rewrite_of_costly_function_is_needed(gap):
    function, shape = COSTLY[gap]
    inputs = random(shape)
    program = capture(Does(function), inputs[:1], dynamic=False)
    kinds, rank = operations(convert(program.module(), inputs))
    fewer, _ = operations(convert(lower(program), inputs))
    assert rank > 4 or {"GATHER_ND", "BROADCAST_TO"} & set(kinds) or len(fewer) < len(kinds)


def test_views_of_one_tensor_are_converted_as_separate_constants():
    check(Rotated(), (16, 32))


def test_copies_of_constants_are_needed():
    inputs = random((16, 32))
    program = capture(Rotated(), inputs[:1], dynamic=False)
    content = convert(program.module(), inputs)
    assert snr_db(Rotated()(inputs).numpy(), run(content, inputs)) < 60


def test_infinities_in_the_model_are_not_changed():
    class Masked(nn.Module):
        def __init__(self):
            super().__init__()
            self.register_buffer(
                "mask", torch.zeros(8, 8).masked_fill(torch.ones(8, 8).triu(1).bool(), -math.inf)
            )

        def forward(self, input):
            return (input[:, :, :1] + self.mask).softmax(-1)

    module = Masked().eval()
    before = module.mask.clone()
    check(module, (8, 8))
    assert torch.equal(module.mask, before)


@pytest.mark.parametrize(("norm", "shape"), [(nn.BatchNorm2d, PIXELS), (nn.BatchNorm1d, TOKENS)])
def test_batch_norm_is_a_factor_and_a_term(norm, shape):
    kinds, _ = operations(check(WithNorm(norm, shape[0]), shape))
    arithmetic = [kind for kind in kinds if kind not in ("TRANSPOSE", "RESHAPE", "RELU")]
    assert arithmetic == (["DEPTHWISE_CONV_2D"] if len(shape) == 3 else ["MUL", "ADD"])


def test_view_is_valid_in_both_layouts():
    """gemma4_vit cuts patches with `view`, whose strides a transposed input does not have."""
    check(
        Does(lambda x: x.view(1, 4, 3, 2, 4, 2).permute(0, 2, 4, 1, 3, 5).reshape(1, 12, 16)),
        PIXELS,
        nhwc=True,
    )


def test_fold_with_different_strides():
    check(Does(lambda x: F.fold(F.unfold(x, (3, 2), stride=(2, 1)), (6, 8), (3, 2), stride=(2, 1))), PIXELS)


def test_program_is_not_changed():
    program = capture(Does(windows), random(PIXELS, 1), dynamic=False)
    before = str(program.graph)
    lower(program)
    assert str(program.graph) == before


def test_conversion_prints_nothing_and_restores_settings(capfd):
    import logging
    import os

    def settings():
        names = "LITERT_TORCH_SHOW_PROGRESS LITERT_TORCH_SILENCE_TORCH_LOGS TF_CPP_MIN_LOG_LEVEL TF_ENABLE_ONEDNN_OPTS"
        handlers = [list(logging.getLogger(name).handlers) for name in (None, "torch", "torch._dynamo")]
        return [os.environ.get(name) for name in names.split()], handlers, logging.root.manager.disable

    before = settings()
    convert(lower(capture(Does(windows), random(PIXELS, 1), dynamic=False)), random(PIXELS, 1))
    assert settings() == before
    assert capfd.readouterr() == ("", "")

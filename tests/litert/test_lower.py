"""`lower` closes each gap of litert-torch 0.10 exactly, and the gap is still there without the rewrite.

A test `..._is_needed` fails when a later litert-torch no longer needs the rewrite: then remove the rewrite.
Functions of one input shape are converted together, as outputs of one module: 2 s of each conversion do not depend on
the module. If that fails, each is converted separately, so that the failure names its function.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from functools import cache

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
            both = torch.randn(6, 16, generator=torch.Generator().manual_seed(index))
            self.register_buffer(f"first{index}", both[:, :8])
            self.register_buffer(f"second{index}", both[:, 8:])

    def forward(self, input):
        for index in range(8):
            input = (input * getattr(self, f"first{index}")).sin() + getattr(self, f"second{index}")
        return input


class Masked(nn.Module):
    """Adds infinities to scores."""

    def __init__(self):
        super().__init__()
        self.register_buffer(
            "mask", torch.zeros(6, 6).masked_fill(torch.ones(6, 6).triu(1).bool(), -math.inf)
        )

    def forward(self, input):
        return (input[:, :, :1] + self.mask).softmax(-1)


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
    "nearest to uneven sizes": (lambda x: F.interpolate(x, (15, 3)), PIXELS),  # like ghostnetv3
    "nearest by a factor": (lambda x: F.interpolate(x, scale_factor=(1.0, 1.3)), PIXELS),
    "bilinear by a factor": (lambda x: F.interpolate(x, scale_factor=1.3, mode="bilinear"), PIXELS),
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

MODULES = {
    "views of one tensor": (Rotated(), TOKENS),
    "infinities": (Masked(), TOKENS),
    "batch norm of maps": (WithNorm(nn.BatchNorm2d, PIXELS[0]), PIXELS),
    "batch norm of tokens": (WithNorm(nn.BatchNorm1d, TOKENS[0]), TOKENS),
    "fold with different strides": (
        Does(lambda x: F.fold(F.unfold(x, (3, 2), stride=(2, 1)), (6, 8), (3, 2), stride=(2, 1))),
        PIXELS,
    ),
    "nearest to multiples": (Does(lambda x: F.interpolate(x, scale_factor=2.0)), PIXELS),
    "patches by view": (
        Does(lambda x: x.view(1, 4, 3, 2, 4, 2).permute(0, 2, 4, 1, 3, 5).reshape(1, 12, 16)),
        PIXELS,
    ),
}

UNLOWERED = (*WRONG, *COSTLY, "views of one tensor")
"""Cases that litert-torch converts without `lower` too."""

FUNCTIONS = REFUSED | WRONG | COSTLY | ALSO_REWRITTEN
CASES = {name: (Does(function), shape) for name, (function, shape) in FUNCTIONS.items()} | MODULES
CASES = {name: (module.eval(), shape) for name, (module, shape) in CASES.items()}


REFUSALS = (RuntimeError, ValueError, NotImplementedError)
"""What litert-torch and the runtime raise."""


class Together(nn.Module):
    """Several modules with one input, as outputs."""

    def __init__(self, modules):
        super().__init__()
        self.parts = nn.ModuleList(modules)

    def forward(self, input):
        return tuple(part(input) for part in self.parts)


@dataclass(frozen=True)
class Converted:
    """One case in a converted file.

    Attributes:
        reference: the module's output for the inputs.
        lowered: the output after `lower`; None if the file was converted without it.
        answer: the output of the LiteRT runtime.
        operations: the kinds of the operations that lead to this output.
        rank: the highest rank of their tensors.
    """

    reference: np.ndarray
    lowered: np.ndarray | None
    answer: np.ndarray
    operations: list[str]
    rank: int


def random(shape, count=3):
    return torch.randn(count, *shape, generator=torch.Generator().manual_seed(0))


def snr_db(reference, answer):
    ratio = SignalToNoise()
    ratio.update(reference, answer)
    return ratio.snr_db


def convert(module, inputs, nhwc=False, names=("output",)):
    with quiet():
        import litert_torch

        example = inputs[:1].permute(0, 2, 3, 1).contiguous() if nhwc else inputs[:1]
        adapter = IOAdapter(module, names, nhwc=nhwc, pixel_bytes=False)
        return litert_torch.convert(adapter, sample_kwargs={"input": example}).model_content()


def run(content, inputs, nhwc=False):
    """Each output by name, for the inputs one by one."""
    signature = open_interpreter(content).get_signature_runner()
    if nhwc:
        inputs = inputs.permute(0, 2, 3, 1).contiguous()
    parts = [signature(input=one.numpy()) for one in inputs.split(1)]
    return {name: np.concatenate([part[name] for part in parts]) for name in parts[0]}


def operations(content):
    """By output name: the kinds of the operations that lead to it, and the highest rank of their tensors."""
    model = schema.ModelT.InitFromPackedBuf(content, 0)
    kinds = {number: name for name, number in vars(schema.BuiltinOperator).items()}
    (graph,), (signature,) = model.subgraphs, model.signatureDefs
    codes = [max(code.builtinCode, code.deprecatedBuiltinCode) for code in model.operatorCodes]
    result = {}
    for output in signature.outputs:
        needed, found = {output.tensorIndex}, []
        for operation in reversed(graph.operators):
            if needed.intersection(operation.outputs):
                needed.update(operation.inputs)
                needed.update(operation.outputs)
                found.append(kinds[codes[operation.opcodeIndex]])
        shapes = [graph.tensors[index].shape for index in needed if index >= 0]
        result[output.name.decode()] = found[::-1], max(len(shape) for shape in shapes if shape is not None)
    return result


@torch.no_grad()
def convert_together(names, lowered, nhwc=False):
    """The cases, which have one input shape, in one file."""
    inputs = random(CASES[names[0]][1])
    module = Together([CASES[name][0] for name in names])
    program = capture(module, inputs[:1], dynamic=False)
    graph = lower(program) if lowered else program.module()
    keys = tuple(f"output{number}" for number in range(len(names)))
    content = convert(graph, inputs, nhwc, keys)
    reference, after = ([one(part) for part in inputs.split(1)] for one in (module, graph))
    answers, kinds = run(content, inputs, nhwc), operations(content)
    return {
        name: Converted(
            torch.cat([part[number] for part in reference]).numpy(),
            torch.cat([part[number] for part in after]).numpy() if lowered else None,
            answers[key],
            *kinds[key],
        )
        for number, (name, key) in enumerate(zip(names, keys, strict=True))
    }


@cache
def convert_shape(shape, lowered):
    """All cases of this input shape that can be converted; none if they cannot be converted together."""
    names = [name for name, case in CASES.items() if case[1] == shape and (lowered or name in UNLOWERED)]
    try:
        return convert_together(names, lowered)
    except REFUSALS:  # `converted` finds out of which case
        return {}


@cache
def converted(name, lowered=True):
    together = convert_shape(CASES[name][1], lowered)
    return together[name] if name in together else convert_together([name], lowered)[name]


def check(case):
    """Check that `lower` keeps the function, and litert-torch after it."""
    assert snr_db(case.reference, case.lowered) >= 110
    assert snr_db(case.reference, case.answer) >= 100


@pytest.mark.parametrize("gap", FUNCTIONS)
def test_rewrite_is_exact(gap):
    case = converted(gap)
    check(case)
    assert case.rank <= 4
    assert "GATHER_ND" not in case.operations


@pytest.mark.parametrize("gap", REFUSED)
def test_rewrite_of_refused_function_is_needed(gap):
    with pytest.raises(REFUSALS):
        convert_together([gap], lowered=False)


@pytest.mark.parametrize("gap", WRONG)
def test_rewrite_of_wrongly_converted_function_is_needed(gap):
    case = converted(gap, lowered=False)
    assert snr_db(case.reference, case.answer) < 60


@pytest.mark.parametrize("gap", COSTLY)
def test_rewrite_of_costly_function_is_needed(gap):
    case = converted(gap, lowered=False)
    assert (
        case.rank > 4
        or {"GATHER_ND", "BROADCAST_TO"} & set(case.operations)
        or len(converted(gap).operations) < len(case.operations)
    )


def test_views_of_one_tensor_are_converted_as_separate_constants():
    check(converted("views of one tensor"))


def test_copies_of_constants_are_needed():
    case = converted("views of one tensor", lowered=False)
    assert snr_db(case.reference, case.answer) < 60


class Averaged(nn.Module):
    """Like squeeze and excitation: the mean of a map that a convolution made, which LiteRT keeps in NHWC."""

    def forward(self, input):
        same = torch.eye(4).reshape(4, 4, 1, 1)
        return F.conv2d(F.conv2d(input, same).mean((2, 3), keepdim=True), same)


@torch.no_grad()
def test_mean_of_a_large_map_is_summed_in_parts():
    inputs = torch.rand(3, 4, 112, 112, generator=torch.Generator().manual_seed(0))
    program = capture(Averaged(), inputs[:1], dynamic=False)
    exact = inputs.double().mean((2, 3), keepdim=True).numpy()
    summed, in_parts = (
        np.linalg.norm(run(convert(graph, inputs), inputs)["output"] - exact)
        for graph in (program.module(), lower(program))
    )
    assert 3 * in_parts < summed


def test_nearest_to_multiples_is_one_operation():
    case = converted("nearest to multiples")
    check(case)
    assert "RESIZE_NEAREST_NEIGHBOR" in case.operations
    assert "BATCH_MATMUL" not in case.operations


def test_infinities_in_the_model_are_not_changed():
    check(converted("infinities"))
    assert torch.equal(CASES["infinities"][0].mask, Masked().mask)


@pytest.mark.parametrize("of", ["maps", "tokens"])
def test_batch_norm_is_a_factor_and_a_term(of):
    case = converted(f"batch norm of {of}")
    check(case)
    arithmetic = [kind for kind in case.operations if kind not in ("TRANSPOSE", "RESHAPE", "RELU")]
    assert arithmetic == (["DEPTHWISE_CONV_2D"] if of == "maps" else ["MUL", "ADD"])


def test_view_is_valid_in_both_layouts():
    """gemma4_vit cuts patches with `view`, whose strides a transposed input does not have."""
    check(convert_together(["patches by view"], lowered=True, nhwc=True)["patches by view"])


def test_fold_with_different_strides():
    check(converted("fold with different strides"))


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

"""Attention."""

from __future__ import annotations

import math

import torch
from timmx.plugin import UnsupportedError

from timmx_ncnn.arithmetic import ADD, MUL
from timmx_ncnn.layers import Value, Weight, sizes
from timmx_ncnn.translate import HINT, Translation, arguments, numbers, shape_of, translates

aten = torch.ops.aten


@translates(aten.scaled_dot_product_attention.default)
def _attention(t: Translation, node: torch.fx.Node) -> Value:
    query, key, value, mask, _, causal, scale, grouped = arguments(node)
    if causal:
        raise UnsupportedError("causal attention is not translated", hint=HINT)
    *lead, length, size = shape_of(query)
    heads, groups = math.prod(lead), math.prod(shape_of(key)[:-2])
    scale = float(size**-0.5 if scale is None else scale)
    if groups not in (1, heads) and not (grouped and lead[:-1] == [1] * (len(lead) - 1)):
        raise UnsupportedError(
            "attention whose keys are shared by several queries is not translated", hint=HINT
        )
    keys = shape_of(key)[-2]
    q = t.take(query, (heads, length, size))
    k, v = (t.take(part, (groups, keys, shape_of(part)[-1])) for part in (key, value))
    out = (heads, length, v.shape[-1])
    if mask is None:
        return t.network.add("SDPA", node.name, [q, k, v], out, {5: 0, 6: scale})
    mask_lead = math.prod(shape_of(mask)[:-2])
    if shape_of(mask)[-2:] == (length, keys) and mask_lead in (1, heads):
        added = _added_mask(t, mask, (*((mask_lead,) if mask_lead > 1 else ()), length, keys))
        return t.network.add("SDPA", node.name, [q, k, v, added], out, {5: 1, 6: scale})
    return _attention_by_products(t, node, q, k, v, mask, scale)


def _added_mask(t: Translation, mask: torch.fx.Node, shape: tuple[int, ...]) -> Value:
    """What is added to the scores."""
    if mask.meta["val"].dtype != torch.bool:
        return t.take(mask, shape)
    allowed = t.constant(mask)
    if allowed is None:
        raise UnsupportedError("a mask of bools that depends on the input is not translated", hint=HINT)
    data = torch.zeros(allowed.shape).masked_fill(~allowed, -1e30)
    return t.network.add(
        "MemoryData", mask.name, [], shape, sizes(shape), (Weight(numbers(data), tagged=False),)
    )


def _attention_by_products(
    t: Translation, node: torch.fx.Node, q: Value, k: Value, v: Value, mask: torch.fx.Node, scale: float
) -> Value:
    """Attention with a mask that several heads or windows share, which `SDPA` does not have."""
    *lead, length, _ = shape_of(node)
    heads, keys = q.shape[0], k.shape[1]
    scaled = t.network.add("BinaryOp", f"{node.name}_scaled", [q], q.shape, {0: MUL, 1: 1, 2: scale})
    scores = t.network.add("MatMul", f"{node.name}_scores", [scaled, k], (heads, length, keys), {0: 1})
    frame, axes = t.frame([*lead, length, keys])
    padded = (1,) * (len(lead) + 2 - len(shape_of(mask))) + shape_of(mask)
    added = _added_mask(t, mask, tuple(padded[axis] for axis in axes))
    scores = t.network.reshape(scores, frame)
    scores = t.network.add("BinaryOp", f"{node.name}_masked", [scores, added], frame, {0: ADD})
    scores = t.network.add("Softmax", f"{node.name}_softmax", [scores], frame, {0: len(frame) - 1, 1: 1})
    scores = t.network.reshape(scores, (heads, length, keys))
    return t.network.add("MatMul", node.name, [scores, v], (heads, length, v.shape[-1]), {0: 0})

"""MIL's matrix products and attention."""

from __future__ import annotations

import math

import torch
from torch import Tensor
from torch.nn import functional

from timmx_coreml.mil.operations.registry import Tensors, operation

_LETTERS = "abcdefghijklmnopqrstuvwxyz" * 2
_EQUATIONS = ("abcd,adce->abce", "abc,cbd->abd")
"""The equations that MIL supports, with letters in order of appearance. Dimensions of size 1 are broadcast."""


@operation()
def linear(x: Tensor, weight: Tensor, bias: Tensor | None = None) -> Tensor:
    return functional.linear(x, weight, bias)


@operation(result="x|y")
def matmul(x: Tensor, y: Tensor, transpose_x: bool = False, transpose_y: bool = False) -> Tensor:
    x = x.transpose(-1, -2) if transpose_x and x.ndim > 1 else x
    y = y.transpose(-1, -2) if transpose_y and y.ndim > 1 else y
    return torch.matmul(x, y)


@operation(result="values", alike=("values",))
def einsum(values: Tensors, equation: str) -> Tensor:
    letters = dict.fromkeys(letter for letter in equation if letter.isalpha())
    normalized = equation.translate({ord(letter): _LETTERS[i] for i, letter in enumerate(letters)})
    if normalized not in _EQUATIONS:
        raise NotImplementedError(f"equation {equation!r}")
    return torch.einsum(equation, *values)


@operation(result="query", alike=("query", "key", "value"))
def scaled_dot_product_attention(
    query: Tensor, key: Tensor, value: Tensor, attn_mask: Tensor | None = None
) -> Tensor:
    scores = torch.matmul(query, key.transpose(-1, -2)) / math.sqrt(query.shape[-1])
    if attn_mask is not None:
        scores = (
            scores.masked_fill(~attn_mask, -math.inf) if attn_mask.dtype == torch.bool else scores + attn_mask
        )
    return torch.matmul(torch.softmax(scores, -1), value)

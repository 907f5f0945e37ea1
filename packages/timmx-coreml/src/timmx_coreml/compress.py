"""Smaller weights, by coremltools' own optimisers."""

from __future__ import annotations

import contextlib
import io
import math
from typing import Any

from timmx_coreml.convert import quiet
from timmx_coreml.options import Quantize
from timmx_coreml.package import main_block

SMALLEST_WEIGHT = 2048
"""Weights with fewer elements are left alone: biases, norms, depthwise kernels. They matter most and weigh least."""

BLOCK_SIZES = (32, 16, 8)
"""Input channels that share one scale in int4: the largest of these that divides the layer's. Else all of them do."""

GROUP_SIZES = (16, 32, 64)
"""Output channels that share a palette, from ios18 on: the smallest of these that pays; else the whole weight does."""

_WEIGHTS_PER_ENTRY = 16
"""A palette pays for so many weights an entry: it then adds 1 bit to each of them."""

_BITS = {Quantize.PALETTE8: 8, Quantize.PALETTE6: 6, Quantize.PALETTE4: 4}


def compress(model: Any, form: Quantize, grouped: bool) -> tuple[Any, int]:
    """Store the large weights of an mlprogram in fewer bits.

    Args:
        model: a `coremltools.models.MLModel`.
        form: any but `none`.
        grouped: one palette a group of channels, which ios18 reads, not one a weight.

    Returns:
        The new model, and how many weights were compressed.
    """
    with quiet():
        import coremltools.optimize.coreml as cto

        palettes = form in _BITS
        shared: dict[str, Any] = {"weight_threshold": SMALLEST_WEIGHT}
        if palettes:
            shared |= {"mode": "kmeans", "nbits": _BITS[form]}
        else:
            shared |= {"mode": "linear_symmetric", "dtype": form.value}
        make = cto.OpPalettizerConfig if palettes else cto.OpLinearQuantizerConfig
        plain = {} if palettes else {"granularity": "per_channel"}
        own = {}
        if form is Quantize.INT4 or (palettes and grouped):
            for name, weight in cto.get_weights_metadata(model, weight_threshold=SMALLEST_WEIGHT).items():
                if {child.op_type for child in weight.child_ops} <= _CHANNELS_FIRST:
                    finer = (
                        _grouping(weight.val.shape, _BITS[form]) if palettes else _blocking(weight.val.shape)
                    )
                    own[name] = make(**shared, **(finer or plain))
        settings = cto.OptimizationConfig(global_config=make(**shared, **plain), op_name_configs=own)
        compressed = (cto.palettize_weights if palettes else cto.linear_quantize_weights)(model, settings)
    return compressed, sum(
        operation.type.startswith("constexpr_") for operation in main_block(compressed.get_spec()).operations
    )


_CHANNELS_FIRST = {"conv", "linear"}
"""Operations whose weight is (output channels, input channels, ...)."""


def _blocking(shape: tuple[int, ...]) -> dict[str, Any] | None:
    """Scales for blocks of input channels, or None where no block divides them."""
    fitting = [size for size in BLOCK_SIZES if shape[1] % size == 0]
    return {"granularity": "per_block", "block_size": fitting[0]} if fitting else None


def _grouping(shape: tuple[int, ...], bits: int) -> dict[str, Any] | None:
    """Palettes for groups of output channels, or None where they would weigh too much."""
    channel = math.prod(shape[1:])
    paying = [
        size
        for size in GROUP_SIZES
        if shape[0] % size == 0 and size < shape[0] and size * channel >= _WEIGHTS_PER_ENTRY * 2**bits
    ]
    return {"granularity": "per_grouped_channel", "group_size": paying[0]} if paying else None


def halve(model: Any) -> Any:
    """The specification of a neuralnetwork, its weights in float16; the system widens them when it loads the file."""
    # It prints a line for every layer.
    with quiet(), contextlib.redirect_stdout(io.StringIO()):
        from coremltools.models.neural_network.quantization_utils import quantize_weights

        halved = quantize_weights(model, nbits=16)
    # A model where Core ML is there to load it, else the bare specification.
    return halved.get_spec() if hasattr(halved, "get_spec") else halved

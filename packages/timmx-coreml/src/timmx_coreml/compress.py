"""Compresses weights with coremltools' optimizers."""

from __future__ import annotations

import contextlib
import io
import math
from typing import Any

from timmx_coreml.convert import quiet
from timmx_coreml.options import Quantize
from timmx_coreml.package import main_block

SMALLEST_WEIGHT = 2048
"""Smaller weights stay uncompressed: biases, norms, depthwise kernels. They affect accuracy most and size least."""

BLOCK_SIZES = (32, 16, 8)
"""Input channels per scale in int4: the largest of these that divides the layer's, otherwise all of them."""

GROUP_SIZES = (16, 32, 64)
"""Output channels per palette since ios18: the smallest of these that saves space, otherwise all of them."""

_WEIGHTS_PER_ENTRY = 16
"""A palette saves space from this many weights per entry: it then adds 1 bit to each of them."""

_BITS = {Quantize.PALETTE8: 8, Quantize.PALETTE6: 6, Quantize.PALETTE4: 4}


def compress(model: Any, form: Quantize, grouped: bool) -> tuple[Any, int]:
    """Store the large weights of an mlprogram in fewer bits.

    Args:
        model: a `coremltools.models.MLModel`.
        form: any but `Quantize.NONE`.
        grouped: use one palette per group of channels (needs ios18) instead of one per weight.

    Returns:
        The new model, and the number of compressed weights.
    """
    with quiet():
        import coremltools.optimize.coreml as cto

        palettes = form in _BITS
        shared: dict[str, Any] = {"weight_threshold": SMALLEST_WEIGHT}
        if palettes:
            shared |= {"mode": "kmeans", "nbits": _BITS[form]}
        else:
            shared |= {"mode": "linear_symmetric", "dtype": form.value}
        config = cto.OpPalettizerConfig if palettes else cto.OpLinearQuantizerConfig
        default = {} if palettes else {"granularity": "per_channel"}
        by_name = {}
        if form is Quantize.INT4 or (palettes and grouped):
            for name, weight in cto.get_weights_metadata(model, weight_threshold=SMALLEST_WEIGHT).items():
                if {child.op_type for child in weight.child_ops} <= _CHANNELS_FIRST:
                    granularity = (
                        _grouping(weight.val.shape, _BITS[form]) if palettes else _blocking(weight.val.shape)
                    )
                    by_name[name] = config(**shared, **(granularity or default))
        settings = cto.OptimizationConfig(global_config=config(**shared, **default), op_name_configs=by_name)
        compressed = (cto.palettize_weights if palettes else cto.linear_quantize_weights)(model, settings)
    return compressed, sum(
        operation.type.startswith("constexpr_") for operation in main_block(compressed.get_spec()).operations
    )


_CHANNELS_FIRST = {"conv", "linear"}
"""Operations whose weight is (output channels, input channels, ...)."""


def _blocking(shape: tuple[int, ...]) -> dict[str, Any] | None:
    """Scales for blocks of input channels, or None if no block size divides them."""
    sizes = [size for size in BLOCK_SIZES if shape[1] % size == 0]
    return {"granularity": "per_block", "block_size": sizes[0]} if sizes else None


def _grouping(shape: tuple[int, ...], bits: int) -> dict[str, Any] | None:
    """Palettes for groups of output channels, or None if they would take too much space."""
    channel = math.prod(shape[1:])
    sizes = [
        size
        for size in GROUP_SIZES
        if shape[0] % size == 0 and size < shape[0] and size * channel >= _WEIGHTS_PER_ENTRY * 2**bits
    ]
    return {"granularity": "per_grouped_channel", "group_size": sizes[0]} if sizes else None


def halve(model: Any) -> Any:
    """Return the specification of a neuralnetwork with float16 weights, which the system widens on loading."""
    # It prints a line per layer.
    with quiet(), contextlib.redirect_stdout(io.StringIO()):
        from coremltools.models.neural_network.quantization_utils import quantize_weights

        halved = quantize_weights(model, nbits=16)
    # It returns a model on macOS, and a specification elsewhere.
    return halved.get_spec() if hasattr(halved, "get_spec") else halved

"""Stores the weights of a float32 graph in 8 or 4 bits, with NNCF."""

from __future__ import annotations

from typing import TYPE_CHECKING

from timmx.plugin import UnsupportedError

from timmx_openvino.layers import LINEAR, layers
from timmx_openvino.nncf_library import compress_weights, nncf

if TYPE_CHECKING:
    import openvino

BLOCK = 32
"""Weights of a linear layer in 4 bits that share a scale and a zero point."""


def in_8_bits(model: openvino.Model) -> openvino.Model:
    """The graph with the weights of its layers in 8 bits, with one scale per output channel."""
    return compress_weights(model, mode=nncf.CompressWeightsMode.INT8_SYM)


def in_4_bits(model: openvino.Model) -> tuple[openvino.Model, int]:
    """The graph with the weights of its linear layers in 4 bits, and of the others in 8, and the number of the former.

    Raises:
        UnsupportedError: it has no linear layer whose inputs are a multiple of the block.
    """
    linear = [layer for layer in layers(model) if layer.node.get_type_name() == LINEAR]
    fitting = [layer for layer in linear if layer.weight.ndim == 2 and not layer.inputs % BLOCK]
    if not fitting:
        raise UnsupportedError(
            f"the model has no linear layer with a multiple of {BLOCK} inputs, so --mode weight-int4 has nothing to "
            "store in 4 bits",
            hint="use --mode weight-int8",
        )
    compressed = compress_weights(
        model,
        mode=nncf.CompressWeightsMode.INT4_ASYM,
        group_size=BLOCK,
        ratio=1.0,
        all_layers=True,
        backup_mode=nncf.BackupMode.INT8_SYM,
    )
    return compressed, len(fitting)

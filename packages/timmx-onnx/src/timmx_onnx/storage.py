"""Stores weights in 8 or 4 bits, except where that costs too much accuracy."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np
import onnx_ir as ir
from timmx.plugin import Precision, UnsupportedError, exempt_layers, worst_db

from timmx_onnx.int4 import linear_layers, store_in_blocks
from timmx_onnx.names import name_nodes
from timmx_onnx.running import run_model
from timmx_onnx.weights import storable, store_weights

if TYPE_CHECKING:
    from timmx.plugin import ExportJob

_INPUTS = 8
_LEAST_DB = 6.0
"""With less, 4 bits are not used. The floor is 3 dB, and the inputs of a later verification may be others."""
_LESS_ON_NOISE_DB = 14.0
"""What 4 bits may lose more on noise: a trained vit_tiny_patch16_224 with all linear layers in 4 bits keeps 36 dB on
test images, 20 dB on synthetic ones and 6 dB on noise."""
_SMALL_SHARE = 0.5
"""With fewer of the weights in 4 bits, the file is hardly smaller than with all in 8."""


@dataclass(frozen=True, kw_only=True)
class Storage:
    """How the layers of a graph store their weights.

    Attributes:
        stored: layers with weights in 8 or 4 bits.
        in_blocks: those of them in 4 bits.
        share: of the weights that are in 4 bits.
        in_float: layers that keep float weights, because 8 bits cost too much accuracy.
        in_eight_bits: linear layers with weights in 8 bits, because 4 cost too much.
    """

    stored: int
    in_blocks: int
    share: float
    in_float: int
    in_eight_bits: int

    @property
    def precision(self) -> Precision:
        return Precision.INT4_WEIGHTS if self.in_blocks else Precision.INT8_WEIGHTS

    @property
    def notes(self) -> tuple[str, ...]:
        """What was left out, for the user."""
        kept = (
            (self.in_float, "layer", "keep{s} float weights: 8 bits cost too much accuracy there."),
            (self.in_eight_bits, "linear layer", "keep{s} 8 bits: 4 bits cost too much accuracy there."),
        )
        notes = [
            f"{count} {what}{'s' if count > 1 else ''} {text.format(s='' if count > 1 else 's')}"
            for count, what, text in kept
            if count
        ]
        if self.in_blocks and self.share < _SMALL_SHARE:
            notes.append(
                f"Only {self.share:.0%} of the weights are in 4 bits, which only linear layers can have."
            )
        return tuple(notes)


def store_accurately(model: ir.Model, job: ExportJob, *, four_bits: bool) -> Storage:
    """Store the weights of a float32 graph in 8 or 4 bits, in place; as few layers as necessary have more.

    First, layers are exempted from 8 bits; then, linear layers from 4 bits. Measured in ONNX Runtime, on some inputs
    of the verification and on noise, for which some networks lose more.

    Args:
        model: float32.
        job: has the inputs.
        four_bits: use 4 bits in linear layers, and 8 in the others and where 4 cost too much.

    Raises:
        UnsupportedError: `four_bits`, and the graph has no linear layer.
    """
    name_nodes(model)
    sizes = {str(layer.node.name): layer.weight.size for layer in storable(model.graph)}
    layers = list(sizes)
    linear = [str(layer.node.name) for layer in linear_layers(model.graph)] if four_bits else []
    if four_bits and not linear:
        raise UnsupportedError(
            "--mode weight-int4 stores the weights of linear layers in 4 bits, and this model has no linear layer that "
            "is large enough",
            hint="use --mode weight-int8",
        )
    proto = ir.to_proto(model)
    samples = job.samples(_INPUTS)
    low, high = job.metadata(Precision.INT8_WEIGHTS).input.value_range
    noise = np.random.default_rng(0).uniform(low, high, samples.shape).astype(np.float32)
    inputs, parts = np.concatenate((samples, noise)), (slice(len(samples)), slice(len(samples), None))
    exact = run_model(model, inputs)

    def ratios_db(in_float: frozenset[str], in_blocks: frozenset[str]) -> tuple[float, float]:
        """Of the images and of noise."""
        copy = ir.from_proto(proto)
        _store(copy, in_float, in_blocks)
        found = run_model(copy, inputs)
        images, noise = (
            worst_db([array[part] for array in exact], [array[part] for array in found]) for part in parts
        )
        return images, noise

    in_float, _ = exempt_layers(layers, lambda kept: min(ratios_db(kept, frozenset())), job.progress)
    small = [name for name in linear if name not in in_float]
    in_eight_bits = frozenset[str]()

    def four_bits_db(kept: frozenset[str]) -> float:
        images, noise = ratios_db(in_float, frozenset(small) - kept)
        return min(images, noise + _LESS_ON_NOISE_DB)

    if small:
        in_eight_bits, _ = exempt_layers(small, four_bits_db, job.progress)
        if min(ratios_db(in_float, frozenset(small) - in_eight_bits)) < _LEAST_DB:
            in_eight_bits = frozenset(small)
    in_blocks = frozenset(small) - in_eight_bits
    return Storage(
        stored=_store(model, in_float, in_blocks),
        in_blocks=len(in_blocks),
        share=sum(sizes[name] for name in in_blocks) / max(1, sum(sizes.values())),
        in_float=len(in_float),
        in_eight_bits=len(in_eight_bits),
    )


def _store(model: ir.Model, in_float: frozenset[str], in_blocks: frozenset[str]) -> int:
    """Store the layers `in_blocks` in 4 bits, and the others except `in_float` in 8 bits; returns their number."""
    blocks = store_in_blocks(model, lambda node: str(node.name) not in in_blocks)
    return blocks.total() + store_weights(model, lambda node: str(node.name) in in_float).total()

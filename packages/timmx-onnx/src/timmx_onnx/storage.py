"""Stores weights in 8 bits, except where that costs too much accuracy."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np
import onnx_ir as ir
from timmx.plugin import Precision, exempt_layers, worst_db

from timmx_onnx.repair import name_nodes, run_model
from timmx_onnx.weights import storable, store_weights

if TYPE_CHECKING:
    from timmx.plugin import ExportJob

_INPUTS = 8


def store_accurately(model: ir.Model, job: ExportJob) -> tuple[int, int]:
    """Store the weights of a float32 graph as int8, in place; as few layers as necessary keep float weights.

    Measured in ONNX Runtime, on some inputs of the verification and on noise, for which some networks lose more.

    Returns:
        The number of layers that are stored in 8 bits, and of those that keep float weights for their accuracy.
    """
    name_nodes(model)
    layers = [str(layer.node.name) for layer in storable(model.graph)]
    proto = ir.to_proto(model)
    samples = job.samples(_INPUTS)
    low, high = job.metadata(Precision.INT8_WEIGHTS).input.value_range
    noise = np.random.default_rng(0).uniform(low, high, samples.shape).astype(np.float32)
    inputs, parts = np.concatenate((samples, noise)), (slice(len(samples)), slice(len(samples), None))
    exact = run_model(model, inputs)

    def measure(kept: frozenset[str]) -> float:
        copy = ir.from_proto(proto)
        store_weights(copy, lambda node: str(node.name) in kept)
        found = run_model(copy, inputs)
        return min(
            worst_db([array[part] for array in exact], [array[part] for array in found]) for part in parts
        )

    kept, _ = exempt_layers(layers, measure, job.progress)
    stored = store_weights(model, lambda node: str(node.name) in kept)
    return stored.total(), len(kept)

"""Runs the operations of a Core ML file one by one with timmx's evaluators."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import torch
from timmx.plugin import Operation

if TYPE_CHECKING:
    from collections.abc import Mapping

    import numpy as np

    from timmx_coreml.mil import MilEvaluator
    from timmx_coreml.neural_network import NeuralNetworkEvaluator

_CLASSIFIER_OUTPUT = "output"


class MilOperations:
    """The operations of an ML program. That of a classifier's label gives the probabilities, as `output`."""

    def __init__(self, evaluator: MilEvaluator) -> None:
        self._evaluator = evaluator
        self._program_inputs = frozenset(evaluator.inputs)
        self._classifiers = set()
        operations = []
        for name, (operation, inputs) in evaluator.separate_operations.items():
            outputs = tuple(output.name for output in operation.outputs)
            if operation.type == "classify":
                self._classifiers.add(name)
                outputs = (_CLASSIFIER_OUTPUT,)
            operations.append(Operation(name, operation.type, inputs, outputs))
        self.operations = tuple(operations)

    def run(self, name: str, inputs: Mapping[str, np.ndarray]) -> dict[str, np.ndarray]:
        """Run one operation; see `Runner.run_operation`."""
        if name in self._classifiers:
            (probabilities,) = inputs.values()
            return {_CLASSIFIER_OUTPUT: probabilities}
        tensors = {
            source: _pixels(value) if source in self._program_inputs else torch.from_numpy(value.copy())
            for source, value in inputs.items()
        }
        return {
            output: value.numpy() for output, value in self._evaluator.run_operation(name, tensors).items()
        }


class LayerOperations:
    """The layers of a `neuralnetwork`, after an operation for the preprocessing of each input.

    A layer may write a blob again that an earlier one wrote; each writing is a value of its own.
    """

    def __init__(self, evaluator: NeuralNetworkEvaluator) -> None:
        self._evaluator = evaluator
        self._layers: dict[str, tuple[int, dict[str, str], dict[str, str]]] = {}
        self._preprocessed: dict[str, str] = {}
        current: dict[str, str] = {}
        operations = []
        for name in evaluator.inputs:
            current[name] = f"{name} preprocessed"
            self._preprocessed[f"preprocess {name}"] = name
            operations.append(Operation(f"preprocess {name}", "preprocessing", (name,), (current[name],)))
        for index, layer in enumerate(evaluator.layers):
            inputs = {blob: current[blob] for blob in layer.inputs}
            outputs = {blob: f"{blob} of {index}" for blob in layer.outputs}
            current |= outputs
            name = f"{layer.name} ({index})"
            self._layers[name] = index, inputs, outputs
            operations.append(Operation(name, layer.kind, tuple(inputs.values()), tuple(outputs.values())))
        probabilities = evaluator.probabilities
        results = (
            {_CLASSIFIER_OUTPUT: probabilities}
            if probabilities
            else {name: name for name in evaluator.outputs}
        )
        for name, blob in results.items():
            operations.append(Operation(f"output {name}", "output", (current[blob],), (name,)))
        self.operations = tuple(operations)

    def run(self, name: str, inputs: Mapping[str, np.ndarray]) -> dict[str, np.ndarray]:
        """Run one operation; see `Runner.run_operation`."""
        if name in self._preprocessed:
            entry = self._preprocessed[name]
            value = self._evaluator.preprocess(entry, torch.from_numpy(inputs[entry].copy()))
            return {f"{entry} preprocessed": value.numpy()}
        if name not in self._layers:
            (output,) = inputs.values()
            return {name.removeprefix("output "): output}
        index, sources, outputs = self._layers[name]
        blobs: dict[str, Any] = {
            blob: torch.from_numpy(inputs[source].copy()) for blob, source in sources.items()
        }
        results = self._evaluator.run_layer(index, blobs)
        return {outputs[blob]: value.numpy() for blob, value in results.items()}


def _pixels(value: np.ndarray) -> torch.Tensor:
    tensor = torch.from_numpy(value.copy())
    return tensor.float() if tensor.dtype == torch.uint8 else tensor

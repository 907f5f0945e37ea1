"""Evaluates a `neuralnetwork` model with torch, layer by layer."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import torch
from timmx.plugin import UnsupportedError

from timmx_coreml.errors import damaged, not_evaluated

# Importing these modules registers their layers.
from timmx_coreml.neural_network import (  # noqa: F401
    activations,
    constants,
    convolution,
    elementwise,
    gathering,
    normalization,
    pooling,
    recurrent,
    reductions,
    resampling,
    shapes,
    slices,
)
from timmx_coreml.neural_network.checks import refuse_unknown
from timmx_coreml.neural_network.features import Labels, preprocessing, read_inputs, read_labels
from timmx_coreml.neural_network.layer import Layer, Step, translate

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping

    from timmx_coreml.features import Feature


class NeuralNetworkEvaluator:
    """Evaluates a model in float32, as Core ML's documentation defines its layers.

    Attributes:
        inputs: the described inputs by name, in order.
        outputs: names of the described outputs, in order.

    Args:
        model: a parsed `Model` message whose type is neuralNetwork or neuralNetworkClassifier.

    Raises:
        UnsupportedError: timmx cannot evaluate a layer type, field or value; the message names the layer.
        ArtifactError: the file is inconsistent; the message names the layer.
    """

    def __init__(self, model: Any) -> None:
        kind = model.WhichOneof("Type")
        if kind not in ("neuralNetwork", "neuralNetworkClassifier"):
            raise UnsupportedError(f"the model has the type {kind!r} and is not a neural network")
        network = getattr(model, kind)
        refuse_unknown(network, "the neural network")
        self.inputs: dict[str, Feature] = read_inputs(model.description, network)
        self.outputs: tuple[str, ...] = tuple(output.name for output in model.description.output)
        self._preprocess: dict[str, Callable[[torch.Tensor], torch.Tensor]] = preprocessing(
            network, self.inputs
        )
        self._labels: Labels | None = None
        if kind == "neuralNetworkClassifier":
            self._labels = read_labels(model.description, network)
        self._results = tuple(
            name for name in self.outputs if self._labels is None or name not in self._labels.features
        )
        for output in model.description.output:
            if output.type.WhichOneof("Type") == "imageType":
                raise UnsupportedError(f"timmx cannot evaluate the output {output.name!r}: it is an image")
        blobs = {*self._results, *(() if self._labels is None else (self._labels.blob,))}
        self._steps = _steps(network.layers, set(self.inputs), blobs)

    @torch.inference_mode()
    def run(self, inputs: Mapping[str, torch.Tensor]) -> dict[str, Any]:
        """Compute the outputs.

        Args:
            inputs: all inputs by name. An image is (N, C, H, W) with pixel values from 0 to 255 in the declared
                color order; the file's preprocessing is applied to it here.

        Returns:
            float32 tensors by output name; for a classifier also the label and {label: probability}.

        Raises:
            ValueError: an input is missing, unknown, or its shape is not allowed.
            ArtifactError: a layer cannot take the shapes that reach it.
            UnsupportedError: a layer's meaning depends on those shapes in a way that is not documented.
        """
        if set(inputs) != set(self.inputs):
            raise ValueError(
                f"The inputs must be {', '.join(self.inputs)}, not {', '.join(inputs) or 'none'}."
            )
        blobs: dict[str, torch.Tensor] = {}
        for name, feature in self.inputs.items():
            value = inputs[name].to(torch.float32)
            feature.check(value)
            blobs[name] = self._preprocess[name](value) if name in self._preprocess else value
        for layer, step, free in self._steps:
            try:
                results = step(*(blobs[name] for name in layer.inputs))
            except (RuntimeError, IndexError, ValueError) as exc:
                shapes = ", ".join(f"{name} {tuple(blobs[name].shape)}" for name in layer.inputs)
                raise layer.damaged(f"it cannot take its inputs ({shapes}): {exc}") from exc
            values = (results,) if isinstance(results, torch.Tensor) else results
            for name, value in zip(layer.outputs, values, strict=True):
                # The format has no rank 0: a scalar is a vector of one element.
                blobs[name] = value.reshape(1) if value.ndim == 0 else value
            for name in free:
                del blobs[name]
        outputs: dict[str, Any] = {name: blobs[name] for name in self._results}
        if self._labels is not None:
            outputs |= self._labels.outputs(blobs[self._labels.blob])
        return {name: outputs[name] for name in self.outputs}

    @property
    def layers(self) -> tuple[Layer, ...]:
        """The layers in order."""
        return tuple(layer for layer, _, _ in self._steps)

    @property
    def probabilities(self) -> str:
        """A classifier's blob with the probabilities; empty for other models."""
        return "" if self._labels is None else self._labels.blob

    @torch.inference_mode()
    def preprocess(self, name: str, value: torch.Tensor) -> torch.Tensor:
        """The first blob of an input."""
        value = value.to(torch.float32)
        return self._preprocess[name](value) if name in self._preprocess else value

    @torch.inference_mode()
    def run_layer(self, index: int, inputs: Mapping[str, torch.Tensor]) -> dict[str, torch.Tensor]:
        """Compute one of `layers` from its input blobs."""
        layer, step, _ = self._steps[index]
        results = step(*(inputs[name] for name in layer.inputs))
        values = (results,) if isinstance(results, torch.Tensor) else results
        return {
            name: value.reshape(1) if value.ndim == 0 else value
            for name, value in zip(layer.outputs, values, strict=True)
        }


def _steps(messages: Any, inputs: set[str], results: set[str]) -> list[tuple[Layer, Step, tuple[str, ...]]]:
    """Return each layer, its step, and the blobs that no later layer reads."""
    layers = []
    available = set(inputs)
    for message in messages:
        kind = message.WhichOneof("layer")
        if kind is None:
            raise not_evaluated(f"layer {message.name!r} has a type that timmx does not know")
        layer = Layer(
            name=message.name,
            kind=kind,
            params=getattr(message, kind),
            inputs=tuple(message.input),
            outputs=tuple(message.output),
        )
        for name in layer.inputs:
            if name not in available:
                raise layer.damaged(f"no layer before it writes its input {name!r}")
        available.update(layer.outputs)
        layers.append(layer)
    for name in sorted(results - available):
        raise damaged(f"no layer writes the output {name!r}")
    last_use = dict.fromkeys(available, -1)
    for index, layer in enumerate(layers):
        last_use.update(dict.fromkeys((*layer.inputs, *layer.outputs), index))
    free: list[list[str]] = [[] for _ in layers]
    for name, index in last_use.items():
        if index >= 0 and name not in results:
            free[index].append(name)
    return [(layer, translate(layer), tuple(names)) for layer, names in zip(layers, free, strict=True)]

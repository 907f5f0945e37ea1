"""Reads a model's inputs, labels and image preprocessing."""

from __future__ import annotations

from dataclasses import dataclass
from functools import partial
from typing import TYPE_CHECKING, Any

import torch

from timmx_coreml.errors import damaged, not_evaluated
from timmx_coreml.features import Feature, read_input

if TYPE_CHECKING:
    from collections.abc import Callable

    from timmx.plugin import UnsupportedError


def read_inputs(description: Any, network: Any) -> dict[str, Feature]:
    """Return the inputs by name.

    Raises:
        UnsupportedError: an input is not an array or an image, or has the five-axis mapping of iOS 12 and before.
    """
    features = {}
    for described in description.input:
        kind = described.type.WhichOneof("Type")
        if kind == "multiArrayType" and network.arrayInputShapeMapping == 0:
            raise _unmapped(described.name, "an array under RANK5_ARRAY_MAPPING")
        if kind == "imageType" and network.imageInputShapeMapping == 0:
            raise _unmapped(described.name, "an image under RANK5_IMAGE_MAPPING")
        features[described.name] = read_input(described)
    return features


def _unmapped(name: str, what: str) -> UnsupportedError:
    return not_evaluated(f"timmx cannot evaluate the input {name!r}: it is {what}")


def preprocessing(
    network: Any, inputs: dict[str, Feature]
) -> dict[str, Callable[[torch.Tensor], torch.Tensor]]:
    """Return the preprocessing of images before the first layer, by input name."""
    functions: dict[str, Callable[[torch.Tensor], torch.Tensor]] = {}
    for entry in network.preprocessing:
        feature = inputs.get(entry.featureName)
        if feature is None or not feature.colors:
            raise damaged(
                f"the preprocessing of {entry.featureName!r} is invalid: the model has no image input of that name"
            )
        if feature.name in functions:
            raise not_evaluated(
                f"timmx cannot evaluate the image {feature.name!r}: it is preprocessed twice, in an order that is not "
                "documented"
            )
        kind = entry.WhichOneof("preprocessor")
        if kind == "scaler":
            scaler = entry.scaler
            rgb = scaler.redBias, scaler.greenBias, scaler.blueBias
            biases = {"RGB": rgb, "BGR": rgb[::-1]}.get(feature.colors, (scaler.grayBias,))
            bias = torch.tensor(biases, dtype=torch.float32).reshape(-1, 1, 1)
            functions[feature.name] = partial(_scale, scale=float(scaler.channelScale), bias=bias)
        elif kind == "meanImage":
            mean = torch.tensor(list(entry.meanImage.meanImage), dtype=torch.float32)
            if mean.numel() != feature.shape[1] * feature.shape[2] * feature.shape[3]:
                raise damaged(f"the mean image of {feature.name!r} does not have the size of the image")
            functions[feature.name] = partial(torch.sub, other=mean.reshape(feature.shape[1:]))
        else:
            raise not_evaluated(f"the preprocessing of {feature.name!r} has a type that timmx does not know")
    return functions


def _scale(pixels: torch.Tensor, scale: float, bias: torch.Tensor) -> torch.Tensor:
    return pixels * scale + bias


@dataclass(frozen=True)
class Labels:
    """A classifier's classes.

    Attributes:
        labels: strings or integers, in the order of the probabilities.
        blob: the blob with the probabilities.
        label_feature: the output with the label of the most likely class.
        probabilities_feature: the output with all probabilities; empty if there is none.
    """

    labels: tuple[str | int, ...]
    blob: str
    label_feature: str
    probabilities_feature: str

    @property
    def features(self) -> frozenset[str]:
        """The declared outputs that are not blobs."""
        return frozenset({self.label_feature, self.probabilities_feature} - {""})

    def outputs(self, probabilities: torch.Tensor) -> dict[str, Any]:
        """Return the label and probabilities of one sample; of equal probabilities the first class."""
        if probabilities.numel() != len(self.labels):
            raise ValueError(
                f"A classifier takes one sample at a time: there are {len(self.labels)} classes, "
                f"and {probabilities.numel()} probabilities."
            )
        values = probabilities.flatten()
        results: dict[str, Any] = {self.label_feature: self.labels[int(values.argmax())]}
        if self.probabilities_feature:
            results[self.probabilities_feature] = dict(zip(self.labels, values.tolist(), strict=True))
        return results


def read_labels(description: Any, network: Any) -> Labels:
    """Return the classes of a neuralNetworkClassifier.

    Raises:
        ArtifactError: it has no labels, or does not say where its probabilities are.
    """
    kind = network.WhichOneof("ClassLabels")
    labels = tuple(getattr(network, kind).vector) if kind else ()
    if not labels:
        raise damaged("the classifier has no class labels")
    if not network.labelProbabilityLayerName:
        raise damaged("the classifier does not name the blob of its probabilities")
    if not description.predictedFeatureName:
        raise damaged("the classifier does not name the output of its label")
    return Labels(
        labels,
        network.labelProbabilityLayerName,
        description.predictedFeatureName,
        description.predictedProbabilitiesName,
    )

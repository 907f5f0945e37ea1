"""Sums of two products in 16 bits: they saturate in files of `--mode int8`, and not with `--reduce-range`.

x86 CPUs without VNNI multiply unsigned activations by signed weights and add pairs of products in saturating 16-bit
integers (vpmaddubsw). This is computed here in NumPy, so the tests do not depend on the CPU.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np
import onnx
import onnxruntime
import pytest
import torch
from conftest import DIGITS
from onnx import numpy_helper
from timmx.tools.subject.subject import open_subject
from torch import nn

if TYPE_CHECKING:
    from pathlib import Path

LIMIT = np.iinfo(np.int16).max
BRIGHT = (slice(None), slice(4, 6), slice(4, 6))
"""The part of an image that saturates: small, so that the plan is the same on all CPUs."""


@dataclass(frozen=True)
class Product:
    """A layer in integers as a matrix product, without the zero point of its activations.

    Attributes:
        activations: uint8 (rows, input channels).
        weights: int8 (input channels, output channels).
    """

    activations: np.ndarray
    weights: np.ndarray

    @property
    def exact(self) -> np.ndarray:
        return self.activations.astype(np.int64) @ self.weights.astype(np.int64)

    @property
    def pairs(self) -> np.ndarray:
        """The sums of two products, (rows, pairs of input channels, output channels)."""
        odd = self.activations.shape[1] % 2
        activations = np.pad(self.activations.astype(np.int32), ((0, 0), (0, odd)))
        weights = np.pad(self.weights.astype(np.int32), ((0, odd), (0, 0)))
        products = activations[:, :, None] * weights
        return products[:, ::2] + products[:, 1::2]

    @property
    def saturated(self) -> np.ndarray:
        """What CPUs without VNNI compute."""
        return np.clip(self.pairs, -LIMIT - 1, LIMIT).sum(axis=1, dtype=np.int64)


class Bright(nn.Module):
    """Channels that are all bright where the image is, and a convolution that adds them up."""

    def __init__(self) -> None:
        super().__init__()
        self.stem = nn.Conv2d(3, 64, 1)
        self.sum = nn.Conv2d(64, 256, 1)
        self.head = nn.Linear(256, 10)
        generator = torch.Generator().manual_seed(0)
        with torch.no_grad():
            for layer in (self.stem, self.sum):
                layer.weight.copy_(1 + torch.rand(layer.weight.shape, generator=generator) / 20)
                layer.bias.zero_()
            self.head.weight.copy_(torch.randn(self.head.weight.shape, generator=generator))
        self.pretrained_cfg = {"input_size": (3, 24, 24), "mean": (0, 0, 0), "std": (1, 1, 1)}

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return self.head(torch.relu(self.sum(torch.relu(self.stem(x)))).mean((2, 3)))


@pytest.fixture(scope="module")
def images(tmp_path_factory) -> Path:
    """A file of dark images with a bright part, as a tensor (N, C, H, W)."""
    generator = torch.Generator().manual_seed(1)
    inputs = (
        torch.rand((32, 3, 24, 24), generator=generator) * torch.linspace(0.1, 0.3, 32)[:, None, None, None]
    )
    inputs[:, *BRIGHT] = 1 - inputs[:, *BRIGHT] / 4
    path = tmp_path_factory.mktemp("images") / "inputs.pt"
    torch.save(inputs, path)
    return path


def products(path: Path, inputs: np.ndarray) -> dict[str, Product]:
    """The 1x1 convolutions and linear layers in integers of a file, for one input, by the name of the node."""
    model = onnx.load(path)
    constants = {tensor.name: numpy_helper.to_array(tensor) for tensor in model.graph.initializer}
    producers = {output: node for node in model.graph.node for output in node.output}
    names, weights = {}, {}
    for node in model.graph.node:
        sources = [producers.get(value) for value in node.input[:2]]
        if node.op_type not in ("Conv", "Gemm") or any(
            source is None or source.op_type != "DequantizeLinear" for source in sources
        ):
            continue
        weight = constants[sources[1].input[0]]
        if weight.ndim == 2 or weight.shape[1:] == (weight.shape[1], 1, 1):
            names[node.name], weights[node.name] = sources[0].input[0], weight.reshape(len(weight), -1).T
    model.graph.output.extend(onnx.ValueInfoProto(name=name) for name in dict.fromkeys(names.values()))
    settings = onnxruntime.SessionOptions()
    settings.graph_optimization_level = onnxruntime.GraphOptimizationLevel.ORT_DISABLE_ALL
    session = onnxruntime.InferenceSession(
        model.SerializeToString(), settings, providers=["CPUExecutionProvider"]
    )
    values = dict(
        zip(names, session.run(list(names.values()), {session.get_inputs()[0].name: inputs}), strict=True)
    )
    return {
        name: Product(np.moveaxis(value, 1, -1).reshape(-1, value.shape[1]), weights[name])
        for name, value in values.items()
    }


def integer_weights(path: Path) -> list[np.ndarray]:
    """The weights of all layers in integers: those in float store theirs without DequantizeLinear."""
    graph = onnx.load(path).graph
    constants = {tensor.name: numpy_helper.to_array(tensor) for tensor in graph.initializer}
    return [
        constants[node.input[0]]
        for node in graph.node
        if node.op_type == "DequantizeLinear" and constants.get(node.input[0], np.empty(0)).dtype == np.int8
    ]


@pytest.mark.parametrize("reduce_range", [False, True])
def test_large_weights_and_activations_saturate_without_reduce_range(reduce_range, export, images, tmp_path):
    result = export(
        "onnx",
        Bright(),
        tmp_path / "a.onnx",
        mode="int8",
        calibration_data=images,
        reduce_range=reduce_range,
        verify=False,
    )
    image = torch.load(images)[:1].numpy()
    (layer,) = (layer for layer in products(result.path, image).values() if layer.weights.shape == (64, 256))
    assert layer.activations.shape == (24 * 24, 64)
    assert layer.activations.dtype == np.uint8
    assert layer.weights.dtype == np.int8
    bright = np.zeros((24, 24), bool)
    bright[BRIGHT[1:]] = True
    wrong = (layer.saturated != layer.exact).all(axis=1)
    np.testing.assert_array_equal(wrong, bright.ravel() & (not reduce_range))
    if not reduce_range:
        assert np.abs(layer.saturated[wrong] / layer.exact[wrong]).max() < 0.6
    assert result.metadata["format"]["quantization_plan"]["assumes"] == (
        "any CPU"
        if reduce_range
        else "Arm, or x86 with VNNI; on other x86 CPUs, sums of two products saturate"
    )


def test_no_pair_of_products_saturates_with_reduce_range(exported_digits):
    options = {"mode": "int8", "calibration_data": DIGITS / "samples"}
    full = exported_digits("onnx", **options)
    reduced = exported_digits("onnx", **options, reduce_range=True)
    assert max(np.abs(weight.astype(int)).max() for weight in integer_weights(full)) == 127
    weights = integer_weights(reduced)
    assert len(weights) > 5
    assert all(np.abs(weight.astype(int)).max() == 64 for weight in weights)
    assert LIMIT >= 2 * 255 * 64  # for any activations
    with open_subject(reduced) as subject:
        pixels = subject.preprocessor.read(next(iter(sorted((DIGITS / "samples").glob("3/*")))))[None]
    layers = products(reduced, pixels)
    assert len(layers) > 5
    for layer in layers.values():
        assert np.abs(layer.pairs).max() <= LIMIT
        np.testing.assert_array_equal(layer.saturated, layer.exact)

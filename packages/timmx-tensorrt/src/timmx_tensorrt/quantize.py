"""Int8 as TensorRT takes it: explicit Q/DQ pairs in the graph, which say where integers are and where they are not.

Quantized are convolutions and linear layers, each with all its inputs, and the shortcuts of convolutional networks.
ONNX Runtime's quantizer with its own settings writes what TensorRT rejects or misreads, and leaves the shortcuts that
end in a convolution; NVIDIA's ModelOpt 0.47 pins onnx versions and brings cupy (November 2026).
"""

from __future__ import annotations

from collections import Counter
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np
import onnx_ir as ir
from onnx_ir.passes import common
from timmx.errors import ConfigurationError

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping

    from numpy.typing import NDArray

_MIN_OPSET = 19
"""The first whose Q/DQ nodes take float16 scales."""

_LARGEST = 127
"""Of the integers used: -128 has no counterpart, and TensorRT's weights are symmetric."""

_MIN_CHANNELS = 16
"""Tensor cores multiply int8 matrices of 16 or more; ModelOpt leaves narrower layers too."""

_MIN_DOT_PRODUCT = 32
"""A tensor core's instruction multiplies 16 rows of 32 by 32 rows of 8. Convolutions below that (stems, depthwise 3x3
and 5x5, the first blocks of mobile nets) wait for memory, and lose most: few roundings, which no long sum averages, at
the head of all others. With them in float mobilenetv3_small_100 keeps 21 dB, not 8.5; efficientnet_b0 13, not 7."""

_MAX_HEAD = 2**22
"""Weights of a layer with one position an image that stay float: 8 MB in half precision, read in microseconds."""

_SMALLEST_NORMAL_HALF = 2.0**-14

_ACTIVATIONS = frozenset("Clip Elu Gelu HardSwish LeakyRelu Mish PRelu Relu Selu Swish".split())
_LAYOUT = frozenset("Flatten Identity Reshape Squeeze Transpose Unsqueeze".split())
_FOLDED = frozenset(("Identity", "Reshape", "Transpose"))
_TRANSFORMER = frozenset("Attention LayerNormalization RMSNormalization Softmax".split())


@dataclass(frozen=True)
class Layer:
    """A convolution or linear layer to compute with integers.

    Attributes:
        node: its first input is the activation, its second the weight.
        weight: float32, as the node takes it; transposes and reshapes of the constant are done.
        axis: of the weight's output channels.
    """

    node: ir.Node
    weight: NDArray[np.float32]
    axis: int


@dataclass(frozen=True)
class Shortcut:
    """The branch of a residual Add that gets a Q/DQ pair: input `index` of the node `add`."""

    add: ir.Node
    index: int


@dataclass(frozen=True)
class Targets:
    """What of a graph to quantize.

    Attributes:
        layers: in the order of the graph.
        shortcuts: likewise.
        left_float: convolutions and matrix products that stay float, each with the reason.
    """

    layers: tuple[Layer, ...]
    shortcuts: tuple[Shortcut, ...]
    left_float: Mapping[ir.Node, str]


@dataclass(frozen=True)
class QuantizationReport:
    """What `insert` did.

    Attributes:
        quantized: nodes that compute with integers, how many of each operator.
        left_float: convolutions and matrix products that stay float, how many for each reason.
        activations: values that got a Q/DQ pair, shortcuts among them.
        residual_adds: sums whose shortcut is quantized.
    """

    quantized: Mapping[str, int]
    left_float: Mapping[str, int]
    activations: int
    residual_adds: int


def targets(model: ir.Model) -> Targets:
    """Choose what to quantize, by structure alone.

    - Conv, ConvTranspose, Gemm and MatMul with a constant weight. Float stay those that are too narrow for a tensor
      core: a linear layer that takes or gives fewer than 16 features, a Conv with a dot product of 32 or shorter or
      with fewer than 32 channels out; and those with one position an image, such as squeeze-and-excite gates and
      small classifiers. All these cost accuracy and take little time. Attention products have no constant weight.
    - The shortcut of an Add whose other branch ends in a quantized Conv, maybe with batch norm and activation: TensorRT
      computes that Conv and the Add at once, in int8 only if the shortcut is int8. Of two such branches the longer
      one is the main branch, which keeps its float sum. Adds of blocks with layer norm or softmax, and sums that
      are then normalised, stay float: a transformer's residual stream loses much in int8.

    Args:
        model: a float32 graph. Functions are inlined and missing shapes inferred, in place.
    """
    _prepare(model)
    batch = _batch(model.graph)
    layers, left_float = [], {}
    for node in model.graph:
        if node.domain == "" and node.op_type in ("Conv", "ConvTranspose", "Gemm", "MatMul"):
            weight = _constant(node.inputs[1])
            reason = "no constant weight" if weight is None else _reason(node, weight, batch)
            if weight is None or reason:
                left_float[node] = reason
            else:
                layers.append(Layer(node, weight, _output_axis(node)))
    return Targets(tuple(layers), tuple(_shortcuts(model.graph, layers)), left_float)


def observed_values(model: ir.Model) -> list[str]:
    """The names of the values whose ranges `insert` needs, in the order of the graph; the input may be among them."""
    chosen = targets(model)
    values = [layer.node.inputs[0] for layer in chosen.layers]
    values += [shortcut.add.inputs[shortcut.index] for shortcut in chosen.shortcuts]
    return list(dict.fromkeys(str(value.name) for value in values if value is not None))


def insert(model: ir.Model, ranges: Mapping[str, tuple[float, float]]) -> QuantizationReport:
    """Quantize the targets of a graph, in place; to be done before floats are lowered to half precision.

    A value gets one QuantizeLinear and DequantizeLinear, however many targets take it: int8, symmetric, one scale.
    Weights become int8 constants with a DequantizeLinear and one scale a channel. Biases stay float.

    Args:
        model: a float32 graph of opset 19 or later, of any batch size.
        ranges: the least and greatest number of each of `observed_values`. Where a value has none, or nothing but
            zeros, its layers stay float.

    Raises:
        ConfigurationError: the opset is too old.
    """
    opset = model.opset_imports.get("", 0)
    if opset < _MIN_OPSET:
        raise ConfigurationError(
            f"int8 needs --opset {_MIN_OPSET} or later, which has scales in float16; this graph has {opset}."
        )
    chosen = targets(model)
    writer = _Writer(model.graph, ranges)
    quantized: Counter[str] = Counter()
    left_float = Counter(chosen.left_float.values())
    done = set()
    for layer in chosen.layers:
        if not layer.weight.any():
            left_float["weights are all zero"] += 1
        elif not writer.quantize_input(layer.node, 0):
            left_float["no range seen"] += 1
        else:
            writer.quantize_weight(layer)
            quantized[layer.node.op_type] += 1
            done.add(layer.node)
    residual_adds = sum(
        _last_conv(shortcut.add.inputs[1 - shortcut.index]) in done
        and writer.quantize_input(shortcut.add, shortcut.index)
        for shortcut in chosen.shortcuts
    )
    common.RemoveUnusedNodesPass()(model)
    common.TopologicalSortPass()(model)
    return QuantizationReport(
        dict(sorted(quantized.items())), dict(sorted(left_float.items())), writer.pairs, residual_adds
    )


class _Writer:
    """Puts Q/DQ nodes into a graph, one pair for a value and one dequantization for a weight."""

    def __init__(self, graph: ir.Graph, ranges: Mapping[str, tuple[float, float]]) -> None:
        self._graph = graph
        self._ranges = ranges
        self._activations: dict[ir.Value, ir.Value] = {}
        self._weights: dict[tuple[ir.Value, int], ir.Value] = {}
        self._zeros: dict[tuple[int, ...], ir.Value] = {}
        self._names = {value.name for value in (*graph.inputs, *graph.initializers.values())}
        self._names |= {value.name for node in graph for value in node.outputs}

    @property
    def pairs(self) -> int:
        """How many values have been quantized, weights apart."""
        return len(self._activations)

    def quantize_input(self, node: ir.Node, index: int) -> bool:
        """Let a node take a value through its Q/DQ pair; False where the value's range tells no scale."""
        value = node.inputs[index]
        assert value is not None
        if value not in self._activations:
            scale = _scale(self._ranges.get(str(value.name), (0.0, 0.0)))
            if scale is None:
                return False
            self._activations[value] = self._pair(value, scale)
        node.replace_input_with(index, self._activations[value])
        return True

    def quantize_weight(self, layer: Layer) -> None:
        """Give a layer its weight as int8 constant, dequantized channel by channel."""
        source = layer.node.inputs[1]
        assert source is not None
        if (source, layer.axis) not in self._weights:
            integers, scales = quantized_weight(layer.weight, layer.axis)
            constant = self._constant(f"{source.name}_int8", integers)
            scale = self._constant(f"{source.name}_scale", scales)
            node = self._node("DequantizeLinear", constant, scale, layer.axis)
            self._graph.insert_before(layer.node, node)
            self._weights[source, layer.axis] = node.outputs[0]
        layer.node.replace_input_with(1, self._weights[source, layer.axis])

    def _pair(self, value: ir.Value, step: NDArray[np.float32]) -> ir.Value:
        scale = self._constant(f"{value.name}_scale", step)
        quantize = self._node("QuantizeLinear", value, scale, None)
        dequantize = self._node("DequantizeLinear", quantize.outputs[0], scale, None)
        producer = value.producer()
        if producer is None:
            self._graph.insert_before(self._graph[0], [quantize, dequantize])
        else:
            self._graph.insert_after(producer, [quantize, dequantize])
        return dequantize.outputs[0]

    def _node(self, op_type: str, value: ir.Value, scale: ir.Value, axis: int | None) -> ir.Node:
        """One half of a pair; the zero point is there because TensorRT reads none as int8, and ONNX as uint8."""
        dtype = ir.DataType.INT8 if op_type == "QuantizeLinear" else ir.DataType.FLOAT
        name = self._unique(f"{value.name}_{op_type}")
        attributes = [] if axis is None else [ir.AttrInt64("axis", axis)]
        output = ir.Value(name=self._unique(f"{name}_output"), type=ir.TensorType(dtype), shape=value.shape)
        return ir.Node(
            "", op_type, [value, scale, self._zero_point(scale)], attributes, outputs=[output], name=name
        )

    def _zero_point(self, scale: ir.Value) -> ir.Value:
        """As many zeros as there are scales, stored once."""
        assert scale.const_value is not None
        shape = tuple(scale.const_value.shape.numpy())
        if shape not in self._zeros:
            self._zeros[shape] = self._constant(
                "_".join(("zero_point", *map(str, shape))), np.zeros(shape, np.int8)
            )
        return self._zeros[shape]

    def _constant(self, name: str, array: NDArray[np.generic]) -> ir.Value:
        tensor = ir.Tensor(array, name=self._unique(name))
        value = ir.Value(
            name=tensor.name,
            type=ir.TensorType(tensor.dtype),
            shape=ir.Shape(array.shape),
            const_value=tensor,
        )
        self._graph.register_initializer(value)
        return value

    def _unique(self, name: str) -> str:
        unique, count = name, 0
        while unique in self._names:
            count += 1
            unique = f"{name}_{count}"
        self._names.add(unique)
        return unique


def quantized_weight(weight: NDArray[np.float32], axis: int) -> tuple[NDArray[np.int8], NDArray[np.float32]]:
    """Round a weight to integers from -127 to 127, with one scale for each index of `axis`.

    A channel of zeros takes the smallest scale of the others. Scales below float16's smallest normal number, such as
    those of channels that a batch norm has switched off, are raised to it, though not above the layer's largest: so no
    channel is rounded more coarsely than the coarsest.

    Args:
        weight: not all zero.
        axis: of the output channels.
    """
    others = tuple(index for index in range(weight.ndim) if index != axis)
    scales = np.abs(weight).max(axis=others) / np.float32(_LARGEST)
    scales[scales == 0] = scales[scales > 0].min()
    scales = np.maximum(scales, min(np.float32(_SMALLEST_NORMAL_HALF), scales.max()))
    integers = np.rint(weight / np.expand_dims(scales, others))
    return np.clip(integers, -_LARGEST, _LARGEST).astype(np.int8), scales


def _scale(bounds: tuple[float, float]) -> NDArray[np.float32] | None:
    """The step between integers for a range around zero, a scalar; None where the range is empty or only zero."""
    low, high = bounds
    if not low <= high:
        return None
    scale = np.asarray(max(abs(low), abs(high)) / _LARGEST, np.float32)
    return scale if np.isfinite(scale) and scale >= np.finfo(np.float32).tiny else None


def _prepare(model: ir.Model) -> None:
    common.InlinePass()(model)
    if any(value.shape is None for node in model.graph for value in node.outputs):
        common.ShapeInferencePass()(model)


def _batch(graph: ir.Graph) -> int | ir.SymbolicDim | None:
    shape = graph.inputs[0].shape if graph.inputs else None
    return shape[0] if shape else None


def _constant(value: ir.Value | None) -> NDArray[np.float32] | None:
    """A float32 constant, also behind transposes and reshapes; None for anything else."""
    array = _folded(value)
    return array if array is not None and array.dtype == np.float32 else None


def _folded(value: ir.Value | None) -> NDArray[Any] | None:
    if value is None or value.is_graph_input():
        return None
    tensor = ir.convenience.get_const_tensor(value)
    if tensor is not None:
        return tensor.numpy()
    node = value.producer()
    source = _folded(node.inputs[0]) if node is not None and node.op_type in _FOLDED else None
    if node is None or source is None:
        return None
    if node.op_type == "Transpose":
        order = node.attributes.get_ints("perm", tuple(reversed(range(source.ndim))))
        return source.transpose(order)
    if node.op_type == "Reshape":
        shape = _folded(node.inputs[1])
        return None if shape is None or 0 in shape else source.reshape(shape.tolist())
    return source


def _output_axis(node: ir.Node) -> int:
    """The axis of a weight that counts output channels."""
    if node.op_type == "Conv":
        return 0
    if node.op_type == "Gemm":
        return 0 if node.attributes.get_int("transB", 0) else 1
    return 1


def _reason(node: ir.Node, weight: NDArray[np.float32], batch: int | ir.SymbolicDim | None) -> str:
    """Why a layer stays float; empty where it does not."""
    convolution = node.op_type in ("Conv", "ConvTranspose")
    if weight.ndim < 4 if convolution else weight.ndim != 2:
        return "weight of another rank"
    if node.attributes.get_int("transA", 0):
        return "transposed input"
    if not np.isfinite(weight).all():
        return "weights are not finite"
    narrow = _narrow_convolution(node, weight) if convolution else min(weight.shape) < _MIN_CHANNELS
    if narrow:
        return "few channels"
    if weight.size <= _MAX_HEAD and _one_position(node.inputs[0], convolution, batch):
        return "one position an image"
    return ""


def _narrow_convolution(node: ir.Node, weight: NDArray[np.float32]) -> bool:
    """Short dot products, few channels out, or so few channels in a group that TensorRT has no int8 kernel."""
    giving, taking = weight.shape[:2]
    groups = node.attributes.get_int("group", 1)
    if node.op_type == "ConvTranspose":
        return groups > 1 or min(giving, taking) < _MIN_CHANNELS
    if weight[0].size <= _MIN_DOT_PRODUCT or giving < _MIN_DOT_PRODUCT:
        return True
    return taking < _MIN_CHANNELS and giving % 8 != 0 and (groups > 1 or taking % 8 != 0)


def _one_position(value: ir.Value | None, convolution: bool, batch: int | ir.SymbolicDim | None) -> bool:
    """Whether a layer is applied once an image, as after a global average pool."""
    if value is None or value.shape is None:
        return False
    if convolution:
        return not any(size != 1 for size in value.shape[2:])
    return bool(value.shape[0] == batch) and not any(size != 1 for size in value.shape[1:-1])


def _shortcuts(graph: ir.Graph, layers: list[Layer]) -> Iterator[Shortcut]:
    quantized = {layer.node for layer in layers}
    depths: dict[ir.Value | None, int] = {}
    for node in graph:
        depth = 1 + max((depths.get(value, 0) for value in node.inputs), default=0)
        depths |= dict.fromkeys(node.outputs, depth)
        if node.op_type != "Add" or not _sums_activations(node):
            continue
        mains = [index for index in (0, 1) if _last_conv(node.inputs[index]) in quantized]
        if mains and not _in_transformer(node):
            yield Shortcut(node, 1 - max(mains, key=lambda index: depths[node.inputs[index]]))


def _sums_activations(add: ir.Node) -> bool:
    first, second = add.inputs
    if first is None or second is None or first is second:
        return False
    return first.shape == second.shape and _folded(first) is None and _folded(second) is None


def _last_conv(value: ir.Value | None) -> ir.Node | None:
    """The Conv that a branch ends in, maybe with batch norm and activation; nothing but the Add takes its result."""
    if value is None or len(value.uses()) != 1 or value.is_graph_output():
        return None
    node = value.producer()
    while node is not None and node.op_type != "Conv":
        source = _gated(node)
        if node.op_type in _ACTIVATIONS or node.op_type == "BatchNormalization":
            source = node.inputs[0]
        node = None if source is None else source.producer()
    return node


def _gated(node: ir.Node) -> ir.Value | None:
    """The x of `x * sigmoid(x)`."""
    if node.op_type == "Mul":
        for value, gate in (node.inputs, reversed(node.inputs)):
            sigmoid = None if gate is None else gate.producer()
            if sigmoid is not None and sigmoid.op_type == "Sigmoid" and sigmoid.inputs[0] is value:
                return value
    return None


def _in_transformer(add: ir.Node) -> bool:
    """Whether a block between branching and sum has layer norm or softmax, or its sum is normalised next."""
    first, second = (_ancestors(value) for value in add.inputs)
    return any(node.op_type in _TRANSFORMER for node in first ^ second) or _normalised(add.outputs[0])


def _ancestors(value: ir.Value | None) -> set[ir.Node]:
    found: set[ir.Node] = set()
    waiting = [value]
    while waiting:
        current = waiting.pop()
        node = None if current is None else current.producer()
        if node is not None and node not in found:
            found.add(node)
            waiting.extend(node.inputs)
    return found


def _normalised(value: ir.Value) -> bool:
    users = [user for user, _ in value.uses()]
    return any(
        user.op_type == "LayerNormalization" or (user.op_type in _LAYOUT and _normalised(user.outputs[0]))
        for user in users
    )

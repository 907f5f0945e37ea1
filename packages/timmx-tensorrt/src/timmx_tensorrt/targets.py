"""What of a graph TensorRT is to compute with 8 bits, chosen by structure alone, and with which numbers."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np
import onnx_ir as ir
from onnx_ir.passes import common

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping

    from numpy.typing import NDArray

_MIN_CHANNELS = 16
"""Tensor cores multiply int8 matrices of 16 or more; ModelOpt leaves narrower layers too."""

_MIN_DOT_PRODUCT = 32
"""A tensor core's instruction multiplies 16 rows of 32 by 32 rows of 8. Convolutions below that (stems, depthwise 3x3
and 5x5, the first blocks of mobile nets) wait for memory, and lose most: few roundings, which no long sum averages, at
the head of all others. With them in float mobilenetv3_small_100 keeps 21 dB, not 8.5; efficientnet_b0 13, not 7."""

_MAX_FP8_KERNEL = 32
"""Positions of a kernel; TensorRT's float8 convolutions take no larger one, by ModelOpt's rules of November 2026."""

_MAX_HEAD = 2**22
"""Weights of a layer with one position an image that stay float: 8 MB in half precision, read in microseconds."""

WEIGHTED = frozenset("Conv ConvTranspose Gemm MatMul".split())
"""Operators with a weight, which TensorRT computes with 8-bit numbers where both inputs are such."""

_ACTIVATIONS = frozenset("Clip Elu Gelu HardSwish LeakyRelu Mish PRelu Relu Selu Swish".split())
_LAYOUT = frozenset("Flatten Identity Reshape Squeeze Transpose Unsqueeze".split())
_FOLDED = frozenset(("Identity", "Reshape", "Transpose"))
_TRANSFORMER = frozenset("Attention LayerNormalization RMSNormalization Softmax".split())


@dataclass(frozen=True)
class Grid:
    """The 8-bit numbers that a tensor is rounded to, once it is divided by its scale.

    Attributes:
        name: as in `--mode`.
        dtype: in ONNX.
        largest: of those used, positive and negative.
    """

    name: str
    dtype: ir.DataType
    largest: int


INT8 = Grid("int8", ir.DataType.INT8, 127)
"""-128 has no counterpart, and TensorRT's weights are symmetric."""

FP8 = Grid("fp8", ir.DataType.FLOAT8E4M3FN, 448)
"""Three bits of mantissa, so that small numbers keep more digits, and large ones fewer, than in int8."""


@dataclass(frozen=True)
class Layer:
    """A convolution or linear layer to compute with 8 bits.

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


def targets(model: ir.Model, grid: Grid = INT8) -> Targets:
    """Choose what to quantize, by structure alone.

    - Conv, ConvTranspose, Gemm and MatMul with a constant weight. Float stay those that are too narrow for a tensor
      core: a linear layer that takes or gives fewer than 16 features, a Conv with a dot product of 32 or shorter or
      with fewer than 32 channels out; and those with one position an image, such as squeeze-and-excite gates and
      small classifiers. All these cost accuracy and take little time. Attention products have no constant weight.
    - In float8, also float stay the convolutions that TensorRT has no float8 kernel for, or no faster one: transposed
      ones (NVIDIA's documents), grouped and depthwise ones, those with more than 32 positions in the kernel, and
      those that take 16 channels or fewer (ModelOpt's rules).
    - The shortcut of an Add whose other branch ends in a quantized Conv, maybe with batch norm and activation: TensorRT
      computes that Conv and the Add at once, in int8 only if the shortcut is int8. Of two such branches the longer
      one is the main branch, which keeps its float sum. Adds of blocks with layer norm or softmax, and sums that
      are then normalised, stay float: a transformer's residual stream loses much in int8. All stay float in float8.

    Args:
        model: a float32 graph. Functions are inlined and missing shapes inferred, in place.
        grid: INT8 or FP8.
    """
    _prepare(model)
    batch = _batch(model.graph)
    layers, left_float = [], {}
    for node in model.graph:
        if node.domain == "" and node.op_type in WEIGHTED:
            weight = _constant(node.inputs[1])
            reason = "no constant weight" if weight is None else _reason(node, weight, batch, grid)
            if weight is None or reason:
                left_float[node] = reason
            else:
                layers.append(Layer(node, weight, _output_axis(node)))
    shortcuts = _shortcuts(model.graph, layers) if grid is INT8 else ()
    return Targets(tuple(layers), tuple(shortcuts), left_float)


def observed_values(model: ir.Model, grid: Grid = INT8) -> list[str]:
    """The names of the values whose ranges `insert` needs, in the order of the graph; the input may be among them."""
    chosen = targets(model, grid)
    values = [layer.node.inputs[0] for layer in chosen.layers]
    values += [shortcut.add.inputs[shortcut.index] for shortcut in chosen.shortcuts]
    return list(dict.fromkeys(str(value.name) for value in values if value is not None))


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


def _reason(
    node: ir.Node, weight: NDArray[np.float32], batch: int | ir.SymbolicDim | None, grid: Grid
) -> str:
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
    if convolution and grid is FP8 and (missing := _missing_in_float8(node, weight)):
        return missing
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


def _missing_in_float8(node: ir.Node, weight: NDArray[np.float32]) -> str:
    """Why TensorRT has no float8 kernel for a convolution, or none that is faster; empty where it has one."""
    if node.op_type == "ConvTranspose":
        return "transposed convolution"
    if node.attributes.get_int("group", 1) > 1:
        return "grouped convolution"
    if weight[0, 0].size > _MAX_FP8_KERNEL:
        return "large kernel"
    return "few channels" if weight.shape[1] <= _MIN_CHANNELS else ""


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
        mains = [index for index in (0, 1) if last_conv(node.inputs[index]) in quantized]
        if mains and not _in_transformer(node):
            yield Shortcut(node, 1 - max(mains, key=lambda index: depths[node.inputs[index]]))


def _sums_activations(add: ir.Node) -> bool:
    first, second = add.inputs
    if first is None or second is None or first is second:
        return False
    return first.shape == second.shape and _folded(first) is None and _folded(second) is None


def last_conv(value: ir.Value | None) -> ir.Node | None:
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

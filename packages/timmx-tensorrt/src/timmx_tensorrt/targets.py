"""Chooses what TensorRT computes in 8 bits, by the structure of the graph only, and defines the 8-bit grids."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np
import onnx_ir as ir
from timmx_onnx import WEIGHTED, Layer, constant, infer_shapes, layers

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping

    from numpy.typing import NDArray

_MIN_CHANNELS = 16
"""Tensor cores multiply int8 matrices of 16 or more; ModelOpt also leaves narrower layers in float."""

_MIN_DOT_PRODUCT = 32
"""A tensor core's instruction multiplies 16 rows of 32 by 32 rows of 8. Convolutions below that (stems, depthwise 3x3
and 5x5, the first blocks of mobile nets) are limited by memory and lose most in float8: short sums do not average out
rounding errors. In int8 the plan decides by what each costs (docs/quantization.md)."""

_MAX_FP8_KERNEL = 32
"""Largest number of positions in a kernel of a float8 convolution, by ModelOpt's rules of November 2026."""

_MAX_HEAD = 2**22
"""Largest number of weights of a one-position layer that stays float: 8 MB in half precision, read in microseconds."""

_ACTIVATIONS = frozenset("Clip Elu Gelu HardSwish LeakyRelu Mish PRelu Relu Selu Swish".split())
_LAYOUT = frozenset("Flatten Identity Reshape Squeeze Transpose Unsqueeze".split())
_TRANSFORMER = frozenset("Attention LayerNormalization RMSNormalization Softmax".split())


@dataclass(frozen=True)
class Grid:
    """The 8-bit numbers to which a tensor is rounded after division by its scale.

    Attributes:
        name: as in `--mode`.
        dtype: the type in ONNX.
        largest: the largest magnitude in use, positive and negative.
    """

    name: str
    dtype: ir.DataType
    largest: int


INT8 = Grid("int8", ir.DataType.INT8, 127)
"""Without -128, since TensorRT's weights are symmetric."""

FP8 = Grid("fp8", ir.DataType.FLOAT8E4M3FN, 448)
"""Three bits of mantissa: small numbers are more precise than in int8, and large ones less."""


@dataclass(frozen=True)
class Shortcut:
    """The branch of a residual Add that gets a Q/DQ pair: input `index` of the node `add`."""

    add: ir.Node
    index: int


@dataclass(frozen=True)
class Targets:
    """The parts of a graph to quantize.

    Attributes:
        layers: in the order of the graph.
        shortcuts: likewise.
        float_reasons: convolutions and matrix products that stay float, each with the reason.
    """

    layers: tuple[Layer, ...]
    shortcuts: tuple[Shortcut, ...]
    float_reasons: Mapping[ir.Node, str]


def targets(model: ir.Model, grid: Grid = INT8) -> Targets:
    """Choose what to quantize, by the structure of the graph only.

    - Conv, ConvTranspose, Gemm and MatMul with a constant weight. These stay float: layers that are too narrow for
      TensorRT's kernels (a linear layer with fewer than 16 input or output features, a Conv with few channels that are
      not a multiple of 8), and squeeze-and-excite gates and small classifiers, which have one position per image and
      take little time. Attention products have no constant weight.
    - In float8, these convolutions stay float too: those with a dot product of at most 32 or fewer than 32 output
      channels, and those for which TensorRT has no float8 kernel, or no faster one: transposed ones (NVIDIA's
      documentation), grouped and depthwise ones, those with more than 32 positions in the kernel, and those with 16
      input channels or fewer (ModelOpt's rules).
    - The shortcut of an Add whose other branch ends in a quantized Conv, possibly with batch norm and activation:
      TensorRT fuses that Conv and the Add, in int8 only if the shortcut is int8. Of two such branches the longer one
      is the main branch, which keeps its float sum. Adds of blocks with layer norm or softmax, and sums that are then
      normalized, stay float: a transformer's residual stream loses much in int8. In float8 all Adds stay float.

    Args:
        model: a float32 graph. Functions are inlined and missing shapes inferred, in place.
        grid: INT8 or FP8.
    """
    infer_shapes(model)
    batch = _batch(model.graph)
    chosen: list[Layer] = []
    float_reasons: dict[ir.Node, str] = {}
    constant_layers = {layer.node: layer for layer in layers(model.graph)}
    for node in model.graph:
        if node.domain == "" and node.op_type in WEIGHTED:
            layer = constant_layers.get(node)
            reason = "no constant weight" if layer is None else _reason(node, layer.weight, batch, grid)
            if layer is None or reason:
                float_reasons[node] = reason
            else:
                chosen.append(layer)
    shortcuts = _shortcuts(model.graph, chosen) if grid is INT8 else ()
    return Targets(tuple(chosen), tuple(shortcuts), float_reasons)


def observed_values(model: ir.Model, grid: Grid = INT8) -> list[str]:
    """The names of the values whose ranges `insert` needs, in the order of the graph; may include the input."""
    selection = targets(model, grid)
    values = [layer.node.inputs[0] for layer in selection.layers]
    values += [shortcut.add.inputs[shortcut.index] for shortcut in selection.shortcuts]
    return list(dict.fromkeys(str(value.name) for value in values if value is not None))


def _batch(graph: ir.Graph) -> int | ir.SymbolicDim | None:
    shape = graph.inputs[0].shape if graph.inputs else None
    return shape[0] if shape else None


def _reason(
    node: ir.Node, weight: NDArray[np.float32], batch: int | ir.SymbolicDim | None, grid: Grid
) -> str:
    """Why a layer stays float; empty if it does not."""
    convolution = node.op_type in ("Conv", "ConvTranspose")
    if weight.ndim < 4 if convolution else weight.ndim != 2:
        return "weight of another rank"
    if node.attributes.get_int("transA", 0):
        return "transposed input"
    if not np.isfinite(weight).all():
        return "weights are not finite"
    narrow = _narrow_convolution(node, weight, grid) if convolution else min(weight.shape) < _MIN_CHANNELS
    if narrow:
        return "few channels"
    if convolution and grid is FP8 and (missing := _missing_in_float8(node, weight)):
        return missing
    if weight.size <= _MAX_HEAD and _one_position(node.inputs[0], convolution, batch):
        return "one position per image" if grid is FP8 or not convolution or _is_gate(node) else ""
    return ""


def _narrow_convolution(node: ir.Node, weight: NDArray[np.float32], grid: Grid) -> bool:
    """So few channels per group that TensorRT has no int8 kernel; in float8 also short dot products, few outputs."""
    channels_out, channels_in = weight.shape[:2]
    groups = node.attributes.get_int("group", 1)
    if node.op_type == "ConvTranspose":
        return groups > 1 or min(weight.shape[:2]) < _MIN_CHANNELS
    if grid is FP8 and (weight[0].size <= _MIN_DOT_PRODUCT or channels_out < _MIN_DOT_PRODUCT):
        return True
    return channels_in < _MIN_CHANNELS and channels_out % 8 != 0 and (groups > 1 or channels_in % 8 != 0)


def _missing_in_float8(node: ir.Node, weight: NDArray[np.float32]) -> str:
    """Why TensorRT has no float8 kernel for a convolution, or no faster one; empty if it has one."""
    if node.op_type == "ConvTranspose":
        return "transposed convolution"
    if node.attributes.get_int("group", 1) > 1:
        return "grouped convolution"
    if weight[0, 0].size > _MAX_FP8_KERNEL:
        return "large kernel"
    return "few channels" if weight.shape[1] <= _MIN_CHANNELS else ""


def _one_position(value: ir.Value | None, convolution: bool, batch: int | ir.SymbolicDim | None) -> bool:
    """Whether a layer is applied once per image, for example after a global average pool."""
    if value is None or value.shape is None:
        return False
    if convolution:
        return not any(size != 1 for size in value.shape[2:])
    return bool(value.shape[0] == batch) and not any(size != 1 for size in value.shape[1:-1])


def _is_gate(node: ir.Node) -> bool:
    """Whether what follows from the result of a Conv with one position multiplies a map of more positions."""
    waiting, seen = [node], {node}
    while waiting:
        for value in waiting.pop().outputs:
            for user, _ in value.uses():
                if not _one_position(user.outputs[0], convolution=True, batch=None):
                    if user.op_type in ("Mul", "Add"):
                        return True
                elif user not in seen:
                    seen.add(user)
                    waiting.append(user)
    return False


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
    return first.shape == second.shape and constant(first) is None and constant(second) is None


def last_conv(value: ir.Value | None) -> ir.Node | None:
    """The Conv at the end of a branch, possibly with batch norm and activation, whose result only the Add takes."""
    if value is None or len(value.uses()) != 1 or value.is_graph_output():
        return None
    node = value.producer()
    while node is not None and node.op_type != "Conv":
        source = _swish_input(node)
        if node.op_type in _ACTIVATIONS or node.op_type == "BatchNormalization":
            source = node.inputs[0]
        node = None if source is None else source.producer()
    return node


def _swish_input(node: ir.Node) -> ir.Value | None:
    """The x of `x * sigmoid(x)`."""
    if node.op_type == "Mul":
        for value, gate in (node.inputs, reversed(node.inputs)):
            sigmoid = None if gate is None else gate.producer()
            if sigmoid is not None and sigmoid.op_type == "Sigmoid" and sigmoid.inputs[0] is value:
                return value
    return None


def _in_transformer(add: ir.Node) -> bool:
    """Whether a residual block has layer norm or softmax, or its sum is normalized next."""
    first, second = (_ancestors(value) for value in add.inputs)
    return any(node.op_type in _TRANSFORMER for node in first ^ second) or _is_normalized(add.outputs[0])


def _ancestors(value: ir.Value | None) -> set[ir.Node]:
    ancestors: set[ir.Node] = set()
    waiting = [value]
    while waiting:
        current = waiting.pop()
        node = None if current is None else current.producer()
        if node is not None and node not in ancestors:
            ancestors.add(node)
            waiting.extend(node.inputs)
    return ancestors


def _is_normalized(value: ir.Value) -> bool:
    users = [user for user, _ in value.uses()]
    return any(
        user.op_type == "LayerNormalization" or (user.op_type in _LAYOUT and _is_normalized(user.outputs[0]))
        for user in users
    )

"""Inspects a `.tflite` without running it: operations, weights, and what a GPU would leave to the CPU."""

from __future__ import annotations

import math
from collections import Counter, defaultdict
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any

from timmx_litert import task_metadata
from timmx_litert.interface import read_interface
from timmx_litert.model_file import at_most, metadata_buffer, names_of, reading

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Mapping, Sequence
    from pathlib import Path


def inspect(path: Path) -> dict[str, Any]:
    """Operations, parameters, types of weights, what the GPU delegate refuses, task metadata, inputs and outputs.

    Raises:
        ArtifactError: the file is not a LiteRT model, or is damaged.
    """
    with reading(path) as model:
        count = at_most(model.SubgraphsLength(), _MOST_GRAPHS, "graphs")
        graphs = [_graph(model, model.Subgraphs(number)) for number in range(count)]
        constants = _constants_by_type(tensor for graph in graphs for tensor in graph.tensors)
        operations = Counter(operation.kind for graph in graphs for operation in graph.operations)
        off_gpu = _off_gpu_delegate(graphs)  # needs the open file, since it reads options
        task = metadata_buffer(model, task_metadata.NAME)
        interface = read_interface(model)
    return {
        "operations": dict(sorted(operations.items())),
        "parameters": sum(
            count for kind, count in constants.items() if kind not in ("int32", "int64", "bool")
        ),
        "constants_by_type": constants,
        "off_gpu_delegate": off_gpu,
        "task_metadata": task_metadata.read(task, path) if task is not None else None,
        "associated_files": list(task_metadata.associated_files(path)),
        **interface,
    }


_MOST_GRAPHS, _MOST_ENTRIES, _MOST_ARGUMENTS, _MOST_AXES = 64, 100_000, 1000, 64
"""Far above those of any image model, and below what takes seconds to read."""


@dataclass(frozen=True, eq=False)
class _Tensor:
    shape: tuple[int, ...]
    dtype: str
    constant: bool


@dataclass(frozen=True, kw_only=True, eq=False)
class _Operation:
    kind: str
    version: int
    inputs: tuple[_Tensor | None, ...]
    outputs: tuple[_Tensor, ...]
    options: Any
    """The schema's options table of this operation, None if the file has none."""

    @property
    def computed(self) -> list[_Tensor]:
        return [tensor for tensor in self.inputs if tensor is not None and not tensor.constant]

    @property
    def constants(self) -> list[_Tensor]:
        return [tensor for tensor in self.inputs if tensor is not None and tensor.constant]

    def option(self, name: str, default: Any) -> Any:
        return default if self.options is None else getattr(self.options, name)()


@dataclass(frozen=True)
class _Graph:
    tensors: list[_Tensor]
    operations: list[_Operation]


def _graph(model: Any, graph: Any) -> _Graph:
    tensors = _tensors(model, graph)
    return _Graph(tensors, _operations(model, graph, tensors))


def _tensors(model: Any, graph: Any) -> list[_Tensor]:
    from ai_edge_litert import schema_py_generated as schema

    types = names_of(schema.TensorType)
    count = at_most(model.BuffersLength(), _MOST_ENTRIES, "buffers")
    filled = [_is_filled(model.Buffers(index)) for index in range(count)]
    tensors = []
    count = at_most(graph.TensorsLength(), _MOST_ENTRIES, "tensors")
    for tensor in (graph.Tensors(index) for index in range(count)):
        axes = at_most(tensor.ShapeLength(), _MOST_AXES, "axes of a tensor")
        shape = tuple(tensor.Shape(axis) for axis in range(axes))
        dtype = types.get(tensor.Type(), f"type_{tensor.Type()}").lower()
        tensors.append(_Tensor(shape, dtype, filled[tensor.Buffer()]))
    return tensors


def _is_filled(buffer: Any) -> bool:
    """Whether a buffer has data; in files above 2 GB it is behind the flatbuffer, and buffer 0 is always empty."""
    return not buffer.DataIsNone() or buffer.Offset() > 1


def _operations(model: Any, graph: Any, tensors: Sequence[_Tensor]) -> list[_Operation]:
    count = at_most(model.OperatorCodesLength(), _MOST_ARGUMENTS, "kinds of operations")
    kinds = [_kind(model.OperatorCodes(index)) for index in range(count)]
    operations = []
    count = at_most(graph.OperatorsLength(), _MOST_ENTRIES, "operations")
    for operator in (graph.Operators(index) for index in range(count)):
        kind, version = kinds[operator.OpcodeIndex()]
        count = at_most(operator.InputsLength(), _MOST_ARGUMENTS, "inputs of an operation")
        inputs = [operator.Inputs(index) for index in range(count)]
        count = at_most(operator.OutputsLength(), _MOST_ARGUMENTS, "outputs of an operation")
        outputs = [operator.Outputs(index) for index in range(count)]
        operations.append(
            _Operation(
                kind=kind,
                version=version,
                inputs=tuple(None if index == -1 else _at(tensors, index) for index in inputs),
                outputs=tuple(_at(tensors, index) for index in outputs),
                options=_options(operator),
            )
        )
    return operations


def _kind(code: Any) -> tuple[str, int]:
    """An operation's name and version; a custom operation has its custom name."""
    from ai_edge_litert import schema_py_generated as schema

    number = max(code.BuiltinCode(), code.DeprecatedBuiltinCode())
    kind = names_of(schema.BuiltinOperator).get(number, f"OPERATION_{number}")
    if kind == "CUSTOM":
        kind = (code.CustomCode() or b"CUSTOM").decode()
    return kind, code.Version()


def _at(tensors: Sequence[_Tensor], index: int) -> _Tensor:
    if index < 0:
        raise IndexError(f"tensor {index} does not exist")
    return tensors[index]


def _options(operator: Any) -> Any:
    from ai_edge_litert import schema_py_generated as schema

    table = operator.BuiltinOptions()
    name = names_of(schema.BuiltinOptions).get(operator.BuiltinOptionsType(), "NONE")
    if table is None or name == "NONE":
        return None
    options = getattr(schema, name)()
    options.Init(table.Bytes, table.Pos)
    return options


def _constants_by_type(tensors: Iterable[_Tensor]) -> dict[str, int]:
    numbers: Counter[str] = Counter()
    for tensor in tensors:
        if tensor.constant:
            numbers[tensor.dtype] += math.prod(tensor.shape)
    return dict(sorted(numbers.items()))


# What the GPU delegate takes, from google-ai-edge/LiteRT: the operations, their versions and types from
# tflite/delegates/gpu/common/model_builder.cc at 34ec5bad (`NewOperationParser`, `GetOpsToReplace`), the rules from
# tflite/tools/versioning/gpu_compatibility.cc at 007226f4 (`CheckGpuDelegateCompatibility`, without its flags).
# If the first file fails later, in `Parse`, the interpreter runs without the delegate: `_REFUSED`.

_ANY = 2**31
_GPU_OPERATIONS: Mapping[str, int] = {
    **dict.fromkeys(
        "BATCH_MATMUL CAST DEPTH_TO_SPACE HARD_SWISH MEAN PACK REDUCE_MAX REDUCE_MIN REDUCE_PROD SPLIT SPLIT_V SUM "
        "TILE UNPACK Convolution2DTransposeBias MaxUnpooling2D Resampler".split(),
        _ANY,
    ),
    **dict.fromkeys("CUMSUM DENSIFY GATHER ONE_HOT PRELU RESHAPE SELECT SELECT_V2".split(), 1),
    **dict.fromkeys(
        "ABS ADD ADD_N AVERAGE_POOL_2D CONCATENATION COS DIV ELU EQUAL EXP FLOOR FLOOR_DIV FLOOR_MOD GELU GREATER "
        "GREATER_EQUAL LEAKY_RELU LESS LESS_EQUAL LOG LOGICAL_AND LOGISTIC MAXIMUM MAX_POOL_2D MINIMUM MIRROR_PAD "
        "NEG NOT_EQUAL PAD PADV2 POW QUANTIZE RELU RELU6 RELU_0_TO_1 RELU_N1_TO_1 RSQRT SIGN SIN SLICE SOFTMAX "
        "SPACE_TO_DEPTH SQRT SQUARE SQUARED_DIFFERENCE SUB TANH MaxPoolingWithArgmax2D".split(),
        2,
    ),
    **dict.fromkeys("DEQUANTIZE MUL RESIZE_BILINEAR RESIZE_NEAREST_NEIGHBOR TRANSPOSE_CONV".split(), 3),
    **dict.fromkeys("LSTM STRIDED_SLICE TRANSPOSE".split(), 4),
    **dict.fromkeys("CONV_2D DEPTHWISE_CONV_2D".split(), 6),
    "FULLY_CONNECTED": 9,
}
"""Kind of operation to the highest version that the delegate takes."""

_GPU_AXES = 4
_GPU_TYPES = frozenset({"float32", "float16", "int8", "uint8"})
"""Types of computed tensors; by default the delegate takes quantized models, and computes them in floats."""
_MORE_INPUT_TYPES = {
    "CAST": ("bool", "int32"),
    "GATHER": ("int32",),
    "LOGICAL_AND": ("bool",),
    "ONE_HOT": ("int32",),
    "SELECT": ("bool",),
    "SELECT_V2": ("bool",),
}
_COMPARISONS = frozenset("EQUAL GREATER GREATER_EQUAL LESS LESS_EQUAL NOT_EQUAL".split())
_MORE_OUTPUT_TYPES = {
    "CAST": ("bool", "int32"),
    "LOGICAL_AND": ("bool",),
    **dict.fromkeys(_COMPARISONS, ("bool",)),
}
_FLOATS = ("float32", "float16")
_REFUSED = ": the delegate refuses the whole model"


def _off_gpu_delegate(graphs: Iterable[_Graph]) -> dict[str, dict[str, Any]]:
    """Kind to the number of operations that the delegate leaves to the CPU, and the reasons, most frequent first."""
    reasons: dict[str, Counter[str]] = defaultdict(Counter)
    for graph in graphs:
        operations = _with_half_weights(graph.operations)
        for operation in operations:
            if reason := _reason(operation, operations):
                reasons[operation.kind][reason] += 1
    return {
        kind: {"count": counts.total(), "reason": "; ".join(reason for reason, _ in counts.most_common())}
        for kind, counts in sorted(reasons.items())
    }


def _with_half_weights(operations: Sequence[_Operation]) -> list[_Operation]:
    """The operations as the delegate sees them: float16 weights are constants, their DEQUANTIZE is removed."""
    weights: dict[_Tensor | None, _Tensor] = {
        operation.outputs[0]: operation.constants[0]
        for operation in operations
        if operation.kind == "DEQUANTIZE" and [tensor.dtype for tensor in operation.constants] == ["float16"]
    }
    return [
        replace(operation, inputs=tuple(weights.get(tensor, tensor) for tensor in operation.inputs))
        for operation in operations
        if not weights.keys() & set(operation.outputs)
    ]


def _reason(operation: _Operation, operations: Sequence[_Operation]) -> str:
    """Why the delegate does not take an operation, "" if it does."""
    kind = operation.kind
    if kind not in _GPU_OPERATIONS:
        return "the delegate has no such operation"
    if operation.version > _GPU_OPERATIONS[kind]:
        return f"version {operation.version}, and the delegate takes {_GPU_OPERATIONS[kind]}"
    tensors = (*operation.computed, *operation.constants, *operation.outputs)
    axes = max((len(tensor.shape) for tensor in tensors), default=0)
    if axes > _GPU_AXES:
        return f"{axes} axes, and the delegate takes {_GPU_AXES}"
    types = {tensor.dtype for tensor in operation.computed}.difference(_MORE_INPUT_TYPES.get(kind, ()))
    types |= {tensor.dtype for tensor in operation.outputs}.difference(_MORE_OUTPUT_TYPES.get(kind, ()))
    if types - _GPU_TYPES:
        return f"computes in {', '.join(sorted(types - _GPU_TYPES))}"
    if kind in _COMPARISONS:
        return _comparison(operation, operations)
    return _RULES[kind](operation) if kind in _RULES else ""


def _comparison(operation: _Operation, operations: Sequence[_Operation]) -> str:
    readers = [reader for reader in operations if operation.outputs[0] in reader.inputs]
    fits = [reader.kind in ("CAST", "SELECT", "SELECT_V2") for reader in readers] == [True]
    if fits and readers[0].outputs[0].dtype in _FLOATS:
        return _operands(operation)
    return "its result must go into exactly one CAST or SELECT that returns floats"


def _one_input(operation: _Operation) -> str:
    count = len(operation.computed)
    return "" if count == 1 else f"takes 1 computed input, not {count}"


def _reduction(operation: _Operation) -> str:
    axes = operation.inputs[1]
    if axes is None or not axes.constant or axes.dtype != "int32":
        return "takes only constant axes of int32"
    return _one_input(operation)


def _padding(operation: _Operation) -> str:
    amounts = operation.inputs[1]
    if amounts is None or amounts.shape not in ((3, 2), (4, 2)):
        return "pads only tensors of 3 or 4 axes"
    if operation.kind == "MIRROR_PAD" and operation.option("Mode", 0) != 0:
        return "mirrors only without repeating the border"
    return _one_input(operation)


def _slice(operation: _Operation) -> str:
    tensor = operation.inputs[0]
    if tensor is None or len(tensor.shape) not in (3, 4):
        return "slices only tensors of 3 or 4 axes"
    if operation.kind == "STRIDED_SLICE" and any(
        operation.option(mask, 0) for mask in ("EllipsisMask", "NewAxisMask", "ShrinkAxisMask")
    ):
        return "takes no ellipsis, and no added or removed axes"
    return ""


def _operands(operation: _Operation) -> str:
    """Elementwise operations of two inputs."""
    computed = operation.computed
    if len(operation.inputs) != 2 or not computed:
        return "takes 2 inputs, at most one of them constant"
    if len(computed) == 2 and computed[0] is computed[1] and operation.kind not in ("ADD", "ADD_N", "MUL"):
        return f"the same input twice{_REFUSED}"
    if any(len(tensor.shape) == 4 and tensor.shape[0] != 1 for tensor in operation.constants):
        return f"a constant that differs along the batch{_REFUSED}"
    return ""


def _sum_or_product(operation: _Operation) -> str:
    shapes = sorted((tensor.shape for tensor in operation.inputs if tensor is not None), key=len)
    if len(shapes) == 2 and 1 < len(shapes[0]) < len(shapes[1]):
        short, long = shapes
        if not (
            (len(long) == 4 and len(short) == 3 and long[0] == 1)
            or (len(long) == 4 and len(short) == 2 and long[0] == 1 and short == (1, 1))
            or (len(long) == 4 and len(short) == 2 and (long[0], long[3]) == short)
        ):
            return "does not broadcast an input of fewer axes to these shapes"
    return _operands(operation)


def _choice(operation: _Operation) -> str:
    """SELECT: each side is one number, or has the output's shape."""
    if len(operation.inputs) != 3:
        return "takes 3 inputs"
    for side in operation.inputs[1:]:
        if side is None or (side.shape != operation.outputs[0].shape and side.shape not in ((), (0,), (1,))):
            return "chooses only between single numbers and tensors of the output's shape"
        if side.constant and len(side.shape) == 2:
            return "does not take a constant of 2 axes"
    return ""


def _gather(operation: _Operation) -> str:
    indices = operation.inputs[1]
    if indices is None or len(indices.shape) != 1 or indices.dtype != "int32":
        return "takes only indices of one axis, in int32"
    return ""


def _cast(operation: _Operation) -> str:
    if not operation.computed:
        return _one_input(operation)
    before, after = operation.computed[0].dtype, operation.outputs[0].dtype
    if (before == "bool" and after in _FLOATS) or (before in _FLOATS and after == "bool"):
        return ""
    return "" if {before, after} <= {"float32", "int32"} else f"does not convert {before} to {after}"


def _weighted(operation: _Operation) -> str:
    """Convolutions."""
    return "" if len(operation.computed) <= 2 else "takes computed weights or a computed bias, not both"


def _fully_connected(operation: _Operation) -> str:
    if operation.option("WeightsFormat", 0) != 0:
        return "takes weights in the default format only"
    tensor = operation.inputs[0]
    axes = len(tensor.shape) if tensor is not None else 0
    if operation.option("KeepNumDims", False) and axes != len(operation.outputs[0].shape):
        return "does not change the number of axes"
    return _weighted(operation)


def _batch_matmul(operation: _Operation) -> str:
    second = operation.inputs[1]
    if len(operation.computed) == 2 or (second is not None and second.constant and len(second.shape) == 2):
        return ""
    return f"a constant factor must be the second one, of 2 axes{_REFUSED}"


def _constant_operands(operation: _Operation) -> str:
    """CONCATENATION, PACK, and DEQUANTIZE of weights."""
    if all(len(tensor.shape) == 4 for tensor in operation.constants):
        return ""
    return f"a constant that does not have 4 axes{_REFUSED}"


def _softmax(operation: _Operation) -> str:
    return "" if operation.option("Beta", 1.0) == 1 else "does not take a factor (beta)"


def _blocks(operation: _Operation) -> str:
    return _one_input(operation) if operation.option("BlockSize", 2) > 1 else "takes only blocks of 2 or more"


def _cumulative_sum(operation: _Operation) -> str:
    axis = operation.inputs[1]
    if (
        axis is None
        or not axis.constant
        or axis.dtype != "int32"
        or operation.outputs[0].dtype not in _FLOATS
    ):
        return "sums only floats, along a constant axis of int32"
    return ""


_RULES: Mapping[str, Callable[[_Operation], str]] = {
    **dict.fromkeys(
        "ABS AVERAGE_POOL_2D COS ELU EXP FLOOR GELU HARD_SWISH LOG LOGISTIC MAX_POOL_2D NEG QUANTIZE RESHAPE "
        "RESIZE_BILINEAR RESIZE_NEAREST_NEIGHBOR RSQRT SIGN SIN SQRT SQUARE TANH TILE TRANSPOSE".split(),
        _one_input,
    ),
    **dict.fromkeys("MEAN REDUCE_MAX REDUCE_MIN REDUCE_PROD SUM".split(), _reduction),
    **dict.fromkeys(
        "ADD_N DIV FLOOR_DIV FLOOR_MOD LOGICAL_AND MAXIMUM MINIMUM POW SQUARED_DIFFERENCE SUB".split(),
        _operands,
    ),
    **dict.fromkeys(("ADD", "MUL"), _sum_or_product),
    **dict.fromkeys(("PAD", "PADV2", "MIRROR_PAD"), _padding),
    **dict.fromkeys(("SLICE", "STRIDED_SLICE"), _slice),
    **dict.fromkeys(("SELECT", "SELECT_V2"), _choice),
    **dict.fromkeys(("CONV_2D", "DEPTHWISE_CONV_2D", "TRANSPOSE_CONV"), _weighted),
    **dict.fromkeys(("CONCATENATION", "DEQUANTIZE", "PACK"), _constant_operands),
    **dict.fromkeys(("DEPTH_TO_SPACE", "SPACE_TO_DEPTH"), _blocks),
    "BATCH_MATMUL": _batch_matmul,
    "CAST": _cast,
    "CUMSUM": _cumulative_sum,
    "FULLY_CONNECTED": _fully_connected,
    "GATHER": _gather,
    "SOFTMAX": _softmax,
}
"""Further rules of the delegate, by kind. LSTM, ONE_HOT and custom kinds have rules too, but timmx writes none."""

"""What a `.tflite` tells of itself without being run: operations, weights, and what a GPU would leave to the CPU."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import numpy as np

from timmx_litert import task_metadata
from timmx_litert.model_file import metadata_buffer, names_of, reading

if TYPE_CHECKING:
    from pathlib import Path

_GPU_OPERATIONS = frozenset(
    "ABS ADD ARG_MAX ARG_MIN AVERAGE_POOL_2D BATCH_MATMUL CAST CONCATENATION CONV_2D COS CUMSUM DEPTHWISE_CONV_2D "
    "DEQUANTIZE DIV ELU EQUAL EXP FLOOR FLOOR_DIV FLOOR_MOD FULLY_CONNECTED GATHER GELU GREATER GREATER_EQUAL "
    "HARD_SWISH LEAKY_RELU LESS LESS_EQUAL LOG LOGICAL_AND LOGISTIC MAXIMUM MAX_POOL_2D MEAN MINIMUM MIRROR_PAD MUL "
    "NEG NOT_EQUAL ONE_HOT PACK PAD PADV2 POW PRELU QUANTIZE REDUCE_MAX REDUCE_MIN REDUCE_PROD RELU RELU6 RELU_N1_TO_1 "
    "RESHAPE RESIZE_BILINEAR RESIZE_NEAREST_NEIGHBOR RSQRT SELECT SELECT_V2 SIGN SIN SLICE SOFTMAX SPACE_TO_DEPTH "
    "DEPTH_TO_SPACE SPLIT SPLIT_V SQRT SQUARE SQUARED_DIFFERENCE STRIDED_SLICE SUB SUM TANH TILE TRANSPOSE "
    "TRANSPOSE_CONV".split()
)
"""What TensorFlow Lite's GPU delegate takes, by its source (`gpu/common/model_builder.cc`)."""
_GPU_AXES = 4


def inspect(path: Path) -> dict[str, Any]:
    """Operations, parameters, types of weights, what falls off the GPU delegate, what the task libraries read.

    Raises:
        ArtifactError: the file is no LiteRT model.
    """
    from ai_edge_litert import schema_py_generated as schema

    names, types = names_of(schema.BuiltinOperator), names_of(schema.TensorType)
    with reading(path) as model:
        operations: dict[str, int] = {}
        off_gpu: dict[str, dict[str, Any]] = {}
        weights: dict[str, int] = {}
        for number in range(model.SubgraphsLength()):
            graph = model.Subgraphs(number)
            axes = [graph.Tensors(index).ShapeLength() for index in range(graph.TensorsLength())]
            for position in range(graph.OperatorsLength()):
                operator = graph.Operators(position)
                code = model.OperatorCodes(operator.OpcodeIndex())
                kind = names[max(code.BuiltinCode(), code.DeprecatedBuiltinCode())]
                if kind == "CUSTOM":
                    kind = (code.CustomCode() or b"CUSTOM").decode()
                operations[kind] = operations.get(kind, 0) + 1
                touched = [
                    index
                    for index in (
                        *(operator.Inputs(i) for i in range(operator.InputsLength())),
                        *(operator.Outputs(i) for i in range(operator.OutputsLength())),
                    )
                    if index >= 0
                ]
                most = max((axes[index] for index in touched), default=0)
                reason = ""
                if kind not in _GPU_OPERATIONS:
                    reason = "the delegate has no such operation"
                elif most > _GPU_AXES:
                    reason = f"{most} axes, and the delegate takes {_GPU_AXES}"
                if reason:
                    entry = off_gpu.setdefault(kind, {"count": 0, "reason": reason})
                    entry["count"] += 1
            for index in range(graph.TensorsLength()):
                tensor = graph.Tensors(index)
                if tensor.Buffer() and not model.Buffers(tensor.Buffer()).DataIsNone():
                    count = int(
                        np.prod([tensor.Shape(i) for i in range(tensor.ShapeLength())], dtype=np.int64)
                    )
                    kind = types[tensor.Type()].lower()
                    weights[kind] = weights.get(kind, 0) + count
        task = metadata_buffer(model, task_metadata.NAME)
    return {
        "operations": dict(sorted(operations.items())),
        "parameters": sum(count for kind, count in weights.items() if kind not in ("int32", "int64", "bool")),
        "constants_by_type": dict(sorted(weights.items())),
        "off_gpu_delegate": dict(sorted(off_gpu.items())),
        "task_metadata": task_metadata.read(task, path) if task is not None else None,
        "associated_files": list(task_metadata.associated_files(path)),
    }

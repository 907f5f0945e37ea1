"""Parses a MIL program: operations in order, constants, declared types. Nothing is computed here."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
from timmx.plugin import ArtifactError, UnsupportedError

from timmx_coreml.errors import damaged, not_evaluated
from timmx_coreml.mil.blobs import Blob, WeightFiles, unpack
from timmx_coreml.mil.data_types import STRING, DataType, data_type

if TYPE_CHECKING:
    from pathlib import Path

_FUNCTION = "main"
_OPSETS = {f"CoreML{number}": number for number in range(5, 10)}
"""CoreML5 is iOS 15, CoreML8 iOS 18, CoreML9 iOS 26."""

Constant = torch.Tensor | Blob | str | list[Any]


@dataclass(frozen=True)
class TensorType:
    """The declared type of a tensor.

    Attributes:
        data_type: the data type of the elements.
        shape: None for a dynamic dimension; None as a whole if the rank is dynamic.
    """

    data_type: DataType
    shape: tuple[int | None, ...] | None


@dataclass(frozen=True)
class Variable:
    """A named value; `type` is None if it is not a tensor, such as a classifier's label."""

    name: str
    type: TensorType | None


@dataclass(frozen=True)
class Operation:
    """One operation.

    Attributes:
        type: MIL's operation type, such as `conv`.
        name: the operation's name, for messages.
        arguments: names of variables or constants, by parameter.
        outputs: the results.
    """

    type: str
    name: str
    arguments: dict[str, tuple[str, ...]]
    outputs: tuple[Variable, ...]

    def __str__(self) -> str:
        return f"the operation {self.name} ({self.type})"


@dataclass(frozen=True, kw_only=True)
class Program:
    """The function `main` of an ML program.

    Attributes:
        opset: 5 (iOS 15) to 9 (iOS 26).
        inputs: the declared inputs.
        operations: in execution order, without `const` operations.
        constants: values of `const` operations and of literal arguments, by name.
        outputs: names of variables.
    """

    opset: int
    inputs: tuple[Variable, ...]
    operations: tuple[Operation, ...]
    constants: dict[str, Constant]
    outputs: tuple[str, ...]


def read_program(model: Any, weights: Path | None) -> Program:
    """Read the program of a model, and check all names and weights.

    Args:
        model: a `Model_pb2.Model`.
        weights: the folder that the program calls `@model_path`.

    Raises:
        ArtifactError: the file is damaged or inconsistent.
        UnsupportedError: timmx cannot evaluate a form of data in it.
    """
    if model.WhichOneof("Type") != "mlProgram":
        raise ArtifactError(
            f"the Core ML model has the type {model.WhichOneof('Type')} and is not an ML program"
        )
    if model.mlProgram.version != 1:
        raise not_evaluated(f"the ML program has version {model.mlProgram.version}; timmx supports version 1")
    if _FUNCTION not in model.mlProgram.functions:
        raise damaged(f"the ML program has no function {_FUNCTION!r}")
    function = model.mlProgram.functions[_FUNCTION]
    if function.opset not in _OPSETS or function.opset not in function.block_specializations:
        raise not_evaluated(f"the ML program uses the opset {function.opset!r}, which timmx does not know")
    return _Reader(weights).read(function)


class _Reader:
    """Reads a function in one pass, with the names declared so far."""

    def __init__(self, weights: Path | None) -> None:
        self._weights = WeightFiles(weights)
        self._constants: dict[str, Constant] = {}
        self._names: set[str] = set()

    def read(self, function: Any) -> Program:
        block = function.block_specializations[function.opset]
        inputs = tuple(self._variable(entry, f"the input {entry.name}") for entry in function.inputs)
        for variable in inputs:
            if variable.type is None:
                raise UnsupportedError(f"the input {variable.name} of the ML program is not a tensor")
        operations = [operation for entry in block.operations if (operation := self._operation(entry))]
        if not block.outputs:
            raise damaged("the ML program has no outputs")
        for name in block.outputs:
            if name not in self._names:
                raise damaged(f"no operation computes the output {name} of the ML program")
        opset = _OPSETS[function.opset]
        return Program(
            opset=opset,
            inputs=inputs,
            operations=tuple(operations),
            constants=self._constants,
            outputs=tuple(block.outputs),
        )

    def _operation(self, message: Any) -> Operation | None:
        """Read an operation; None for a `const`, whose value is added to the constants."""
        if not message.outputs:
            raise UnsupportedError(f"timmx cannot evaluate the operation {message.type}: it has no outputs")
        name = message.outputs[0].name
        if "name" in message.attributes:
            texts = message.attributes["name"].immediateValue.tensor.strings.values
            name = texts[0] if texts else name
        where = f"the operation {name} ({message.type})"
        if message.blocks:
            raise not_evaluated(f"timmx cannot evaluate {where}: it has nested blocks")
        if message.type == "const":
            self._const(message, where)
            return None
        arguments = {
            parameter: tuple(
                self._argument(binding, f"{name}.{parameter}.{index}", where)
                for index, binding in enumerate(argument.arguments)
            )
            for parameter, argument in message.inputs.items()
        }
        for parameter, value in message.attributes.items():
            if parameter != "name":
                arguments[parameter] = (self._literal(value, f"{name}.{parameter}", where),)
        outputs = tuple(self._variable(output, where) for output in message.outputs)
        return Operation(message.type, name, arguments, outputs)

    def _const(self, message: Any, where: str) -> None:
        if len(message.outputs) != 1 or "val" not in message.attributes:
            raise damaged(f"{where} has no value")
        value = message.attributes["val"]
        declared = self._variable(message.outputs[0], where)
        constant = self._value(value, where)
        shape = tuple(constant.shape) if isinstance(constant, torch.Tensor | Blob) else None
        if declared.type and (shape != declared.type.shape or _value_type(value, where) != declared.type):
            raise damaged(f"{where} declares a type that differs from the type of its value")
        self._constants[declared.name] = constant

    def _argument(self, binding: Any, name: str, where: str) -> str:
        if binding.WhichOneof("binding") == "value":
            return self._literal(binding.value, name, where)
        if binding.name not in self._names:
            raise damaged(f"{where} uses {binding.name!r}, which no earlier operation computes")
        return str(binding.name)

    def _literal(self, value: Any, name: str, where: str) -> str:
        """Store a literal argument under a name that no variable can have."""
        name = f"<{name}>"
        self._constants[name] = self._value(value, where)
        return name

    def _variable(self, message: Any, where: str) -> Variable:
        if message.name in self._names:
            raise damaged(f"the ML program computes {message.name!r} twice, the second time in {where}")
        self._names.add(message.name)
        kind = message.type.WhichOneof("type")
        if kind == "tensorType":
            if message.type.tensorType.dataType == STRING:
                return Variable(message.name, None)
            return Variable(message.name, _tensor_type(message.type.tensorType, where))
        if kind in ("dictionaryType", "listType"):
            return Variable(message.name, None)
        raise UnsupportedError(f"timmx cannot evaluate {where}: {message.name!r} has the type {kind}")

    def _value(self, value: Any, where: str) -> Constant:
        kind = value.type.WhichOneof("type")
        if kind == "listType" and value.immediateValue.WhichOneof("value") == "list":
            return [_scalar(self._value(item, where)) for item in value.immediateValue.list.values]
        if kind != "tensorType":
            raise not_evaluated(f"timmx cannot evaluate {where}: it has a constant of the type {kind}")
        if value.type.tensorType.dataType == STRING:
            texts = list(value.immediateValue.tensor.strings.values)
            return str(texts[0]) if value.type.tensorType.rank == 0 and len(texts) == 1 else texts
        declared = _tensor_type(value.type.tensorType, where)
        shape = declared.shape
        if shape is None or None in shape:
            raise damaged(f"{where} has a constant of unknown shape")
        sizes = tuple(size for size in shape if size is not None)
        if value.WhichOneof("value") == "blobFileValue":
            blob = value.blobFileValue
            return self._weights.blob(blob.fileName, blob.offset, sizes, declared.data_type, where)
        return _immediate(value.immediateValue, sizes, declared.data_type, where)


def _immediate(value: Any, shape: tuple[int, ...], kind: DataType, where: str) -> torch.Tensor:
    """Return a tensor whose elements are stored in the program."""
    field = value.tensor.WhichOneof("value") if value.WhichOneof("value") == "tensor" else None
    if field != kind.field:
        raise not_evaluated(f"timmx cannot evaluate {where}: it stores {kind.name} values as {field}")
    count = math.prod(shape)
    elements = getattr(value.tensor, field).values
    if field == "bytes":
        if len(elements) != -(-count * kind.bits // 8):
            raise damaged(f"{where} has {len(elements)} bytes for {count} values of {kind.name}")
        raw = np.frombuffer(elements, np.uint8)
        if kind.bits < 8:
            return unpack(raw, kind, count).reshape(shape)
        if count == 0:
            return torch.empty(shape, dtype=kind.torch)
        return torch.frombuffer(bytearray(elements), dtype=kind.torch).reshape(shape)
    if len(elements) != count:
        raise damaged(f"{where} has {len(elements)} values, but its shape needs {count}")
    return torch.tensor(list(elements), dtype=kind.torch).reshape(shape)


_LARGEST = 2**40
"""Number of elements; torch overflows at 2**63."""


def _tensor_type(message: Any, where: str) -> TensorType:
    kind = data_type(message.dataType, where)
    shape: list[int | None] = []
    for dimension in message.dimensions:
        if dimension.WhichOneof("dimension") == "constant":
            shape.append(int(dimension.constant.size))
        elif dimension.unknown.variadic:
            return TensorType(kind, None)
        else:
            shape.append(None)
    if math.prod(size or 1 for size in shape) > _LARGEST:
        raise damaged(f"{where} declares a tensor of {' x '.join(str(size or '?') for size in shape)}")
    if message.rank not in (len(shape), -1):
        raise damaged(f"{where} declares rank {message.rank} and {len(shape)} dimensions")
    return TensorType(kind, tuple(shape))


def _value_type(value: Any, where: str) -> TensorType | None:
    if value.type.WhichOneof("type") != "tensorType" or value.type.tensorType.dataType == STRING:
        return None
    return _tensor_type(value.type.tensorType, where)


def _scalar(constant: Constant) -> Any:
    return constant.item() if isinstance(constant, torch.Tensor) else constant

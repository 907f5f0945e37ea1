"""A MIL program out of its protobuf: operations in order, constants, declared types. Nothing is computed here."""

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
    """What the program declares of a tensor.

    Attributes:
        data_type: of its elements.
        shape: None for a dimension that only a run knows; None altogether where even the rank is open.
    """

    data_type: DataType
    shape: tuple[int | None, ...] | None


@dataclass(frozen=True)
class Variable:
    """A named value; `type` is None for what is no tensor: a classifier's label and probabilities."""

    name: str
    type: TensorType | None


@dataclass(frozen=True)
class Operation:
    """One operation.

    Attributes:
        type: MIL's name of it, such as `conv`.
        name: its own name, for messages.
        arguments: names of variables or constants, by parameter.
        outputs: what it computes.
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
        inputs: its inputs.
        operations: in the order in which they run; no `const` among them.
        constants: values of `const` operations and of literal arguments, by name.
        outputs: names of variables.
    """

    opset: int
    inputs: tuple[Variable, ...]
    operations: tuple[Operation, ...]
    constants: dict[str, Constant]
    outputs: tuple[str, ...]


def read_program(model: Any, weights: Path | None) -> Program:
    """The program of a model, every name and every weight in it checked.

    Args:
        model: a `Model_pb2.Model`.
        weights: the folder that the program calls `@model_path`.

    Raises:
        ArtifactError: the file is damaged, or contradicts itself.
        UnsupportedError: it has a form of data or of program that timmx does not evaluate.
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
    """Goes through a function once, with the names that are known so far."""

    def __init__(self, weights: Path | None) -> None:
        self._weights = WeightFiles(weights)
        self._constants: dict[str, Constant] = {}
        self._known: set[str] = set()

    def read(self, function: Any) -> Program:
        block = function.block_specializations[function.opset]
        inputs = tuple(self._variable(given, f"the input {given.name}") for given in function.inputs)
        for variable in inputs:
            if variable.type is None:
                raise UnsupportedError(f"the input {variable.name} of the ML program is not a tensor")
        operations = [operation for given in block.operations if (operation := self._operation(given))]
        if not block.outputs:
            raise damaged("the ML program has no outputs")
        for name in block.outputs:
            if name not in self._known:
                raise damaged(f"no operation computes the output {name} of the ML program")
        opset = _OPSETS[function.opset]
        return Program(
            opset=opset,
            inputs=inputs,
            operations=tuple(operations),
            constants=self._constants,
            outputs=tuple(block.outputs),
        )

    def _operation(self, given: Any) -> Operation | None:
        """The operation; None for a `const`, whose value is kept."""
        if not given.outputs:
            raise UnsupportedError(f"timmx cannot evaluate the operation {given.type}: it has no outputs")
        name = given.outputs[0].name
        if "name" in given.attributes:
            texts = given.attributes["name"].immediateValue.tensor.strings.values
            name = texts[0] if texts else name
        where = f"the operation {name} ({given.type})"
        if given.blocks:
            raise not_evaluated(f"timmx cannot evaluate {where}: it has nested blocks")
        if given.type == "const":
            self._const(given, where)
            return None
        arguments = {
            parameter: tuple(
                self._argument(binding, f"{name}.{parameter}.{index}", where)
                for index, binding in enumerate(argument.arguments)
            )
            for parameter, argument in given.inputs.items()
        }
        for parameter, value in given.attributes.items():
            if parameter != "name":
                arguments[parameter] = (self._literal(value, f"{name}.{parameter}", where),)
        outputs = tuple(self._variable(output, where) for output in given.outputs)
        return Operation(given.type, name, arguments, outputs)

    def _const(self, given: Any, where: str) -> None:
        if len(given.outputs) != 1 or "val" not in given.attributes:
            raise damaged(f"{where} has no value")
        value = given.attributes["val"]
        declared = self._variable(given.outputs[0], where)
        constant = self._value(value, where)
        shape = tuple(constant.shape) if isinstance(constant, torch.Tensor | Blob) else None
        if declared.type and (shape != declared.type.shape or _value_type(value, where) != declared.type):
            raise damaged(f"{where} declares a type that differs from the type of its value")
        self._constants[declared.name] = constant

    def _argument(self, binding: Any, name: str, where: str) -> str:
        if binding.WhichOneof("binding") == "value":
            return self._literal(binding.value, name, where)
        if binding.name not in self._known:
            raise damaged(f"{where} uses {binding.name!r}, which no earlier operation computes")
        return str(binding.name)

    def _literal(self, value: Any, name: str, where: str) -> str:
        """A value that stands where it is used gets a name that no variable can have."""
        name = f"<{name}>"
        self._constants[name] = self._value(value, where)
        return name

    def _variable(self, given: Any, where: str) -> Variable:
        if given.name in self._known:
            raise damaged(f"the ML program computes {given.name!r} twice, the second time in {where}")
        self._known.add(given.name)
        kind = given.type.WhichOneof("type")
        if kind == "tensorType":
            if given.type.tensorType.dataType == STRING:
                return Variable(given.name, None)
            return Variable(given.name, _tensor_type(given.type.tensorType, where))
        if kind in ("dictionaryType", "listType"):
            return Variable(given.name, None)
        raise UnsupportedError(f"timmx cannot evaluate {where}: {given.name!r} has the type {kind}")

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
    """A tensor whose elements stand in the program."""
    field = value.tensor.WhichOneof("value") if value.WhichOneof("value") == "tensor" else None
    if field != kind.field:
        raise not_evaluated(f"timmx cannot evaluate {where}: it stores {kind.name} values as {field}")
    count = math.prod(shape)
    given = getattr(value.tensor, field).values
    if field == "bytes":
        if len(given) != -(-count * kind.bits // 8):
            raise damaged(f"{where} has {len(given)} bytes for {count} values of {kind.name}")
        raw = np.frombuffer(given, np.uint8)
        if kind.bits < 8:
            return unpack(raw, kind, count).reshape(shape)
        if count == 0:
            return torch.empty(shape, dtype=kind.torch)
        return torch.frombuffer(bytearray(given), dtype=kind.torch).reshape(shape)
    if len(given) != count:
        raise damaged(f"{where} has {len(given)} values, but its shape needs {count}")
    return torch.tensor(list(given), dtype=kind.torch).reshape(shape)


def _tensor_type(given: Any, where: str) -> TensorType:
    kind = data_type(given.dataType, where)
    shape: list[int | None] = []
    for dimension in given.dimensions:
        if dimension.WhichOneof("dimension") == "constant":
            shape.append(int(dimension.constant.size))
        elif dimension.unknown.variadic:
            return TensorType(kind, None)
        else:
            shape.append(None)
    if given.rank not in (len(shape), -1):
        raise damaged(f"{where} declares rank {given.rank} and {len(shape)} dimensions")
    return TensorType(kind, tuple(shape))


def _value_type(value: Any, where: str) -> TensorType | None:
    if value.type.WhichOneof("type") != "tensorType" or value.type.tensorType.dataType == STRING:
        return None
    return _tensor_type(value.type.tensorType, where)


def _scalar(constant: Constant) -> Any:
    return constant.item() if isinstance(constant, torch.Tensor) else constant

"""Runs a MIL program with torch, in the arithmetic that the program declares."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import torch
from timmx.errors import ArtifactError, ConfigurationError, UnsupportedError

from timmx_coreml.mil.blobs import Blob
from timmx_coreml.mil.data_types import dtype_named
from timmx_coreml.mil.operations import KERNELS, Kernel
from timmx_coreml.mil.program import Operation, Program, TensorType, read_program

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping
    from pathlib import Path

    from timmx_coreml.mil.operations.registry import Result

_FLOAT16_MAX = 65504.0
_LARGE = _FLOAT16_MAX / 4
_CONSTANT_EXPRESSION = "constexpr_"
_UNSIGNED = (torch.uint16, torch.uint32)
"""torch stores these and computes with few of them, so they are always widened."""

_SEVERAL = ("Tensors", "IntTuple", "BoolTuple")
"""Kinds of parameters that take any number of arguments."""

_PYTHON_KINDS: dict[str, tuple[tuple[type, ...], bool]] = {
    "int": ((int,), False),
    "float": ((int, float), False),
    "str": ((str,), False),
    "bool": ((bool,), False),
    "Ints": ((int,), True),
    "Bools": ((bool,), True),
    "Labels": ((int, str), True),
    "IntTuple": ((int,), True),
    "BoolTuple": ((bool,), True),
}
"""What the elements of a parameter of a kind may be, and whether it is a list of them."""


@dataclass(frozen=True)
class LargeValue:
    """An operation whose float16 result leaves float16's range, or comes near its end.

    Attributes:
        name: the operation's result.
        op: its type.
        largest: the largest magnitude over all runs so far, before rounding to float16; inf for a NaN.
        overflowed: a result was not finite though everything that went in was.
    """

    name: str
    op: str
    largest: float
    overflowed: bool


@dataclass(frozen=True)
class _Step:
    """An operation made ready.

    Attributes:
        operation: as the program has it.
        kernel: what computes it.
        fixed: the parameters that are Python values and constant: read once.
        free: names of variables that nothing uses after this step.
        constant: it computes a constant: a compressed weight's dense value.
    """

    operation: Operation
    kernel: Kernel
    fixed: dict[str, Any]
    free: tuple[str, ...]
    constant: bool


class MilEvaluator:
    """The function `main` of an ML program.

    Float16 results are rounded to float16 after every operation; inside one operation sums are float32.

    Args:
        model: a `Model_pb2.Model` that holds an ML program.
        weights: the folder that `@model_path` stands for: the one that holds `model.mlmodel`.

    Attributes:
        inputs: dtype and shape by name; None for a dimension that may vary.
        outputs: names, in order.

    Raises:
        ArtifactError: a file is damaged or missing, or the program contradicts itself.
        UnsupportedError: an operation, a parameter or a form of data that timmx does not evaluate.
    """

    def __init__(self, model: Any, weights: Path | None) -> None:
        program = read_program(model, weights)
        self.inputs: dict[str, tuple[torch.dtype, tuple[int | None, ...]]] = {}
        for variable in program.inputs:
            if variable.type is None or variable.type.shape is None:
                raise UnsupportedError(
                    f"The input {variable.name} has no rank; timmx does not evaluate that."
                )
            self.inputs[variable.name] = (variable.type.data_type.torch, variable.type.shape)
        self.outputs = program.outputs
        self._opset = program.opset
        self._constants: dict[str, Any] = program.constants
        self._widened: dict[str, torch.Tensor] = {}
        self._large: dict[str, LargeValue] = {}
        self._steps = self._prepare(program)

    @property
    def large_values(self) -> list[LargeValue]:
        """The operations whose float16 results overflowed or came within a factor 4 of 65504, in program order."""
        return list(self._large.values())

    def run(self, inputs: Mapping[str, torch.Tensor]) -> dict[str, Any]:
        """Evaluate the program once.

        Args:
            inputs: a tensor for each of `self.inputs`.

        Returns:
            A tensor for each of `self.outputs`; of a classifier also the label, a string or int, and a
            dictionary from label to probability.

        Raises:
            ConfigurationError: an input is missing, unknown, or of another type than the program declares.
            ArtifactError: the program contradicts itself: an operation's declared type is not what it computes.
        """
        values: dict[str, Any] = dict(self._checked(inputs))
        with torch.inference_mode():
            for step in self._steps:
                if step.constant:
                    if step.operation.outputs[0].name not in self._constants:
                        self._constants.update(self._execute(step, {}))
                    continue
                values.update(self._execute(step, values))
                for name in step.free:
                    del values[name]
            return {name: self._stored(name, values) for name in self.outputs}

    def close(self) -> None:
        """Let go of the weights."""
        self._constants = {}
        self._widened = {}
        self._steps = []

    def _prepare(self, program: Program) -> list[_Step]:
        """Bind every operation to what computes it, and find where each variable is used last."""
        constants = set(program.constants)
        last_use = dict.fromkeys(program.outputs, len(program.operations))
        for index, operation in reversed(list(enumerate(program.operations))):
            names = [name for names in operation.arguments.values() for name in names]
            for name in (*names, *(output.name for output in operation.outputs)):
                last_use.setdefault(name, index)
        steps = []
        for index, operation in enumerate(program.operations):
            kernel = KERNELS.get(operation.type)
            if kernel is None:
                raise UnsupportedError(f"timmx does not evaluate {operation}.")
            _check_parameters(operation, kernel)
            fixed = {
                name: _python_value([program.constants[name] for name in names], operation, kernel, name)
                for name, names in operation.arguments.items()
                if not kernel.parameters[name].kind.startswith("Tensor")
                and set(names) <= set(program.constants)
            }
            constant = operation.type.startswith(_CONSTANT_EXPRESSION)
            used = {name for names in operation.arguments.values() for name in names}
            if constant:
                if not used <= constants:
                    raise ArtifactError(f"A compressed weight, {operation}, depends on what is no constant.")
                constants |= {output.name for output in operation.outputs}
            used |= {output.name for output in operation.outputs}
            free = tuple(name for name in used if name not in constants and last_use[name] == index)
            steps.append(_Step(operation, kernel, fixed, free, constant))
        return steps

    def _execute(self, step: _Step, values: dict[str, Any]) -> dict[str, Any]:
        operation, kernel = step.operation, step.kernel
        arguments = dict(step.fixed)
        for parameter, names in operation.arguments.items():
            if parameter not in arguments:
                arguments[parameter] = self._argument(kernel, parameter, names, values, operation)
        if kernel.opset:
            arguments["opset"] = self._opset
        alike = [name for parameter in kernel.alike for name in operation.arguments.get(parameter, ())]
        dtypes = {self._stored(name, values).dtype for name in alike}
        if len(dtypes) > 1:
            raise ArtifactError(
                f"The ML program contradicts itself: {operation} joins {', '.join(sorted(map(str, dtypes)))}."
            )
        try:
            results = kernel.function(**arguments)
        except NotImplementedError as exc:  # a RuntimeError, so it comes first; torch raises it as well
            raise UnsupportedError(f"timmx does not evaluate {operation}: {exc}") from exc
        except (RuntimeError, LookupError, ValueError, ArithmeticError) as exc:
            raise ArtifactError(f"The ML program contradicts itself in {operation}: {exc}") from exc
        results = results if isinstance(results, list | tuple) else [results]
        if len(results) != len(operation.outputs):
            raise ArtifactError(
                f"The ML program contradicts itself in {operation}: it declares {len(operation.outputs)} results, "
                f"and {len(results)} were computed."
            )
        computed = {}
        for index, (output, result) in enumerate(zip(operation.outputs, results, strict=True)):
            if output.type is None or not isinstance(result, torch.Tensor):
                computed[output.name] = result
                continue
            wanted = kernel.results[index if len(kernel.results) > 1 else 0]
            dtype = self._result_dtype(wanted, step, values)
            rounded = _cast(result, dtype)
            _check_type(rounded, output.type, operation, output.name)
            if dtype == torch.float16 and not kernel.raw:
                self._watch(step, output.name, result, values)
            computed[output.name] = rounded
        return computed

    def _argument(
        self,
        kernel: Kernel,
        parameter: str,
        names: tuple[str, ...],
        values: dict[str, Any],
        operation: Operation,
    ) -> Any:
        described = kernel.parameters[parameter]
        read: Callable[[str, dict[str, Any]], Any] = self._movable if kernel.raw else self._wide
        if described.kind == "Tensors":
            return [read(name, values) for name in names]
        if described.kind == "Tensor":
            return read(names[0], values)
        return _python_value([self._stored(name, values) for name in names], operation, kernel, parameter)

    def _stored(self, name: str, values: dict[str, Any]) -> Any:
        """A value in the dtype that the program declares."""
        value = values[name] if name in values else self._constants[name]
        return value.tensor() if isinstance(value, Blob) else value

    def _movable(self, name: str, values: dict[str, Any]) -> Any:
        """A value as it is stored, unless torch can do next to nothing with its dtype."""
        value = self._stored(name, values)
        return _widen(value) if isinstance(value, torch.Tensor) and value.dtype in _UNSIGNED else value

    def _wide(self, name: str, values: dict[str, Any]) -> Any:
        """A value widened for computing. Constants stay widened: 4 bytes for each weight of the model."""
        if name in self._widened:
            return self._widened[name]
        value = self._stored(name, values)
        if not isinstance(value, torch.Tensor):
            return value
        wide = _widen(value)
        if name in self._constants and wide is not value and wide.is_floating_point():
            self._widened[name] = wide
        return wide

    def _result_dtype(self, wanted: Result, step: _Step, values: dict[str, Any]) -> torch.dtype:
        """What a result's data type is by the operation's definition, whatever the file declares."""
        if isinstance(wanted, torch.dtype):
            return wanted
        names = wanted.split("|")
        arguments = step.operation.arguments
        variable = [name for name in names if name in arguments and arguments[name][0] not in self._constants]
        parameter = variable[0] if variable else names[0]
        described = step.kernel.parameters[parameter]
        if described.kind == "str":
            return dtype_named(step.fixed.get(parameter, described.default), str(step.operation))
        if parameter not in arguments:
            return torch.float32
        value = self._stored(arguments[parameter][0], values)
        dtype: torch.dtype = value.dtype
        return dtype

    def _watch(self, step: _Step, name: str, result: torch.Tensor, values: dict[str, Any]) -> None:
        """Note a float16 result that is large. `result` is not yet rounded."""
        if result.numel() == 0:
            return
        low, high = torch.aminmax(result)
        largest = max(-float(low), float(high))
        if largest < _LARGE:
            return
        overflowed = not largest < _FLOAT16_MAX + 16  # 65520 and more round to infinity, and NaN is not less
        if overflowed and not self._finite_arguments(step, values):
            return
        before = self._large.get(name)
        if before is not None:
            overflowed = overflowed or before.overflowed
            largest = max(largest, before.largest)
        largest = math.inf if math.isnan(largest) else largest
        self._large[name] = LargeValue(name, step.operation.type, largest, overflowed)

    def _finite_arguments(self, step: _Step, values: dict[str, Any]) -> bool:
        names = {name for names in step.operation.arguments.values() for name in names}
        tensors = [self._stored(name, values) for name in names]
        return all(
            bool(torch.isfinite(tensor).all())
            for tensor in tensors
            if isinstance(tensor, torch.Tensor) and tensor.is_floating_point()
        )

    def _checked(self, inputs: Mapping[str, torch.Tensor]) -> Mapping[str, torch.Tensor]:
        if set(inputs) != set(self.inputs):
            raise ConfigurationError(
                f"The ML program takes the inputs {', '.join(self.inputs)}, and was given {', '.join(inputs)}."
            )
        for name, (dtype, shape) in self.inputs.items():
            given = inputs[name]
            if given.dtype != dtype or not _fits(given.shape, shape):
                raise ConfigurationError(
                    f"The input {name} is {_say(dtype, shape)}, and was given {_say(given.dtype, given.shape)}."
                )
        return inputs


def _check_parameters(operation: Operation, kernel: Kernel) -> None:
    for name, names in operation.arguments.items():
        if name not in kernel.parameters:
            raise UnsupportedError(f"timmx does not know the parameter {name} of {operation}.")
        if not names or (len(names) > 1 and kernel.parameters[name].kind not in _SEVERAL):
            raise ArtifactError(f"The parameter {name} of {operation} has {len(names)} values.")
    for name, parameter in kernel.parameters.items():
        if parameter.required and name not in operation.arguments:
            raise ArtifactError(f"The parameter {name} of {operation} is missing.")


def _python_value(values: list[Any], operation: Operation, kernel: Kernel, name: str) -> Any:
    """Constants, or small tensors, as what the parameter's annotation asks for."""
    plain = [value.tensor() if isinstance(value, Blob) else value for value in values]
    plain = [value.tolist() if isinstance(value, torch.Tensor) else value for value in plain]
    kind = kernel.parameters[name].kind
    value = plain if kind in _SEVERAL else plain[0]
    of, is_list = _PYTHON_KINDS[kind]
    items = value if is_list else [value]
    # A bool is an int to Python, and is none here.
    if not isinstance(items, list) or not all(type(item) in of for item in items):
        raise ArtifactError(f"The parameter {name} of {operation} should be {kind}, and is {value!r}.")
    return value


def _widen(value: torch.Tensor) -> torch.Tensor:
    if value.dtype in (torch.float32, torch.bool, torch.int64):
        return value
    return value.to(torch.float32 if value.is_floating_point() else torch.int64)


def _cast(value: torch.Tensor, dtype: torch.dtype) -> torch.Tensor:
    """As MIL's types convert: floats to integers towards zero, integers wrap around."""
    if value.dtype == dtype:
        return value
    if value.is_floating_point() and not dtype.is_floating_point and dtype != torch.bool:
        value = value.to(torch.int64)
    return value.to(dtype)


def _check_type(value: torch.Tensor, declared: TensorType, operation: Operation, name: str) -> None:
    kind = declared.data_type.torch
    if value.dtype != kind or (declared.shape is not None and not _fits(value.shape, declared.shape)):
        raise ArtifactError(
            f"The ML program contradicts itself: {operation} declares {name} as {_say(kind, declared.shape)}, "
            f"and computes {_say(value.dtype, value.shape)}."
        )


def _fits(shape: torch.Size, declared: tuple[int | None, ...]) -> bool:
    return len(shape) == len(declared) and all(
        want is None or have == want for have, want in zip(shape, declared, strict=True)
    )


def _say(dtype: torch.dtype, shape: tuple[int | None, ...] | torch.Size | None) -> str:
    sizes = "any shape" if shape is None else f"({', '.join('?' if s is None else str(s) for s in shape)})"
    return f"{str(dtype).removeprefix('torch.')} {sizes}"

"""Runs a MIL program with torch, in the arithmetic that the program declares."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import torch
from timmx.plugin import ConfigurationError

from timmx_coreml.errors import damaged, not_evaluated
from timmx_coreml.mil.blobs import Blob
from timmx_coreml.mil.data_types import dtype_named
from timmx_coreml.mil.large_values import LargeValue, Watch
from timmx_coreml.mil.operations import KERNELS, Kernel
from timmx_coreml.mil.program import Operation, Program, read_program
from timmx_coreml.mil.values import cast, check_parameters, check_type, fits, python_value, type_text, widen

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping, Sequence
    from pathlib import Path

    from timmx_coreml.mil.operations.registry import Result

_CONSTANT_EXPRESSION = "constexpr_"


@dataclass(frozen=True, kw_only=True)
class _Step:
    """An operation with its kernel.

    Attributes:
        operation: the operation of the program.
        kernel: its implementation.
        fixed: the parameters that are constant Python values.
        free: names of variables that no later step uses.
        constant: whether it computes a constant, the dense value of a compressed weight.
    """

    operation: Operation
    kernel: Kernel
    fixed: dict[str, Any]
    free: tuple[str, ...]
    constant: bool


class MilEvaluator:
    """Evaluates the function `main` of an ML program.

    Float16 results are rounded to float16 after every operation; sums inside an operation are float32.

    Args:
        model: a `Model_pb2.Model` with an ML program.
        weights: the folder that `@model_path` stands for, which contains `model.mlmodel`.

    Attributes:
        inputs: dtype and shape by name; None for a dynamic dimension.
        outputs: names, in order.
        intermediates: names of the tensors that operations compute while the program runs, in order.

    Raises:
        ArtifactError: a file is damaged or missing, or the program is inconsistent.
        UnsupportedError: timmx cannot evaluate an operation, a parameter or a form of data.
    """

    def __init__(self, model: Any, weights: Path | None) -> None:
        program = read_program(model, weights)
        self.inputs: dict[str, tuple[torch.dtype, tuple[int | None, ...]]] = {}
        for variable in program.inputs:
            if variable.type is None or variable.type.shape is None:
                raise not_evaluated(
                    f"timmx cannot evaluate the ML program: its input {variable.name} has no rank"
                )
            self.inputs[variable.name] = (variable.type.data_type.torch, variable.type.shape)
        self.outputs = program.outputs
        self._opset = program.opset
        self._constants: dict[str, Any] = program.constants
        self._widened: dict[str, torch.Tensor] = {}
        self._steps = self._prepare(program)
        self.intermediates = tuple(
            output.name
            for step in self._steps
            if not step.constant
            for output in step.operation.outputs
            if output.type is not None
        )
        self._watch = Watch(output.name for step in self._steps for output in step.operation.outputs)

    @property
    def large_values(self) -> list[LargeValue]:
        """The operations whose float16 results overflowed or came within a factor of 4 of 65504, in program order."""
        return self._watch.large_values

    def run(self, inputs: Mapping[str, torch.Tensor], names: Sequence[str] | None = None) -> dict[str, Any]:
        """Evaluate the program once.

        Args:
            inputs: a tensor for each of `self.inputs`.
            names: what to return, of `self.outputs` and `self.intermediates`; the outputs by default.

        Returns:
            Tensors by name; for a classifier also the label, a string or int, and a dictionary from label to
            probability.

        Raises:
            ConfigurationError: an input is missing, unknown, or not of the declared type.
            ArtifactError: an operation's result does not have the declared type.
        """
        values: dict[str, Any] = dict(self._check(inputs))
        names = self.outputs if names is None else names
        with torch.inference_mode():
            for step in self._steps:
                if step.constant:
                    if step.operation.outputs[0].name not in self._constants:
                        self._constants.update(self._execute(step, {}))
                    continue
                values.update(self._execute(step, values))
                for name in step.free:
                    if name not in names:
                        del values[name]
            return {name: self._value(name, values) for name in names}

    @property
    def separate_operations(self) -> dict[str, tuple[Operation, tuple[str, ...]]]:
        """The operations that compute tensors, in order, by the name of their first result; and what varies of their
        arguments."""
        constants = {*self._constants}
        constants.update(
            output.name for step in self._steps if step.constant for output in step.operation.outputs
        )
        found = {}
        for step in self._steps:
            if not step.constant:
                names = [name for names in step.operation.arguments.values() for name in names]
                varying = tuple(dict.fromkeys(name for name in names if name not in constants))
                found[step.operation.outputs[0].name] = step.operation, varying
        return found

    def run_operation(self, name: str, inputs: Mapping[str, torch.Tensor]) -> dict[str, Any]:
        """Evaluate one of `separate_operations`, given what varies of its arguments."""
        with torch.inference_mode():
            for step in self._steps:
                if step.constant and step.operation.outputs[0].name not in self._constants:
                    self._constants.update(self._execute(step, {}))
            step = next(
                item for item in self._steps if not item.constant and item.operation.outputs[0].name == name
            )
            return self._execute(step, dict(inputs))

    def close(self) -> None:
        """Release the weights."""
        self._constants = {}
        self._widened = {}
        self._steps = []

    def _prepare(self, program: Program) -> list[_Step]:
        """Bind every operation to its kernel, and find the last use of each variable."""
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
                raise not_evaluated(f"timmx cannot evaluate {operation}")
            check_parameters(operation, kernel)
            fixed = {
                name: python_value([program.constants[name] for name in names], operation, kernel, name)
                for name, names in operation.arguments.items()
                if not kernel.parameters[name].kind.startswith("Tensor")
                and set(names) <= set(program.constants)
            }
            constant = operation.type.startswith(_CONSTANT_EXPRESSION)
            variables = {name for names in operation.arguments.values() for name in names}
            if constant:
                if not variables <= constants:
                    raise damaged(
                        f"the compressed weight of {operation} depends on a value that is not constant"
                    )
                constants |= {output.name for output in operation.outputs}
            variables |= {output.name for output in operation.outputs}
            free = tuple(name for name in variables if name not in constants and last_use[name] == index)
            steps.append(_Step(operation=operation, kernel=kernel, fixed=fixed, free=free, constant=constant))
        return steps

    def _execute(self, step: _Step, values: dict[str, Any]) -> dict[str, Any]:
        operation, kernel = step.operation, step.kernel
        arguments = dict(step.fixed)
        for parameter, names in operation.arguments.items():
            if parameter not in arguments:
                arguments[parameter] = self._argument(kernel, parameter, names, values, operation)
        if kernel.opset:
            arguments["opset"] = self._opset
        self._check_alike(operation, kernel, values)
        try:
            results = kernel.function(**arguments)
        except NotImplementedError as exc:  # before its base class RuntimeError; torch raises it too
            raise not_evaluated(f"timmx cannot evaluate {operation}: {exc}") from exc
        except (RuntimeError, LookupError, ValueError, ArithmeticError) as exc:
            raise damaged(f"the ML program is invalid: {operation} cannot be computed: {exc}") from exc
        results = results if isinstance(results, list | tuple) else [results]
        if len(results) != len(operation.outputs):
            raise damaged(
                f"the ML program is invalid: {operation} declares {len(operation.outputs)} results, but computes "
                f"{len(results)}"
            )
        computed = {}
        for index, (output, result) in enumerate(zip(operation.outputs, results, strict=True)):
            if not isinstance(result, torch.Tensor):  # a classifier's label and probabilities
                computed[output.name] = result
                continue
            if output.type is None:
                raise damaged(f"the ML program is invalid: {operation} does not declare a tensor")
            definition = kernel.results[index if len(kernel.results) > 1 else 0]
            dtype = self._result_dtype(definition, step, values)
            rounded = cast(result, dtype)
            check_type(rounded, output.type, operation, output.name)
            if dtype == torch.float16 and not kernel.raw:
                self._watch.record(
                    output.name, operation.type, result, lambda: self._float_arguments(operation, values)
                )
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
        kind = kernel.parameters[parameter].kind
        if kind in ("Tensor", "Tensors"):
            read = self._movable if kernel.raw else self._wide
            tensors = [read(name, values) for name in names]
            if not all(isinstance(tensor, torch.Tensor) for tensor in tensors):
                raise damaged(f"the parameter {parameter} of {operation} is not a tensor")
            return tensors if kind == "Tensors" else tensors[0]
        return python_value([self._value(name, values) for name in names], operation, kernel, parameter)

    def _check_alike(self, operation: Operation, kernel: Kernel, values: dict[str, Any]) -> None:
        """Refuse operands of different data types if MIL requires one."""
        alike = [name for parameter in kernel.alike for name in operation.arguments.get(parameter, ())]
        dtypes = {self._value(name, values).dtype for name in alike}
        if len(dtypes) > 1:
            raise damaged(
                f"the ML program is invalid: {operation} combines {' and '.join(sorted(map(str, dtypes)))}"
            )

    def _float_arguments(self, operation: Operation, values: dict[str, Any]) -> Iterator[torch.Tensor]:
        for name in {name for names in operation.arguments.values() for name in names}:
            value = self._value(name, values)
            if isinstance(value, torch.Tensor) and value.is_floating_point():
                yield value

    def _value(self, name: str, values: dict[str, Any]) -> Any:
        """Return a value in the dtype that the program declares."""
        value = values[name] if name in values else self._constants[name]
        return value.tensor() if isinstance(value, Blob) else value

    def _movable(self, name: str, values: dict[str, Any]) -> Any:
        """Return a value in its declared dtype, or widened if torch supports few operations on that dtype."""
        value = self._value(name, values)
        return (
            widen(value)
            if isinstance(value, torch.Tensor) and value.dtype in (torch.uint16, torch.uint32)
            else value
        )

    def _wide(self, name: str, values: dict[str, Any]) -> Any:
        """Return a value widened for computing. Widened constants are kept: 4 bytes per weight of the model."""
        if name in self._widened:
            return self._widened[name]
        value = self._value(name, values)
        if not isinstance(value, torch.Tensor):
            return value
        wide = widen(value)
        if name in self._constants and wide is not value and wide.is_floating_point():
            self._widened[name] = wide
        return wide

    def _result_dtype(self, result: Result, step: _Step, values: dict[str, Any]) -> torch.dtype:
        """Return a result's data type by the operation's definition, whatever the file declares."""
        if isinstance(result, torch.dtype):
            return result
        names = result.split("|")
        arguments = step.operation.arguments
        variables = [
            name for name in names if name in arguments and arguments[name][0] not in self._constants
        ]
        parameter = variables[0] if variables else names[0]
        definition = step.kernel.parameters[parameter]
        if definition.kind == "str":
            return dtype_named(step.fixed.get(parameter, definition.default), str(step.operation))
        if parameter not in arguments:
            return torch.float32
        value = self._value(arguments[parameter][0], values)
        dtype: torch.dtype = value.dtype
        return dtype

    def _check(self, inputs: Mapping[str, torch.Tensor]) -> Mapping[str, torch.Tensor]:
        if set(inputs) != set(self.inputs):
            raise ConfigurationError(
                f"the ML program takes the inputs {', '.join(self.inputs)}, not {', '.join(inputs) or 'none'}"
            )
        for name, (dtype, shape) in self.inputs.items():
            value = inputs[name]
            if value.dtype != dtype or not fits(value.shape, shape):
                raise ConfigurationError(
                    f"the input {name} must be {type_text(dtype, shape)}, not {type_text(value.dtype, value.shape)}"
                )
        return inputs

"""Small MIL programs that coremltools writes and timmx's evaluator reads."""

from __future__ import annotations

import warnings
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any

import numpy as np
import torch

if TYPE_CHECKING:
    from collections.abc import Callable
    from pathlib import Path

    from timmx_coreml.mil import MilEvaluator

_INPUTS = (np.float32, np.float16, np.int32)
"""The dtypes of a saved program's inputs and outputs; others are cast in the program."""


@dataclass(frozen=True)
class Case:
    """One operation with its inputs and expected results.

    Attributes:
        name: the name of the test.
        build: takes coremltools' builder and a variable per input; returns one variable or several.
        inputs: the values of the inputs.
        expected: the results; None to take them from coremltools' `value_inference`.
        target: the deployment target, whose opset the program is written in.
    """

    name: str
    build: Callable[..., Any]
    inputs: tuple[np.ndarray, ...]
    expected: Any = None
    target: str = "iOS16"

    def __str__(self) -> str:
        return f"{self.name}-{self.target}"


def evaluate(cases: list[Case], folder: Path) -> dict[str, list[tuple[Any, Any]]]:
    """Return pairs of computed and expected results by case; one program per deployment target."""
    from coremltools.converters.mil.mil import types

    results: dict[str, list[tuple[Any, Any]]] = {}
    for target in sorted({case.target for case in cases}):
        chosen = [case for case in cases if case.target == target]
        inputs = {
            f"case{index}_input{place}": array if array.dtype in _INPUTS else array.astype(np.int32)
            for index, case in enumerate(chosen)
            for place, array in enumerate(case.inputs)
        }
        names: list[list[str]] = []

        def build(mb: Any, **variables: Any) -> list[Any]:
            outputs = []
            for index, case in enumerate(chosen):  # noqa: B023 - called in the same iteration
                arguments = [variables[f"case{index}_input{place}"] for place in range(len(case.inputs))]
                arguments = [
                    mb.cast(x=one, dtype=str(array.dtype)) if array.dtype not in _INPUTS else one
                    for one, array in zip(arguments, case.inputs, strict=True)
                ]
                values = _several(case.build(mb, *arguments))
                # A separate operation gives each result a unique name.
                values = [
                    mb.identity(x=one, name=f"case{index}_{place}")
                    if types.nptype_from_builtin(one.dtype) in _INPUTS
                    else mb.cast(x=one, dtype="int32", name=f"case{index}_{place}")
                    for place, one in enumerate(values)
                ]
                names.append([one.name for one in values])  # noqa: B023
                outputs += values
            return outputs

        evaluator = save_and_open(build, inputs, folder / f"{target}.mlpackage", target)
        computed = evaluator.run({name: torch.from_numpy(array) for name, array in inputs.items()})
        for case, outputs in zip(chosen, names, strict=True):
            expected = infer(case) if case.expected is None else _several(case.expected)
            results[str(case)] = list(
                zip((computed[name].numpy() for name in outputs), expected, strict=True)
            )
    return results


def half(case: Case) -> Case:
    """The case with float16 inputs; for iOS 17, which lets parameters stay float32."""
    inputs = tuple(array.astype(np.float16) if array.dtype == np.float32 else array for array in case.inputs)
    return replace(case, name=f"{case.name}-half", inputs=inputs, target="iOS17")


def infer(case: Case) -> list[Any]:
    """Return what coremltools infers for the case, in numpy and float32."""
    import coremltools as ct
    from coremltools.converters.mil import Builder as mb  # noqa: N813
    from coremltools.converters.mil.mil import Function

    # Copies: some inferences write into their inputs.
    inputs = [array.astype(np.float32 if array.dtype == np.float16 else array.dtype) for array in case.inputs]
    with Function({}, opset_version=getattr(ct.target, case.target)):
        values = _several(case.build(mb, *(mb.const(val=array) for array in inputs)))
    assert all(one.val is not None for one in values), f"coremltools does not infer {case}"
    return [one.val for one in values]


def program(build: Callable[..., Any], inputs: dict[str, Any], target: str) -> Any:
    """Build a program with coremltools; `inputs` are arrays, or shapes of float32."""
    import coremltools as ct
    from coremltools.converters.mil import Builder as mb  # noqa: N813
    from coremltools.converters.mil.mil import Function, Program
    from coremltools.converters.mil.mil.types.type_mapping import numpy_type_to_builtin_type

    placeholders = {
        name: mb.placeholder(value.shape, numpy_type_to_builtin_type(value.dtype))
        if isinstance(value, np.ndarray)
        else mb.placeholder(value)
        for name, value in inputs.items()
    }
    result = Program()
    with Function(placeholders, opset_version=getattr(ct.target, target)) as function:
        function.set_outputs(_several(build(mb, **function.inputs)))
        result.add_function("main", function)
    return result


def save(program: Any, path: Path, target: str, **options: Any) -> None:
    """Write a program without coremltools' optimizer, so that every operation stays."""
    import coremltools as ct

    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        model = ct.convert(
            program,
            source="milinternal",
            convert_to="mlprogram",
            minimum_deployment_target=getattr(ct.target, target),
            compute_precision=ct.precision.FLOAT32,
            pass_pipeline=ct.PassPipeline.EMPTY,
            skip_model_load=True,
            **options,
        )
        model.save(str(path))


def save_and_open(build: Callable[..., Any], inputs: dict[str, Any], path: Path, target: str) -> MilEvaluator:
    """Save the program that `build` defines and return its evaluator."""
    save(program(build, inputs, target), path, target)
    return open_package(path)


def open_package(package: Path) -> MilEvaluator:
    """Return the evaluator of a saved `.mlpackage`."""
    from timmx_coreml.mil import MilEvaluator

    folder = package / "Data" / "com.apple.CoreML"
    return MilEvaluator(parse_package(package), folder)


def parse_package(package: Path) -> Any:
    """Return the protobuf of a saved `.mlpackage`."""
    from timmx_coreml.schema import schema

    model = schema("Model_pb2").Model()
    model.ParseFromString((package / "Data" / "com.apple.CoreML" / "model.mlmodel").read_bytes())
    return model


def _several(result: Any) -> list[Any]:
    return list(result) if isinstance(result, list | tuple) else [result]

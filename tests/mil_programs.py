"""Small MIL programs, written by coremltools, saved, and read back by our evaluator."""

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
"""What a saved program's inputs and outputs may be; other dtypes are cast inside."""


@dataclass(frozen=True)
class Case:
    """One operation on given inputs.

    Attributes:
        name: of the test.
        build: takes coremltools' builder and a variable for each input; gives a variable or several.
        inputs: values.
        expected: the results; None where coremltools' own `value_inference` is asked for them.
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
    """Each case's results beside what is expected; one program for each deployment target."""
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
            for index, case in enumerate(chosen):  # noqa: B023 - called within the loop's turn
                given = [variables[f"case{index}_input{place}"] for place in range(len(case.inputs))]
                given = [
                    mb.cast(x=one, dtype=str(array.dtype)) if array.dtype not in _INPUTS else one
                    for one, array in zip(given, case.inputs, strict=True)
                ]
                made = _several(case.build(mb, *given))
                # An operation of its own gives the result a name that no other case has.
                made = [
                    mb.identity(x=one, name=f"case{index}_{place}")
                    if types.nptype_from_builtin(one.dtype) in _INPUTS
                    else mb.cast(x=one, dtype="int32", name=f"case{index}_{place}")
                    for place, one in enumerate(made)
                ]
                names.append([one.name for one in made])  # noqa: B023
                outputs += made
            return outputs

        evaluator = saved(build, inputs, folder / f"{target}.mlpackage", target)
        computed = evaluator.run({name: torch.from_numpy(array) for name, array in inputs.items()})
        for case, outputs in zip(chosen, names, strict=True):
            expected = inferred(case) if case.expected is None else _several(case.expected)
            results[str(case)] = list(
                zip((computed[name].numpy() for name in outputs), expected, strict=True)
            )
    return results


def half(case: Case) -> Case:
    """The case with float16 inputs; for iOS 17, which lets parameters stay float32."""
    inputs = tuple(array.astype(np.float16) if array.dtype == np.float32 else array for array in case.inputs)
    return replace(case, name=f"{case.name}-half", inputs=inputs, target="iOS17")


def inferred(case: Case) -> list[Any]:
    """What coremltools computes for the case by itself, in numpy and float32."""
    import coremltools as ct
    from coremltools.converters.mil import Builder as mb  # noqa: N813
    from coremltools.converters.mil.mil import Function

    # Copies: some inferences write into what they are given.
    inputs = [array.astype(np.float32 if array.dtype == np.float16 else array.dtype) for array in case.inputs]
    with Function({}, opset_version=getattr(ct.target, case.target)):
        made = _several(case.build(mb, *(mb.const(val=array) for array in inputs)))
    assert all(one.val is not None for one in made), f"coremltools does not infer {case}"
    return [one.val for one in made]


def program(build: Callable[..., Any], inputs: dict[str, Any], target: str) -> Any:
    """A program of coremltools' own making; `inputs` are arrays, or shapes of float32."""
    import coremltools as ct
    from coremltools.converters.mil import Builder as mb  # noqa: N813
    from coremltools.converters.mil.mil import Function, Program
    from coremltools.converters.mil.mil.types.type_mapping import numpy_type_to_builtin_type

    placeholders = {
        name: mb.placeholder(given.shape, numpy_type_to_builtin_type(given.dtype))
        if isinstance(given, np.ndarray)
        else mb.placeholder(given)
        for name, given in inputs.items()
    }
    made = Program()
    with Function(placeholders, opset_version=getattr(ct.target, target)) as function:
        function.set_outputs(_several(build(mb, **function.inputs)))
        made.add_function("main", function)
    return made


def save(made: Any, path: Path, target: str, **options: Any) -> None:
    """Write a program with no pass of coremltools' optimizer, so that every operation stays."""
    import coremltools as ct

    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        model = ct.convert(
            made,
            source="milinternal",
            convert_to="mlprogram",
            minimum_deployment_target=getattr(ct.target, target),
            compute_precision=ct.precision.FLOAT32,
            pass_pipeline=ct.PassPipeline.EMPTY,
            skip_model_load=True,
            **options,
        )
        model.save(str(path))


def saved(build: Callable[..., Any], inputs: dict[str, Any], path: Path, target: str) -> MilEvaluator:
    """The evaluator of a program that `build` makes."""
    save(program(build, inputs, target), path, target)
    return opened(path)


def opened(package: Path) -> MilEvaluator:
    """The evaluator of a saved `.mlpackage`."""
    from timmx_coreml.mil import MilEvaluator

    folder = package / "Data" / "com.apple.CoreML"
    return MilEvaluator(parsed(package), folder)


def parsed(package: Path) -> Any:
    """The model's protobuf of a saved `.mlpackage`."""
    from timmx_coreml.schema import schema

    model = schema("Model_pb2").Model()
    model.ParseFromString((package / "Data" / "com.apple.CoreML" / "model.mlmodel").read_bytes())
    return model


def _several(made: Any) -> list[Any]:
    return list(made) if isinstance(made, list | tuple) else [made]

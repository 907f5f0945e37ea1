"""Small `neuralnetwork` models that coremltools writes: MIL programs, single layers and timm models."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import coremltools as ct
import numpy as np
import torch
from coremltools.converters.mil import Builder as mb  # noqa: N813 - coremltools' customary name
from coremltools.models.datatypes import Array
from coremltools.models.neural_network import NeuralNetworkBuilder
from timmx.base.snr import SignalToNoise
from timmx.capture.trace import capture
from timmx_coreml.convert import validation_per_pipeline
from timmx_coreml.neural_network import NeuralNetworkEvaluator

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping, Sequence

_NO_OPERATIONS = ("aten.alias.default", "aten.clone.default", "aten.detach.default", "aten.detach_.default")


def from_mil(operation: Callable[..., Any], *shapes: Sequence[int]) -> Any:
    """Convert a MIL function, whose parameters are inputs of these shapes, and return the specification."""
    specs = [mb.TensorSpec(shape=tuple(shape)) for shape in shapes]
    program = mb.program(input_specs=specs, opset_version=ct.target.iOS14)(operation)
    return ct.convert(program, convert_to="neuralnetwork").get_spec()


def by_hand(add: Callable[[NeuralNetworkBuilder], Any], *shapes: Sequence[int], outputs: int = 1) -> Any:
    """Return the specification of layers that `add` adds, from `x0`, `x1`, ... to `y` (or `y0`, `y1`, ...)."""
    names = ["y"] if outputs == 1 else [f"y{i}" for i in range(outputs)]
    builder = NeuralNetworkBuilder(
        [(f"x{i}", Array(*shape)) for i, shape in enumerate(shapes)],
        [(name, None) for name in names],
        disable_rank5_shape_mapping=True,
    )
    add(builder)
    return builder.spec


def evaluate(spec: Any, *arrays: Any) -> Any:
    """Return the only output of a model, or a tuple of outputs, as numpy arrays."""
    evaluator = NeuralNetworkEvaluator(spec)
    results = evaluator.run(dict(zip(evaluator.inputs, map(tensor, arrays), strict=True)))
    values = tuple(results[name].numpy() for name in evaluator.outputs)
    return values[0] if len(values) == 1 else values


def evaluate_all(operations: Mapping[str, Callable[..., Any]], *arrays: Any) -> dict[str, Any]:
    """Return the outputs of MIL operations on the same one or two inputs, by name, from one conversion."""

    def outputs(*inputs: Any) -> list[Any]:
        return [_as_float(operation(*inputs)) for operation in operations.values()]

    program = (lambda x: outputs(x)) if len(arrays) == 1 else (lambda x, y: outputs(x, y))
    values = evaluate(from_mil(program, *(array.shape for array in arrays)), *arrays)
    return dict(zip(operations, values, strict=True))


def _as_float(result: Any) -> Any:
    return mb.cast(x=result, dtype="fp32") if result.dtype.__name__ in ("bool", "int32") else result


def tensor(array: Any) -> torch.Tensor:
    return torch.as_tensor(np.asarray(array), dtype=torch.float32)


def random(*shape: int, seed: int = 0) -> Any:
    return np.random.default_rng(seed).standard_normal(shape).astype(np.float32)


@validation_per_pipeline()
def convert(model: torch.nn.Module, *, batch: int = 1, dynamic: bool = False, **options: Any) -> Any:
    """Convert a timm model to an `MLModel` of the kind neuralnetwork."""
    size = input_size(model)
    program = capture(model, torch.zeros(2 if dynamic else batch, *size), dynamic=dynamic)
    program = program.run_decompositions({})
    graph = program.graph_module.graph
    for node in list(graph.nodes):
        if str(node.target) in _NO_OPERATIONS:
            node.replace_all_uses_with(node.args[0])
            graph.erase_node(node)
    return ct.convert(program, convert_to="neuralnetwork", **options)


def input_size(model: Any) -> tuple[int, int, int]:
    size = model.pretrained_cfg["input_size"]
    return (size[0], *(getattr(getattr(model, "patch_embed", None), "img_size", None) or size[1:]))


def snr_db(model: torch.nn.Module, spec: Any, batches: Sequence[int] = (1, 1, 1, 1)) -> float:
    """Return the signal-to-noise ratio of the file's outputs against the model's."""
    evaluator = NeuralNetworkEvaluator(spec)
    ((name, _feature),) = evaluator.inputs.items()
    figures = SignalToNoise()
    for seed, batch in enumerate(batches):
        images = tensor(random(batch, *input_size(model), seed=seed))
        with torch.no_grad():
            expected = model(images)
        (output,) = evaluator.run({name: images}).values()
        figures.update(expected.numpy(), output.numpy())
    return figures.snr_db

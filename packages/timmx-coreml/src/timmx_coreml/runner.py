"""Opens and runs a Core ML file: with Core ML on macOS, with timmx's own evaluators elsewhere."""

from __future__ import annotations

import sys
from functools import cached_property
from typing import TYPE_CHECKING, Any, Protocol

import numpy as np
import torch
from timmx.plugin import ArtifactError, Metadata, Runner, TensorSpec, UnsupportedError

from timmx_coreml.errors import DAMAGE, not_readable
from timmx_coreml.features import ARRAY_DTYPES, Feature, read_input
from timmx_coreml.options import ComputeUnits
from timmx_coreml.package import CoreMLFile, class_labels, metadata_of, read, refuse_custom_layers

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence
    from pathlib import Path

    from timmx.plugin import SeparateOperations

    from timmx_coreml.mil import MilEvaluator
    from timmx_coreml.neural_network import NeuralNetworkEvaluator

_LAYOUTS = {4: "NCHW", 3: "NLC", 2: "NC"}
_NAMED_OPERATIONS = 5
"""The number of operations that a note about large values names."""


class Engine(Protocol):
    """Computes all outputs of a model from its inputs."""

    name: str
    intermediates: tuple[str, ...]

    def run(self, feeds: Mapping[str, np.ndarray]) -> dict[str, Any]:
        """Run the model.

        Args:
            feeds: arrays by input name; (1, C, H, W) uint8 pixels for an image.

        Returns:
            Arrays by output name; for a classifier a label and a dictionary of probabilities.
        """

    def run_intermediates(
        self, feeds: Mapping[str, np.ndarray], names: Sequence[str]
    ) -> dict[str, np.ndarray]:
        """Run the model and return some of `intermediates`."""

    def separate(self) -> SeparateOperations | None:
        """What runs the operations one by one; None if nothing does."""

    def notes(self) -> tuple[str, ...]:
        """Return notes about the runs so far."""

    def close(self) -> None: ...


def open_runner(path: Path, units: ComputeUnits = ComputeUnits.ALL) -> Runner:
    """Open a `.mlpackage` or `.mlmodel`.

    Args:
        units: the compute units that Core ML may use; macOS only.

    Raises:
        ArtifactError: it is not a Core ML model, or is damaged.
        UnsupportedError: timmx's evaluator does not support something in it.
    """
    file = read(path)
    refuse_custom_layers(file)
    if sys.platform != "darwin":
        try:
            return CoreMLRunner(file, Evaluator(file))
        except DAMAGE as exc:
            raise not_readable(path, exc) from exc
    from timmx_coreml.core_ml import CoreML

    return CoreMLRunner(file, CoreML(file, units))


class CoreMLRunner(Runner):
    """Runs a model with one input; all outputs are arrays.

    A classifier's dictionary of probabilities is returned as an array called `output`, in class order.
    """

    def __init__(self, file: CoreMLFile, engine: Engine) -> None:
        self._engine = engine
        self.engine = engine.name
        self.intermediates = engine.intermediates
        self._labels = class_labels(file)
        self._description = file.model.description
        (self._input, *more) = (read_input(described) for described in self._description.input)
        if more:
            raise ArtifactError(
                f"{file.path} takes {len(more) + 1} inputs; timmx opens models that take one image",
                hint="open it with coremltools",
            )
        shape: tuple[int | str, ...] = self._input.shape
        sizes = _batch_sizes(self._input)
        if sizes:
            shape = ("batch", *shape[1:])
            self.batch_sizes = sizes
        if self._input.colors == "BGR":
            raise UnsupportedError(
                f"{file.path} takes a BGR image; timmx opens models that take RGB or grayscale images",
                hint="open it with coremltools",
            )
        dtype = "uint8" if self._input.colors else _array_dtype(self._description.input[0])
        self.inputs = (
            TensorSpec(name=self._input.name, shape=shape, dtype=dtype, layout=_LAYOUTS.get(len(shape), "")),
        )
        content = metadata_of(file)
        metadata = Metadata.parse(file.path, content) if content else None
        self.outputs = self._outputs(shape[0], metadata)

    @property
    def notes(self) -> tuple[str, ...]:
        return self._engine.notes()

    def run(self, feeds: Mapping[str, np.ndarray]) -> dict[str, np.ndarray]:
        outputs = self._engine.run(self._check(feeds))
        if self._labels is None:
            return {name: np.asarray(value) for name, value in outputs.items()}
        probabilities = outputs[self._description.predictedProbabilitiesName]
        values = np.asarray([[probabilities[label] for label in self._labels]], np.float32)
        label = outputs[self._description.predictedFeatureName]
        if probabilities[label] < values.max():
            raise ArtifactError(
                f"the file predicts the class {label!r}, but another class has a higher value"
            )
        return {"output": values}

    def run_intermediates(
        self, feeds: Mapping[str, np.ndarray], names: Sequence[str]
    ) -> dict[str, np.ndarray]:
        if not self.intermediates:
            return super().run_intermediates(feeds, names)
        return self._engine.run_intermediates(self._check(feeds), names)

    @cached_property
    def separate(self) -> SeparateOperations | None:
        return self._engine.separate()

    def close(self) -> None:
        self._engine.close()

    def _check(self, feeds: Mapping[str, np.ndarray]) -> dict[str, np.ndarray]:
        name, value = self._input.name, feeds[self._input.name]
        self._input.check(value)
        if str(value.dtype) != self.inputs[0].dtype:
            raise TypeError(f"{name} is {value.dtype}; the file takes {self.inputs[0].dtype}.")
        return {name: value}

    def _outputs(self, batch: int | str, metadata: Metadata | None) -> tuple[TensorSpec, ...]:
        if self._labels is not None:
            return (TensorSpec(name="output", shape=(1, len(self._labels)), dtype="float32", layout="NC"),)
        shapes = {output.name: output.shape for output in metadata.outputs} if metadata else {}
        specs = []
        for described in self._description.output:
            # A neuralnetwork's outputs have no shape in the description, nor do outputs with a dynamic batch size.
            shape = tuple(described.type.multiArrayType.shape) or shapes.get(described.name, (batch,))
            specs.append(
                TensorSpec(
                    name=described.name,
                    shape=shape,
                    dtype=_array_dtype(described),
                    layout=_LAYOUTS.get(len(shape), ""),
                )
            )
        return tuple(specs)


class Evaluator:
    """timmx's own evaluators as the engine; the MIL evaluator also returns intermediate values."""

    intermediates: tuple[str, ...] = ()

    def __init__(self, file: CoreMLFile) -> None:
        if file.kind == "mlprogram":
            from timmx_coreml.mil import MilEvaluator

            self._mil: MilEvaluator | None = MilEvaluator(file.model, file.folder)
            self._network: NeuralNetworkEvaluator | None = None
            self._run: Any = self._mil.run
            self.intermediates = self._mil.intermediates
            self.name = "timmx's MIL evaluator"
        else:
            from timmx_coreml.neural_network import NeuralNetworkEvaluator

            self._mil = None
            self._network = NeuralNetworkEvaluator(file.model)
            self._run = self._network.run
            self.name = "timmx's neural network evaluator"

    def run(self, feeds: Mapping[str, np.ndarray]) -> dict[str, Any]:
        outputs = self._run(_tensors(feeds))
        return {
            name: value.numpy() if isinstance(value, torch.Tensor) else value
            for name, value in outputs.items()
        }

    def run_intermediates(
        self, feeds: Mapping[str, np.ndarray], names: Sequence[str]
    ) -> dict[str, np.ndarray]:
        values = self._run(_tensors(feeds), names)
        return {name: value.numpy() for name, value in values.items()}

    def separate(self) -> SeparateOperations | None:
        from timmx_coreml.operations import LayerOperations, MilOperations

        if self._mil is not None:
            return MilOperations(self._mil)
        return None if self._network is None else LayerOperations(self._network)

    def notes(self) -> tuple[str, ...]:
        """Return notes that name the operations whose float16 results overflow or nearly overflow."""
        if self._mil is None:
            return ()
        large = sorted(self._mil.large_values, key=lambda value: -value.largest)
        notes = []
        for values, what in (
            (
                [value for value in large if value.overflowed],
                "overflow float16, whose maximum is 65504",
            ),
            (
                [value for value in large if not value.overflowed],
                "come within a factor of 4 of float16's maximum, 65504",
            ),
        ):
            if values:
                names = ", ".join(
                    f"{value.name} ({value.op}, {value.largest:.3g})" for value in values[:_NAMED_OPERATIONS]
                )
                more = (
                    f" and {len(values) - _NAMED_OPERATIONS} more" if len(values) > _NAMED_OPERATIONS else ""
                )
                notes.append(
                    f"The results of {len(values)} operations {what}: {names}{more}. "
                    "Use --compute-precision float32."
                )
        return tuple(notes)

    def close(self) -> None:
        if self._mil is not None:
            self._mil.close()
        self._network = None
        self._run = _raise_closed


def _tensors(feeds: Mapping[str, np.ndarray]) -> dict[str, torch.Tensor]:
    tensors = {name: torch.from_numpy(value.copy()) for name, value in feeds.items()}
    return {
        name: value.float() if value.dtype == torch.uint8 else value  # pixels
        for name, value in tensors.items()
    }


def _raise_closed(*_feeds: Any) -> dict[str, Any]:
    raise RuntimeError("This runner is closed: open the file again.")


def _batch_sizes(feature: Feature) -> tuple[int, ...]:
    """Return the sizes of a dynamic batch to verify; empty if the batch size is fixed."""
    if feature.shapes:
        return tuple(sorted({shape[0] for shape in feature.shapes}))
    if feature.ranges:
        smallest, largest = feature.ranges[0]
        if largest is None:
            return (smallest, smallest + 1, smallest + 2)
        return tuple(sorted({smallest, min(smallest + 1, largest), largest})) if largest > smallest else ()
    return ()


def _array_dtype(described: Any) -> str:
    number = described.type.multiArrayType.dataType
    if number not in ARRAY_DTYPES:
        raise ArtifactError(f"{described.name} has the element type {number}, which timmx does not know")
    return ARRAY_DTYPES[number]

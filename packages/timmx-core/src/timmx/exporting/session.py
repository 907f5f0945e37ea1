"""A model that is loaded, prepared and captured once for all its formats."""

from __future__ import annotations

import contextlib
import copy
import time
from dataclasses import replace
from typing import TYPE_CHECKING, Any, TypeVar, cast

from timmx.base import exact_cuda, reporter
from timmx.capture import capture
from timmx.contract import Activation, OutputKind, OutputMetadata
from timmx.errors import ConfigurationError, ModelError, TimmxError, one_line
from timmx.exporting.metadata import build_metadata
from timmx.exporting.validation import check_batch, softmax_over_one_class
from timmx.inputs import (
    LEAST_INPUTS,
    SYNTHETIC_INPUTS,
    ImageSamples,
    Samples,
    SyntheticSamples,
    choose_samples,
)
from timmx.model import check_count, check_memory, hash_weights, load_model
from timmx.verification import Model, Reference, Skipped, run_reference

if TYPE_CHECKING:
    from collections.abc import Callable, Hashable, Iterator, Mapping
    from pathlib import Path

    import numpy as np
    import torch

    from timmx.contract import ExportBackend, ExportRequest, Metadata, Precision
    from timmx.exporting.metadata import IoTypes
    from timmx.model import ExportModule, Fit, LoadedModel, Rewrite

Value = TypeVar("Value")

_CHECK_ARGUMENTS = (
    "check --input-size and --model-kwargs; of a local-dir: or hf-hub: model, model_args and input_size in its "
    "config.json; of a module, its forward method"
)


class Session:
    """Base class of sessions.

    Attributes:
        request: the shared options.
        reference: the outputs that the artifact is verified against.
        seconds: wall time of each step.
    """

    def __init__(self, request: ExportRequest) -> None:
        self.request = request
        self.reference: Reference
        self.seconds: dict[str, float] = {}
        self._shared: dict[tuple[Hashable, bool, int], Any] = {}

    @property
    def model(self) -> Model | None:
        """The PyTorch model, to measure its arithmetic; None for a session without one."""
        return None

    @contextlib.contextmanager
    def step(self, text: str) -> Iterator[None]:
        """Report a step and record its time."""
        reporter().step(text)
        start = time.perf_counter()
        try:
            yield
        finally:
            self.seconds[text.lower()] = round(
                self.seconds.get(text.lower(), 0.0) + time.perf_counter() - start, 3
            )

    def example_input(self) -> torch.Tensor:
        """(N, C, H, W) float32 on the requested device, where N is the batch size to trace with."""
        import torch

        count = self.request.trace_batch
        inputs = self.reference.samples.take([index % len(self.reference) for index in range(count)])
        return torch.from_numpy(inputs).to(self.request.device.torch_name)

    def shared(self, key: Hashable, make: Callable[[], Value]) -> Value:
        """The result of `make`, computed once per key and shape; see `ExportJob.shared`."""
        full = (key, self.request.dynamic_batch, self.request.trace_batch)
        if full not in self._shared:
            self._shared[full] = make()
        return cast("Value", self._shared[full])


class ModelSession(Session):
    """A loaded model, its reference outputs, and the prepared module that is exported.

    The reference runs before the module is prepared, so that verification covers the preparation too. The
    preparation works in place, so that the weights are in memory only once.

    Attributes:
        loaded: the loaded model.
        module_as_loaded: the model with normalization and activation; it is the original until it is prepared in place.
        module: the prepared `ExportModule`, in eval mode on the requested device.
        reference: the original model's outputs for the verification inputs.
        rewrites: the rewrites of the preparation.
        seconds: wall time of each step.
    """

    def __init__(
        self,
        request: ExportRequest,
        check_weights: Callable[[int], None] | None = None,
        calibration_data: Path | None = None,
    ) -> None:
        """Load the model and run it.

        Args:
            request: the shared options.
            check_weights: see `load_model`.
            calibration_data: see `choose_samples`.
        """
        self._calibration_data = calibration_data
        super().__init__(request)
        self._captures: dict[tuple[bool, bool, int], torch.export.ExportedProgram] = {}
        self._graphs: dict[int, torch.fx.GraphModule] = {}
        self._preparation: tuple[ExportModule, tuple[Rewrite, ...]] | None = None
        with self.step("Loading"):
            self.loaded: LoadedModel = load_model(request, check_weights)
            check_batch(request, self.loaded.data_config.input_size)
            self.module_as_loaded = self._wrap(self.loaded)
            count = max(SYNTHETIC_INPUTS, request.trace_batch)
            check_memory(self.module_as_loaded, self.loaded.data_config.input_size, count)
            for note in self.loaded.notes:
                reporter().warn(note)
            samples = self._samples()
        with self.step("Running the reference"), exact_cuda():
            self.reference = self._run_reference(self.module_as_loaded, samples)
            _ = self.loaded.weights_sha256  # cached now, since the preparation rewrites the weights

    @property
    def module(self) -> ExportModule:
        return self._prepare_once()[0]

    @property
    def rewrites(self) -> tuple[Rewrite, ...]:
        return self._prepare_once()[1]

    def prepare(self) -> None:
        """Prepare `module` now; otherwise it is prepared at its first use."""
        self._prepare_once()

    def with_batch(self, request: ExportRequest) -> ModelSession:
        """The same loaded model, reference, captures and shared values, with a request that differs only in the
        batch size, the output path or the floor of verification.

        Raises:
            ConfigurationError: the batch is too large for the input size.
        """
        check_batch(request, self.loaded.data_config.input_size)
        self.prepare()
        other = copy.copy(self)
        other.request, other.seconds = request, {}
        return other

    def capture(self, strict: bool = False) -> torch.export.ExportedProgram:
        """The prepared module as an ExportedProgram; traced once per shape."""
        key = (strict, self.request.dynamic_batch, self.request.trace_batch)
        if key not in self._captures:
            module = self.module
            with self.step("Capturing"):
                self._captures[key] = capture(
                    module, self.example_input(), dynamic=self.request.dynamic_batch, strict=strict
                )
        return self._captures[key]

    @property
    def model(self) -> Model:
        return self

    @property
    def device(self) -> str:
        return self.request.device.torch_name

    def weights(self) -> Iterator[torch.Tensor]:
        return self.module_as_loaded.parameters()

    def original(self) -> ExportModule:
        """The model before its preparation, which works in place: after it, the model is loaded again."""
        if self._preparation is None:
            return self.module_as_loaded
        if not self.loaded.owned:
            return self._wrap(self.loaded)
        loaded = load_model(self.request)
        if hash_weights(loaded.model) != self.loaded.weights_sha256:
            raise Skipped(f"{self.request.source} has other weights when it is loaded again")
        return self._wrap(loaded)

    def graph(self, batch_size: int) -> torch.fx.GraphModule:
        """The prepared module as a graph for a fixed batch size."""
        import torch

        if batch_size not in self._graphs:
            if not self.request.dynamic_batch and batch_size == self.request.trace_batch:
                program = self.capture()
            else:
                indices = [index % len(self.reference) for index in range(batch_size)]
                inputs = torch.from_numpy(self.reference.samples.take(indices)).to(self.device)
                program = capture(self.module, inputs, dynamic=False)
            self._graphs[batch_size] = program.module()
        return self._graphs[batch_size]

    def fit_of(self, inputs: list[np.ndarray]) -> Fit | None:
        """How well inputs fit the statistics of the model's batch norms; None if the weights are untrained."""
        from timmx.model import fit_of

        if not self.loaded.trained:
            return None
        fit = fit_of(self.module, inputs, self.request.device.torch_name)
        ranks = self.loaded.num_classes and not self.request.multi_label
        return fit if fit is None or ranks else replace(fit, top=frozenset())  # embeddings have no classes

    def metadata(
        self,
        precision: Precision,
        backend: ExportBackend,
        format_facts: Mapping[str, Any],
        io_types: IoTypes,
    ) -> Metadata:
        """The metadata of an artifact of this model; see `build_metadata`."""
        batch = "batch" if self.request.dynamic_batch else self.request.batch_size or 1
        outputs = tuple(
            OutputMetadata(
                name=name,
                kind=self._kind(),
                shape=(batch, *array.shape[1:]),
                activation=self._activation,
                exclusive=self.reference.threshold is None,
            )
            for name, array in zip(self.reference.names, self.reference.outputs, strict=True)
        )
        return build_metadata(self.request, self.loaded, outputs, precision, backend, format_facts, io_types)

    def _wrap(self, loaded: LoadedModel) -> ExportModule:
        from timmx.model import ExportModule, Normalize, copy_model

        config = loaded.data_config
        model = loaded.model if loaded.owned else copy_model(loaded.model)
        normalize = Normalize(config.mean, config.std) if self.request.normalize else None
        wrapped = ExportModule(model, normalize, self._activation)
        return wrapped.eval().requires_grad_(False).to(self.request.device.torch_name)

    def _samples(self) -> Samples:
        config, request = self.loaded.data_config, self.request
        if not request.verify:
            return SyntheticSamples(config, request.normalize, LEAST_INPUTS)
        return choose_samples(
            request.verify_data, self.loaded.samples, config, request.normalize, self._calibration_data
        )

    def _run_reference(self, module: ExportModule, samples: Samples) -> Reference:
        from timmx.model import output_names

        request = self.request
        names: list[tuple[str, ...]] = []
        single = "embedding" if self.loaded.num_classes == 0 else "output"

        def keep_names(_module: Any, _inputs: Any, outputs: Any) -> None:
            if not names:
                pyramid = request.features or (isinstance(outputs, list) and hasattr(_module, "feature_info"))
                names.append(output_names(outputs, single, pyramid))

        hook = module.model.register_forward_hook(keep_names)
        try:
            outputs = run_reference(module, samples, request.device.torch_name)
        except TimmxError:
            raise
        except Exception as exc:  # a model may raise anything
            size = " x ".join(map(str, self.loaded.data_config.input_size))
            raise ModelError(
                f"{self.loaded.name} fails on inputs of {size}: {one_line(exc)}", hint=_CHECK_ARGUMENTS
            ) from exc
        finally:
            hook.remove()
        classes = names[0] == ("output",) and outputs[0].ndim == 2
        flags = {
            "--softmax": request.softmax,
            "--sigmoid": request.sigmoid,
            "--multi-label": request.multi_label,
        }
        for flag in (flag for flag, is_set in flags.items() if is_set and not classes):
            raise ConfigurationError(
                f"{flag} needs a model with one output of classes (N, classes); this one has "
                f"{', '.join(f'{name} {array.shape[1:]}' for name, array in zip(names[0], outputs, strict=True))}",
                hint=f"leave {flag} out",
            )
        if request.softmax and outputs[0].shape[1] == 1:
            raise softmax_over_one_class()
        if self.loaded.num_classes is None:
            if self.loaded.labels and classes:
                check_count(self.loaded.labels, outputs[0].shape[1])
            self.loaded = replace(self.loaded, num_classes=outputs[0].shape[1] if classes else 0)
        labels, truth, threshold = self.loaded.labels, None, None
        if classes and (request.multi_label or outputs[0].shape[1] == 1):
            threshold = 0.5 if request.probabilities else 0.0
        elif classes and labels and isinstance(samples, ImageSamples):
            truth = samples.true_classes(labels)
        return Reference(
            samples=samples,
            outputs=outputs,
            names=names[0],
            classes=classes,
            truth=truth,
            threshold=threshold,
        )

    def _prepare_once(self) -> tuple[ExportModule, tuple[Rewrite, ...]]:
        if self._preparation is None:
            with self.step("Preparing"), exact_cuda():
                self._preparation = self._prepare(self.module_as_loaded)
        return self._preparation

    def _prepare(self, module: ExportModule) -> tuple[ExportModule, tuple[Rewrite, ...]]:
        import torch

        from timmx.model import prepare

        device = self.request.device.torch_name
        inputs = torch.from_numpy(self.reference.samples.take(range(LEAST_INPUTS))).to(device)
        expected = tuple(torch.from_numpy(array[:LEAST_INPUTS]) for array in self.reference.outputs)
        prepared = prepare(module, inputs, expected, in_place=True)
        for rewrite in prepared.rewrites:
            reporter().detail(f"{rewrite.name}: {rewrite.count}, {rewrite.snr_db:.0f} dB from the original.")
        return cast("ExportModule", prepared.model), prepared.rewrites

    @property
    def _activation(self) -> Activation:
        if self.request.softmax:
            return Activation.SOFTMAX
        return Activation.SIGMOID if self.request.sigmoid else Activation.NONE

    def _kind(self) -> OutputKind:
        if self.reference.names[0] == "features_0":
            return OutputKind.FEATURES
        if self.reference.classes:
            return OutputKind.PROBABILITIES if self.request.probabilities else OutputKind.LOGITS
        return OutputKind.EMBEDDING if self.reference.names == ("embedding",) else OutputKind.TENSOR

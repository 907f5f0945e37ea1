"""The PyTorch model that an artifact is compared with, with the artifact's preprocessing and outputs."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

from timmx.base import reporter
from timmx.contract import Activation, ExportRequest, OutputKind, Runner, TensorSpec
from timmx.errors import ConfigurationError
from timmx.exporting import KNOWN_SUFFIXES
from timmx.registry import build

if TYPE_CHECKING:
    from collections.abc import Mapping

    import numpy as np

    from timmx.contract import Metadata, ModelMetadata
    from timmx.exporting import ModelSession
    from timmx.inputs import ImageSettings
    from timmx.tools.subject.subject import Subject


def request_for(
    metadata: Metadata, model: Any = None, options: Mapping[str, Any] | None = None
) -> ExportRequest:
    """The request for the model that a file was exported from, with the file's size, normalization and activation.

    Args:
        metadata: of the file.
        model: a timm name, hf-hub:, local-dir: or a module; None for the model in the metadata.
        options: values for `timmx.contract.MODEL_OPTIONS`; they need `model`.

    Raises:
        ConfigurationError: the metadata does not say where the model is, or an option is invalid.
    """
    own = {name: value for name, value in (options or {}).items() if value not in (None, False, [])}
    if model is None:
        refuse_model_options(own)
        model, own = _source(metadata.model)
        if metadata.outputs[0].kind is OutputKind.FEATURES:  # without a classifier
            own.pop("num_classes", None)
    if isinstance(model, str) and model.startswith(("local-dir:", "hf-hub:")):
        own = {name: value for name, value in own.items() if name != "pretrained"}
    entry, output = metadata.input, metadata.outputs[0]
    kind = output.kind
    in_graph = entry.normalized_in_graph
    values = {
        "model": model,
        "input_size": entry.size,
        "normalize": in_graph,
        "exif": entry.exif,
        "mean": entry.mean if in_graph else None,
        "std": entry.std if in_graph else None,
        "softmax": output.activation is Activation.SOFTMAX,
        "sigmoid": output.activation is Activation.SIGMOID,
        "multi_label": not output.exclusive,
        "features": kind is OutputKind.FEATURES,
        "out_indices": metadata.model.out_indices,
    }
    if kind is OutputKind.EMBEDDING:
        values["num_classes"] = 0
    return build(ExportRequest, values | own)


def refuse_model_options(options: Mapping[str, Any] | None, why: str = "") -> None:
    """Refuse options of a PyTorch model without such a model.

    Args:
        options: values for `timmx.contract.MODEL_OPTIONS`.
        why: the reason, for the message; by default that no model is named.

    Raises:
        ConfigurationError: an option is given.
    """
    if options:
        flag = next(iter(options)).replace("_", "-")
        raise ConfigurationError(
            f"--{flag} applies to a PyTorch model, {why or 'and none is named'}",
            hint=f"leave --{flag} out" if why else "name the model with --against",
        )


def file_named(against: Any) -> Path | None:
    """The file that `--against` names: a path with a known suffix, or an existing file; None for a model."""
    if not isinstance(against, (str, Path)):
        return None
    path = Path(against).expanduser()
    return path if path.suffix and (path.suffix in KNOWN_SUFFIXES or path.exists()) else None


def check_weights(session_sha256: str, metadata: Metadata, model: str) -> None:
    """Warn if the model has other weights than those that the file was exported from."""
    own = metadata.model.weights_sha256
    if session_sha256 != own:
        reporter().warn(
            f"{model} has other weights than those that this file was exported from ({session_sha256[:12]}, "
            f"{own[:12]} in the file)."
        )


def open_model(
    request: ExportRequest,
    metadata: Metadata,
    batch_size: int = 8,
    settings: ImageSettings | None = None,
) -> Subject:
    """Open the PyTorch model with the preprocessing and outputs of an artifact, in eager mode.

    Args:
        request: from `request_for`.
        metadata: of the file that it is compared with.
        batch_size: images per run.
        settings: how image files are read.

    Raises:
        TimmxError: the model cannot be loaded; see `timmx.model.load`.
    """
    from timmx.exporting import ModelSession
    from timmx.inputs import ImagePreprocessor  # imports numpy, which help does not need
    from timmx.tools.subject.subject import Subject

    session = ModelSession(replace(request, verify=False))
    check_weights(session.loaded.weights_sha256, metadata, request.source)
    output = metadata.outputs[0]
    if len(session.reference.names) != len(metadata.outputs) or (
        output.kind.ranks_classes and session.reference.outputs[0].shape[1:] != output.shape[1:]
    ):
        raise ConfigurationError(
            f"{request.source} outputs {_shapes(session)}, but the file outputs {_output_shapes(metadata)}",
            hint="name the model that the file was made from, with its --num-classes and --checkpoint",
        )
    return Subject(
        name=request.source,
        preprocessor=ImagePreprocessor.of(metadata, settings),
        labels=metadata.labels,
        kind=output.kind,
        output_names=session.reference.names,
        metadata=metadata,
        runner=TorchRunner(session),
        batch_size=batch_size,
    )


class TorchRunner(Runner):
    """Runs the unchanged PyTorch model in eager mode on the CPU."""

    def __init__(self, session: ModelSession) -> None:
        self._session = session
        size = session.loaded.data_config.input_size
        self.inputs = (TensorSpec(name="input", shape=("batch", *size), dtype="float32", layout="NCHW"),)
        self.outputs = tuple(
            TensorSpec(name=name, shape=("batch", *map(int, array.shape[1:])), dtype="float32")
            for name, array in zip(session.reference.names, session.reference.outputs, strict=True)
        )

    @property
    def weights_sha256(self) -> str:
        """Hash of the weights, as in the metadata."""
        return self._session.loaded.weights_sha256

    def run(self, feeds: Mapping[str, np.ndarray]) -> dict[str, np.ndarray]:
        import torch

        from timmx.model import output_tensors

        with torch.inference_mode():
            outputs = output_tensors(self._session.module_as_loaded(torch.from_numpy(feeds["input"])))
        return {spec.name: output.float().numpy() for spec, output in zip(self.outputs, outputs, strict=True)}

    def compile(self) -> None:
        """Compile the model with torch.compile at the next run, separately for each shape."""
        self._session.module_as_loaded.compile(dynamic=False)


def _source(model: ModelMetadata) -> tuple[str, dict[str, Any]]:
    """The name and the options that load the model in the metadata."""
    name, source = model.name, model.source
    if source == "hf-hub":
        return f"hf-hub:{name}", {}
    if source == "timm" and model.trained:
        return name, {"pretrained": True, "num_classes": model.num_classes}
    if source == "timm" and model.seed is not None:
        return name, {"seed": model.seed, "awaken": model.awakened, "num_classes": model.num_classes}
    raise ConfigurationError(
        f"this file was made from {name} ({source}), and its metadata does not say where to find that model",
        hint="give it with --against, as for the export",
    )


def _shapes(session: ModelSession) -> str:
    pairs = zip(session.reference.names, session.reference.outputs, strict=True)
    return ", ".join(f"{name} {tuple(array.shape[1:])}" for name, array in pairs)


def _output_shapes(metadata: Metadata) -> str:
    return ", ".join(f"{output.name} {output.shape[1:]}" for output in metadata.outputs)

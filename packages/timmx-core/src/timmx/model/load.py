"""Loads the model of a request: a timm name, Hugging Face model id, local folder, checkpoint or a caller's module."""

from __future__ import annotations

import hashlib
from dataclasses import dataclass, replace
from functools import cached_property
from typing import TYPE_CHECKING, Any

from timmx.errors import ConfigurationError, MissingRequirementError
from timmx.model.build import cfg_of, check_model_kwargs
from timmx.model.checkpoint import Checkpoint, check_checkpoint
from timmx.model.config import check_timm_config
from timmx.model.data_config import DataConfig, resolve_data_config
from timmx.model.fill import FilledModel, build_and_fill, native_size
from timmx.model.fit import check_finite
from timmx.model.index import check_model_name
from timmx.model.input_size import failure_on_meta
from timmx.model.labels import check_count, labels_of_config, read_labels
from timmx.model.patches import check_patches
from timmx.model.reach import Probe
from timmx.model.source import find_source, may_download

if TYPE_CHECKING:
    from collections.abc import Callable
    from pathlib import Path

    from torch import nn

    from timmx.contract import ExportRequest


@dataclass(frozen=True, kw_only=True)
class LoadedModel:
    """A model with its weights and facts about it.

    Attributes:
        model: takes (N, C, H, W); in eval mode on the request's device, unless it is a caller's module.
        owned: False for a caller's module, which must not be changed.
        name: `architecture.tag`, the Hugging Face model id, the folder's name, or a module's architecture or class.
        architecture: timm's name of the architecture; a module's class if it has no such name.
        source: `timm`, `hf-hub`, `local-dir`, `checkpoint` or `module`.
        trained: False if the weights are known to be random.
        seed: seed of random weights (all, or a new classifier); None if there are none.
        awakened: True for random weights that were changed by `awaken`.
        data_config: how an image is converted to its input.
        num_classes: 0 for an embedding or a feature pyramid; None if a caller's module does not state it.
        labels: class names by class index, or None if they are unknown.
        license: license of the weights, or None if it is unknown.
        samples: the folder of example images that came with the model.
        notes: notes for the user, one line each.
    """

    model: nn.Module
    owned: bool
    name: str
    architecture: str
    source: str
    trained: bool
    seed: int | None
    data_config: DataConfig
    num_classes: int | None
    awakened: bool = False
    labels: tuple[str, ...] | None = None
    license: str | None = None
    samples: Path | None = None
    notes: tuple[str, ...] = ()

    @property
    def conclusive(self) -> bool:
        """See `timmx.contract.ModelMetadata.conclusive`."""
        return self.trained or self.awakened

    @cached_property
    def weights_sha256(self) -> str:
        """See `hash_weights`; computed at the first access (0.1 s for 100 MB)."""
        return hash_weights(self.model)


def load_model(request: ExportRequest, check_weights: Callable[[int], None] | None = None) -> LoadedModel:
    """Load the model of a request with its weights, in eval mode on its device.

    A caller's module is neither copied nor changed.

    Args:
        request: the shared options.
        check_weights: see `build_and_fill`; not called for a caller's module.

    Raises:
        ConfigurationError: options do not fit the model.
        ModelError: the model cannot be found, downloaded or built, or its weights cannot be loaded.
        MissingRequirementError: the device is not available.
    """
    check_load_options(request)
    probe = Probe() if may_download(request) else None  # runs while torch is imported
    import torch

    if request.device.torch_name == "cuda" and not torch.cuda.is_available():
        raise MissingRequirementError(
            "--device cuda: PyTorch finds no CUDA device on this machine", hint="leave --device out"
        )
    from_timm = isinstance(request.model, str)
    loaded = _from_timm(request, probe, check_weights) if from_timm else _from_module(request)
    if request.labels is not None:
        labels = read_labels(request.labels)
        if loaded.num_classes is not None:
            check_count(labels, loaded.num_classes)
        loaded = replace(loaded, labels=labels)
    return loaded


def check_load_options(request: ExportRequest) -> None:
    """Check the options for loading as far as possible without importing torch or timm.

    Raises:
        ConfigurationError: a file, a folder or an argument is invalid.
        ModelError: the model does not exist.
    """
    if not isinstance(request.model, str) and not callable(getattr(request.model, "state_dict", None)):
        kind = type(request.model).__name__
        raise ConfigurationError(
            f"the model is a {kind}, not a name or a torch.nn.Module",
            hint="give a model's name or a torch.nn.Module",
        )
    if request.awaken and request.brings_weights:
        raise ConfigurationError(
            "--awaken is for untrained weights, but the weights are trained", hint="leave --awaken out"
        )
    check_model_name(request)
    check_model_kwargs(request.parsed_model_kwargs())
    check_patches(request)
    if request.checkpoint is not None:
        check_checkpoint(request.checkpoint)


def hash_weights(model: nn.Module) -> str:
    """SHA-256 of the state dict as hexadecimal digits, the same on every machine.

    Hashed for each entry, sorted by name: the line `name dtype d0,d1,...` in UTF-8 with a newline (torch's name of
    the dtype without `torch.`; an empty shape for a scalar), then its elements as contiguous little-endian
    bytes. With numpy: `digest.update(f"{name} {a.dtype} {','.join(map(str, a.shape))}\\n".encode())`, then
    `digest.update(a.tobytes())`.
    """
    import torch

    digest = hashlib.sha256()
    for name, tensor in sorted(model.state_dict().items()):
        shape = ",".join(map(str, tensor.shape))
        digest.update(f"{name} {str(tensor.dtype).removeprefix('torch.')} {shape}\n".encode())
        digest.update(tensor.detach().cpu().contiguous().reshape(-1).view(torch.uint8).numpy().data)
    return digest.hexdigest()


UNTRAINED = (
    "The weights are untrained (random): --pretrained loads timm's, --checkpoint FILE your own; local-dir: "
    "and hf-hub: models include theirs."
)

AWAKENED = "The weights are random, changed by --awaken: the file can be verified, but its predictions have no meaning."


_TRAINED_FOR_SIGMOID = (
    "{} was trained with bce_loss, for probabilities by sigmoid: --sigmoid outputs them; add --multi-label if an image "
    "can have several of the classes."
)


def _from_timm(
    request: ExportRequest, probe: Probe | None, check_weights: Callable[[int], None] | None
) -> LoadedModel:
    source = find_source(request, probe)
    filled = build_and_fill(request, source, check_weights)
    model, checkpoint = filled.model, filled.checkpoint
    cfg = dict(cfg_of(model))
    notes = [*source.notes, *filled.notes]
    size = request.input_size or filled.trained_size or (filled.in_chans, *native_size(model, cfg))
    if checkpoint is not None:
        notes += _take_training_options(filled, checkpoint, cfg)
    config, config_notes = resolve_data_config(cfg, size, request.mean, request.std, source.name)
    config = replace(config, exif=request.exif)
    num_classes = 0 if request.features else int(getattr(model, "num_classes", 0))
    if (
        checkpoint is not None
        and num_classes
        and checkpoint.args.get("bce_loss") is True
        and not request.sigmoid
    ):
        notes.append(_TRAINED_FOR_SIGMOID.format(checkpoint.path.name))
    labels, label_note = labels_of_config(cfg, num_classes) if request.labels is None else (None, None)
    trained = source.weights is not None or checkpoint is not None
    if request.awaken:
        from timmx.model.awakening import awaken

        model = awaken(model, request.seed or 0, request.input_size)
    weights_note = AWAKENED if request.awaken else "" if trained else UNTRAINED
    notes += [*config_notes, *filter(None, [label_note, weights_note])]
    return LoadedModel(
        model=model.to(request.device.torch_name),
        owned=True,
        name=source.name,
        architecture=cfg["architecture"],
        source=source.kind,
        trained=trained,
        seed=filled.seed,
        awakened=request.awaken,
        data_config=config,
        num_classes=num_classes,
        labels=labels,
        license=cfg.get("license") if source.weights is not None else None,
        samples=source.samples,
        notes=tuple(notes),
    )


def _take_training_options(filled: FilledModel, checkpoint: Checkpoint, cfg: dict[str, Any]) -> list[str]:
    """Override the data config in `cfg` with the options of timm's train.py.

    Returns:
        Notes on the options that were used, and on those that were not.
    """
    settings = [f"{key} {value}" for key, value in filled.training_options.items() if value != cfg.get(key)]
    if filled.trained_size and filled.trained_size[1:] != tuple(cfg["input_size"][1:]):
        settings.append(f"input size {filled.trained_size[1]} x {filled.trained_size[2]}")
    for key in ("mean", "std", "interpolation", "crop_pct", "crop_mode"):
        value = checkpoint.options.get(key)
        if value and value != cfg.get(key):
            cfg[key] = value
            settings.append(f"{key} {value}")
    notes = []
    if checkpoint.args.get("interpolation") == "random":
        own = cfg.get("interpolation") or "bicubic"
        notes.append(
            f"{checkpoint.path.name} was trained with random interpolation: the model's own, {own}, is used."
        )
    if settings:
        notes.append(f"From the options that {checkpoint.path.name} was trained with: {', '.join(settings)}.")
    return notes


def _from_module(request: ExportRequest) -> LoadedModel:
    """A caller's module, unchanged."""
    import torch

    module = request.model
    kind = type(module).__name__
    tensors = list(module.parameters()) + list(module.buffers())
    if any(tensor.is_meta for tensor in tensors):
        raise ConfigurationError(
            f"{kind} is on the meta device, without weights", hint="load its weights first"
        )
    if any(tensor.is_floating_point() and tensor.dtype != torch.float32 for tensor in tensors):
        raise ConfigurationError(
            f"{kind} is not float32",
            hint="pass module.float(); a backend's own options, such as --mode, lower the precision",
        )
    check_finite(module, kind)
    own_cfg: Any = getattr(module, "pretrained_cfg", None) or getattr(module, "default_cfg", None) or {}
    cfg = own_cfg.to_dict() if hasattr(own_cfg, "to_dict") else dict(own_cfg)
    check_timm_config(cfg, f"{kind}.pretrained_cfg")
    own = cfg.get("input_size")
    if own is None:
        raise ConfigurationError(
            f"{kind} does not state its input size",
            hint="give it pretrained_cfg = dict(input_size=(channels, height, width), mean=..., std=..., "
            "interpolation=..., crop_pct=...), as timm's models have",
        )
    channels = int(getattr(module, "in_chans", None) or own[0])
    native = native_size(module, cfg)
    size = request.input_size or (channels, *native)
    if size[0] != channels:
        raise ConfigurationError(
            f"input_size={size}: {kind} takes {channels} channels",
            hint=f"use input_size={(channels, *size[1:])}",
        )
    if size[1:] != native:
        _check_module_size(module, size, native)
    config, notes = resolve_data_config(cfg, size, request.mean, request.std, f"{kind}.pretrained_cfg")
    config = replace(config, exif=request.exif)
    attribute = getattr(module, "num_classes", None)
    attribute = cfg.get("num_classes") if attribute is None else attribute
    num_classes = None if attribute is None else int(attribute)
    label_count = len(cfg.get("label_names") or ()) if num_classes is None else num_classes
    labels, label_note = labels_of_config(cfg, label_count) if request.labels is None else (None, None)
    return LoadedModel(
        model=module,
        owned=False,
        name=cfg.get("architecture") or kind,
        architecture=cfg.get("architecture") or kind,
        source="module",
        trained=True,
        seed=None,
        data_config=config,
        num_classes=num_classes,
        labels=labels,
        notes=(*notes, *filter(None, [label_note])),
    )


def _check_module_size(module: nn.Module, size: tuple[int, int, int], native: tuple[int, int]) -> None:
    """Run the module on the meta device without changing its tensors.

    Raises:
        ConfigurationError: it fails at `size`, but not at its own size.
    """
    import torch

    tensors = {**dict(module.named_parameters()), **dict(module.named_buffers())}
    meta_tensors = {name: torch.empty_like(tensor, device="meta") for name, tensor in tensors.items()}

    def run(inputs: torch.Tensor) -> Any:
        return torch.func.functional_call(module, meta_tensors, (inputs,))

    reason = failure_on_meta(run, size[0], size[1:])
    if reason and not failure_on_meta(run, size[0], native):
        raise ConfigurationError(
            f"{type(module).__name__} cannot take {size[1]} x {size[2]} pixels: {reason}; it is built for "
            f"{native[0]} x {native[1]}",
            hint="leave input_size out, or build it for that size (timm's img_size=)",
        )

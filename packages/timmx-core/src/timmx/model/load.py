"""From a request to a model: a timm name, a hub id, a local folder, a checkpoint or a caller's own module."""

from __future__ import annotations

import hashlib
from dataclasses import dataclass, field
from functools import cached_property
from typing import TYPE_CHECKING, Any

from timmx.errors import ConfigurationError, ModelError
from timmx.model.data_config import DataConfig, resolve_data_config

if TYPE_CHECKING:
    from pathlib import Path

    from torch import nn

    from timmx.options import ExportRequest


@dataclass(frozen=True)
class LoadedModel:
    """A model with its weights, and what is known about it.

    Attributes:
        model: in eval mode, on the request's device.
        owned: False where it is a caller's own module, which nobody may change.
        name: `architecture.tag`, the hub id, the folder's name, or the module's class.
        architecture: timm's name of the architecture, or the module's class.
        source: `timm`, `hf-hub`, `local-dir`, `checkpoint` or `module`.
        trained: False where the weights are known to be random.
        seed: of the random weights; None where none are.
        data_config: the recipe from image to input.
        num_classes: 0 for an embedding or a feature pyramid.
        labels: the classes' names by number, or None where nobody knows them.
        license: of the weights, or None where nobody says.
        samples: example images that came with the model.
        notes: what the user should know, one line each.
    """

    model: nn.Module
    owned: bool
    name: str
    architecture: str
    source: str
    trained: bool
    seed: int | None
    data_config: DataConfig
    num_classes: int
    labels: tuple[str, ...] | None = None
    license: str | None = None
    samples: Path | None = None
    notes: tuple[str, ...] = ()
    pretrained_cfg: dict[str, Any] = field(default_factory=dict, repr=False)

    @cached_property
    def weights_sha256(self) -> str:
        """See `hash_weights`; computed when first asked for."""
        return hash_weights(self.model)


def hash_weights(model: nn.Module) -> str:
    """SHA-256 over the state dict, as hexadecimal digits.

    For each entry, sorted by name: the line `name dtype d0,d1,...` in UTF-8 with a newline (dtype as torch
    names it, without `torch.`), then the elements as contiguous little-endian bytes.
    """
    import torch

    digest = hashlib.sha256()
    for name, tensor in sorted(model.state_dict().items()):
        shape = ",".join(map(str, tensor.shape))
        digest.update(f"{name} {str(tensor.dtype).removeprefix('torch.')} {shape}\n".encode())
        digest.update(tensor.detach().cpu().contiguous().reshape(-1).view(torch.uint8).numpy().data)
    return digest.hexdigest()


def load_model(request: ExportRequest) -> LoadedModel:
    """The model that a request names, in eval mode on its device.

    Raises:
        ConfigurationError: options that do not fit the model.
        ModelError: it cannot be found, built or filled with its weights.
    """
    import timm
    import torch

    if isinstance(request.model, torch.nn.Module):
        return _wrap_module(request, request.model)
    seed = 0 if request.seed is None else request.seed
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        model = timm.create_model(
            request.model,
            pretrained=request.pretrained or request.model.startswith(("local-dir:", "hf-hub:")),
            num_classes=request.num_classes,
            in_chans=request.in_chans,
        )
    cfg = dict(model.pretrained_cfg)
    size = request.input_size or (getattr(model, "in_chans", cfg["input_size"][0]), *cfg["input_size"][1:])
    data_config, notes = resolve_data_config(cfg, size, request.mean, request.std)
    folder = request.local_dir
    labels = cfg.get("label_names")
    return LoadedModel(
        model=model.eval().to(str(request.device)),
        owned=True,
        name=folder.name if folder else request.model.removeprefix("hf-hub:"),
        architecture=cfg["architecture"],
        source="local-dir" if folder else "timm",
        trained=request.brings_weights,
        seed=None if request.brings_weights else seed,
        data_config=data_config,
        num_classes=model.num_classes,
        labels=tuple(labels) if labels else None,
        license=cfg.get("license"),
        samples=folder / "samples" if folder and (folder / "samples").is_dir() else None,
        notes=notes,
        pretrained_cfg=cfg,
    )


def _wrap_module(request: ExportRequest, module: nn.Module) -> LoadedModel:
    cfg = getattr(module, "pretrained_cfg", None) or getattr(module, "default_cfg", None)
    if not cfg:
        raise ModelError(f"{type(module).__name__} has no pretrained_cfg: timmx cannot know how to feed it.")
    cfg = dict(cfg)
    size = request.input_size or tuple(cfg["input_size"])
    if len(size) != 3:
        raise ConfigurationError("The module's pretrained_cfg needs input_size=(channels, height, width).")
    data_config, notes = resolve_data_config(cfg, size, request.mean, request.std)
    return LoadedModel(
        model=module,
        owned=False,
        name=cfg.get("architecture") or type(module).__name__,
        architecture=cfg.get("architecture") or type(module).__name__,
        source="module",
        trained=True,
        seed=None,
        data_config=data_config,
        num_classes=getattr(module, "num_classes", cfg.get("num_classes", 0)),
        labels=tuple(cfg["label_names"]) if cfg.get("label_names") else None,
        license=cfg.get("license"),
        notes=notes,
        pretrained_cfg=cfg,
    )

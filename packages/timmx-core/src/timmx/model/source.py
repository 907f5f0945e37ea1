"""Finds a model and its weights by name: in timm's registry, on the hub, or in a local folder."""

from __future__ import annotations

import json
from dataclasses import dataclass, field
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import TYPE_CHECKING, Any

from timmx.errors import ModelError
from timmx.model.checkpoint import check_checkpoint
from timmx.model.folder import read_local_config, weights_file
from timmx.model.index import build_index, check_name
from timmx.model.reach import Probe, hub_file, url_file

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping

    from timmx.contract import ExportRequest
    from timmx.model.config import ModelConfig

_HUB_WEIGHTS = ("model.safetensors", "pytorch_model.bin")
"""timm's names for the weights on the hub, the preferred first."""


@dataclass(frozen=True, kw_only=True)
class Source:
    """A model to build, and the source of its weights.

    Attributes:
        timm_name: the name for create_model.
        name: the name of the loaded model.
        kind: `timm`, `hf-hub`, `local-dir` or `checkpoint`.
        weights: returns the file that timm loads; None for a checkpoint or untrained weights.
        arguments: the `model_args` of its config.json.
        samples: a folder of example images that came with the model.
        notes: notes for the user.
        config_folder: the temporary folder that `timm_name` names, if timm cannot read the model's own config.json.
    """

    timm_name: str
    name: str
    kind: str
    weights: Callable[[], Path] | None = None
    arguments: Mapping[str, Any] = field(default_factory=dict)
    samples: Path | None = None
    notes: tuple[str, ...] = ()
    config_folder: TemporaryDirectory[str] | None = None

    @property
    def described_by_file(self) -> bool:
        """Whether the model's arguments come from a config.json."""
        return self.timm_name.startswith("local-dir:")


def may_download(request: ExportRequest) -> bool:
    """Whether the hub will probably be needed, so that it should be probed early. Imports nothing heavy."""
    name = request.model
    if not isinstance(name, str) or not (request.pretrained or name.startswith("hf-hub:")):
        return False
    from huggingface_hub import constants

    if constants.HF_HUB_OFFLINE:
        return False
    if name.startswith("hf-hub:"):
        return True
    cached = Path(constants.HF_HUB_CACHE).glob(f"models--timm--{name.partition('.')[0]}.*")
    return request.local_dir is None and next(cached, None) is None


def find_source(request: ExportRequest, probe: Probe | None = None, weights: bool = True) -> Source:
    """Find the model of a request; for a model on the hub, download its config.json.

    Args:
        request: its `model` is text.
        probe: a probe of the hub that was started earlier.
        weights: False if the model's description is enough.

    Raises:
        ConfigurationError: a folder without a usable config.json.
        ModelError: the model or its weights do not exist, or the hub cannot be reached.
    """
    import timm  # noqa: F401 - check_name uses timm if it is imported

    folder = request.local_dir
    weights = weights and request.checkpoint is None
    if folder is not None:
        config = read_local_config(folder)
        check_name(config.architecture)
        file = weights_file(folder) if weights else None
        if file:
            check_checkpoint(file, "the weights ")
        samples = folder / "samples"
        rewritten = _config_folder(config)
        return Source(
            timm_name=f"local-dir:{rewritten.name if rewritten else folder}",
            name=folder.resolve().name,
            kind="checkpoint" if request.checkpoint else "local-dir",
            weights=(lambda: file) if file else None,
            arguments=config.arguments,
            samples=samples if samples.is_dir() else None,
            config_folder=rewritten,
            notes=_config_notes(config, request),
        )
    if request.model.startswith("hf-hub:"):
        return _on_hub(request, probe, weights)
    return _in_registry(request, probe, weights)


def _on_hub(request: ExportRequest, probe: Probe | None, weights: bool) -> Source:
    """Source of a hub model: its snapshot folder in the cache is a `local-dir:` of that commit."""
    hub_id = request.model.removeprefix("hf-hub:")
    repo = hub_id.partition("@")[0]
    folder = hub_file(hub_id, ["config.json"], newest=True, probe=probe).parent
    config = read_local_config(folder, f"hf-hub:{hub_id}")
    check_name(config.architecture)
    names = (config.weights_name,) if config.weights_name is not None else _HUB_WEIGHTS
    rewritten = _config_folder(config)
    return Source(
        timm_name=f"local-dir:{rewritten.name if rewritten else folder}",
        name=repo,
        kind="checkpoint" if request.checkpoint else "hf-hub",
        # by commit, so that config and weights have the same version, and the cache needs no request
        weights=(lambda: hub_file(f"{repo}@{folder.name}", names, probe=probe)) if weights else None,
        arguments=config.arguments,
        config_folder=rewritten,
        notes=_config_notes(config, request),
    )


def _config_notes(config: ModelConfig, request: ExportRequest) -> tuple[str, ...]:
    """Notes on what a config.json says and the request does not use."""
    if request.features or request.num_classes == 0:
        return ()
    notes = config.notes if request.labels is None else ()
    if config.multi_label and not request.multi_label:
        notes += (
            "The config.json says problem_type multi_label_classification, so that an image can have several of the "
            "classes: add --multi-label, and --sigmoid for probabilities in the file.",
        )
    return notes


def _config_folder(config: ModelConfig) -> TemporaryDirectory[str] | None:
    """A folder with a config.json that timm can read, which lasts as long as the object; None if none is needed."""
    if config.rewritten is None:
        return None
    folder = TemporaryDirectory(prefix="timmx-config-")
    Path(folder.name, "config.json").write_text(json.dumps(config.rewritten), "utf-8")
    return folder


def _in_registry(request: ExportRequest, probe: Probe | None, weights: bool) -> Source:
    import timm
    from timm.models import get_deprecated_models

    name: str = request.model
    notes: tuple[str, ...] = ()
    check_name(name)
    architecture = name.partition(".")[0]
    old_names = get_deprecated_models()
    if architecture in old_names:
        current = old_names[architecture]
        if current is None:
            raise ModelError(
                f"timm {timm.__version__} has removed {architecture} without a replacement",
                hint="search for another model with timmx list PATTERN",
            )
        notes = (f"{architecture} is an old name; timm now calls it {current}.",)
        name = current
    if not request.pretrained:
        kind = "checkpoint" if request.checkpoint else "timm"
        return Source(timm_name=name, name=name, kind=kind, notes=notes)
    cfg = pretrained_cfg(name)
    if cfg.get("tag") and "." not in name:
        name = f"{name}.{cfg['tag']}"
    if not weights:
        return Source(timm_name=name, name=name, kind="timm", notes=notes)
    if not any(cfg.get(key) for key in ("file", "hf_hub_id", "url")):
        tags = [tag for tag in build_index().models[name.partition(".")[0]].pretrained if tag]
        hint = f"use one of the tags {', '.join(tags)}" if tags else "give your own with --checkpoint FILE"
        raise ModelError(f"timm has no pretrained weights for {name}", hint=hint)
    return Source(
        timm_name=name,
        name=name,
        kind="timm",
        weights=lambda: _registry_weights(cfg, probe),
        notes=notes,
    )


def pretrained_cfg(name: str) -> dict[str, Any]:
    """timm's configuration of a registered model; without a tag, that of its default tag."""
    import timm

    cfg: Any = timm.get_pretrained_cfg(name)
    return cfg.to_dict() if cfg else {}


def _registry_weights(cfg: dict[str, Any], probe: Probe | None) -> Path:
    """The file of a model's pretrained weights, searched in timm's order."""
    if cfg.get("file"):
        return Path(cfg["file"])
    if cfg.get("hf_hub_id"):
        name = cfg.get("hf_hub_filename")
        safe = (name[:-4] + ".safetensors",) if name and name.endswith(".bin") else ()
        return hub_file(cfg["hf_hub_id"], (*safe, name) if name else _HUB_WEIGHTS, probe=probe)
    return url_file(cfg["url"] if isinstance(cfg["url"], str) else cfg["url"][0])

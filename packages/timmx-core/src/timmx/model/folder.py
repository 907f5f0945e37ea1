"""Reads a `local-dir:` folder written by timm's `save_for_hf`: config.json, weights, samples. Does not import torch."""

from __future__ import annotations

import json
from typing import TYPE_CHECKING

from timmx.base import check_path, parse_json, read_file
from timmx.errors import ConfigurationError, ModelError
from timmx.model.config import ModelConfig

if TYPE_CHECKING:
    from pathlib import Path

_USUAL_WEIGHTS = (
    "model.safetensors",
    "pytorch_model.bin",
    "pytorch_model.pth",
    "model.pth",
    "open_clip_model.safetensors",
    "open_clip_pytorch_model.safetensors",
    "open_clip_pytorch_model.bin",
    "open_clip_pytorch_model.pth",
)
"""timm's names, in its order of preference."""

_INDEXES = ("model.safetensors.index.json", "pytorch_model.bin.index.json")
"""Names of the index of weights that transformers saved in several files."""

_LARGEST_CONFIG = 16 * 10**6
"""A config.json with the names and descriptions of ImageNet-22k's classes has 3 MB."""

_WRITE_FOLDER = "write the folder with timm.models.save_for_hf(model, folder)"


def read_local_config(folder: Path, where: str | None = None) -> ModelConfig:
    """The config.json of a `local-dir:` folder.

    Args:
        folder: the folder.
        where: its name in messages. Default: `local-dir:FOLDER`.

    Raises:
        ConfigurationError: the folder or its config.json is missing, or does not describe a timm model.
    """
    where = where or f"local-dir:{folder}"
    check_path(folder, where.partition(":")[0])
    if not folder.is_dir():
        what = "is not a folder" if folder.exists() else "does not exist"
        raise ConfigurationError(f"{where}: {folder} {what}", hint="name a folder with a config.json")
    path = folder / "config.json"
    try:
        config = parse_json(read_file(path, _LARGEST_CONFIG).decode("utf-8-sig"))
    except FileNotFoundError as exc:
        raise ConfigurationError(
            f"{where} has no config.json",
            hint=f"{_WRITE_FOLDER}; for a weights file only, give the model's name and --checkpoint FILE",
        ) from exc
    except (OSError, UnicodeDecodeError) as exc:
        raise ConfigurationError(
            f"{path} cannot be read: {getattr(exc, 'strerror', None) or exc}",
            hint="check its permissions, and that it is UTF-8 text",
        ) from exc
    except json.JSONDecodeError as exc:
        raise ConfigurationError(
            f"{path} is not valid JSON: {exc.msg} in line {exc.lineno}, column {exc.colno}",
            hint=f"fix that line, or {_WRITE_FOLDER}",
        ) from exc
    except ValueError as exc:
        raise ConfigurationError(
            f"{path} is not valid JSON: {exc}", hint=f"correct it, or {_WRITE_FOLDER}"
        ) from exc
    return ModelConfig.parse(config, where, _WRITE_FOLDER)


def weights_file(folder: Path) -> Path:
    """The weights file of a `local-dir:` folder.

    Raises:
        ModelError: there is none, or there are several and none has a standard name.
    """
    for name in _USUAL_WEIGHTS:
        if (folder / name).is_file():
            return folder / name
    for name in _INDEXES:
        if (folder / name).is_file():
            return folder / name
    for suffix in (".safetensors", ".pth", ".pth.tar", ".bin"):
        paths = sorted(folder.glob(f"*{suffix}"))
        if len(paths) == 1:
            return paths[0]
        if paths:
            names = ", ".join(path.name for path in paths[:4])
            raise ModelError(
                f"local-dir:{folder} has several weights files ({names})",
                hint="name one with --checkpoint FILE",
            )
    raise ModelError(
        f"local-dir:{folder} has no weights file (model.safetensors or pytorch_model.bin)",
        hint="add one, or name one with --checkpoint FILE",
    )

"""The names of timm's models without importing timm: an index cached per timm version.

The cache is one JSON file per timm version in the user's cache folder. A corrupt or foreign file is written again, and
a cache that cannot be written is not used; neither is an error.
"""

from __future__ import annotations

import difflib
import fnmatch
import json
import re
import sys
from contextlib import suppress
from dataclasses import asdict, dataclass
from typing import TYPE_CHECKING, Any

import importlib_metadata
import platformdirs

from timmx.base import atomic_write, brief, parse_json, read_file
from timmx.errors import ConfigurationError, ModelError
from timmx.model.folder import read_local_config

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable
    from pathlib import Path

    from timmx.contract import ExportRequest

_SCHEMA = 1
_LARGEST_INDEX = 16 * 10**6


@dataclass(frozen=True)
class IndexedModel:
    """One architecture.

    Attributes:
        name: timm's name, without a tag.
        family: the module of timm that defines it.
        tags: every tag, the default first; an untagged configuration is left out.
        pretrained: the tags that have weights; "" means weights without a tag.
    """

    name: str
    family: str
    tags: tuple[str, ...]
    pretrained: tuple[str, ...]


@dataclass(frozen=True)
class Index:
    """Every architecture of one timm version by name, and deprecated names with their replacements."""

    timm_version: str
    models: dict[str, IndexedModel]
    deprecated: dict[str, str | None]


def load_index(build: bool = True) -> Index | None:
    """The index of the installed timm from the cache; if there is none and `build`, a new one.

    Building it imports timm, which takes seconds. None only if `build` is False and there is no cache.
    """
    path = _cache_path()
    index = _read(path) if path else None
    if index is None and build:
        index = build_index()
        if path:
            _write(index, path)
    return index


def build_index() -> Index:
    """The index from timm itself, in timm's natural order of names."""
    import timm
    from timm.models import get_deprecated_models

    families = {name: family for family in timm.list_modules() for name in timm.list_models(module=family)}
    tags: dict[str, list[str]] = {name: [] for name in timm.list_models()}
    pretrained: dict[str, list[str]] = {name: [] for name in tags}
    for target, names in (
        (tags, timm.list_models(include_tags=True)),
        (pretrained, timm.list_pretrained()),
    ):
        for name in names:
            architecture, _, tag = name.partition(".")
            target[architecture].append(tag)
    models = {}
    for name in tags:
        default = timm.get_pretrained_cfg(name)
        first = getattr(default, "tag", None) or ""
        ordered = sorted(filter(None, tags[name]), key=lambda tag: tag != first)
        with_weights = sorted(pretrained[name], key=lambda tag: tag != first)
        models[name] = IndexedModel(name, families.get(name, ""), tuple(ordered), tuple(with_weights))
    return Index(timm.__version__, models, dict(get_deprecated_models()))


def search(
    pattern: str | None = None,
    family: str | None = None,
    pretrained: bool = False,
    index: Index | None = None,
) -> list[IndexedModel]:
    """Architectures whose name, with or without a tag, matches.

    Args:
        pattern: a substring, or a glob if it contains `*`, `?` or `[`; case-insensitive.
        family: a module of timm, or a glob of modules.
        pretrained: only architectures with weights; the pattern is then matched only against tags with weights.
        index: the index to search. Default: the cached one, built if there is none.
    """
    index = index or load_index() or build_index()
    matches = _matcher(pattern)
    models = []
    for model in index.models.values():
        tags = model.pretrained if pretrained else model.tags
        if pretrained and not tags:
            continue
        if family and not fnmatch.fnmatchcase(model.family, family.lower()):
            continue
        if matches(model.name) or any(matches(f"{model.name}.{tag}") for tag in tags):
            models.append(model)
    return models


def completions(incomplete: str) -> list[str]:
    """Model names that start with `incomplete`, for shell completion; names with tags after a dot.

    Uses only the cached index; empty if there is none.
    """
    index = load_index(build=False)
    if index is None:
        return []
    architecture, dot, tag = incomplete.partition(".")
    if dot:
        model = index.models.get(architecture)
        tags = model.tags if model else ()
        return [f"{architecture}.{name}" for name in tags if name.startswith(tag)]
    schemes = [scheme for scheme in ("local-dir:", "hf-hub:") if incomplete and scheme.startswith(incomplete)]
    return [name for name in index.models if name.startswith(incomplete)] + schemes


def check_model_name(request: ExportRequest, index: Index | None = None) -> None:
    """Check the name of a model as far as possible without importing timm.

    The config.json of a `local-dir:` is read. A plain name is looked up in timm if it is already imported, otherwise
    in the cached index if there is one; `load_model` checks it again.

    Args:
        request: the request.
        index: the index to use, if it has been read already.

    Raises:
        ConfigurationError: a `local-dir:` without a usable config.json, or a malformed Hugging Face model id or name.
        ModelError: unknown architecture or tag, with similar ones.
    """
    name = request.model
    if not isinstance(name, str):
        return
    if request.local_dir is not None:
        name = read_local_config(request.local_dir).architecture
    elif name.startswith("hf-hub:"):
        if not _is_hub_id(name.removeprefix("hf-hub:")):
            raise ConfigurationError(
                f"{brief(name)} is not a Hugging Face model id",
                hint="use hf-hub:OWNER/NAME, such as hf-hub:timm/resnet18.a1_in1k",
            )
        return
    elif any(character in name for character in ":/\\") or not name:
        raise ConfigurationError(
            f"{brief(name)} is not a timm model name",
            hint="use hf-hub:OWNER/NAME for a model on the Hugging Face Hub, local-dir:FOLDER for a folder with a "
            "config.json, "
            "or the model's name and --checkpoint FILE for a weights file",
        )
    check_name(name, index)


def _is_hub_id(text: str) -> bool:
    """Whether a text is a valid Hugging Face model id with an optional revision, by the rules of huggingface_hub 1."""
    repo, at, revision = text.partition("@")
    parts = repo.split("/")
    return (
        len(parts) <= 2
        and all(re.fullmatch(r"\w([\w.-]*\w)?", part, re.ASCII) and len(part) <= 96 for part in parts)
        and not any(pair in repo for pair in ("--", ".."))
        and not repo.endswith(".git")
        and (not at or re.fullmatch(r"[\w./-]{1,255}", revision) is not None)
    )


def check_name(name: str, index: Index | None = None) -> None:
    """Check that timm has a model of this name; if timm is imported, models registered later are included.

    Args:
        name: with or without a tag.
        index: the index to use, if it has been read already.

    Raises:
        ModelError: unknown architecture (with similar names) or unknown tag (with the existing tags).
    """
    architecture, _, tag = name.partition(".")
    timm = sys.modules.get("timm")
    if timm is not None and timm.is_model(architecture) and not tag:
        return
    index = index or (build_index() if timm is not None else load_index(build=False))
    if index is None:
        return
    if architecture in index.deprecated:
        return
    model = index.models.get(architecture)
    if model is None:
        close = _close(architecture, index.models)
        hint = f"did you mean {_or(close)}?" if close else "search with timmx list PATTERN"
        raise ModelError(f"timm {index.timm_version} has no model {brief(architecture)}", hint=hint)
    if tag and tag not in model.tags:
        hint = f"use one of its tags: {', '.join(model.tags)}" if model.tags else "leave the tag out"
        raise ModelError(f"{architecture} has no weights tagged {brief(tag)}", hint=hint)


def _close(name: str, names: Iterable[str]) -> list[str]:
    """Similar names: equal without separators, then longer ones with that prefix, then similar spellings."""
    name = name.lower()
    names = list(names)
    letters = _letters(name)
    same = [other for other in names if _letters(other) == letters]
    longer = [other for other in names if letters and _letters(other).startswith(letters)]
    similar = difflib.get_close_matches(name, names, n=4, cutoff=0.75)
    similar = similar or difflib.get_close_matches(name, names, n=3, cutoff=0.6)
    return list(dict.fromkeys(same + longer[:3] + similar))[:4]


def _letters(name: str) -> str:
    return re.sub(r"[^a-z0-9]", "", name)


def _or(names: list[str]) -> str:
    return " or ".join(filter(None, (", ".join(names[:-1]), names[-1])))


def _matcher(pattern: str | None) -> Callable[[str], Any]:
    if not pattern:
        return lambda name: True
    pattern = pattern.lower()
    if any(character in pattern for character in "*?["):
        return re.compile(fnmatch.translate(pattern)).match
    return lambda name: pattern in name


def _cache_path() -> Path | None:
    try:
        version = importlib_metadata.version("timm")
    except importlib_metadata.PackageNotFoundError:
        return None
    return platformdirs.user_cache_path("timmx", appauthor=False) / f"models-{version}.json"


def _read(path: Path) -> Index | None:
    try:
        data = parse_json(read_file(path, _LARGEST_INDEX))
        if data["schema"] != _SCHEMA:
            return None
        models = {
            name: IndexedModel(name, model["family"], tuple(model["tags"]), tuple(model["pretrained"]))
            for name, model in data["models"].items()
        }
        index = Index(data["timm"], models, dict(data["deprecated"]))
    except (OSError, ValueError, KeyError, TypeError, AttributeError):
        return None  # missing, damaged or written by another version
    return index if models else None


def _write(index: Index, path: Path) -> None:
    """Write the index to the cache atomically."""
    models = {name: asdict(model) for name, model in index.models.items()}
    for model in models.values():
        del model["name"]
    data = {"schema": _SCHEMA, "timm": index.timm_version, "models": models, "deprecated": index.deprecated}
    with suppress(OSError), atomic_write(path) as file:  # a full or read-only disk: no cache
        json.dump(data, file, separators=(",", ":"))

"""The models of a sweep: from names, patterns, files with one name per line, and folders of checkpoints."""

from __future__ import annotations

import hashlib
import os
import re
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from timmx.base import brief, check_path, read_file
from timmx.contract import ExportRequest
from timmx.errors import ConfigurationError, TimmxError
from timmx.model import CHECKPOINT_SUFFIXES, check_model_name, load_index, search

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator, Sequence

    from timmx.model import Index

_SCHEMES = ("hf-hub:", "local-dir:")
_LARGEST_LIST = 16 * 10**6
_MOST_NAMED = 5
"""Of wrong names in one message."""

_TRAINING = {"args.yaml": ("model_best.pth.tar", "last.pth.tar")}
"""What timm's train.py writes into the folder of a run: its arguments, and its checkpoints, the preferred first."""


@dataclass(frozen=True)
class SweepModel:
    """One model of a sweep.

    Attributes:
        name: a timm name, `hf-hub:OWNER/NAME` or `local-dir:FOLDER`.
        checkpoint: its weights file; None for other weights.
    """

    name: str
    checkpoint: Path | None = None

    @property
    def label(self) -> str:
        """Its name in tables; a checkpoint follows in parentheses."""
        return self.name if self.checkpoint is None else f"{self.name} ({self.checkpoint})"

    @property
    def folder_name(self) -> str:
        """The folder of its files, below the sweep's folder; equal for models that differ only in their folder."""
        base = self.name.removeprefix("hf-hub:").replace("/", "--")
        if self.name.startswith("local-dir:"):
            base = Path(self.name.removeprefix("local-dir:")).expanduser().resolve().name
        if self.checkpoint is not None:
            base += f"-{self.checkpoint.parent.name}-{self.checkpoint.name.partition('.')[0]}"
        return re.sub(r"[^\w.@-]", "-", base)

    def fingerprint(self) -> list[object]:
        """What changes if the files of the model change: names, sizes and times of its local files."""
        paths: list[Path] = []
        if self.checkpoint is not None:
            paths.append(self.checkpoint)
        if self.name.startswith("local-dir:"):
            folder = Path(self.name.removeprefix("local-dir:")).expanduser()
            paths += sorted(path for path in folder.glob("*") if path.is_file())
        return [[path.name, path.stat().st_size, path.stat().st_mtime_ns] for path in paths if path.exists()]


def find_models(
    words: Sequence[str], files: Iterable[Path] = (), *, pretrained: bool = False
) -> tuple[SweepModel, ...]:
    """The models that words and files name, in order and without repetition.

    Args:
        words: names as for an export, patterns such as `resnet*`, and folders (with a `/`) that are searched for
            checkpoints.
        files: text files with one word per line; `#` starts a comment. Paths are relative to the file's folder.
        pretrained: patterns match only models with pretrained weights.

    Raises:
        ConfigurationError: no model is given, a pattern matches nothing, a model is named twice, or a file or folder
            cannot be used.
        ModelError: a model does not exist.
    """
    entries = [(word, "") for word in words]
    for path in files:
        entries += [(word, f"{path}, line {number}: ") for number, word in _lines(path)]
    if not entries:
        raise ConfigurationError(
            "no model is given",
            hint="give names or patterns such as 'resnet*', --models FILE or --recipe FILE.toml",
        )
    patterns = any(_is_pattern(word) for word, _ in entries)
    index = load_index(build=patterns)
    found: dict[SweepModel, None] = {}
    named: set[str] = set()
    for word, where in entries:
        if _is_pattern(word):
            found |= dict.fromkeys(_matching(word, where, pretrained, index))
        elif _is_folder(word):
            found |= dict.fromkeys(_in_folder(Path(word).expanduser(), where, index))
        else:
            if word in named:
                raise ConfigurationError(f"{where}{brief(word)} is given twice", hint="give it once")
            named.add(word)
            found[SweepModel(word)] = None
    _check_names(found, index)
    return tuple(found)


def folder_names(models: Sequence[SweepModel]) -> list[str]:
    """A folder name for each model; names that are equal on some file system get a hash of the model."""
    names = [model.folder_name for model in models]
    count: dict[str, int] = {}
    for name in names:
        count[name.lower()] = count.get(name.lower(), 0) + 1
    return [
        name
        if count[name.lower()] == 1
        else f"{name}-{hashlib.sha256(model.label.encode(errors='replace')).hexdigest()[:8]}"
        for name, model in zip(names, models, strict=True)
    ]


def _lines(path: Path) -> Iterator[tuple[int, str]]:
    path = path.expanduser()
    check_path(path, "--models")
    try:
        text = read_file(path, _LARGEST_LIST).decode("utf-8-sig")
    except (OSError, ValueError) as exc:
        reason = exc.strerror or exc if isinstance(exc, OSError) else "it is not UTF-8 text"
        raise ConfigurationError(
            f"--models {path} cannot be read: {reason}", hint="name a text file with one model per line"
        ) from exc
    for number, line in enumerate(text.splitlines(), 1):
        word = line.partition("#")[0].strip()
        if not word:
            continue
        if word.startswith("local-dir:"):
            word = "local-dir:" + str(path.parent / Path(word.removeprefix("local-dir:")).expanduser())
        elif _is_folder(word):
            word = os.path.join(path.parent, Path(word).expanduser(), "")  # noqa: PTH118 - the separator stays
        yield number, word


def _is_pattern(word: str) -> bool:
    return not word.startswith(_SCHEMES) and any(character in word for character in "*?[")


def _is_folder(word: str) -> bool:
    """Whether a word is a folder of checkpoints: it has a separator, which no timm name has."""
    separators = {"/", os.sep}
    return not word.startswith(_SCHEMES) and any(separator in word for separator in separators)


def _matching(word: str, where: str, pretrained: bool, index: Index | None) -> list[SweepModel]:
    models = search(word, pretrained=pretrained, index=index)
    if not models:
        weights = " with pretrained weights" if pretrained else ""
        raise ConfigurationError(
            f"{where}no model{weights} matches {brief(word)}",
            hint="search with timmx list PATTERN, or leave this pattern out",
        )
    return [SweepModel(model.name) for model in models]


def _in_folder(folder: Path, where: str, index: Index | None) -> list[SweepModel]:
    """The models below a folder: folders with a config.json, runs of timm's train.py, and files named after models."""
    check_path(folder, "the folder")
    if not folder.is_dir():
        what = "is not a folder" if folder.exists() else "does not exist"
        raise ConfigurationError(f"{where}{folder} {what}", hint="check the path")
    models: list[SweepModel] = []
    unnamed: list[Path] = []
    for parent, folders, names in os.walk(folder):
        here = Path(parent)
        if "config.json" in names:
            models.append(SweepModel(f"local-dir:{here}"))
            folders.clear()
            continue
        folders.sort()
        run = _training_run(here, names)
        if run is not None:
            models.append(run)
            continue
        for name in sorted(names):
            if not name.lower().endswith(CHECKPOINT_SUFFIXES):
                continue
            model = _model_of_file(name, index)
            if model:
                models.append(SweepModel(model, here / name))
            else:
                unnamed.append(here / name)
    if unnamed:
        raise ConfigurationError(
            f"{where}the model of the checkpoint {unnamed[0]} is unknown",
            hint="rename it after its model, such as resnet50.safetensors, or put it into a folder with the "
            "config.json of timm.models.save_for_hf or the args.yaml of timm's train.py",
        )
    if not models:
        raise ConfigurationError(
            f"{where}{folder} has no checkpoints",
            hint="name a folder with config.json files, args.yaml files, or checkpoints such as resnet50.safetensors",
        )
    return models


def _training_run(folder: Path, names: Sequence[str]) -> SweepModel | None:
    """The model of a folder that timm's train.py has written."""
    for arguments, checkpoints in _TRAINING.items():
        best = next((name for name in checkpoints if name in names), None)
        if arguments not in names or best is None:
            continue
        try:
            text = read_file(folder / arguments, _LARGEST_LIST).decode("utf-8")
        except (OSError, ValueError) as exc:
            raise ConfigurationError(
                f"{folder / arguments} cannot be read: {exc}", hint="check its permissions"
            ) from exc
        model = re.search(r"^model: *['\"]?([\w.:/@-]+)['\"]? *$", text, re.MULTILINE)
        if model is not None:
            return SweepModel(model[1], folder / best)
    return None


def _model_of_file(name: str, index: Index | None) -> str | None:
    """The model that a checkpoint is named after: `resnet50.a1_in1k.safetensors` or `resnet50.pth.tar`."""
    stem = name
    while stem.lower().endswith(CHECKPOINT_SUFFIXES):
        stem = stem.rpartition(".")[0]
    architecture = stem.partition(".")[0]
    if index is None:
        index = load_index()
    if index is None or architecture not in index.models:
        return None
    return (
        stem
        if stem == architecture or stem.partition(".")[2] in index.models[architecture].tags
        else architecture
    )


def _check_names(models: Iterable[SweepModel], index: Index | None) -> None:
    """Check all names, as far as possible without importing timm, and report the first wrong ones together."""
    errors: list[TimmxError] = []
    names_by_hint: dict[str, list[str]] = {}
    for model in models:
        try:
            check_model_name(ExportRequest(model=model.name), index)
        except TimmxError as exc:
            errors.append(exc)
            if len(errors) <= _MOST_NAMED:
                names_by_hint.setdefault(exc.hint, []).append(brief(model.name))
    if not errors:
        return
    if len(errors) == 1:
        raise errors[0]
    named = "; ".join(error.message for error in errors[:_MOST_NAMED])
    more = f"; and {len(errors) - _MOST_NAMED} more" if len(errors) > _MOST_NAMED else ""
    raise ConfigurationError(
        f"{len(errors)} models cannot be used: {named}{more}",
        hint="; ".join(f"{', '.join(names)}: {hint}" for hint, names in names_by_hint.items() if hint),
    ) from errors[0]

"""What a sweep does: models, targets and options, checked before anything heavy is imported."""

from __future__ import annotations

import hashlib
import json
import shlex
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

from timmx.base import check_path
from timmx.contract import ExportRequest
from timmx.errors import ConfigurationError, TimmxError
from timmx.exporting import (
    MODULES,
    Target,
    check_extra_outputs,
    command_words,
    installed_versions,
    parse_targets,
    plan_exports,
    plan_separately,
)
from timmx.registry import distribution_of, option_specs, reject_unknown
from timmx.sweep.choices import OF_ONE_EXPORT, Keep
from timmx.sweep.models import SweepModel, folder_names

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping, Sequence


@dataclass(frozen=True, kw_only=True)
class SweepPlan:
    """Models, targets and options of a sweep.

    Attributes:
        models: in order.
        targets: as for `timmx.export_many`.
        options: the shared options of all cells, by name.
        data: labeled images for the accuracy of each file; None to measure none.
        keep: which files are kept.
        storage: the fsspec URL for the files; empty to keep them in the output folder.
    """

    models: tuple[SweepModel, ...]
    targets: tuple[str | Mapping[str, Any], ...]
    options: Mapping[str, Any] = field(default_factory=dict)
    data: Path | None = None
    keep: Keep = Keep.PASSED
    storage: str = ""

    @property
    def columns(self) -> tuple[str, ...]:
        """The targets as text, one per column."""
        return tuple(target_text(target) for target in self.targets)

    def options_of(self, model: SweepModel) -> dict[str, Any]:
        """The options of one model: what chooses weights applies to timm names only."""
        options = dict(self.options)
        if model.checkpoint is not None or model.name.startswith(("hf-hub:", "local-dir:")):
            for name in ("pretrained", "awaken", "seed"):
                options.pop(name, None)
        if model.checkpoint is not None:
            options["checkpoint"] = model.checkpoint
        return options

    def keys(self, model: SweepModel) -> list[str]:
        """For each target a hash of what determines the cell's result, apart from versions."""
        shared = [model.label, model.fingerprint(), self.options_of(model), str(self.data or "")]
        if self.storage and self.keep is not Keep.NONE:
            shared.append(self.storage)  # files at another place are exported again
        return [
            hashlib.sha256(
                json.dumps([shared, target], default=_json_value, sort_keys=True).encode()
            ).hexdigest()[:16]
            for target in self.targets
        ]

    def command(self, model: SweepModel, number: int) -> str:
        """The command that repeats a cell alone, quoted for a shell."""
        options = self.options_of(model)
        try:
            (target,) = plan_separately(model.name, [self.targets[number]], Path(), **options)
        except TimmxError as exc:
            target = exc
        if isinstance(target, Target):
            return shlex.join(command_words(target.backend.name, target.request, target.options))
        words = ["timmx", "export", model.name]
        specs = option_specs(ExportRequest)
        for name, value in options.items():
            words += specs[name].words(value)
        return shlex.join([*words, "--to", self.columns[number]])

    def versions(self) -> list[dict[str, str]]:
        """For each target the versions that its cells depend on."""
        return [
            installed_versions(
                "timmx-core", distribution_of(item.backend), "timm", "torch", *item.backend.toolchain
            )
            for item in parse_targets(self.targets)
        ]

    def backends(self) -> list[str]:
        """For each target the name of its backend."""
        return [item.backend.name for item in parse_targets(self.targets)]

    def preload(self) -> list[str]:
        """The modules to import once for all models."""
        names = [*MODULES, "timmx.sweep.worker"]
        names += [name for item in parse_targets(self.targets) for name in item.backend.preload]
        return list(dict.fromkeys(names))

    def folders(self) -> Iterator[tuple[SweepModel, str]]:
        """Each model with the name of its folder."""
        return zip(self.models, folder_names(self.models), strict=True)

    def to_json(self) -> dict[str, Any]:
        """JSON values, from which `from_json` makes an equal plan."""
        plan: dict[str, Any] = json.loads(
            json.dumps(
                {
                    "models": [
                        [model.name, str(model.checkpoint)] if model.checkpoint else [model.name]
                        for model in self.models
                    ],
                    "targets": list(self.targets),
                    "options": dict(self.options),
                    "data": None if self.data is None else str(self.data),
                    "keep": self.keep.value,
                    "storage": self.storage,
                },
                default=_json_value,
            )
        )
        return plan

    @classmethod
    def from_json(cls, content: Mapping[str, Any]) -> SweepPlan:
        """The plan of an earlier run; option values are checked when they are used.

        Raises:
            ConfigurationError: a value has another type.
        """
        try:
            models = tuple(
                SweepModel(str(name), Path(*map(str, checkpoint)) if checkpoint else None)
                for name, *checkpoint in content["models"]
            )
            targets = tuple(
                target if isinstance(target, str) else dict(target) for target in content["targets"]
            )
            data = content["data"]
            return cls(
                models=models,
                targets=targets,
                options=dict(content["options"]),
                data=None if data is None else Path(str(data)),
                keep=Keep(content["keep"]),
                storage=str(content.get("storage", "")),  # journals of timmx 0.1 have none
            )
        except (LookupError, TypeError, ValueError) as exc:
            raise ConfigurationError(
                f"the journal's plan is damaged: {exc!r}", hint="give the models and targets again"
            ) from exc


def make_plan(
    models: Sequence[SweepModel],
    targets: Sequence[str | Mapping[str, Any]],
    folder: Path,
    *,
    options: Mapping[str, Any],
    data: Path | None = None,
    keep: Keep = Keep.PASSED,
    storage: str = "",
) -> SweepPlan:
    """The plan of a sweep, its targets checked as by `timmx export`.

    Args:
        models: of `find_models`.
        targets: as for `timmx.export_many`.
        folder: the output folder.
        options: shared options by name, as for an export.
        data: a folder or CSV of labeled images; None to measure no accuracy.
        keep: which files are kept.
        storage: the fsspec URL for the files; empty to keep them in the output folder.

    Raises:
        TimmxError: a target or an option cannot be used with any model, or the data does not exist.
    """
    for name in OF_ONE_EXPORT:
        if name in options:
            flag = f"--{name.replace('_', '-')}"
            raise ConfigurationError(
                f"{flag} applies to one export, not to a sweep", hint=_INSTEAD.get(name, "")
            )
    reject_unknown(options, option_specs(ExportRequest), "timmx sweep")
    options = {name: _absolute(value) for name, value in options.items()}
    if options.get("awaken") and options.get("pretrained"):
        raise ConfigurationError(
            "--awaken is for untrained weights, and --pretrained loads trained ones",
            hint="leave one of them out",
        )
    if data is not None:
        check_path(data, "--data")
        data = data.expanduser().absolute()
        if not data.exists():
            raise ConfigurationError(f"--data {data} does not exist", hint="check the path")
        if options.get("awaken"):
            raise ConfigurationError(
                "--data measures accuracy, which means nothing for random weights",
                hint="leave --data or --awaken out",
            )
    if storage and keep is Keep.NONE:
        raise ConfigurationError(
            "--storage stores the files that are kept, and --keep none keeps no files",
            hint="leave one of them out",
        )
    if storage and "://" not in storage:  # so that the sweep can be resumed from another folder
        storage = str(Path(storage).expanduser().absolute())
    plan = SweepPlan(
        models=tuple(models), targets=tuple(targets), options=options, data=data, keep=keep, storage=storage
    )
    columns = plan.columns
    repeated = next((column for column in columns if columns.count(column) > 1), None)
    if repeated is not None:
        raise ConfigurationError(f"--to {repeated} is given twice", hint="give it once")
    first, name = next(plan.folders())
    exports = plan_exports(first.name, plan.targets, folder / name, **plan.options_of(first))
    extra = next((path for target in exports for path in target.extra_outputs), None)
    if extra is not None and storage:
        raise ConfigurationError(
            f"a target would write {extra}, which --storage does not store", hint="leave that option out"
        )
    if len(plan.models) > 1 and extra is not None:
        _check_extra_outputs(plan, folder)
    return plan


def _check_extra_outputs(plan: SweepPlan, folder: Path) -> None:
    """Check that no two models would write the same further file, such as one that an option names."""
    writers: dict[str, Path] = {}
    for model, name in plan.folders():
        planned = plan_separately(model.name, plan.targets, folder / name, **plan.options_of(model))
        check_extra_outputs([item for item in planned if isinstance(item, Target)], writers)


_INSTEAD = {
    "checkpoint": "name a folder of checkpoints as a model, such as runs/",
    "use_ema": "use timmx export for one model",
    "force": "a sweep replaces its own files; leave it out",
}


def target_text(target: str | Mapping[str, Any]) -> str:
    """A target as for `--to`."""
    if isinstance(target, str):
        return target
    options = ",".join(f"{key}={_word(value)}" for key, value in target.items() if key != "format")
    return f"{target.get('format', '')}:{options}" if options else str(target.get("format", ""))


def _word(value: Any) -> str:
    if isinstance(value, bool):
        return "yes" if value else "no"
    if isinstance(value, (list, tuple)):
        return ",".join(map(str, value))
    return str(value)


def _absolute(value: Any) -> Any:
    """A value; a path is absolute, so that the sweep can be resumed from another folder."""
    return value.expanduser().absolute() if isinstance(value, Path) else value


def _json_value(value: Any) -> Any:
    return str(value) if isinstance(value, Path) else list(value)

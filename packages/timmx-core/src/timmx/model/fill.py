"""Builds the model of a request and loads its weights: from timm's file, from a checkpoint, or random."""

from __future__ import annotations

import contextlib
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

from timmx.base import brief
from timmx.errors import ConfigurationError, ModelError
from timmx.model.build import (
    UnknownArgumentError,
    can_be_trained_with,
    cfg_of,
    create,
    create_features,
    seeded,
)
from timmx.model.checkpoint import Checkpoint, read_checkpoint
from timmx.model.config import check_arguments, check_timm_config
from timmx.model.fit import check_finite, check_types, fit_state_dict
from timmx.model.input_size import size_arguments

if TYPE_CHECKING:
    from collections.abc import Mapping
    from pathlib import Path

    from torch import nn

    from timmx.contract import ExportRequest
    from timmx.model.source import Source


@dataclass(frozen=True, kw_only=True)
class FilledModel:
    """A model with its weights.

    Attributes:
        model: in eval mode on the CPU.
        in_chans: number of channels of its input.
        checkpoint: the user's weights file; None for other weights.
        training_options: create_model's arguments that come from the options of the checkpoint's training.
        trained_size: (channels, height, width) from there; None if the request states the size.
        seed: seed of random weights; None if there are none.
        notes: notes for the user.
    """

    model: nn.Module
    in_chans: int
    checkpoint: Checkpoint | None
    training_options: Mapping[str, Any] = field(default_factory=dict)
    trained_size: tuple[int, int, int] | None = None
    seed: int | None
    notes: tuple[str, ...]


def build_and_fill(request: ExportRequest, source: Source) -> FilledModel:
    """Build the model of a request and load its weights. Options are checked before weights are read.

    Raises:
        ConfigurationError: the model does not support the input size, an argument or a feature level.
        ModelError: it cannot be built, or the weights do not fit it.
    """
    plan = Plan(request, source)
    seed = request.seed or 0
    with seeded(seed):
        if request.checkpoint is not None:
            checkpoint = read_checkpoint(request.checkpoint, request.use_ema)
            plan = _as_trained(plan, checkpoint, request, source)
            model, notes = plan.fill_from_checkpoint(checkpoint)
            check_finite(model, checkpoint.path)
            return FilledModel(
                model=model,
                in_chans=plan.channels(model),
                checkpoint=checkpoint,
                training_options=plan.training_options,
                trained_size=plan.trained_size,
                seed=None,
                notes=(*checkpoint.notes, *notes),
            )
        if source.weights is not None:
            path = source.weights()
            model, notes = plan.fill_from_file(path)
            check_finite(model, path)
            adaptations = plan.adaptations(model)
            notes += tuple(adaptations.values())
            return FilledModel(
                model=model,
                in_chans=plan.channels(model),
                checkpoint=None,
                seed=seed if "classifier" in adaptations else None,
                notes=notes,
            )
        model = plan.build()
        return FilledModel(model=model, in_chans=plan.channels(model), checkpoint=None, seed=seed, notes=())


def _as_trained(plan: Plan, checkpoint: Checkpoint, request: ExportRequest, source: Source) -> Plan:
    """The plan with the arguments that the checkpoint's model was built with, except those that the request sets.

    Raises:
        ConfigurationError: the model does not take one of them.
    """
    arguments, size = checkpoint.model_arguments, checkpoint.options.get("input_size")
    where = f"{checkpoint.path} was trained with "
    check_timm_config(checkpoint.options, f"the options that {checkpoint.path} was trained with")
    check_arguments(arguments, where)
    if request.features:  # which have neither
        arguments = {key: arguments[key] for key in arguments if key not in ("global_pool", "num_classes")}
    foreign = next((key for key in arguments if not can_be_trained_with(key)), None)
    if foreign is not None:
        raise ConfigurationError(
            f"{where}{foreign}={brief(arguments[foreign])}, which cannot be exported",
            hint=f"remove {foreign} from the checkpoint's args.model_kwargs",
        )
    if not arguments and size is None:
        return plan
    try:
        return Plan(request, source, arguments, size)
    except (ConfigurationError, ModelError) as exc:
        unknown = [exc.argument] if isinstance(exc, UnknownArgumentError) else arguments
        settings = [f"{key}={brief(arguments[key])}" for key in unknown]
        if size and not isinstance(exc, UnknownArgumentError):
            settings.append(f"input size {size[-2]} x {size[-1]}")
        raise ConfigurationError(
            f"{where}{', '.join(settings)}: {exc.message}",
            hint="use the name of the model that was trained; --model-kwargs, --num-classes, --in-chans and "
            "--input-size override these options",
        ) from exc


def native_size(model: nn.Module, cfg: Mapping[str, Any]) -> tuple[int, int]:
    """(height, width) that a timm model was built for; for a model that takes any size, that of its weights."""
    traits = getattr(model, "_traits", {})  # since timm 1.0.30
    size = traits.get("img_size") or getattr(getattr(model, "patch_embed", None), "img_size", None)
    size = size or cfg["input_size"][1:]
    return (size, size) if isinstance(size, int) else (int(size[-2]), int(size[-1]))


class Plan:
    """The arguments of create_model for a request, tried on the meta device if any differ from the defaults."""

    def __init__(
        self,
        request: ExportRequest,
        source: Source,
        trained: Mapping[str, Any] | None = None,
        trained_size: tuple[int, ...] | None = None,
    ) -> None:
        """Plan a model.

        Args:
            request: its options override those of training.
            source: the model.
            trained: arguments from the options of a checkpoint's training.
            trained_size: (..., height, width) from there.
        """
        self._request = request
        self._source = source  # which keeps the folder that its name may refer to
        own = request.parsed_model_kwargs()
        requested = {"num_classes": request.num_classes, "in_chans": request.in_chans}
        set_by_request = {*own, *(key for key, value in requested.items() if value is not None)}
        if request.input_size is not None:
            set_by_request |= {"in_chans", "img_size"}
        self.training_options = {
            key: value for key, value in (trained or {}).items() if key not in set_by_request
        }
        self.trained_size: tuple[int, int, int] | None = None
        self._arguments = {**self.training_options, **own}
        self._size: dict[str, Any] = {}
        if request.num_classes is not None:
            self._arguments["num_classes"] = request.num_classes
        if request.in_chans is not None:
            self._arguments["in_chans"] = request.in_chans
        if request.out_indices is not None:
            self._arguments["out_indices"] = tuple(request.out_indices)
        if request.input_size is not None:
            self._set_size(source, request.input_size)
        elif trained_size is not None:
            channels = self.channels(self.build(meta=True))
            self.trained_size = (channels, int(trained_size[-2]), int(trained_size[-1]))
            self._set_size(source, self.trained_size)
        elif self._arguments or request.features:
            self.build(meta=True)
        elif source.described_by_file:  # its arguments may be of any size
            with contextlib.suppress(ModelError):  # a constructor that computes with values
                self.build(meta=True)

    def _set_size(self, source: Source, input_size: tuple[int, int, int]) -> None:
        channels, size = input_size[0], input_size[1:]
        model = self.build(meta=True)
        if channels != self.channels(model):
            self._arguments["in_chans"] = channels
        native = native_size(model, cfg_of(model))
        if size != native:
            self._size = size_arguments(
                source.name, lambda extra: self.build(extra, meta=True), channels, size, native
            )

    def build(self, extra: dict[str, Any] | None = None, meta: bool = False) -> nn.Module:
        """Build the model with the size's arguments and `extra`."""
        create_model = create_features if self._request.features else create
        return create_model(self._source.timm_name, {**self._arguments, **self._size, **(extra or {})}, meta)

    def channels(self, model: nn.Module) -> int:
        """Number of input channels; timm before 1.0.30 does not store it on a feature pyramid."""
        argument = self._arguments.get("in_chans")
        return int(getattr(model, "in_chans", None) or argument or cfg_of(model)["input_size"][0])

    def fill_from_file(self, path: Path) -> tuple[nn.Module, tuple[str, ...]]:
        """Load timm's pretrained weights: timm adapts stem and classifier and resamples position embeddings."""
        overlay = {"file": str(path), "source": "", "custom_load": path.suffix == ".npz"}
        loading: dict[str, Any] = {"pretrained": True, "pretrained_cfg_overlay": overlay}
        if "pretrained_strict" in self._source.arguments:  # a config.json must not leave weights random
            loading["pretrained_strict"] = True
        checkpoint = None if path.suffix == ".npz" else read_checkpoint(path)
        try:
            model = self.build(loading)
        except ModelError as exc:
            if checkpoint is None:
                raise
            return self._fill_at_own_size(checkpoint, loading, exc)
        _forget_source(model)
        if checkpoint is not None:
            check_types(checkpoint, checkpoint.state_dict, model.state_dict())
        return model, ()

    def _fill_at_own_size(
        self, checkpoint: Checkpoint, loading: dict[str, Any], failure: ModelError
    ) -> tuple[nn.Module, tuple[str, ...]]:
        """Load the weights at their own size and resize the model; if that fails, load them as a checkpoint."""
        if self._size:
            size, self._size = self._size, {}
            try:
                model = self.build(loading)
            except ModelError:
                self._size = size
            else:
                _forget_source(model)
                return self._resized(model, size, failure), ()
        return self.fill_from_checkpoint(checkpoint)

    def fill_from_checkpoint(self, checkpoint: Checkpoint) -> tuple[nn.Module, tuple[str, ...]]:
        """Load every weight from a checkpoint, or raise an error."""
        if self._request.features:
            return self._fill_features(checkpoint)
        spare = self._full().state_dict() if self._request.num_classes == 0 else ()
        model = self.build()
        try:
            state, notes = fit_state_dict(checkpoint, model, spare)
        except ModelError as exc:
            if not self._size:
                raise
            size, self._size = self._size, {}
            model = self.build()
            state, notes = fit_state_dict(checkpoint, model, spare)
            model.load_state_dict(state)
            return self._resized(model, size, exc), notes
        model.load_state_dict(state)
        return model, notes

    def _fill_features(self, checkpoint: Checkpoint) -> tuple[nn.Module, tuple[str, ...]]:
        """Fit the checkpoint to the whole model, with any number of classes; timm loads the pyramid from it."""
        state, notes = fit_state_dict(checkpoint, self._full(num_classes=0), self._full().state_dict())
        overlay = {"state_dict": state, "source": "", "label_offset": 0}
        model = self.build({"pretrained": True, "pretrained_cfg_overlay": overlay})
        _forget_source(model)
        return model, notes

    def _full(self, **extra: Any) -> nn.Module:
        """The whole model on the meta device, with its classifier unless `extra` removes it."""
        own = {
            key: self._arguments[key] for key in self._arguments if key not in ("num_classes", "out_indices")
        }
        return create(self._source.timm_name, {**own, **self._size, **extra}, meta=True)

    def _resized(self, model: nn.Module, size: dict[str, Any], failure: ModelError) -> nn.Module:
        resize = getattr(model, "set_input_size", None)
        if resize is None:
            height, width = native_size(model, cfg_of(model))
            raise ModelError(
                f"the weights are for {height} x {width} pixels, and timm cannot adapt them to another size in "
                f"this family ({type(model).__name__})",
                hint="leave --input-size out",
            ) from failure
        resize(**size)
        return model.eval()

    def adaptations(self, model: nn.Module) -> dict[str, str]:
        """A note for each part whose weights timm adapted when it loaded them."""
        cfg = cfg_of(model)
        notes = {}
        num_classes, own = self._request.num_classes, cfg.get("num_classes") or 0
        if num_classes and num_classes != own:
            notes["classifier"] = (
                f"The classifier is new and untrained: {num_classes} classes, where the weights have {own or 'none'}."
            )
        channels = self.channels(model)
        if channels != cfg["input_size"][0]:
            notes["stem"] = (
                f"timm adapted the first layer's weights from {cfg['input_size'][0]} to {channels} channels."
            )
        return notes


def _forget_source(model: nn.Module) -> None:
    """Remove the path or the tensors from the model's configuration."""
    for key in ("file", "state_dict"):
        cfg_of(model).pop(key, None)

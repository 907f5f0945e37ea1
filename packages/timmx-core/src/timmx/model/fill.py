"""Builds the model of a request and loads its weights: from timm's file, from a checkpoint, or random."""

from __future__ import annotations

import contextlib
from dataclasses import dataclass, field, replace
from typing import TYPE_CHECKING, Any

from timmx.base import brief, counted
from timmx.errors import ConfigurationError, ModelError
from timmx.model.build import (
    FLAGS,
    UnknownArgumentError,
    can_be_trained_with,
    cfg_of,
    constructor_arguments,
    create,
    create_features,
    seeded,
)
from timmx.model.checkpoint import Checkpoint, check_tensors, read_checkpoint, with_config
from timmx.model.config import check_arguments, check_timm_config
from timmx.model.fit import check_finite, check_types, fit_state_dict, layers, needed_of
from timmx.model.input_size import size_arguments
from timmx.model.loading import watch_loading
from timmx.model.selection import count_keys, select_tensors, some_of
from timmx.model.source import pretrained_cfg
from timmx.model.stand_ins import Unread
from timmx.model.training import DATA_CONFIG, KWARGS, arguments_of_module, arguments_of_training

if TYPE_CHECKING:
    from collections.abc import Callable, Collection, Mapping
    from pathlib import Path

    from torch import Tensor, nn

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


def build_and_fill(
    request: ExportRequest, source: Source, check_weights: Callable[[int], None] | None = None
) -> FilledModel:
    """Build the model of a request and load its weights. Options are checked before weights are read.

    Args:
        request: the shared options.
        source: where the weights are.
        check_weights: called with the size of the weights in bytes before they are read; what it raises is raised.

    Raises:
        ConfigurationError: the model does not support the input size, an argument or a feature level.
        ModelError: it cannot be built, or the weights do not fit it.
    """
    plan = Plan(request, source)
    if check_weights is not None:
        check_weights(plan.weights_bytes())
    seed = request.seed or 0
    with seeded(seed):
        if request.checkpoint is not None:
            checkpoint = with_config(read_checkpoint(request.checkpoint, request.use_ema))
            tagged, tag_notes = _with_tag(source, checkpoint)
            if tagged is not source:
                source, plan = tagged, Plan(request, tagged)
            plan = _as_trained(plan, checkpoint, request, source)
            model, notes = plan.fill_from_checkpoint(checkpoint)
            _check_architecture(model, checkpoint)
            check_finite(model, checkpoint.path)
            return FilledModel(
                model=model,
                in_chans=plan.channels(model),
                checkpoint=checkpoint,
                training_options=plan.training_options,
                trained_size=plan.trained_size,
                seed=None,
                notes=(*checkpoint.notes, *tag_notes, *notes),
            )
        if source.weights is not None:
            path = source.weights()
            file: Checkpoint | None = None
            if source.described_by_file:
                file = read_checkpoint(path, request.use_ema)
                plan = _as_trained(plan, file, request, source)
                model, notes = plan.fill_from_folder(file)
                _check_architecture(model, file)
                notes = (*file.notes, *notes)
            else:
                model, notes = plan.fill_from_file(path)
            check_finite(model, path)
            adaptations = plan.adaptations(model)
            return FilledModel(
                model=model,
                in_chans=plan.channels(model),
                checkpoint=file,
                training_options=plan.training_options,
                trained_size=plan.trained_size,
                seed=seed if "classifier" in adaptations else None,
                notes=(*notes, *adaptations.values()),
            )
        model = plan.build()
        return FilledModel(model=model, in_chans=plan.channels(model), checkpoint=None, seed=seed, notes=())


def _as_trained(plan: Plan, checkpoint: Checkpoint, request: ExportRequest, source: Source) -> Plan:
    """The plan with the arguments that the checkpoint's model was built with, except those that the request sets.

    Raises:
        ConfigurationError: the model does not take one of them.
    """
    arguments, size = _arguments_of(checkpoint, request, source), checkpoint.options.get("input_size")
    where = f"{checkpoint.path} was trained with "
    check_timm_config(checkpoint.options, f"the options that {checkpoint.path} was trained with")
    check_arguments(arguments, where)
    unread = next((key for key, value in arguments.items() if isinstance(value, Unread)), None)
    if unread is not None:
        raise ConfigurationError(
            f"{where}{unread} as an object that is not read",
            hint=f"save {unread} as a number or a text, or save the state dict alone and use --model-kwargs",
        )
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


def _arguments_of(checkpoint: Checkpoint, request: ExportRequest, source: Source) -> dict[str, Any]:
    """The arguments of create_model that a checkpoint states.

    Raises:
        ModelError: they cannot be read, or contradict each other and the request does not set them.
    """

    def own() -> set[str]:
        names = constructor_arguments(source.timm_name)
        return {name for name in names if can_be_trained_with(name)} - {"cfg", "args", "kwargs"}

    others = checkpoint.other_options
    arguments = arguments_of_module(others.values, checkpoint.path, own)
    of_training = arguments_of_training(checkpoint.args, checkpoint.path)
    values = {key: found for key, found in others.contradictions.items() if key in (*arguments, *KWARGS)}
    for key, value in of_training.items():
        if key in arguments and arguments[key] != value:
            values[key] = [value, *values.get(key, [arguments[key]])]
    for key in values.keys() - _set_by(request):
        found = " and ".join(brief(value) for value in values[key])
        raise ModelError(
            f"{checkpoint.path} states several values of {key}: {found}",
            hint=f"choose one with {FLAGS.get(key, f'--model-kwargs {key}=VALUE')}, or save the state dict alone",
        )
    return {**arguments, **of_training}


def _set_by(request: ExportRequest) -> set[str]:
    """The arguments of create_model that a request sets."""
    requested = {"num_classes": request.num_classes, "in_chans": request.in_chans}
    arguments = {*request.parsed_model_kwargs(), *(key for key in requested if requested[key] is not None)}
    return arguments | ({"in_chans", "img_size"} if request.input_size is not None else set())


def _with_tag(source: Source, checkpoint: Checkpoint) -> tuple[Source, tuple[str, ...]]:
    """The source with the tag that the checkpoint states if the request has none, and a note if it matters.

    A tag stands for a data config, and for some models a number of classes or an input size.
    """
    stated = checkpoint.architecture
    architecture, _, tag = source.timm_name.partition(".")
    if (
        source.described_by_file
        or stated is None
        or "." not in stated
        or stated.partition(".")[0] != architecture
    ):
        return source, ()
    own, other = pretrained_cfg(source.timm_name), pretrained_cfg(stated)
    differing = [key for key in DATA_CONFIG if own.get(key) != other.get(key)]
    if not tag:
        note = f"{checkpoint.path.name} was trained as {stated}: the data config of this tag is used."
        return replace(source, timm_name=stated), (note,) if differing else ()
    if tag == stated.partition(".")[2] or not differing:
        return source, ()
    return source, (
        f"{checkpoint.path.name} was trained as {stated}, which differs from {source.timm_name} in "
        f"{', '.join(differing)}: those of {source.timm_name} are used.",
    )


def _check_architecture(model: nn.Module, checkpoint: Checkpoint) -> None:
    """Check that weights which fit are for this model, not for one with the same tensors and another computation.

    Raises:
        ModelError: the checkpoint states another architecture.
    """
    from timm.models import model_entrypoint

    stated, own = (checkpoint.architecture or "").partition(".")[0], cfg_of(model).get("architecture") or ""
    if not stated or own == stated or model_entrypoint(own) is model_entrypoint(stated):
        return
    raise ModelError(
        f"{checkpoint.path} was trained as {stated}, not {own}: the weights fit, but the models compute differently",
        hint=f"export {checkpoint.architecture}; if the checkpoint states a wrong name, save its state dict alone",
    )


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
        own, set_by_request = request.parsed_model_kwargs(), _set_by(request)
        self.training_options = {
            key: value for key, value in (trained or {}).items() if key not in set_by_request
        }
        self.trained_size: tuple[int, int, int] | None = None
        self._own_classes: int | None = None
        self._classifier_names: tuple[str, ...] | None = None
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

    def weights_bytes(self) -> int:
        """The size of the weights; 0 if the model's constructor computes with values."""
        try:
            model = self.build(meta=True)
        except ModelError:
            return 0
        return sum(parameter.nbytes for parameter in model.parameters())

    def channels(self, model: nn.Module) -> int:
        """Number of input channels; timm before 1.0.30 does not store it on a feature pyramid."""
        argument = self._arguments.get("in_chans")
        return int(getattr(model, "in_chans", None) or argument or cfg_of(model)["input_size"][0])

    def fill_from_file(self, path: Path) -> tuple[nn.Module, tuple[str, ...]]:
        """Load timm's pretrained weights: timm adapts stem and classifier and resamples position embeddings."""
        overlay = {"file": str(path), "source": "", "custom_load": path.suffix == ".npz"}
        checkpoint = None if path.suffix == ".npz" else read_checkpoint(path)
        new = self._classifier() if self._request.num_classes else ()
        try:
            model, notes = self._load(overlay, path, new)
        except ModelError as exc:
            if checkpoint is None:
                raise
            return self._fill_at_own_size(checkpoint, overlay, exc, new)
        if checkpoint is not None:
            check_types(checkpoint, checkpoint.state_dict, model.state_dict())
        return model, notes

    def fill_from_folder(self, checkpoint: Checkpoint) -> tuple[nn.Module, tuple[str, ...]]:
        """Load the weights of a `local-dir:` or `hf-hub:` model; timm adapts them as those of its own models.

        Raises:
            ModelError: a tensor that the model needs is missing, or the weights have another number of classes than
                config.json states and the request has none.
        """
        outline = self._outline()
        target, classifier = outline.state_dict(), self._classifier()
        new = classifier if self._request.num_classes else ()
        needed = [name for name in needed_of(target) if name not in new]
        state, notes = select_tensors(checkpoint, target, needed)
        if not state.keys() >= set(needed):  # timm converts names of original repositories
            state, notes = checkpoint.state_dict, ()
        check_tensors(state, checkpoint.path)
        overlay: dict[str, Any] = {"state_dict": state, "source": "", "custom_load": False}
        name = next((name for name in classifier if name in state), None)
        if name is not None:
            rows, own = len(state[name]), len(target[name]) if name in target else 0
            offset = int(cfg_of(outline).get("label_offset") or 0)
            if own in (rows, rows - offset):
                overlay |= {"num_classes": outline.num_classes, "label_offset": rows - own}
                self._own_classes = self._request.num_classes
                new = ()
            else:
                overlay |= {"num_classes": rows, "label_offset": 0}
                self._own_classes = rows
            if own not in (0, rows, rows - offset) and not self._request.num_classes:
                raise ModelError(
                    f"{checkpoint.path} has a classifier of {counted(rows, 'class', 'classes')}, but the model's "
                    f"configuration states {own}",
                    hint=f"use --num-classes {rows} to export it as it is, or --num-classes {own} for a new, "
                    "untrained classifier",
                )
        try:
            model, _ = self._load(overlay, checkpoint.path, new)
        except ModelError as exc:
            return self._fill_at_own_size(checkpoint, overlay, exc, new)
        check_types(checkpoint, state, model.state_dict())
        return model, notes

    def _load(
        self, overlay: Mapping[str, Any], path: Path, new: Collection[str]
    ) -> tuple[nn.Module, tuple[str, ...]]:
        """Build the model and let timm load its weights.

        Args:
            overlay: the source of the weights, for timm's configuration.
            path: their file, for messages.
            new: names that may be missing, of a new classifier.

        Raises:
            ModelError: timm cannot load them, a tensor that the model needs is missing, or one is not used.
        """
        loading: dict[str, Any] = {"pretrained": True, "pretrained_cfg_overlay": dict(overlay)}
        if "pretrained_strict" in self._source.arguments:  # a config.json must not leave weights random
            loading["pretrained_strict"] = True
        with watch_loading() as loadings:
            model = self.build(loading)
        _forget_source(model)
        missing: dict[str, Tensor] = {}
        unused: set[str] = set()
        for entry in loadings:
            missing |= entry.missing_in(model)
            unused |= {*entry.unexpected}
        lacking = [name for name in needed_of(missing) if name not in new]
        if lacking and self._request.features:
            lacking = [name for name in lacking if name not in self._classifier()]
        notes: tuple[str, ...] = ()
        if not self._source.described_by_file:
            # timm accepts files of its own that lack the last norm, such as convnext's fcmae
            neutral = [name for name in lacking if bool((missing[name] == missing[name].flatten()[0]).all())]
            lacking = [name for name in lacking if name not in neutral]
            unused = set()
            if neutral:
                keys = f"{count_keys(len(neutral))} ({some_of(neutral)})"
                notes = (f"timm's weights lack {keys}: initial values are used.",)
        elif unused:
            unused -= {*self._classifier(), *self._full().state_dict(), *dict(model.named_buffers())}
        if lacking or unused:
            parts = [f"{count_keys(len(lacking))} missing ({some_of(lacking)})"] if lacking else []
            parts += [f"{count_keys(len(unused))} unexpected ({some_of(sorted(unused))})"] if unused else []
            raise ModelError(
                f"{path} does not fit {self._source.name}: {'; '.join(parts)}",
                hint="leave --in-chans out"
                if self._request.in_chans is not None
                else "use the name of the model that it was saved from",
            )
        return model, notes

    def _outline(self) -> nn.Module:
        """The model that the weights are for, without them: on the meta device if its constructor allows that."""
        if self._request.features:
            return self._full(num_classes=0)
        try:
            return self.build(meta=True)
        except ModelError:
            return self.build()

    def _classifier(self) -> tuple[str, ...]:
        """Names of the classifier's tensors."""
        if self._classifier_names is None:
            names = layers(cfg_of(self._full()).get("classifier"))
            self._classifier_names = tuple(f"{name}.{kind}" for name in names for kind in ("weight", "bias"))
        return self._classifier_names

    def _fill_at_own_size(
        self, checkpoint: Checkpoint, overlay: Mapping[str, Any], failure: ModelError, new: Collection[str]
    ) -> tuple[nn.Module, tuple[str, ...]]:
        """Load the weights at their own size and resize the model; if that fails, load them as a checkpoint."""
        if self._size:
            size, self._size = self._size, {}
            try:
                model, notes = self._load(overlay, checkpoint.path, new)
            except ModelError:
                self._size = size
            else:
                return self._resized(model, size, failure), notes
        return self.fill_from_checkpoint(checkpoint, new)

    def fill_from_checkpoint(
        self, checkpoint: Checkpoint, new: Collection[str] = ()
    ) -> tuple[nn.Module, tuple[str, ...]]:
        """Load every weight from a checkpoint, except those of a new classifier, or raise an error."""
        if self._request.features:
            return self._fill_features(checkpoint)
        if new and self._own_classes is None:
            self._own_classes = 0
        spare = self._full().state_dict() if self._request.num_classes == 0 else ()
        model = self.build()
        try:
            state, notes = fit_state_dict(checkpoint, model, spare, new)
        except ModelError as exc:
            if not self._size:
                raise
            size, self._size = self._size, {}
            model = self.build()
            state, notes = fit_state_dict(checkpoint, model, spare, new)
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
        arguments = {**own, **self._size, **extra}
        try:
            return create(self._source.timm_name, arguments, meta=True)
        except ModelError:  # a constructor that computes with values
            return create(self._source.timm_name, arguments)

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
        num_classes = self._request.num_classes
        own = (cfg.get("num_classes") or 0) if self._own_classes is None else self._own_classes
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

"""A model built as asked, with its weights inside: from timm's own file, from a checkpoint, or random."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from timmx.errors import ModelError
from timmx.model.build import cfg_of, create, create_features, seeded
from timmx.model.checkpoint import Checkpoint, read_checkpoint
from timmx.model.fit import fit_state_dict
from timmx.model.input_size import size_arguments

if TYPE_CHECKING:
    from collections.abc import Mapping
    from pathlib import Path

    from torch import nn

    from timmx.contract import ExportRequest
    from timmx.model.source import Source


@dataclass(frozen=True, kw_only=True)
class Filled:
    """A built model.

    Attributes:
        model: in eval mode on the CPU.
        in_chans: the channels of its input.
        checkpoint: the user's file, where its weights come from one.
        seed: of the weights that are random; None where none are.
        notes: what the user should know.
    """

    model: nn.Module
    in_chans: int
    checkpoint: Checkpoint | None
    seed: int | None
    notes: tuple[str, ...]


def build_and_fill(request: ExportRequest, source: Source) -> Filled:
    """Build the model that a request asks for and fill it; what cannot be is refused before weights are read.

    Raises:
        ConfigurationError: an input size, an argument or feature levels that the model does not have.
        ModelError: it cannot be built, or the weights do not fit it.
    """
    plan = Plan(request, source)
    seed = request.seed or 0
    with seeded(seed):
        if request.checkpoint is not None:
            checkpoint = read_checkpoint(request.checkpoint, request.use_ema)
            model, notes = plan.fill_from_checkpoint(checkpoint)
            return Filled(
                model=model,
                in_chans=plan.channels(model),
                checkpoint=checkpoint,
                seed=None,
                notes=(*checkpoint.notes, *notes),
            )
        if source.weights is not None:
            model, notes = plan.fill_from_file(source.weights())
            adapted = plan.adaptations(model)
            notes += tuple(adapted.values())
            return Filled(
                model=model,
                in_chans=plan.channels(model),
                checkpoint=None,
                seed=seed if "classifier" in adapted else None,
                notes=notes,
            )
        model = plan.build()
        return Filled(model=model, in_chans=plan.channels(model), checkpoint=None, seed=seed, notes=())


def native_size(model: nn.Module, cfg: Mapping[str, Any]) -> tuple[int, int]:
    """(height, width) that a timm model was built for; where it takes any, that of its weights."""
    traits = getattr(model, "_traits", {})  # since timm 1.0.30
    size = traits.get("img_size") or getattr(getattr(model, "patch_embed", None), "img_size", None)
    size = size or cfg["input_size"][1:]
    return (size, size) if isinstance(size, int) else (int(size[-2]), int(size[-1]))


class Plan:
    """How to call create_model: settled on the meta device where anything unusual is asked for."""

    def __init__(self, request: ExportRequest, source: Source) -> None:
        self._request = request
        self._name = source.timm_name
        self._arguments = request.parsed_model_kwargs()
        self._size: dict[str, Any] = {}
        if request.num_classes is not None:
            self._arguments["num_classes"] = request.num_classes
        if request.in_chans is not None:
            self._arguments["in_chans"] = request.in_chans
        if request.out_indices is not None:
            self._arguments["out_indices"] = tuple(request.out_indices)
        if request.input_size is not None:
            self._settle_size(source, request.input_size)
        elif self._arguments or request.features:
            self.build(meta=True)

    def _settle_size(self, source: Source, input_size: tuple[int, int, int]) -> None:
        channels, size = input_size[0], input_size[1:]
        sketch = self.build(meta=True)
        if channels != self.channels(sketch):
            self._arguments["in_chans"] = channels
        native = native_size(sketch, cfg_of(sketch))
        if size != native:
            self._size = size_arguments(
                source.name, lambda extra: self.build(extra, meta=True), channels, size, native
            )

    def build(self, extra: dict[str, Any] | None = None, meta: bool = False) -> nn.Module:
        """The model with the size's arguments and `extra`."""
        make = create_features if self._request.features else create
        return make(self._name, {**self._arguments, **self._size, **(extra or {})}, meta)

    def channels(self, model: nn.Module) -> int:
        """Of the input; timm before 1.0.30 does not note them on a feature pyramid."""
        asked = self._arguments.get("in_chans")
        return int(getattr(model, "in_chans", None) or asked or cfg_of(model)["input_size"][0])

    def fill_from_file(self, path: Path) -> tuple[nn.Module, tuple[str, ...]]:
        """As timm loads pretrained weights: stem and classifier adapted, position embeddings resampled."""
        overlay = {"file": str(path), "source": "", "custom_load": path.suffix == ".npz"}
        loading = {"pretrained": True, "pretrained_cfg_overlay": overlay}
        try:
            model = self.build(loading)
        except ModelError as exc:
            if path.suffix == ".npz":
                raise
            return self._fill_otherwise(path, loading, exc)
        _forget_source(model)
        return model, ()

    def _fill_otherwise(
        self, path: Path, loading: dict[str, Any], failure: ModelError
    ) -> tuple[nn.Module, tuple[str, ...]]:
        """At the weights' own size and resized afterwards; else the reason in full."""
        if self._size:
            size, self._size = self._size, {}
            try:
                model = self.build(loading)
            except ModelError:
                self._size = size
            else:
                _forget_source(model)
                return self._resized(model, size, failure), ()
        checkpoint = read_checkpoint(path)
        model, notes = self.fill_from_checkpoint(checkpoint)
        return model, notes

    def fill_from_checkpoint(self, checkpoint: Checkpoint) -> tuple[nn.Module, tuple[str, ...]]:
        """Every weight from the file, or a refusal."""
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
        """Fitted to the whole model, whatever its classes; timm fills the pyramid from it."""
        state, notes = fit_state_dict(checkpoint, self._full(num_classes=0), self._full().state_dict())
        overlay = {"state_dict": state, "source": "", "label_offset": 0}
        model = self.build({"pretrained": True, "pretrained_cfg_overlay": overlay})
        _forget_source(model)
        return model, notes

    def _full(self, **extra: Any) -> nn.Module:
        """The whole model, with its classifier unless `extra` says otherwise, on the meta device."""
        own = {
            key: self._arguments[key] for key in self._arguments if key not in ("num_classes", "out_indices")
        }
        return create(self._name, {**own, **self._size, **extra}, meta=True)

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
        """What timm changed of the weights that it loaded, by the part that it changed."""
        cfg = cfg_of(model)
        found = {}
        asked, own = self._request.num_classes, cfg.get("num_classes") or 0
        if asked and asked != own:
            found["classifier"] = (
                f"The classifier is new and untrained: {asked} classes, where the weights have {own or 'none'}."
            )
        channels = self.channels(model)
        if channels != cfg["input_size"][0]:
            found["stem"] = (
                f"timm adapted the first layer's weights from {cfg['input_size'][0]} to {channels} channels."
            )
        return found


def _forget_source(model: nn.Module) -> None:
    """Take the path or the tensors out of the model's notes, which travel with it."""
    for key in ("file", "state_dict"):
        cfg_of(model).pop(key, None)

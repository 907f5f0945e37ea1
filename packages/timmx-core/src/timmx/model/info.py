"""Facts about a model for `timmx info`, computed on the meta device, without weights."""

from __future__ import annotations

from dataclasses import asdict, dataclass
from typing import TYPE_CHECKING, Any

from timmx.contract import ExportRequest
from timmx.errors import ModelError
from timmx.model.build import cfg_of
from timmx.model.data_config import resolve_data_config
from timmx.model.fill import Plan, native_size
from timmx.model.index import build_index, check_model_name
from timmx.model.labels import labels_of_config
from timmx.model.source import find_source

if TYPE_CHECKING:
    from torch import nn


@dataclass(frozen=True, kw_only=True)
class ModelInfo:
    """Facts about one model.

    Attributes:
        name: see `LoadedModel`.
        architecture: timm's name.
        family: the module of timm that defines it.
        parameters: number of parameters, without buffers.
        multiply_adds: for one image of `input_size`, see `count_multiply_adds`; None if the model cannot run on the
            meta device.
        input_size: (channels, height, width) in pixels.
        mean: one value per channel, for pixels in [0, 1].
        std: one value per channel.
        interpolation: see `DataConfig`.
        crop_pct: see `DataConfig`.
        crop_mode: see `DataConfig`.
        num_classes: 0 for an embedding or a feature pyramid.
        labels: class names from its configuration; None if it has none.
        license: of the pretrained weights.
        hub_id: of the pretrained weights.
        tags: of all pretrained weights of this architecture, the default first.
        notes: notes for the user.
    """

    name: str
    architecture: str
    family: str
    parameters: int
    multiply_adds: int | None
    input_size: tuple[int, int, int]
    mean: tuple[float, ...]
    std: tuple[float, ...]
    interpolation: str
    crop_pct: float
    crop_mode: str
    num_classes: int
    labels: tuple[str, ...] | None
    license: str | None
    hub_id: str | None
    tags: tuple[str, ...]
    notes: tuple[str, ...] = ()

    def to_dict(self) -> dict[str, Any]:
        """JSON values."""
        return asdict(self)

    def rows(self) -> list[tuple[str, str]]:
        """Rows of a table: names and values as text."""
        cost = "unknown" if self.multiply_adds is None else _engineering(self.multiply_adds)
        rows = [
            ("model", self.name),
            ("family", self.family),
            ("parameters", f"{_engineering(self.parameters)} ({self.parameters:,})"),
            ("multiply-adds", f"{cost} at {self.input_size[1]} x {self.input_size[2]}"),
            ("input size", " x ".join(map(str, self.input_size))),
            ("mean", ", ".join(f"{value:g}" for value in self.mean)),
            ("std", ", ".join(f"{value:g}" for value in self.std)),
            ("interpolation", self.interpolation),
            ("crop", f"{self.crop_pct:g}, {self.crop_mode}"),
            ("classes", str(self.num_classes) if self.num_classes else "none (embedding)"),
        ]
        if self.labels:
            rows.append(("labels", ", ".join(self.labels[:5]) + (", ..." if len(self.labels) > 5 else "")))
        rows += [
            ("license", self.license or "not stated"),
            ("Hugging Face id", self.hub_id or "none"),
            ("pretrained tags", ", ".join(self.tags) or "none"),
        ]
        return rows + [("note", note) for note in self.notes]


def model_info(model: str | ExportRequest) -> ModelInfo:
    """Facts about a timm name, `hf-hub:` or `local-dir:` model. No weights are loaded or downloaded.

    Args:
        model: a name, or a request with options that change the model.

    Raises:
        ConfigurationError: an option does not fit the model.
        ModelError: the model does not exist.
    """
    request = model if isinstance(model, ExportRequest) else ExportRequest(model=model)
    check_model_name(request)
    source = find_source(request, weights=False)
    plan = Plan(request, source)
    try:
        built = plan.build(meta=True)
    except ModelError:  # a constructor that computes with values, which the meta device does not have
        built = plan.build()
    cfg = cfg_of(built)
    size = request.input_size or (plan.channels(built), *native_size(built, cfg))
    config, notes = resolve_data_config(cfg, size, request.mean, request.std)
    num_classes = 0 if request.features else int(getattr(built, "num_classes", 0))
    architecture = cfg["architecture"]
    indexed = build_index().models.get(architecture)
    return ModelInfo(
        name=source.name,
        architecture=architecture,
        family=indexed.family if indexed else "",
        parameters=sum(parameter.numel() for parameter in built.parameters()),
        multiply_adds=count_multiply_adds(built, size),
        **{name: value for name, value in asdict(config).items() if name != "exif"},  # not of the model
        num_classes=num_classes,
        labels=labels_of_config(cfg, num_classes)[0],
        license=cfg.get("license"),
        hub_id=cfg.get("hf_hub_id"),
        tags=tuple(filter(None, indexed.pretrained)) if indexed else (),
        notes=(*source.notes, *notes),
    )


def count_multiply_adds(model: nn.Module, size: tuple[int, int, int]) -> int | None:
    """Count the multiply-adds of convolutions, matrix products and attention for one image.

    Half of the count of `torch.utils.flop_counter` at batch size 1. Additions of biases, norms, activations, softmax
    and pooling are not counted, as in most published figures; attention's two products are counted, which some
    published figures of transformers omit.

    Args:
        model: on any device; on the meta device nothing is computed.
        size: (channels, height, width) of the image.

    Returns:
        The count, or None if the model cannot run on its device.
    """
    import torch
    from torch.nn.attention import SDPBackend, sdpa_kernel
    from torch.utils.flop_counter import FlopCounterMode

    device = next(model.parameters()).device
    # FlopCounterMode's module hooks fail if a parameter that requires a gradient is an input of a submodule
    # (cait, pit: "Expected gradient function to be set", torch 2.14)
    model.requires_grad_(False)
    counter = FlopCounterMode(display=False)
    try:
        # on the CPU the counter counts attention only as its two products (torch 2.14)
        with torch.no_grad(), sdpa_kernel(SDPBackend.MATH), counter:
            model(torch.empty(1, *size, device=device))
    except Exception:  # an operation that needs values, or has no meta kernel
        return None
    return counter.get_total_flops() // 2


def _engineering(number: int) -> str:
    for unit, name in ((10**12, "T"), (10**9, "G"), (10**6, "M"), (10**3, "k")):
        if number >= unit:
            return f"{number / unit:.3g} {name}"
    return str(number)

"""timm's data config, for any number of channels."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from timmx.contract import is_mean, is_std
from timmx.errors import ConfigurationError
from timmx.model.config import check_timm_config

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

IMAGENET_MEAN = (0.485, 0.456, 0.406)
IMAGENET_STD = (0.229, 0.224, 0.225)


@dataclass(frozen=True, kw_only=True)
class DataConfig:
    """How an image is converted to the model's input.

    Attributes:
        input_size: (channels, height, width) in pixels.
        mean: subtracted from pixels in [0, 1], one value per channel.
        std: divisor afterwards, one value per channel; never 0.
        interpolation: PIL's name of the resize filter, lower case, such as `bicubic`.
        crop_pct: the share of the resized image's side that the crop keeps, above 0.
        crop_mode: `center`, `squash` or `border`, as in timm.
        exif: the image is first turned as its EXIF orientation says; timm does not.
    """

    input_size: tuple[int, int, int]
    mean: tuple[float, ...]
    std: tuple[float, ...]
    interpolation: str
    crop_pct: float
    crop_mode: str
    exif: bool = False

    @property
    def scaled_size(self) -> tuple[int, int]:
        """(height, width) of the resize before the crop, at least 1 pixel."""
        _, height, width = self.input_size
        return max(1, math.floor(height / self.crop_pct)), max(1, math.floor(width / self.crop_pct))


def resolve_data_config(
    pretrained_cfg: Mapping[str, Any],
    input_size: tuple[int, int, int],
    mean: Sequence[float] | None = None,
    std: Sequence[float] | None = None,
    where: str = "the model's configuration",
) -> tuple[DataConfig, tuple[str, ...]]:
    """The data config of a model at `input_size`, and notes for the user.

    `mean` and `std` override the model's own: one value for all channels, or one per channel. If the model's own
    values do not match the number of channels, their average is used for each channel.

    Args:
        pretrained_cfg: timm's configuration of the model.
        input_size: (channels, height, width).
        mean: from the request, or None.
        std: from the request, or None.
        where: the source of `pretrained_cfg`, for messages.

    Raises:
        ConfigurationError: a value of `pretrained_cfg` is not allowed; of `mean` or `std`, a wrong number of values,
            a value that is not finite, or a std of 0.
    """
    check_timm_config(pretrained_cfg, where)
    notes: list[str] = []
    channels = input_size[0]
    config = DataConfig(
        input_size=input_size,
        mean=_per_channel("mean", mean, pretrained_cfg.get("mean") or IMAGENET_MEAN, channels, notes),
        std=_per_channel("std", std, pretrained_cfg.get("std") or IMAGENET_STD, channels, notes),
        interpolation=pretrained_cfg.get("interpolation") or "bicubic",
        crop_pct=float(pretrained_cfg.get("crop_pct") or 0.875),
        crop_mode=pretrained_cfg.get("crop_mode") or "center",
    )
    return config, tuple(notes)


def check_statistics(name: str, values: Sequence[float], channels: int | None) -> None:
    """Check the values of `--mean` or `--std`.

    Args:
        name: `mean` or `std`.
        values: one, or one per channel.
        channels: number of channels; None if it is not known yet.

    Raises:
        ConfigurationError: a wrong number of values, a value that is not finite, or a std of 0 or less.
    """
    if not values or any(not math.isfinite(value) for value in values):
        raise ConfigurationError(
            f"--{name} must be finite numbers, not {_list(values)}",
            hint=f"give one number, or one per channel, such as --{name} 0.5,0.5,0.5",
        )
    if name == "std" and any(value <= 0 for value in values):
        raise ConfigurationError(
            f"--std must be above 0, not {_list(values)}: pixels are divided by it",
            hint="give numbers above 0, such as --std 0.5,0.5,0.5",
        )
    if not all(map(is_std if name == "std" else is_mean, values)):
        limits = "1e-6 to 1e6" if name == "std" else "-1e6 to 1e6"
        raise ConfigurationError(
            f"--{name} must be numbers from {limits}, not {_list(values)}: pixels are in [0, 1]",
            hint=f"give such numbers, such as --{name} 0.5,0.5,0.5",
        )
    if channels is not None and len(values) not in (1, channels):
        count = "1 value" if channels == 1 else f"1 or {channels} values"
        raise ConfigurationError(
            f"--{name} has {len(values)} values, but the model takes {channels} channels",
            hint=f"give {count}",
        )


def _per_channel(
    name: str, override: Sequence[float] | None, own: Any, channels: int, notes: list[str]
) -> tuple[float, ...]:
    if override is not None:
        check_statistics(name, override, channels)
        values = tuple(float(value) for value in override)
        return values * channels if len(values) == 1 else values
    values = tuple(float(value) for value in (own if isinstance(own, (list, tuple)) else (own,)))
    if len(values) == channels:
        return values
    if len(set(values)) == 1:
        return values[:1] * channels
    average = sum(values) / len(values)
    notes.append(
        f"The model's own {name} has {len(values)} values for {channels} channels: "
        f"their average {average:.4g} is used for each. --{name} sets another."
    )
    return (average,) * channels


def _list(values: Sequence[float]) -> str:
    return ",".join(f"{value:g}" for value in values) or "nothing"


def value_range(mean: tuple[float, ...], std: tuple[float, ...], in_graph: bool) -> tuple[float, float]:
    """The smallest and largest value of the artifact's input for pixels in [0, 1]."""
    if in_graph:
        return 0.0, 1.0
    pairs = list(zip(mean, std, strict=True))
    low, high = min((0 - m) / s for m, s in pairs), max((1 - m) / s for m, s in pairs)
    return round(low, 6), round(high, 6)

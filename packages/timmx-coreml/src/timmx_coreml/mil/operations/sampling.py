"""MIL's sampling of images at coordinates."""

from __future__ import annotations

import torch
from torch import Tensor

from timmx_coreml.mil.operations.registry import operation
from timmx_coreml.mil.operations.tensor_operation import reflect


@operation()
def resample(
    x: Tensor,
    coordinates: Tensor,
    sampling_mode: str,
    padding_mode: str,
    padding_value: float,
    coordinates_mode: str,
    align_corners: bool,
) -> Tensor:
    columns = _pixels(coordinates[..., 0].float(), x.shape[3], coordinates_mode, align_corners)
    rows = _pixels(coordinates[..., 1].float(), x.shape[2], coordinates_mode, align_corners)
    if sampling_mode == "nearest":
        return _at(x, rows.round(), columns.round(), padding_mode, padding_value)
    if sampling_mode != "bilinear":
        raise NotImplementedError(f"sampling_mode {sampling_mode!r}")
    return _bilinear(x, rows, columns, padding_mode, padding_value)


@operation()
def affine(
    x: Tensor,
    transform_matrix: Tensor,
    output_height: int,
    output_width: int,
    sampling_mode: str,
    padding_mode: str,
    padding_value: float,
    coordinates_mode: str,
    align_corners: bool,
) -> Tensor:
    modes = (sampling_mode, padding_mode, coordinates_mode, align_corners)
    if modes != ("bilinear", "constant", "normalized_minus_one_to_one", True) or padding_value != 0:
        raise NotImplementedError(f"the modes {modes}")
    across = torch.linspace(-1, 1, output_width)
    down = torch.linspace(-1, 1, output_height).unsqueeze(1)
    a0, a1, a2, b0, b1, b2 = (transform_matrix[:, i].reshape(-1, 1, 1) for i in range(6))
    columns = _pixels(a0 * across + a1 * down + a2, x.shape[3], coordinates_mode, True)
    rows = _pixels(b0 * across + b1 * down + b2, x.shape[2], coordinates_mode, True)
    rows, columns = (positions.expand(len(x), -1, -1) for positions in (rows, columns))
    return _bilinear(x, rows, columns, "constant", 0.0)


def _pixels(positions: Tensor, size: int, mode: str, align_corners: bool) -> Tensor:
    """Convert coordinates to pixels, 0 to size - 1."""
    if mode == "unnormalized":
        return positions
    if mode == "normalized_minus_one_to_one":
        positions = (positions + 1) / 2
    elif mode != "normalized_zero_to_one":
        raise NotImplementedError(f"coordinates_mode {mode!r}")
    return positions * (size - 1) if align_corners else positions * size - 0.5


def _bilinear(x: Tensor, rows: Tensor, columns: Tensor, mode: str, value: float) -> Tensor:
    """Sample x (N, C, H, W) at rows and columns (N, h, w)."""
    top, left = rows.floor(), columns.floor()
    down, across = (rows - top).unsqueeze(1), (columns - left).unsqueeze(1)
    upper = _at(x, top, left, mode, value) * (1 - across) + _at(x, top, left + 1, mode, value) * across
    lower = (
        _at(x, top + 1, left, mode, value) * (1 - across) + _at(x, top + 1, left + 1, mode, value) * across
    )
    return upper * (1 - down) + lower * down


def _at(x: Tensor, rows: Tensor, columns: Tensor, mode: str, value: float) -> Tensor:
    """Return the pixels at integer rows and columns (N, h, w); `mode` defines those outside."""
    height, width = x.shape[2:]
    inside = (rows >= 0) & (rows < height) & (columns >= 0) & (columns < width)
    row, column = _inside(rows.long(), height, mode), _inside(columns.long(), width, mode)
    batch = torch.arange(len(x)).reshape(-1, 1, 1)
    pixels = x.movedim(1, -1)[batch, row, column].movedim(-1, 1)
    return torch.where(inside.unsqueeze(1), pixels, value) if mode == "constant" else pixels


def _inside(positions: Tensor, size: int, mode: str) -> Tensor:
    if mode in ("constant", "border"):
        return positions.clamp(0, size - 1)
    if mode == "reflection":
        return reflect(positions, size)
    if mode == "symmetric":
        folded = positions.remainder(2 * size)
        return torch.minimum(folded, 2 * size - 1 - folded)
    raise NotImplementedError(f"padding_mode {mode!r}")

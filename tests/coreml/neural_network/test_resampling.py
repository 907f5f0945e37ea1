"""Layers that resize images, against numpy and torch."""

from __future__ import annotations

import itertools

import numpy as np
import pytest
import torch
import torch.nn.functional as F  # noqa: N812
from coremltools.converters.mil import Builder as mb  # noqa: N813
from neural_networks import by_hand, evaluate, from_mil, random, tensor

SHAPE = 2, 3, 4, 6


def same(result, expected):
    expected = np.asarray(expected)
    assert result.shape == (expected.shape or (1,))
    return np.allclose(result, expected, rtol=1e-5, atol=1e-6)


@pytest.mark.parametrize("mode", ["SPACE_TO_DEPTH", "DEPTH_TO_SPACE", "PIXEL_SHUFFLE"])
def test_reorganize(mode):
    x = random(2, 8, 4, 6)
    spec = by_hand(lambda b: b.add_reorganize_data("r", "x0", "y", mode, 2), x.shape)
    result = evaluate(spec, x)
    if mode == "PIXEL_SHUFFLE":
        expected = F.pixel_shuffle(tensor(x), 2)
    else:
        expected = np.empty((2, 32, 2, 3) if mode == "SPACE_TO_DEPTH" else (2, 2, 8, 12), np.float32)
        channels = 8 if mode == "SPACE_TO_DEPTH" else 2
        for row, column in itertools.product(range(2), range(2)):
            first = (2 * row + column) * channels
            if mode == "SPACE_TO_DEPTH":
                expected[:, first : first + channels] = x[:, :, row::2, column::2]
            else:
                expected[:, :, row::2, column::2] = x[:, first : first + channels]
    assert same(result, expected)


def interpolate(x, rows, columns):
    """Bilinear interpolation at points, with numpy's linear interpolation."""
    y = np.apply_along_axis(lambda line: np.interp(rows, np.arange(len(line)), line), -2, x)
    return np.apply_along_axis(lambda line: np.interp(columns, np.arange(len(line)), line), -1, y)


@pytest.mark.parametrize("factors", [(2, 3), (1, 4)])
def test_upsample_to_integer_multiples(factors):
    x = random(*SHAPE)
    spec = by_hand(lambda b: b.add_upsample("u", *factors, "x0", "y"), SHAPE)
    assert same(evaluate(spec, x), x.repeat(factors[0], 2).repeat(factors[1], 3))
    spec = by_hand(lambda b: b.add_upsample("u", *factors, "x0", "y", "BILINEAR"), SHAPE)
    rows, columns = (
        np.arange(size * factor) / factor for size, factor in zip(SHAPE[2:], factors, strict=True)
    )
    assert same(evaluate(spec, x), interpolate(x, rows, columns))


@pytest.mark.parametrize("align", [False, True])
@pytest.mark.parametrize("factors", [(2, 3), (1.5, 11 / 6), (0.5, 0.7)])
def test_upsample_equals_pytorchs(align, factors):
    x = random(*SHAPE)
    mode = f"ALIGN_CORNERS_{str(align).upper()}"
    spec = by_hand(lambda b: b.add_upsample("u", *factors, "x0", "y", "BILINEAR", mode), SHAPE)
    size = [int(size * factor + 1e-6) for size, factor in zip(SHAPE[2:], factors, strict=True)]
    assert same(evaluate(spec, x), F.interpolate(tensor(x), size, mode="bilinear", align_corners=align))


@pytest.mark.parametrize("size", [(7, 9), (1, 4), (3, 1)])
def test_resize_bilinear(size):
    x = random(*SHAPE)

    def points(grid):
        return [grid(before, after) for before, after in zip(SHAPE[2:], size, strict=True)]

    for mode, grid in (
        ("STRICT_ALIGN_ENDPOINTS_MODE", lambda x, n: np.linspace(0, x - 1, n)),
        ("ALIGN_ENDPOINTS_MODE", lambda x, n: np.linspace(0, x - 1, n) if n > 1 else np.array([(x - 1) / 2])),
        ("UPSAMPLE_MODE", lambda x, n: np.minimum(x - 1, np.linspace(0, x - x / n, n))),
        (
            "ROI_ALIGN_MODE",
            lambda x, n: np.minimum(x - 1, (0.5 + np.arange(n)) * max(1, x - 1) / n),
        ),
    ):
        spec = by_hand(lambda b, mode=mode: b.add_resize_bilinear("r", "x0", "y", *size, mode), SHAPE)
        assert same(evaluate(spec, x), interpolate(x, *points(grid))), mode


def test_resizes_as_coremltools_writes_them():
    x = random(*SHAPE)
    spec = from_mil(
        lambda x: [
            mb.upsample_nearest_neighbor(x=x, scale_factor_height=2, scale_factor_width=3),
            mb.upsample_bilinear(x=x, scale_factor_height=2.0, scale_factor_width=1.5, align_corners=False),
            mb.resize_bilinear(x=x, target_size_height=8, target_size_width=9, sampling_mode="ALIGN_CORNERS"),
            mb.pixel_shuffle(x=mb.concat(values=[x] * 4, axis=1), upscale_factor=2),
            mb.depth_to_space(x=mb.concat(values=[x] * 4, axis=1), block_size=2),
            mb.space_to_depth(x=x, block_size=2),
        ],
        SHAPE,
    )
    nearest, half_pixel, corners, shuffled, to_space, to_depth = evaluate(spec, x)
    assert same(nearest, x.repeat(2, 2).repeat(3, 3))
    assert same(half_pixel, F.interpolate(tensor(x), (8, 9), mode="bilinear"))
    assert same(corners, F.interpolate(tensor(x), (8, 9), mode="bilinear", align_corners=True))
    assert same(shuffled, F.pixel_shuffle(torch.cat([tensor(x)] * 4, 1), 2))
    assert same(to_space, x.repeat(2, 2).repeat(2, 3))
    assert same(to_depth, np.concatenate([x[:, :, i::2, j::2] for i in range(2) for j in range(2)], 1))

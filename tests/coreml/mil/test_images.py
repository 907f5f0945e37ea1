"""Resizing and sampling: MIL's documented grids, and torch's resizing if it is equivalent."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from mil_programs import Case, evaluate
from torch.nn import functional

_RNG = np.random.default_rng(3)
X = _RNG.normal(size=(2, 3, 5, 7)).astype(np.float32)
RAMP = np.arange(2, dtype=np.float32).reshape(1, 1, 1, 2)


def resize_case(mode: str, grid: list[float]) -> Case:
    """Two pixels of values 0 and 1, so that the result is the grid; the grids are in MIL's documentation."""

    def build(mb, x):
        return mb.resize_bilinear(x=x, target_size_height=1, target_size_width=len(grid), sampling_mode=mode)

    return Case(f"resize_bilinear-{mode}-{len(grid)}", build, (RAMP,), np.array(grid).reshape(1, 1, 1, -1))


def like_torch(name: str, size: tuple[int, int], mode: str, target: str = "iOS16", **options: object) -> Case:
    corners = {"align_corners": options.pop("align_corners", None)}
    expected = functional.interpolate(torch.from_numpy(X), size, mode=mode, **corners).numpy()
    return Case(
        f"{name}-{size}-{mode}-{corners}",
        lambda mb, x: getattr(mb, name)(x=x, **options),
        (X,),
        expected,
        target,
    )


def resample_case(padding: str, mode: str, corners: bool, torch_padding: str, value: float = 0.0) -> Case:
    positions = _RNG.uniform(-1.6, 1.6, size=(2, 4, 6, 2)).astype(np.float32)
    shifted = torch.from_numpy(X) - value
    expected = functional.grid_sample(
        shifted, torch.from_numpy(positions), mode=mode, padding_mode=torch_padding, align_corners=corners
    )

    def build(mb, x, positions):
        return mb.resample(
            x=x,
            coordinates=positions,
            sampling_mode=mode,
            padding_mode=padding,
            padding_value=value,
            coordinates_mode="normalized_minus_one_to_one",
            align_corners=corners,
        )

    return Case(f"resample-{padding}-{mode}-{corners}", build, (X, positions), expected.numpy() + value)


def affine() -> Case:
    matrix = np.array([[0.8, -0.3, 0.1, 0.2, 1.1, -0.2]], np.float32)
    theta = torch.from_numpy(matrix).reshape(1, 2, 3).expand(2, -1, -1)
    grid = functional.affine_grid(theta, [2, 3, 4, 6], align_corners=True)
    expected = functional.grid_sample(torch.from_numpy(X), grid, align_corners=True).numpy()

    def build(mb, x):
        return mb.affine(
            x=x,
            transform_matrix=matrix,
            output_height=4,
            output_width=6,
            sampling_mode="bilinear",
            padding_mode="constant",
            padding_value=0.0,
            coordinates_mode="normalized_minus_one_to_one",
            align_corners=True,
        )

    return Case("affine", build, (X,), expected)


CASES = [
    resize_case("UNALIGN_CORNERS", [0, 0.1, 0.5, 0.9, 1]),
    resize_case("STRICT_ALIGN_CORNERS", [0, 0.25, 0.5, 0.75, 1]),
    resize_case("ALIGN_CORNERS", [0, 0.25, 0.5, 0.75, 1]),
    resize_case("DEFAULT", [0, 0.4, 0.8, 1, 1]),
    resize_case("OFFSET_CORNERS", [0.1, 0.3, 0.5, 0.7, 0.9]),
    resize_case("UNALIGN_CORNERS", [0, 0, 1 / 3, 2 / 3, 1, 1]),
    resize_case("DEFAULT", [0, 1 / 3, 2 / 3, 1, 1, 1]),
    resize_case("OFFSET_CORNERS", [1 / 12, 3 / 12, 5 / 12, 7 / 12, 9 / 12, 11 / 12]),
    resize_case("STRICT_ALIGN_CORNERS", [0]),
    resize_case("ALIGN_CORNERS", [0.5]),
    resize_case("UNALIGN_CORNERS", [0.5]),
    *(
        like_torch(
            "resize_bilinear",
            size,
            "bilinear",
            target_size_height=size[0],
            target_size_width=size[1],
            sampling_mode=mode,
            align_corners=mode == "STRICT_ALIGN_CORNERS",
        )
        for size in ((3, 4), (9, 20))
        for mode in ("STRICT_ALIGN_CORNERS", "UNALIGN_CORNERS")
    ),
    *(
        like_torch(
            "resize",
            (9, 4),
            "bilinear",
            "iOS17",
            shape=[9, 4],
            resized_dims=np.uint32(2),
            sampling_mode=mode,
            align_corners=mode == "STRICT_ALIGN_CORNERS",
        )
        for mode in ("STRICT_ALIGN_CORNERS", "UNALIGN_CORNERS")
    ),
    like_torch(
        "resize",
        (9, 7),
        "nearest-exact",
        "iOS17",
        shape=[1, 9, 0],
        resized_dims=np.uint32(2),
        interpolation_mode="NEAREST_NEIGHBOR",
    ),
    like_torch("resize_nearest_neighbor", (8, 4), "nearest-exact", target_size_height=8, target_size_width=4),
    like_torch("upsample_nearest_neighbor", (10, 21), "nearest", scale_factor_height=2, scale_factor_width=3),
    like_torch(
        "upsample_nearest_neighbor",
        (8, 10),
        "nearest",
        scale_factor_height=8.0001 / 5,
        scale_factor_width=10.0001 / 7,
    ),
    Case(
        "upsample_bilinear-corners",
        lambda mb, x: mb.upsample_bilinear(
            x=x, scale_factor_height=2, scale_factor_width=3, align_corners=True
        ),
        (X,),
        functional.interpolate(torch.from_numpy(X), (10, 21), mode="bilinear", align_corners=True).numpy(),
    ),
    Case(
        "upsample_bilinear-half",
        lambda mb, x: mb.upsample_bilinear(
            x=x, scale_factor_height=1.5, scale_factor_width=2.0, align_corners=False
        ),
        (X,),
        functional.interpolate(torch.from_numpy(X), (7, 14), mode="bilinear", align_corners=False).numpy(),
    ),
    Case(
        "upsample_bilinear-neither",
        lambda mb, x: mb.upsample_bilinear(
            x=x, scale_factor_height=1, scale_factor_width=3, align_corners=False, half_pixel_centers=False
        ),
        (RAMP,),
        np.array([0, 1 / 3, 2 / 3, 1, 1, 1]).reshape(1, 1, 1, -1),
    ),
    Case("crop", lambda mb, x: mb.crop(x=x, crop_height=[1, 2], crop_width=[0, 3]), (X,), X[:, :, 1:3, :4]),
    resample_case("constant", "bilinear", True, "zeros"),
    resample_case("constant", "bilinear", False, "zeros", 1.5),
    resample_case("constant", "nearest", True, "zeros", -1.0),
    resample_case("border", "bilinear", False, "border"),
    resample_case("border", "nearest", True, "border"),
    resample_case("reflection", "bilinear", True, "reflection"),
    resample_case("symmetric", "bilinear", False, "reflection"),
    affine(),
]


@pytest.fixture(scope="module")
def results(tmp_path_factory):
    return evaluate(CASES, tmp_path_factory.mktemp("mil"))


@pytest.mark.parametrize("case", CASES, ids=str)
def test_operation(case, results):
    for computed, expected in results[str(case)]:
        assert computed.shape == expected.shape
        np.testing.assert_allclose(computed, expected, rtol=1e-5, atol=1e-5)


def test_case_names_are_unique():
    assert len({str(case) for case in CASES}) == len(CASES)

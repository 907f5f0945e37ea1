"""Preprocessing without torch equals timm's own evaluation transform to the last digit."""

from __future__ import annotations

from dataclasses import replace
from itertools import product
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
import pytest
import timm.data
from PIL import Image
from skimage import data
from sklearn.datasets import load_sample_image
from timmx.artifact.opening import read_artifact
from timmx.contract.runner import Quantization, TensorSpec
from timmx.errors import ArtifactError, ConfigurationError
from timmx.inputs.calibration import ImageCalibration
from timmx.inputs.conversion import feed
from timmx.inputs.preprocess import ImagePreprocessor
from timmx.inputs.samples import ImageSamples, choose_samples
from timmx.model.data_config import DataConfig

if TYPE_CHECKING:
    from collections.abc import Callable

ROOT = Path(__file__).parents[2]
INTERPOLATIONS = ("nearest", "bilinear", "bicubic", "box", "hamming", "lanczos")
CROP_MODES = ("center", "squash", "border")
MEAN, STD = (0.485, 0.456, 0.406), (0.229, 0.224, 0.225)


def config(
    size: tuple[int, int] = (64, 64),
    channels: int = 3,
    interpolation: str = "bicubic",
    crop_pct: float = 0.875,
    crop_mode: str = "center",
) -> DataConfig:
    return DataConfig(
        input_size=(channels, *size),
        mean=MEAN[:channels],
        std=STD[:channels],
        interpolation=interpolation,
        crop_pct=crop_pct,
        crop_mode=crop_mode,
    )


def timms(preprocessor: ImagePreprocessor, image: Image.Image) -> np.ndarray:
    """An image after timm's transform, whose channels are RGB, so they are reversed for BGR."""
    order = slice(None, None, -1 if preprocessor.color_order == "BGR" else 1)
    transform = timm.data.create_transform(
        input_size=preprocessor.data_config.input_size,
        interpolation=preprocessor.data_config.interpolation,
        mean=preprocessor.data_config.mean[order],
        std=preprocessor.data_config.std[order],
        crop_pct=preprocessor.data_config.crop_pct,
        crop_mode=preprocessor.data_config.crop_mode,
        normalize=not preprocessor.in_graph,
    )
    pixels = transform(image.convert("L" if preprocessor.color_order == "L" else "RGB"))
    found = pixels.numpy()[order]
    return found / np.float32(255) if preprocessor.in_graph else found


@pytest.fixture(scope="module")
def photographs() -> list[Image.Image]:
    """Portrait, landscape, square, long and tiny photographs."""
    flower = Image.fromarray(load_sample_image("flower.jpg")).resize((320, 214))
    cat = Image.fromarray(data.chelsea()).resize((226, 150))
    return [
        cat,
        cat.transpose(Image.Transpose.ROTATE_90),
        Image.fromarray(data.astronaut()).resize((101, 101)),
        flower.crop((0, 80, 320, 97)),
        flower.crop((0, 0, 3, 2)),
        flower.crop((7, 9, 8, 10)),
        flower.crop((0, 0, 64, 64)),
        flower.crop((0, 0, 73, 74)),
    ]


@pytest.mark.parametrize("crop_mode", CROP_MODES)
@pytest.mark.parametrize("interpolation", INTERPOLATIONS)
def test_preprocessing_equals_timms_transform(
    photographs: list[Image.Image], interpolation: str, crop_mode: str
) -> None:
    sizes = ((64, 64), (48, 80), (81, 47), (14, 14))
    for size, crop_pct, number in product(sizes, (1.0, 0.875, 0.9, 0.5, 1.1), range(len(photographs))):
        preprocessor = ImagePreprocessor(config(size, 3, interpolation, crop_pct, crop_mode), False, "RGB")
        found, expected = preprocessor.apply(photographs[number]), timms(preprocessor, photographs[number])
        assert found.dtype == np.float32
        assert found.flags.c_contiguous
        np.testing.assert_allclose(
            found, expected, rtol=0, atol=1e-6, err_msg=f"{size} {crop_pct} {photographs[number].size}"
        )


@pytest.mark.parametrize("in_graph", [False, True])
@pytest.mark.parametrize("crop_mode", CROP_MODES)
@pytest.mark.parametrize("color_order", ["RGB", "BGR", "L"])
def test_colors_and_normalization(
    photographs: list[Image.Image], color_order: str, crop_mode: str, in_graph: bool
) -> None:
    channels = 1 if color_order == "L" else 3
    for size, crop_pct in product(((56, 56), (40, 60)), (0.875, 1.1)):
        preprocessor = ImagePreprocessor(
            config(size, channels, crop_pct=crop_pct, crop_mode=crop_mode), in_graph, color_order
        )
        for photograph in photographs:
            found, expected = preprocessor.apply(photograph), timms(preprocessor, photograph)
            assert found.shape == (channels, *size)
            np.testing.assert_allclose(found, expected, rtol=0, atol=1e-6)


@pytest.fixture(scope="module")
def sources(tmp_path_factory: pytest.TempPathFactory) -> list[Path]:
    """One photograph in the modes and formats of cameras, scanners and the web."""
    folder = tmp_path_factory.mktemp("sources")
    photograph = Image.fromarray(data.astronaut()).resize((150, 110))
    gray = photograph.convert("L")
    clear = photograph.copy()
    clear.putalpha(gray)
    palette = photograph.quantize(64)
    written = {
        "plain.png": photograph,
        "plain.jpg": photograph,
        "plain.webp": photograph,
        "plain.bmp": photograph,
        "gray.jpg": gray,
        "clear.png": clear,
        "clear.webp": clear,
        "gray_clear.png": clear.convert("LA"),
        "palette.png": palette,
        "palette.gif": palette,
        "bits.png": photograph.convert("1"),
        "ink.jpg": photograph.convert("CMYK"),
        "ink.tif": photograph.convert("CMYK"),
        "luma.jpg": photograph.convert("YCbCr"),
    }
    for name, image in written.items():
        image.save(folder / name)
    palette.save(folder / "palette_clear.png", transparency=3)
    turned = Image.Exif()
    turned[0x0112] = 6  # EXIF rotation by 90 degrees, which timm ignores too
    photograph.save(folder / "turned.jpg", exif=turned)
    return sorted(folder.iterdir())


@pytest.mark.parametrize("color_order", ["RGB", "BGR", "L"])
def test_image_formats_and_modes(sources: list[Path], color_order: str) -> None:
    assert len(sources) == 16
    for path, in_graph in product(sources, (False, True)):
        preprocessor = ImagePreprocessor(
            config(channels=1 if color_order == "L" else 3), in_graph, color_order
        )
        with Image.open(path) as image:
            expected = timms(preprocessor, image)
        np.testing.assert_allclose(preprocessor.read(path), expected, rtol=0, atol=1e-6, err_msg=path.name)


def test_the_preprocessing_comes_from_the_metadata(
    exported_digits: Callable[..., Path], photographs: list[Image.Image]
) -> None:
    _, metadata = read_artifact(exported_digits("onnx"))
    entry = replace(
        metadata.input,
        size=(3, 60, 44),
        mean=MEAN,
        std=STD,
        interpolation="lanczos",
        crop_pct=0.95,
        crop_mode="border",
    )
    preprocessor = ImagePreprocessor.of(replace(metadata, input=entry))
    assert (preprocessor.in_graph, preprocessor.color_order) == (False, "RGB")
    np.testing.assert_allclose(
        preprocessor.apply(photographs[0]), timms(preprocessor, photographs[0]), rtol=0, atol=1e-6
    )


@pytest.mark.parametrize("layout", ["NCHW", "NHWC"])
@pytest.mark.parametrize("crop_mode", CROP_MODES)
def test_bytes_equal_those_that_timm_crops(
    photographs: list[Image.Image], crop_mode: str, layout: str
) -> None:
    preprocessor = ImagePreprocessor(config((48, 64), crop_mode=crop_mode), True, "RGB")
    shape = (1, 3, 48, 64) if layout == "NCHW" else (1, 48, 64, 3)
    spec = TensorSpec(name="input", shape=shape, dtype="uint8", layout=layout)
    for photograph in photographs:
        fed = feed(spec, preprocessor.apply(photograph)[None])
        pixels = np.rint(255 * timms(preprocessor, photograph)).astype(np.uint8)[None]
        assert (fed.dtype, fed.shape) == (np.uint8, shape)
        assert fed.flags.c_contiguous
        np.testing.assert_array_equal(fed, pixels if layout == "NCHW" else pixels.transpose(0, 2, 3, 1))


@pytest.mark.parametrize(("dtype", "zero_point"), [("int8", -14), ("uint8", 114), ("int16", 0)])
def test_integers_dequantize_to_timms_values(
    photographs: list[Image.Image], dtype: str, zero_point: int
) -> None:
    preprocessor = ImagePreprocessor(config(), False, "RGB")
    scale = 0.01875 if dtype != "int16" else 0.0001
    spec = TensorSpec(
        name="input",
        shape=(1, 64, 64, 3),
        dtype=dtype,
        layout="NHWC",
        quantization=Quantization(scale, zero_point),
    )
    for photograph in photographs:
        fed = feed(spec, preprocessor.apply(photograph)[None])
        assert (fed.dtype, fed.shape) == (np.dtype(dtype), (1, 64, 64, 3))
        real = scale * (fed[0].astype(np.float64) - zero_point)
        expected = timms(preprocessor, photograph).transpose(1, 2, 0)
        limits = np.iinfo(dtype)
        held = np.clip(expected, scale * (limits.min - zero_point), scale * (limits.max - zero_point))
        assert np.abs(real - held).max() <= scale * 0.501


def test_a_file_that_is_not_an_image_is_refused(tmp_path: Path) -> None:
    eight = DataConfig(
        input_size=(8, 64, 64),
        mean=(0.5,) * 8,
        std=(0.5,) * 8,
        interpolation="bicubic",
        crop_pct=1.0,
        crop_mode="center",
    )
    with pytest.raises(ArtifactError, match="8 channels, so its input is not an image"):
        ImagePreprocessor(eight, False, None).check()
    with pytest.raises(ConfigurationError, match="'cubic' is unknown"):
        ImagePreprocessor(config(interpolation="cubic"), False, "RGB").check()
    (tmp_path / "note.png").write_text("not a picture")
    with pytest.raises(ConfigurationError, match="cannot be read as an image"):
        ImagePreprocessor(config(), False, "RGB").read(tmp_path / "note.png")


@pytest.mark.parametrize("channels", [1, 3])
def test_samples_and_calibration_images_are_read_as_in_timm(
    photographs: list[Image.Image], tmp_path: Path, channels: int
) -> None:
    for number, photograph in enumerate(photographs):
        photograph.save(tmp_path / f"{number}.png")
    data_config = config((48, 64), channels)
    paths = sorted(tmp_path.iterdir())
    for in_graph in (False, True):
        preprocessor = ImagePreprocessor.for_model(data_config, in_graph)
        expected = np.stack([timms(preprocessor, Image.open(path)) for path in paths])
        samples = ImageSamples(paths, tmp_path, data_config, in_graph)
        calibration = ImageCalibration(tmp_path, len(paths), data_config, in_graph)
        found = samples.take(range(len(samples)))
        np.testing.assert_allclose(found, expected, rtol=0, atol=1e-6)
        np.testing.assert_array_equal(np.concatenate(list(calibration)), found)


def test_an_unknown_interpolation_is_not_reported_as_damaged_images(tmp_path: Path) -> None:
    with pytest.raises(ConfigurationError, match="interpolation 'cubic' is unknown"):
        choose_samples(ROOT / "examples" / "digits" / "samples", None, config(interpolation="cubic"), False)

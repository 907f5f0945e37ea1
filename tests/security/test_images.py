"""Images of extreme shapes and sizes: the work that they cause is bounded, and refused with numbers beyond that."""

from __future__ import annotations

import io
import struct
import threading
import time
import zlib
from pathlib import Path

import numpy as np
import pytest
import timm.data
from PIL import Image
from timmx.errors import ConfigurationError
from timmx.inputs import images
from timmx.inputs.images import DecodingBudget, check_image
from timmx.inputs.preprocess import ImagePreprocessor
from timmx.model.data_config import DataConfig


def preprocessor(crop_mode: str = "center", size: int = 224) -> ImagePreprocessor:
    config = DataConfig(
        input_size=(3, size, size),
        mean=(0.5,) * 3,
        std=(0.5,) * 3,
        interpolation="bicubic",
        crop_pct=0.875,
        crop_mode=crop_mode,
    )
    return ImagePreprocessor(config, in_graph=False, color_order="RGB")


def png(width: int, height: int, *chunks: tuple[bytes, bytes], pixels: bool = True) -> bytes:
    """A black image in RGB."""
    packed = zlib.compress(bytes(height * (1 + 3 * width)), 9) if pixels else b""
    header = (b"IHDR", struct.pack(">IIBBBBB", width, height, 8, 2, 0, 0, 0))
    content = b"\x89PNG\r\n\x1a\n"
    for kind, data in (header, *chunks, (b"IDAT", packed), (b"IEND", b"")):
        content += struct.pack(">I", len(data)) + kind + data + struct.pack(">I", zlib.crc32(kind + data))
    return content


@pytest.mark.parametrize("crop_mode", ["center", "squash"])
def test_an_image_that_would_be_resized_to_too_many_pixels_is_refused_with_the_number(tmp_path, crop_mode):
    """Cropped from the center, 1 x 330,000 pixels took 6.6 GB and 28 s."""
    path = tmp_path / "thin.png"
    path.write_bytes(png(1, 330_000))
    assert path.stat().st_size < 3000
    start = time.process_time()
    with pytest.raises(ConfigurationError) as error:
        preprocessor(crop_mode).read(path)
    assert time.process_time() - start < 0.5
    assert "1 x 330,000 pixels are resized to " in error.value.message
    assert "the limit is 16,777,216" in error.value.message


def test_an_image_that_is_tall_before_it_is_squashed_is_refused(tmp_path):
    """Pillow resizes its rows first, to 256 x 60,000,000 pixels."""
    path = tmp_path / "tall.png"
    path.write_bytes(png(2, 60_000_000, pixels=False))
    with pytest.raises(ConfigurationError, match="are resized to 15,360,000,000"):
        preprocessor("squash").read(path)


@pytest.mark.parametrize("shape", [(1, 250), (250, 1), (30, 7000), (2, 2), (900, 10)])
@pytest.mark.parametrize("crop_mode", ["center", "squash", "border"])
def test_an_unusual_shape_within_the_limits_is_read_as_in_timm(tmp_path, shape, crop_mode):
    path = tmp_path / "image.png"
    Image.effect_noise(shape, 90).convert("RGB").save(path)
    expected = timm.data.create_transform(
        (3, 64, 64),
        interpolation="bicubic",
        crop_pct=0.875,
        crop_mode=crop_mode,
        mean=(0.5,) * 3,
        std=(0.5,) * 3,
    )
    if crop_mode == "border" and max(shape) / min(shape) > 146:  # the short side is resized to 0 pixels
        with pytest.raises(ConfigurationError, match="height and width must be > 0"):
            preprocessor(crop_mode, 64).read(path)
        return
    with Image.open(path) as image:
        np.testing.assert_array_equal(preprocessor(crop_mode, 64).read(path), expected(image).numpy())


@pytest.mark.parametrize("size", [(13_400, 13_400), (100_000, 2_000)])
def test_a_decompression_bomb_is_refused_by_its_header(tmp_path, size):
    path = tmp_path / "bomb.png"
    path.write_bytes(png(*size, pixels=False))
    for read in (preprocessor().read, check_image):
        with pytest.raises(ConfigurationError, match="cannot be read as an image"):
            read(path)


def test_pillows_limit_holds_if_the_program_has_switched_it_off(tmp_path, monkeypatch):
    monkeypatch.setattr(Image, "MAX_IMAGE_PIXELS", None)
    path = tmp_path / "bomb.png"
    path.write_bytes(png(20_000, 20_000, pixels=False))
    with pytest.raises(
        ConfigurationError, match="has 20,000 x 20,000 pixels, and at most 178,956,970 are decoded"
    ):
        preprocessor().read(path)


def test_an_image_larger_than_the_budget_is_refused_with_the_number(tmp_path, monkeypatch):
    monkeypatch.setattr(images, "decoding_budget", lambda: DecodingBudget(10**6))
    path = tmp_path / "large.png"
    path.write_bytes(png(1000, 1000))
    with pytest.raises(
        ConfigurationError, match=r"decoding it takes 7\.7 MB of memory, and images may take 1 MB"
    ):
        preprocessor().read(path)


def test_a_header_as_large_as_a_sparse_file_is_not_read(tmp_path):
    path = tmp_path / "exif.png"
    start = png(8, 8)[:33]  # to the end of IHDR
    path.write_bytes(start + struct.pack(">I", 2**31 - 1) + b"eXIf")
    with path.open("r+b") as file:
        file.truncate(2**31 + 1000)
    for read in (preprocessor().read, check_image):
        with pytest.raises(ConfigurationError, match=r"decoding it takes 2\.15 GB of memory"):
            read(path)


def test_threads_share_one_budget():
    budget, lock, now, most = DecodingBudget(100), threading.Lock(), 0, 0

    def decode(needed: int) -> None:
        nonlocal now, most
        with budget.reserve(needed):
            with lock:
                now += needed
                most = max(most, now)
            time.sleep(0.002)
            with lock:
                now -= needed

    threads = [threading.Thread(target=decode, args=(needed,)) for needed in [40, 60, 100, 1, 35] * 8]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(10)
    assert not any(thread.is_alive() for thread in threads)
    assert most == 100
    with pytest.raises(ValueError, match="101 B of memory"):
        budget.check(101)


def progressive() -> bytes:
    buffer = io.BytesIO()
    Image.effect_noise((40, 30), 90).convert("RGB").save(buffer, "JPEG", progressive=True)
    return buffer.getvalue()


def test_a_progressive_jpeg_with_many_scans_is_refused(tmp_path):
    content, path = progressive(), tmp_path / "scans.jpg"
    path.write_bytes(content)
    assert preprocessor().read(path).shape == (3, 224, 224)
    scan = content[content.rindex(b"\xff\xda") : content.rindex(b"\xff\xd9")]
    path.write_bytes(content[:-2] + 200 * scan + b"\xff\xd9")
    with pytest.raises(ConfigurationError, match="scans, and at most 100 are decoded"):
        preprocessor().read(path)


def test_what_follows_a_jpeg_or_is_embedded_in_it_does_not_count_as_scans(tmp_path):
    content, path = progressive(), tmp_path / "motion.jpg"
    comment = b"\xff\xfe" + struct.pack(">H", 2 + 400) + 200 * b"\xff\xda"
    path.write_bytes(content[:2] + comment + content[2:] + 500 * b"\xff\xda")
    assert preprocessor().read(path).shape == (3, 224, 224)


def test_a_format_that_starts_a_program_is_not_opened(tmp_path):
    path = tmp_path / "drawing.png"
    path.write_bytes(b"%!PS-Adobe-3.0 EPSF-3.0\n%%BoundingBox: 0 0 10 10\n%%EndComments\n(x) run\n%%EOF\n")
    with Image.open(path) as image:
        assert image.format == "EPS"
    for read in (preprocessor().read, check_image):
        with pytest.raises(ConfigurationError, match="its format is not supported"):
            read(path)


@pytest.mark.parametrize("suffix", ["gif", "png", "webp", "tiff"])
def test_the_first_frame_of_an_animation_is_read(tmp_path, suffix):
    frames = [Image.new("RGB", (64, 64), color) for color in ("red", "green", "blue")]
    path = tmp_path / f"animation.{suffix}"
    frames[0].save(path, save_all=True, append_images=frames[1:])
    values = preprocessor(size=64).read(path).mean((1, 2))
    np.testing.assert_allclose(values, [1, -1, -1], atol=0.03)


@pytest.mark.parametrize("suffix", ["jpg", "png", "webp", "tiff", "bmp", "ppm"])
def test_a_truncated_image_is_refused(tmp_path, suffix):
    path = tmp_path / f"image.{suffix}"
    Image.effect_noise((90, 70), 90).convert("RGB").save(path)
    content = Path(path).read_bytes()
    for size in (0, 1, 20, len(content) // 2):
        path.write_bytes(content[:size])
        with pytest.raises(ConfigurationError, match="cannot be read as an image"):
            preprocessor().read(path)


@pytest.mark.parametrize("suffix", ["jp2", "avif", "tga", "pcx", "sgi", "dib"])
def test_rarer_formats_of_pixels_are_read(tmp_path, suffix):
    path = tmp_path / f"image.{suffix}"
    Image.new("RGB", (64, 64), "red").save(path)
    np.testing.assert_allclose(preprocessor(size=64).read(path).mean((1, 2)), [1, -1, -1], atol=0.03)


@pytest.mark.parametrize(("suffix", "fits"), [("tiff", False), ("bmp", True)])
def test_tags_of_a_tiff_are_counted_three_times(tmp_path, monkeypatch, suffix, fits):
    path = tmp_path / f"image.{suffix}"
    Image.new("RGB", (8, 8)).save(path)
    with path.open("ab") as file:
        file.write(bytes(1_000_000))
    monkeypatch.setattr(images, "decoding_budget", lambda: images.DecodingBudget(2_500_000))
    if fits:
        check_image(path)
    else:
        with pytest.raises(ConfigurationError, match="decoding it takes 3 MB of memory"):
            check_image(path)

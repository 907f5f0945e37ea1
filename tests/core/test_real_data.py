"""Images, folders, label files and tables as people have them."""

from __future__ import annotations

import json
import struct
import zlib

import numpy as np
import pytest
from PIL import ExifTags, Image, ImageOps
from timmx.base import reporting
from timmx.errors import ConfigurationError
from timmx.inputs.images import MOST_PIXELS, ImageSettings, list_images, open_image, other_files
from timmx.inputs.preprocess import ImagePreprocessor
from timmx.inputs.samples import choose_samples
from timmx.model.data_config import DataConfig
from timmx.model.labels import read_labels

CONFIG = DataConfig(
    input_size=(3, 16, 16),
    mean=(0, 0, 0),
    std=(1, 1, 1),
    interpolation="nearest",
    crop_pct=1.0,
    crop_mode="center",
)
GRAY = np.arange(256, dtype=np.uint8).reshape(16, 16)


@pytest.fixture
def warnings():
    class Warnings(list):
        def __getattr__(self, name):
            return self.append if name == "warn" else lambda *args, **kwargs: None

    collected = Warnings()
    with reporting(collected):
        yield collected


def read(path, **settings):
    return ImagePreprocessor(CONFIG, True, "RGB", ImageSettings(**settings)).read(path)


@pytest.mark.parametrize(
    ("suffix", "values"), [("png", GRAY.astype(np.uint16) * 257), ("pgm", GRAY.astype(np.uint16) * 257)]
)
def test_16_bit_gray_equals_8_bit_gray(tmp_path, suffix, values):
    Image.fromarray(values).save(tmp_path / f"deep.{suffix}")
    Image.fromarray(GRAY).save(tmp_path / "plain.png")
    np.testing.assert_array_equal(read(tmp_path / f"deep.{suffix}"), read(tmp_path / "plain.png"))


def test_16_bit_gray_is_rounded(tmp_path):
    Image.fromarray(np.full((16, 16), 40_000, np.uint16)).save(tmp_path / "deep.png")
    assert read(tmp_path / "deep.png")[0, 0, 0] == np.float32(round(40_000 / 257)) / np.float32(255)


@pytest.mark.parametrize(
    ("values", "reason"),
    [
        (GRAY.astype(np.float32) / 255, "floats, whose scale is unknown"),
        (GRAY.astype(np.int32) * 70_000, "32-bit integers, whose scale is unknown"),
        (GRAY.astype(np.int16) * 128, "signed integers, whose scale is unknown"),
        ((GRAY.astype(np.int16) - 128).astype(np.int8), "signed integers, whose scale is unknown"),
    ],
)
def test_pixels_without_a_known_scale_are_refused(tmp_path, values, reason):
    samples = 3 if values.dtype == np.float32 else 2
    (tmp_path / "image.tif").write_bytes(tiff(values, 8 * values.itemsize, samples=samples))
    with pytest.raises(ConfigurationError, match=reason):
        read(tmp_path / "image.tif")


def tiff(values, bits, photometric=1, samples=1):
    """A gray TIFF of 16 x 16 pixels; `samples` is 1 for unsigned integers, 2 for signed ones, 3 for floats."""
    data = values.tobytes()
    if bits == 12:
        pairs = values.reshape(-1, 2)
        data = b"".join((int(a) << 12 | int(b)).to_bytes(3, "big") for a, b in pairs)
    tags = [(256, 16), (257, 16), (258, bits), (259, 1), (262, photometric), (273, 8), (277, 1), (278, 16)]
    tags += [(279, len(data)), (339, samples)]
    entries = b"".join(struct.pack("<HHII", tag, 4, 1, value) for tag, value in tags)
    return (
        b"II*\0" + struct.pack("<I", 8 + len(data)) + data + struct.pack("<H", len(tags)) + entries + bytes(4)
    )


def png(values, significant=None):
    """A PNG of 16 bits, gray or RGB, which may state its significant bits."""

    def chunk(name, content):
        return (
            struct.pack(">I", len(content)) + name + content + struct.pack(">I", zlib.crc32(name + content))
        )

    color = 0 if values.ndim == 2 else 2
    rows = b"".join(b"\0" + row.astype(">u2").tobytes() for row in values)
    depth = b"" if significant is None else chunk(b"sBIT", bytes([significant] * (color + 1)))
    header = chunk(b"IHDR", struct.pack(">IIBBBBB", 16, 16, 16, color, 0, 0, 0))
    return b"\x89PNG\r\n\x1a\n" + header + depth + chunk(b"IDAT", zlib.compress(rows)) + chunk(b"IEND", b"")


DEEP = GRAY.astype(np.uint16)


@pytest.mark.parametrize(
    ("name", "content"),
    [
        ("miniswhite.tif", tiff(65535 - DEEP * 257, 16, photometric=0)),
        ("packed.tif", tiff(DEEP * 16 + DEEP // 16, 12)),
        ("filled.png", png((DEEP * 16 + DEEP // 16) * 16, 12)),  # as PNG defines sBIT
        ("unfilled.png", png(DEEP * 16 + DEEP // 16, 12)),
        ("camera.pgm", b"P5\n16 16\n4095\n" + (DEEP * 16 + DEEP // 16).astype(">u2").tobytes()),
    ],
)
def test_the_depth_that_a_file_states_decides(tmp_path, name, content):
    (tmp_path / name).write_bytes(content)
    Image.fromarray(GRAY).save(tmp_path / "plain.png")
    preprocessor = ImagePreprocessor(CONFIG, True, "RGB")
    np.testing.assert_array_equal(preprocessor.read(tmp_path / name), read(tmp_path / "plain.png"))
    assert preprocessor.depth.warning() == ""


@pytest.mark.parametrize(
    ("values", "largest", "bits"),
    [
        (DEEP * 16, "4,080", 12),
        (DEEP * 64, "16,320", 14),
        (DEEP, "255", 8),
        (np.full((16, 16), 300, np.uint16), "300", 9),
        (np.stack([DEEP * 16] * 3, -1), "4,095", 12),
    ],
)
def test_16_bit_images_that_use_few_bits_are_read_as_dark_with_a_warning(tmp_path, values, largest, bits):
    (tmp_path / "a.png").write_bytes(png(values))
    (tmp_path / "b.png").write_bytes(png(DEEP * 257))
    preprocessor = ImagePreprocessor(CONFIG, True, "RGB")
    preprocessor.read(tmp_path / "b.png")
    assert preprocessor.depth.warning() == ""
    pixels = 255 * preprocessor.read(tmp_path / "a.png")[0]
    np.testing.assert_allclose(pixels, values.reshape(16, 16, -1)[:, :, 0] / 257, atol=1)
    preprocessor.read(tmp_path / "b.png")
    warning = preprocessor.depth.warning()
    assert "1 of 2 16-bit images" in warning
    assert f"at most {largest} of 65,535" in warning
    assert f"If they have {bits} bits" in warning
    assert preprocessor.depth.warning() == ""


def test_a_depth_that_is_stated_decides(tmp_path):
    (tmp_path / "a.png").write_bytes(png(DEEP * 16))
    (tmp_path / "colors.png").write_bytes(png(np.stack([DEEP * 16] * 3, -1)))
    (tmp_path / "b.png").write_bytes(png(DEEP * 257))
    preprocessor = ImagePreprocessor(CONFIG, True, "RGB", ImageSettings(bits=12))
    pixels = 255 * preprocessor.read(tmp_path / "a.png")[0]
    np.testing.assert_allclose(pixels, np.rint(DEEP * (16 * 255 / 4095)))
    for name, reason in (("b.png", "more than 12 bits"), ("colors.png", "too few of 12")):
        with pytest.raises(ConfigurationError, match=reason):
            preprocessor.read(tmp_path / name)
    for path in tmp_path.glob("*.png"):
        ImagePreprocessor(CONFIG, True, "RGB", ImageSettings(bits=16)).read(path)
    with pytest.raises(ConfigurationError, match="--image-bits 8 is not 9 to 16"):
        ImageSettings(bits=8).check()


def test_images_that_all_use_few_bits_are_refused_until_their_depth_is_stated(tmp_path):
    preprocessor = ImagePreprocessor(CONFIG, True, "RGB")
    for number in range(4):
        preprocessor.depth.check()
        (tmp_path / f"{number}.png").write_bytes(png(DEEP * (number + 4)))
        preprocessor.read(tmp_path / f"{number}.png")
    with pytest.raises(
        ConfigurationError, match=r"all 4 images of 16 bits .* 1,785 .*\nhint: .*--image-bits 11"
    ):
        preprocessor.depth.check()
    (tmp_path / "bright.png").write_bytes(png(DEEP * 257))
    preprocessor.read(tmp_path / "bright.png")
    preprocessor.depth.check()


def test_samples_of_few_bits_are_reported(tmp_path, warnings):
    for number in range(4):
        (tmp_path / f"{number}.png").write_bytes(png(DEEP * (number + 1)))
    assert len(choose_samples(tmp_path, None, CONFIG, True)) == 4
    assert len(warnings) == 1
    assert "4 of 4 16-bit images: their values are at most 1,020 of 65,535" in warnings[0]


def turned(path, orientation, **arguments):
    """A color image of 12 x 20 pixels that says that it is turned."""
    exif = Image.Exif()
    exif[ExifTags.Base.Orientation] = orientation
    pixels = np.random.default_rng(0).integers(0, 256, (20, 12, 3), np.uint8)
    Image.fromarray(pixels).save(path, exif=exif, **arguments)
    return path


@pytest.mark.parametrize("orientation", range(1, 9))
@pytest.mark.parametrize("suffix", ["jpg", "png", "webp"])
def test_the_exif_orientation_is_applied_on_request_only(tmp_path, suffix, orientation):
    path = turned(tmp_path / f"turned.{suffix}", orientation)
    with Image.open(path) as image:
        Image.fromarray(np.asarray(image.convert("RGB"))).save(tmp_path / "stored.png")
        ImageOps.exif_transpose(image).convert("RGB").save(tmp_path / "upright.png", exif=Image.Exif())
    np.testing.assert_array_equal(read(path), read(tmp_path / "stored.png"))
    np.testing.assert_array_equal(read(path, exif=True), read(tmp_path / "upright.png"))


def test_damaged_exif_data_is_ignored(tmp_path):
    Image.fromarray(GRAY).save(tmp_path / "a.jpg", exif=b"Exif\0\0MM\0*\0\0\0\x08\0\xff\x01")
    np.testing.assert_array_equal(read(tmp_path / "a.jpg", exif=True), read(tmp_path / "a.jpg"))


def test_images_above_the_limit_of_pixels_are_read_on_request(tmp_path, monkeypatch):
    Image.fromarray(GRAY).save(tmp_path / "a.png")
    expected = read(tmp_path / "a.png")
    with pytest.raises(ConfigurationError, match="16 x 16 pixels, and at most 255 are decoded") as error:
        read(tmp_path / "a.png", max_pixels=255)
    assert "--max-pixels" in error.value.hint
    monkeypatch.setattr(Image, "MAX_IMAGE_PIXELS", 100)
    with pytest.raises(ConfigurationError, match="exceeds limit of 200 pixels") as error:
        read(tmp_path / "a.png")
    assert "--max-pixels" in error.value.hint
    np.testing.assert_array_equal(read(tmp_path / "a.png", max_pixels=2 * MOST_PIXELS), expected)
    assert Image.MAX_IMAGE_PIXELS == 100


def test_memory_limits_an_image_whatever_the_limit_of_pixels(tmp_path):
    image = b"P5 60000 60000 255\n"  # a header
    (tmp_path / "huge.pgm").write_bytes(image)
    with pytest.raises(ConfigurationError, match="decoding it takes"):
        read(tmp_path / "huge.pgm", max_pixels=10**10)


def test_linked_class_folders_are_searched_once_and_without_loops(tmp_path):
    real = tmp_path / "real" / "cat"
    real.mkdir(parents=True)
    Image.fromarray(GRAY).save(real / "a.png")
    data = tmp_path / "data"
    data.mkdir()
    try:
        (data / "cat").symlink_to(real, target_is_directory=True)
        (real / "loop").symlink_to(data, target_is_directory=True)
    except OSError:
        pytest.skip("this system does not permit symbolic links")
    assert list_images(data) == [data / "cat" / "a.png"]


@pytest.mark.parametrize(
    "suffix", ["jfif", "jpe", "JPG", "avif", "jp2", "tga", "qoi", "sgi", "pcx", "dib", "pbm"]
)
def test_what_pillow_opens_is_listed_and_read(tmp_path, suffix):
    path = tmp_path / f"image.{suffix}"
    formats = {"jfif": "JPEG", "jpe": "JPEG", "pbm": "PPM"}
    Image.fromarray(GRAY).convert("RGB").save(path, format=formats.get(suffix))
    assert list_images(tmp_path) == [path]
    assert open_image(path, np.asarray).shape[:2] == (16, 16)


def test_files_that_are_not_searched_are_counted_and_named(tmp_path):
    for name in ("a.heic", "b.heic", "c", "labels.csv", "d.png", ".DS_Store"):
        (tmp_path / name).write_bytes(b"x")
    assert other_files(tmp_path) == (
        f"3 files in {tmp_path} were left out because of the suffix: 2 .heic, 1 without a suffix."
    )
    for name in ("a.heic", "b.heic", "c"):
        (tmp_path / name).unlink()
    assert other_files(tmp_path) == ""


NAMES = ("cat", "dog", "elk")
LABELS = {
    "c2i.json": ('{"cat":0,"dog":1,"elk":2}', "a map of name to class index"),
    "mixed.json": ('{"elk":2,"cat":0,"dog":1}', "a map of name to class index"),
    "cfg.json": ('{"id2label":{"0":"cat","1":"dog","2":"elk"}}', "the id2label of a model's configuration"),
    "timm.json": (
        '{"architecture":"x","label_names":["cat","dog","elk"]}',
        "the label_names of a model's configuration",
    ),
    "timm2.json": (
        '{"pretrained_cfg":{"label_names":["cat","dog","elk"]}}',
        "the label_names of a model's configuration",
    ),
    "class_idx.txt": ("2 elk\n0 cat\n1 dog\n", "lines of class index and name."),
    "colon.txt": ("0: cat\n1: dog\n2: elk\n", "lines of class index and name."),
    "gist.txt": ("{0: 'cat',\n 1: 'dog',\n 2: 'elk'}\n", "a Python literal"),
    "list.txt": ("['cat', 'dog', 'elk']", "a Python literal"),
    "imagenet_class_index.json": (
        '{"0": ["n01440764", "cat"], "1": ["n01443537", "dog"], "2": ["n2", "elk"]}',
        "ImageNet's list of WordNet IDs and names",
    ),
    "l.csv": ("0,cat\n1,dog\n2,elk\n", "lines of class index and name."),
    "header.csv": ("index,name\n0,cat\n2,elk\n1,dog\n", "lines of class index and name with a header"),
    "last.csv": ("name,index\ncat,0\ndog,1\nelk,2\n", "lines of class index and name with a header"),
    "tab.tsv": ("cat\t0\nelk\t2\ndog\t1\n", "lines of class index and name."),
    "synset_words.txt": ("n01440764 cat\nn01443537 dog\nn01484850 elk\n", "lines of WordNet ID and name"),
}


def test_an_empty_label_file_is_refused_without_a_warning(tmp_path, warnings):
    (tmp_path / "names.txt").write_text("\n")
    with pytest.raises(ConfigurationError, match="has no names"):
        read_labels(tmp_path / "names.txt")
    assert not warnings


@pytest.mark.parametrize("name", LABELS)
def test_label_files_are_read_by_their_content(tmp_path, warnings, name):
    content, note = LABELS[name]
    (tmp_path / name).write_text(content)
    assert read_labels(tmp_path / name) == NAMES
    assert len(warnings) == 1
    assert f"{name}: read as {note}" in warnings[0]


@pytest.mark.parametrize(
    ("content", "names"),
    [
        ("2007 Audi TT\n2012 BMW X3\n", ("2007 Audi TT", "2012 BMW X3")),
        ("cat\ndog\n", ("cat", "dog")),
        ("3\n1\n2\n", ("3", "1", "2")),
        ("n01440764\nn01443537\n", ("n01440764", "n01443537")),
        ("tench, Tinca tinca\ngoldfish\n", ("tench, Tinca tinca", "goldfish")),
        (json.dumps(["0 cat", "1 dog"]), ("0 cat", "1 dog")),
    ],
)
def test_names_that_only_look_numbered_stay_names(tmp_path, warnings, content, names):
    (tmp_path / "labels.txt").write_text(content)
    assert read_labels(tmp_path / "labels.txt") == names
    assert not warnings


@pytest.mark.parametrize(
    ("content", "reason"),
    [
        ("1 cat\n2 dog\n3 elk\n", "numbered from 1 to 3"),
        ("id,name\n1,cat\n2,dog\n", "numbered from 1 to 2"),
        ('{"cat": 1, "dog": 2}', "maps names to numbers"),
        ('{"cat": 0, "dog": 0}', "maps names to numbers"),
        ('{"cat": "a", "dog": "b"}', "the key 'cat' is not a class index"),
    ],
)
def test_ambiguous_label_files_are_refused(tmp_path, content, reason):
    (tmp_path / "labels.txt").write_text(content)
    with pytest.raises(ConfigurationError, match=reason):
        read_labels(tmp_path / "labels.txt")

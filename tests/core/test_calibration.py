"""Calibration data: what is accepted, how it is read, and which errors and hints are shown."""

from __future__ import annotations

import subprocess
import sys
import tracemalloc
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image
from sklearn.datasets import load_sample_images
from timmx.base.progress import Reporter, reporting
from timmx.contract.options import CalibrationData, CalibrationSamples, RandomCalibration  # noqa: TC002 - Typer's
from timmx.errors import ConfigurationError
from timmx.inputs.calibration import check_calibration, choose_calibration
from timmx.inputs.samples import SyntheticSamples, choose_samples
from timmx.model.data_config import DataConfig
from timmx.registry.options import build

CONFIG = DataConfig(
    input_size=(3, 48, 64),
    mean=(0.485, 0.456, 0.406),
    std=(0.229, 0.224, 0.225),
    interpolation="bicubic",
    crop_pct=0.9,
    crop_mode="center",
)
GRAY = DataConfig(
    input_size=(1, 48, 64), mean=(0.5,), std=(0.5,), interpolation="bicubic", crop_pct=0.9, crop_mode="center"
)
SATELLITE = DataConfig(
    input_size=(5, 48, 64),
    mean=(0.5,) * 5,
    std=(0.25,) * 5,
    interpolation="bicubic",
    crop_pct=0.9,
    crop_mode="center",
)


DIGITS = Path(__file__).resolve().parents[2] / "examples" / "digits"


class Warnings(Reporter):
    def __init__(self):
        self.warnings: list[str] = []

    def warn(self, text):
        self.warnings.append(text)


@pytest.fixture
def warnings():
    with reporting(reporter := Warnings()):
        yield reporter.warnings


@pytest.fixture(scope="session")
def photos(tmp_path_factory) -> Path:
    """20 crops of photographs, in two folders of classes."""
    folder = tmp_path_factory.mktemp("photos")
    for number in range(20):
        photo = load_sample_images().images[number % 2]
        top, left = 15 * number, 25 * number
        part = Image.fromarray(photo[top : top + 120, left : left + 140])
        place = folder / ("temple", "flower")[number % 2]
        place.mkdir(exist_ok=True)
        part.save(place / f"{number:02}.png" if number % 3 else place / f"{number:02}.JPG")
    return folder


def pixels(count=6, config=CONFIG):
    return torch.from_numpy(SyntheticSamples(config, True, count).take(range(count)))


def normalized(count=6, config=CONFIG):
    return torch.from_numpy(SyntheticSamples(config, False, count).take(range(count)))


def saved(tmp_path, value) -> Path:
    path = tmp_path / "inputs.pt"
    torch.save(value, path)
    return path


# options


def test_options_that_exclude_or_require_each_other(photos):
    with pytest.raises(ConfigurationError, match="use only one of them"):
        check_calibration(photos, None, random=True)
    with pytest.raises(
        ConfigurationError,
        match=r"(?s)--calibration-samples requires --calibration-data.*add --calibration-data",
    ):
        check_calibration(None, 64, random=False)
    check_calibration(photos, 64, random=False)
    check_calibration(None, 64, random=True)
    check_calibration(None, None, random=False)


def test_unusable_data_is_reported_before_torch_is_imported(process, tmp_path, photos):
    few, empty = tmp_path / "few", tmp_path / "empty"
    for folder in (few, empty):
        folder.mkdir()
    Image.new("RGB", (8, 8)).save(few / "one.png")
    (few / "notes.txt").write_text("no image")
    (tmp_path / "nothing.pt").touch()
    (tmp_path / "array.npy").write_bytes(b"\x93NUMPY")
    (tmp_path / "pointer.pth").write_text("version https://git-lfs.github.com/spec/v1\n")
    cases = {
        "missing": "does not exist",
        "empty": "and its subfolders hold 0 images",
        "few": "and its subfolders hold 1 images; at least 4",
        "nothing.pt": "is empty",
        "array.npy": "neither a folder of images nor a .pt or .pth file",
        "pointer.pth": "git lfs pull",
    }
    code = (
        "import sys\nfrom pathlib import Path\n"
        "from timmx.inputs.calibration import check_calibration\nfrom timmx.errors import ConfigurationError\n"
        "for path in sys.argv[1:]:\n"
        "    try:\n        check_calibration(Path(path), None, False)\n"
        "    except ConfigurationError as exc:\n        print(exc)\n"
        "print(sorted({'torch', 'timm', 'numpy', 'PIL'} & sys.modules.keys()))\n"
    )
    paths = [str(tmp_path / name) for name in cases]
    done = subprocess.run(
        [sys.executable, "-c", code, *paths, str(photos)], text=True, capture_output=True, check=True
    )
    *lines, heavy = done.stdout.replace("\nhint: ", " | ").splitlines()
    assert heavy == "[]"
    assert len(lines) == len(cases), "a folder of photographs is accepted"
    for line, name, words in zip(lines, cases, cases.values(), strict=True):
        assert line.startswith("--calibration-data")
        assert " | " in line
        assert name in line
        assert words in line


@dataclass(frozen=True)
class Options:
    """Options as a backend declares them."""

    calibration_data: CalibrationData = None
    calibration_samples: CalibrationSamples = None
    random_calibration: RandomCalibration = False


def test_the_options_are_built_and_checked_from_python():
    options = build(Options, {"calibration_data": "photos", "calibration_samples": 64})
    assert options == Options(Path("photos"), 64, False)
    assert Options().calibration_samples is None
    with pytest.raises(ConfigurationError, match="at least 4"):
        build(Options, {"calibration_samples": 3})


# images


@pytest.mark.parametrize("in_graph", [False, True])
@pytest.mark.parametrize("config", [CONFIG, GRAY], ids=["RGB", "L"])
def test_images_are_read_as_verification_reads_them(photos, warnings, config, in_graph):
    calibration = choose_calibration(photos, 20, config, in_graph)
    arrays = list(calibration)
    samples = choose_samples(photos, None, config, in_graph)
    np.testing.assert_array_equal(np.concatenate(arrays), samples.take(range(20)))
    assert all(array.shape == (1, *config.input_size) and array.dtype == np.float32 for array in arrays)
    assert len(calibration) == 20
    assert calibration.origin == f"20 images of {photos}"
    assert warnings == []


@pytest.fixture(scope="module")
def digit_images():
    """Normalized as for the digits model, and its ExportModule, prepared."""
    import timm
    from timmx.model.preparation import prepare
    from timmx.model.wrap import ExportModule

    model = timm.create_model(f"local-dir:{DIGITS}", pretrained=True).eval()
    transform = timm.data.create_transform(**timm.data.resolve_data_config({}, model=model))
    paths = sorted((DIGITS / "samples").glob("*/*.png"))[::16]
    images = torch.stack([transform(Image.open(path).convert("RGB")) for path in paths])
    with torch.no_grad():
        prepared = prepare(ExportModule(model), images[:4], model(images[:4]), in_place=False)
    assert prepared.rewrites[0].name == "fold batch norm"
    return images, model, prepared.model


def test_the_fit_of_inputs_is_the_same_before_and_after_batch_norms_are_folded(digit_images):
    from timmx.model.activations import fit_of

    images, model, prepared = digit_images
    arrays = [image[None].numpy() for image in images]
    before, after = (fit_of(module, arrays, "cpu") for module in (model, prepared))
    assert before.norms == after.norms == 13
    for name in ("shift", "ratio", "divergence"):
        assert getattr(after, name) == pytest.approx(getattr(before, name), rel=1e-3)
    norm = model.bn1
    with torch.no_grad():
        values = model.conv_stem(images).double().transpose(0, 1).flatten(1)
    scale = (norm.running_var.double() + norm.eps).sqrt()
    only = fit_of(torch.nn.Sequential(model.conv_stem, norm), arrays, "cpu")
    assert only.norms == 1
    assert only.shift == pytest.approx(float(((values.mean(1) - norm.running_mean) / scale).abs().median()))
    assert only.ratio == pytest.approx(float((values.var(1, correction=0) / scale**2).median()))


def test_calibration_images_of_one_class_are_reported(warnings, digit_images):
    from timmx.inputs.calibration import check_representative
    from timmx.model.activations import fit_of

    _, model, _ = digit_images
    digits = model.pretrained_cfg
    config = DataConfig(
        input_size=tuple(digits["input_size"]),
        mean=tuple(digits["mean"]),
        std=tuple(digits["std"]),
        interpolation=digits["interpolation"],
        crop_pct=digits["crop_pct"],
        crop_mode=digits.get("crop_mode", "center"),
    )
    inputs = choose_calibration(DIGITS / "samples" / "0", 20, config, in_graph=False)
    warnings.clear()
    check_representative(inputs, lambda chosen: fit_of(model, chosen, "cpu"))
    assert len(warnings) == 1
    assert "predicts class 0 for each of 20 calibration inputs" in warnings[0]


@pytest.mark.parametrize(
    ("change", "warning"),
    [
        (lambda images: images, ""),
        (lambda images: images * 0.349 + 0.309, "does not fit the model"),  # not normalized
        (lambda images: (images - 0.309) / 0.349, "does not fit the model"),  # normalized twice
        (lambda images: torch.rand(images.shape, generator=torch.Generator().manual_seed(0)), "does not fit"),
        (lambda images: (1 - 0.309) / 0.349 - (images + 0.309 / 0.349), "does not fit the model"),  # inverted
        (
            lambda images: (images + 0.309 / 0.349) / 2 - 0.309 / 0.349,
            "does not fit the model",
        ),  # half as bright
        (lambda images: images[:1].expand(len(images), -1, -1, -1), "nearly the same: 0 % of the variance"),
        (lambda images: images[::4], "8 inputs of"),
    ],
)
def test_calibration_data_that_does_not_fit_is_reported(tmp_path, warnings, digit_images, change, warning):
    from timmx.inputs.calibration import check_representative
    from timmx.model.activations import fit_of

    images, _, prepared = digit_images
    config = DataConfig(
        input_size=(3, 64, 64),
        mean=(0.309,) * 3,
        std=(0.349,) * 3,
        interpolation="bicubic",
        crop_pct=1.0,
        crop_mode="center",
    )
    changed = change(images)
    calibration = choose_calibration(saved(tmp_path, changed.clone()), len(changed), config, False)
    warnings.clear()
    check_representative(calibration, lambda arrays: fit_of(prepared, arrays, "cpu"))
    assert (warning in " ".join(warnings)) if warning else not warnings
    assert len(warnings) == bool(warning)


def test_a_model_without_trained_batch_norms_has_no_fit():
    from timmx.model.activations import fit_of

    arrays = [np.zeros((1, 3, 8, 8), np.float32)]
    for norm in (torch.nn.BatchNorm2d(4), torch.nn.GroupNorm(2, 4)):
        assert fit_of(torch.nn.Sequential(torch.nn.Conv2d(3, 4, 1), norm).eval(), arrays, "cpu") is None


def test_a_second_pass_gives_the_same_images(photos, warnings):
    calibration = choose_calibration(photos, None, CONFIG, True)
    first, second = list(calibration), list(calibration)
    np.testing.assert_array_equal(np.concatenate(first), np.concatenate(second))
    assert warnings == [f"Calibration has 20 images of {photos}, fewer than 128: all of them are used."]


def test_a_larger_folder_is_sampled_evenly(photos, warnings):
    calibration = choose_calibration(photos, 6, CONFIG, True)
    whole = np.concatenate(list(choose_calibration(photos, 20, CONFIG, True)))
    taken = np.concatenate(list(calibration))
    places = [int(np.abs(whole - array).sum(axis=(1, 2, 3)).argmin()) for array in taken]
    assert len(calibration) == 6
    assert places == [0, 3, 7, 11, 15, 19], "both classes, and the same ones every time"
    assert warnings == []


def test_images_are_decoded_one_at_a_time(tmp_path, warnings):
    for number in range(12):
        Image.fromarray(np.full((300, 300, 3), 20 * number, np.uint8)).save(tmp_path / f"{number:02}.png")
    config = DataConfig(
        input_size=(3, 288, 288),
        mean=(0.5,) * 3,
        std=(0.5,) * 3,
        interpolation="bicubic",
        crop_pct=1.0,
        crop_mode="center",
    )
    calibration = choose_calibration(tmp_path, 12, config, True)
    next(iter(calibration))
    tracemalloc.start()
    for array in calibration:
        size = array.nbytes
    _, peak = tracemalloc.get_traced_memory()
    tracemalloc.stop()
    assert peak < 6 * size, "12 images are not kept in memory"


def test_batches_are_full_and_hold_every_input(photos, warnings):
    calibration = choose_calibration(photos, 10, CONFIG, True)
    batches = list(calibration.batches(4))
    assert [batch.shape for batch in batches] == [(4, 3, 48, 64)] * 3
    every = np.concatenate(list(calibration))
    np.testing.assert_array_equal(np.concatenate(batches)[:10], every)
    np.testing.assert_array_equal(batches[-1][2:], every[8:10])
    assert next(calibration.batches(32)).shape == (32, 3, 48, 64)


def copied(photos: Path, folder: Path, count: int) -> list[Path]:
    paths = sorted(photos.rglob("*.png"))[:count]
    return [Path(folder / path.name).write_bytes(path.read_bytes()) and folder / path.name for path in paths]


def test_other_files_are_left_out_at_once_and_truncated_images_when_they_are_read(photos, tmp_path, warnings):
    good = copied(photos, tmp_path, 6)
    (tmp_path / "text.png").write_text("no image at all")
    (tmp_path / "zero.jpg").touch()
    photo = (photos / "temple" / "00.JPG").read_bytes()
    (tmp_path / "cut.jpg").write_bytes(photo[: len(photo) // 2])
    calibration = choose_calibration(tmp_path, 9, CONFIG, True)
    assert warnings[0] == "2 images cannot be read and are left out: text.png, zero.jpg."
    assert len(list(calibration)) == len(good)
    assert warnings[-1] == "1 image cannot be read and is left out: cut.jpg."
    assert calibration.origin == f"6 images of {tmp_path}"
    assert len(list(calibration)) == len(calibration) == 6
    assert calibration.notes == warnings, "the result has them too"
    assert len(warnings) == 3, "each is reported once"


def test_other_images_replace_damaged_ones(photos, tmp_path, warnings):
    copied(photos, tmp_path, 6)
    photo = (photos / "temple" / "00.JPG").read_bytes()
    for number in range(3):
        (tmp_path / f"0_{number}.png").write_text("no image at all")
        (tmp_path / f"zz_{number}.jpg").write_bytes(photo[: len(photo) // 2])
    calibration = choose_calibration(tmp_path, 5, CONFIG, True)
    assert len(list(calibration)) == len(calibration) == len(list(calibration)) == 5
    assert not any("fewer" in line for line in warnings)


def test_too_few_readable_images_are_refused(photos, tmp_path, warnings):
    copied(photos, tmp_path, 3)
    (tmp_path / "text.png").write_text("no image at all")
    with pytest.raises(ConfigurationError, match=r"(?s)3 images can be read.*at least 4.*another folder"):
        choose_calibration(tmp_path, None, CONFIG, True)
    photo = (photos / "temple" / "00.JPG").read_bytes()
    (tmp_path / "text.png").unlink()
    (tmp_path / "cut.jpg").write_bytes(photo[: len(photo) // 2])
    with pytest.raises(ConfigurationError, match="3 images can be read"):
        list(choose_calibration(tmp_path, None, CONFIG, True))


def test_models_of_other_channels_take_tensors_and_no_images(photos, tmp_path, warnings):
    with pytest.raises(ConfigurationError, match=r"(?s)this model takes 5.*torch.save"):
        choose_calibration(photos, None, SATELLITE, True)
    inputs = normalized(8, SATELLITE)
    calibration = choose_calibration(saved(tmp_path, inputs), 8, SATELLITE, False)
    np.testing.assert_array_equal(np.concatenate(list(calibration)), inputs.numpy())


# tensors


@pytest.mark.parametrize("dtype", [torch.float32, torch.float16, torch.bfloat16, torch.float64])
def test_tensors_of_any_float_type_are_read_as_float32(tmp_path, warnings, dtype):
    path = saved(tmp_path, normalized().to(dtype))
    calibration = choose_calibration(path, 6, CONFIG, False)
    for _ in range(2):
        arrays = list(calibration)
        assert all(array.shape == (1, 3, 48, 64) and array.dtype == np.float32 for array in arrays)
        np.testing.assert_allclose(np.concatenate(arrays), normalized().numpy(), rtol=1e-2)
        arrays[0][:] = 0  # a consumer may work in place
    assert calibration.origin == f"6 inputs of {path}"
    assert warnings == []


def test_a_long_tensor_is_sampled_evenly_and_a_short_one_is_reported(tmp_path, warnings):
    path = saved(tmp_path, pixels(12))
    taken = list(choose_calibration(path, 4, CONFIG, True))
    np.testing.assert_array_equal(np.concatenate(taken), pixels(12).numpy()[[0, 3, 7, 11]])
    assert warnings == []
    choose_calibration(path, 50, CONFIG, True)
    assert warnings == [f"Calibration has 12 inputs of {path}, fewer than 50: all of them are used."]


def test_a_parameter_a_transposed_tensor_and_the_old_file_format_are_read(tmp_path, warnings):
    inputs = normalized()
    turned = inputs.movedim(1, -1).contiguous().movedim(-1, 1)
    torch.save(turned, tmp_path / "old.pth", _use_new_zipfile_serialization=False)
    for path in (saved(tmp_path, torch.nn.Parameter(inputs)), tmp_path / "old.pth"):
        arrays = list(choose_calibration(path, 6, CONFIG, False))
        assert all(array.flags.c_contiguous for array in arrays)
        np.testing.assert_array_equal(np.concatenate(arrays), inputs.numpy())


class Anything:
    """A class that a pickle may hold instead of a tensor."""


def with_one(value: float) -> torch.Tensor:
    inputs = normalized()
    inputs[3, 1, 2, 2] = value
    return inputs


@pytest.mark.parametrize(
    ("value", "words"),
    [
        (
            (255 * pixels()).byte(),
            r"(?s)uint8 numbers.*normalized pixels.*\(tensor.float\(\) / 255 - mean\) / std.*--normalize",
        ),
        ((255 * pixels()).long(), "int64 numbers"),
        (pixels().bool(), "bool numbers"),
        (pixels().cfloat(), "complex64 numbers"),
        (normalized()[0], r"shape \(3, 48, 64\); this model takes \(N, 3, 48, 64\)"),
        (normalized().movedim(1, -1), r"(?s)shape \(6, 48, 64, 3\).*movedim\(-1, -3\)"),
        (normalized()[..., :32], r"takes \(N, 3, 48, 64\)\nhint: save inputs of that size"),
        (normalized(6, GRAY), r"shape \(6, 1, 48, 64\)"),
        (torch.empty(0, 3, 48, 64), "holds 0 inputs; at least 4"),
        (normalized()[:3], "holds 3 inputs; at least 4"),
        (torch.tensor(1.0), r"shape \(\)"),
        (with_one(float("nan")), r"input 3 holds .* not a number"),
        (with_one(float("inf")), "input 3 holds .* infinite"),
        (normalized().double() * 1e300, "infinite"),
        (255 * pixels(), r"(?s)from 3 to 255.*normalized pixels from -2.118 to 2.64.*/ 255 - mean"),
        (normalized().to_sparse(), "is sparse or without data"),
        (
            {"input": normalized(), "label": torch.ones(6)},
            r"(?s)holds a dict \(input, label, \.\.\.\), not a tensor.*torch.save",
        ),
        ([normalized()[:1]] * 6, r"(?s)holds a list, not a tensor.*torch\.stack"),
        (torch.nn.Conv2d(3, 8, 3).state_dict(), r"OrderedDict \(weight, bias, \.\.\.\), not a tensor"),
        (torch.nn.Conv2d(3, 8, 3), r"(?s)would run code.*Conv2d.*save one float tensor"),
        (Anything(), r"would run code.*Anything"),
        ("text", "holds a str, not a tensor"),
    ],
    ids=lambda value: None if isinstance(value, str) else type(value).__name__,
)
def test_an_unusable_tensor_file_is_refused_with_a_hint(tmp_path, warnings, value, words):
    path = saved(tmp_path, value)
    with pytest.raises(ConfigurationError, match=words) as caught:
        choose_calibration(path, None, CONFIG, False)
    assert str(path) in caught.value.message
    assert "\n" not in caught.value.message


def test_with_normalize_pixels_must_be_between_0_and_1(tmp_path, warnings):
    choose_calibration(saved(tmp_path, pixels()), 6, CONFIG, True)
    assert warnings == []
    with pytest.raises(ConfigurationError, match=r"(?s)pixels in \[0, 1\].*save tensor.float\(\) / 255"):
        choose_calibration(saved(tmp_path, 255 * pixels()), None, CONFIG, True)
    with pytest.raises(ConfigurationError, match=r"(?s)uint8.*save tensor.float\(\) / 255$"):
        choose_calibration(saved(tmp_path, (255 * pixels()).byte()), None, CONFIG, True)
    with pytest.raises(ConfigurationError, match="before they are normalized, or leave --normalize out"):
        choose_calibration(saved(tmp_path, normalized()), None, CONFIG, True)


def test_unusual_values_are_accepted_with_a_warning(tmp_path, warnings):
    choose_calibration(saved(tmp_path, pixels()), 6, CONFIG, False)
    assert warnings.pop().endswith("Are they normalized?")
    wide = 5 * normalized()
    assert len(choose_calibration(saved(tmp_path, wide), 6, CONFIG, False)) == 6
    assert "takes normalized pixels from -2.118 to 2.64" in warnings.pop()
    reflectance = 9 * pixels(6, SATELLITE)
    assert len(choose_calibration(saved(tmp_path, reflectance), 6, SATELLITE, True)) == 6
    assert "takes pixels in [0, 1] from 0 to 1" in warnings.pop()


@pytest.mark.parametrize("content", [b"this is not a tensor", b"PK\x03\x04 cut off", b"\x80\x02}q"])
def test_a_damaged_file_is_reported(tmp_path, warnings, content):
    path = tmp_path / "inputs.pt"
    path.write_bytes(content)
    with pytest.raises(ConfigurationError, match=r"is damaged or not a file of torch\.save"):
        choose_calibration(path, None, CONFIG, False)
    whole = saved(tmp_path, normalized()).read_bytes()
    path.write_bytes(whole[: len(whole) // 2])
    with pytest.raises(ConfigurationError, match=r"is damaged or not a file of torch\.save"):
        choose_calibration(path, None, CONFIG, False)


def test_a_large_tensor_file_is_not_read_into_memory(process, export, tmp_path, warnings):
    path = saved(tmp_path, torch.rand(400, 1, 1, 1).expand(-1, 3, 256, 256).contiguous())
    code = (
        "import sys\nfrom pathlib import Path\nimport psutil, torch\n"
        "from timmx.inputs.calibration import choose_calibration\nfrom timmx.model.data_config import DataConfig\n"
        "config = DataConfig(input_size=(3, 256, 256), mean=(0.5,) * 3, std=(0.5,) * 3, interpolation='bicubic',"
        " crop_pct=1.0, crop_mode='center')\n"
        "before = psutil.Process().memory_info().rss\n"
        "calibration = choose_calibration(Path(sys.argv[1]), 4, config, False)\n"
        "print(len(list(calibration)), psutil.Process().memory_info().rss - before)\n"
    )
    done = subprocess.run([sys.executable, "-c", code, str(path)], text=True, capture_output=True, check=True)
    size_bytes = path.stat().st_size
    path.unlink()
    count, grown_bytes = map(int, done.stdout.split())
    assert count == 4
    assert grown_bytes < size_bytes / 4


# synthetic images


def test_synthetic_images_are_repeatable_and_differ_from_those_of_verification(warnings):
    calibration = choose_calibration(None, 10, CONFIG, True)
    first, second = (np.concatenate(list(calibration)) for _ in range(2))
    np.testing.assert_array_equal(first, second)
    assert first.shape == (len(calibration), 3, 48, 64) == (10, 3, 48, 64)
    assert first.min() >= 0
    assert first.max() <= 1
    assert len({array.tobytes() for array in first}) == 10
    seen = {array.tobytes() for array in SyntheticSamples(CONFIG, True).take(range(6))}
    assert not seen & {array.tobytes() for array in first}
    assert (
        "Calibrated on 10 synthetic images: their value ranges differ from those of real images"
        in warnings[0]
    )
    assert len(choose_calibration(None, None, CONFIG, True)) == 128


def test_an_export_checks_its_calibration_data(export, digits, tmp_path, warnings):
    from timmx.contract.options import ExportRequest
    from timmx.exporting.job import Job
    from timmx.exporting.session import ModelSession
    from timmx.registry import load

    (tmp_path / "black").mkdir()
    for number in range(4):
        Image.new("RGB", (64, 64)).save(tmp_path / "black" / f"{number}.png")
    session = ModelSession(build(ExportRequest, {"model": digits, "verify": False}))
    job = Job(session, tmp_path / "digits.onnx", load("onnx"))
    job.calibration(DIGITS / "samples")
    assert job.notes == ()
    job.calibration(tmp_path / "black")
    notes = " ".join(job.notes)
    assert f"Calibrated on 4 images of {tmp_path / 'black'}, fewer than 16" in notes
    assert "nearly the same: 0 % of the variance" in notes
    assert "activations before 13 batch norms are 0." in notes
    assert set(job.notes) <= set(warnings)
    untrained = ModelSession(
        build(ExportRequest, {"model": "test_efficientnet", "verify": False, "input_size": (3, 64, 64)})
    )
    job = Job(untrained, tmp_path / "digits.onnx", load("onnx"))
    job.calibration(tmp_path / "black")
    assert "batch norms" not in " ".join(job.notes)

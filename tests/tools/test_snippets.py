"""The code of `timmx inspect --snippet` gives the same result as the file in timmx."""

from __future__ import annotations

import json
import shutil
import subprocess
import sys
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
import onnx
import pytest
import tree_sitter
import tree_sitter_kotlin
import tree_sitter_swift
from PIL import ExifTags, Image, ImageCms, ImageOps
from timmx.artifact.opening import read_artifact
from timmx.contract.snippet import Snippet
from timmx.inputs.preprocess import ImagePreprocessor
from timmx.tools.snippets.facts import Facts
from timmx.tools.snippets.javascript import _read as _read_in_javascript
from timmx.tools.snippets.python import _read
from timmx.tools.snippets.snippet import make_snippet
from timmx.tools.subject.subject import open_subject

if TYPE_CHECKING:
    from collections.abc import Callable
    from types import ModuleType

    from timmx.contract.metadata import Metadata

SAMPLES = Path(__file__).resolve().parents[2] / "examples" / "digits" / "samples"


@dataclass(frozen=True)
class Case:
    """One export of the digits model."""

    backend: str
    options: dict


CASES = {
    "onnx": Case("onnx", {}),
    "torch-export": Case("torch-export", {}),
    "litert": Case("litert", {}),
    "onnx-normalize-softmax": Case("onnx", {"normalize": True, "softmax": True}),
    "onnx-batch-3": Case("onnx", {"batch_size": 3}),
    "onnx-dynamic": Case("onnx", {"dynamic_batch": True}),
    "torch-export-oblong": Case("torch-export", {"input_size": (3, 96, 64)}),
    "litert-uint8": Case(
        "litert", {"io": "uint8", "normalize": True, "mode": "int8", "calibration_data": SAMPLES}
    ),
    "litert-int8": Case("litert", {"io": "int8", "mode": "int8", "calibration_data": SAMPLES}),
}


@pytest.fixture(scope="module")
def exported(exported_digits) -> Callable[[str], Path]:
    """The file of a case."""
    return lambda name: exported_digits(CASES[name].backend, **CASES[name].options)


@pytest.fixture(scope="module")
def photos(tmp_path_factory) -> list[Path]:
    """A digit, and one that is large, colored and not square."""
    folder = tmp_path_factory.mktemp("photos")
    digit = next(iter(sorted((SAMPLES / "3").glob("*.png"))))
    large = Image.open(digit).convert("RGB").resize((211, 157), Image.Resampling.BICUBIC)
    large.putpixel((3, 3), (250, 20, 90))
    large.save(folder / "large.png")
    return [digit, folder / "large.png"]


def expected(path: Path, image: Path) -> tuple[str, float]:
    with open_subject(path) as subject:
        (row,) = subject.probabilities(subject.preprocessor.read(image)[None])
    return subject.labels[int(row.argmax())], float(row.max())


def with_input(metadata: Metadata, **changes: object) -> Metadata:
    return replace(metadata, input=replace(metadata.input, **changes))


def said(command: list[str], folder: Path) -> tuple[str, float]:
    done = subprocess.run(command, cwd=folder, text=True, capture_output=True, check=False)
    assert done.returncode == 0, done.stderr
    label, probability = done.stdout.split()
    return label, float(probability)


def assert_parses(code: str, grammar: ModuleType) -> None:
    """Check the syntax with the grammar of the language; names are not checked."""
    tree = tree_sitter.Parser(tree_sitter.Language(grammar.language())).parse(code.encode())
    assert not tree.root_node.has_error, code


@pytest.mark.parametrize("name", CASES)
def test_python_code_gives_the_same_result_as_the_file(name: str, exported, photos, tmp_path: Path):
    path = exported(name)
    code = make_snippet(path, "python")
    assert "timmx" not in code.replace(path.name, "")
    (tmp_path / "snippet.py").write_text(code)
    for image in photos:
        label, probability = said([sys.executable, str(tmp_path / "snippet.py"), str(image)], path.parent)
        assert (label, pytest.approx(probability, abs=2e-5)) == expected(path, image)


@pytest.mark.parametrize("crop_mode", ["center", "squash", "border"])
@pytest.mark.parametrize("crop_pct", [0.875, 1.0, 1.125])
def test_python_code_preprocesses_images_as_timmx_does(crop_mode, crop_pct, exported, photos):
    """The file gets the same numbers with any preprocessing."""
    path = exported("torch-export")
    _, stated = read_artifact(path)
    for size, order in (((3, 64, 64), "RGB"), ((3, 60, 91), "BGR")):
        metadata = with_input(
            stated,
            crop_mode=crop_mode,
            crop_pct=crop_pct,
            mean=(0.5, 0.4, 0.3),
            size=size,
            color_order=order,
        )
        facts = Facts.of(path, metadata)
        scope = {"Image": Image, "np": np}
        exec("\n".join(_read(facts, Snippet())), scope)
        preprocessor = ImagePreprocessor.of(metadata)
        for image in photos:
            np.testing.assert_array_equal(scope["read"](image)[0], preprocessor.read(image))


def test_python_code_for_core_ml_feeds_the_right_input(exported_digits, photos, tmp_path: Path):
    """The runtime exists only on macOS: elsewhere everything except the run itself is tested."""
    pictures = exported_digits("coreml", normalize=True, image_input=True, classifier=True)
    arrays = exported_digits("coreml")
    for path in (pictures, arrays):
        code = make_snippet(path, "python")
        compile(code, "snippet.py", "exec")
        if sys.platform == "darwin":
            (tmp_path / "snippet.py").write_text(code)
            label, _ = said([sys.executable, "snippet.py", str(photos[0])], tmp_path)
            assert label == expected(path, photos[0])[0]
            continue
        scope = {"Image": Image, "np": np}
        exec(code[code.index("def read") : code.index("x = read(")], scope)
        found = scope["read"](photos[1])
        with open_subject(path) as subject:
            wanted = subject.preprocessor.read(photos[1])
        if path == pictures:
            np.testing.assert_array_equal(np.asarray(found).transpose(2, 0, 1), np.rint(255 * wanted))
        else:
            np.testing.assert_array_equal(found[0], wanted)
    for path in (pictures, arrays):
        assert_parses(make_snippet(path, "swift"), tree_sitter_swift)
    swift = make_snippet(pictures, "swift")
    assert "MLFeatureValue(cgImage: x, pixelsWide: 64, pixelsHigh: 64" in swift
    assert 'featureValue(for: "classLabel_probs")' in swift
    assert "MLMultiArray(shape: [1, 3, 64, 64], dataType: .float32)" in make_snippet(arrays, "swift")


@pytest.fixture(scope="module")
def node_folder(tmp_path_factory) -> Path:
    """A folder with the packages that the JavaScript needs."""
    if not shutil.which("node") or not shutil.which("npm"):
        pytest.skip("Node is not installed")
    folder = tmp_path_factory.mktemp("node")
    (folder / "package.json").write_text("{}")
    # Install scripts would download CUDA libraries; the packages contain what the CPU needs.
    command = ["npm", "install", "--ignore-scripts", "--no-audit", "--no-fund", "onnxruntime-node", "sharp"]
    try:
        done = subprocess.run(command, cwd=folder, text=True, capture_output=True, check=False, timeout=300)
    except subprocess.TimeoutExpired:
        pytest.skip("npm does not answer")
    if done.returncode:
        pytest.skip(f"npm has no onnxruntime-node and sharp here: {done.stderr.strip()[-200:]}")
    return folder


@pytest.fixture(scope="module")
def odd_photos(photos: list[Path]) -> list[Path]:
    """Images that readers decode or crop differently: transparent, odd sizes, very narrow, with a color profile."""
    folder = photos[1].parent
    gray = Image.open(photos[1]).convert("L")
    large = Image.merge("RGB", (gray, ImageOps.mirror(gray), ImageOps.invert(gray)))
    clear = large.copy()
    clear.putalpha(Image.linear_gradient("L").resize(large.size))
    clear.save(folder / "clear.png")
    large.quantize(16).save(folder / "palette.png", transparency=0)
    large.resize((73, 73)).save(folder / "half.png")
    large.resize((23, 46)).save(folder / "narrow.jpg", quality=95)
    turned = Image.Exif()
    turned[ExifTags.Base.Orientation] = 6
    profile = ImageCms.ImageCmsProfile(ImageCms.createProfile("sRGB")).tobytes()
    swapped = profile.replace(b"rXYZ", b"swap").replace(b"gXYZ", b"rXYZ").replace(b"swap", b"gXYZ")
    large.save(folder / "managed.jpg", icc_profile=swapped, exif=turned)
    return [
        *photos,
        *(folder / name for name in ("clear.png", "palette.png", "half.png", "narrow.jpg", "managed.jpg")),
    ]


@pytest.mark.parametrize(
    ("name", "changes"),
    [
        ("onnx", {}),
        ("onnx-normalize-softmax", {}),
        ("onnx-batch-3", {}),
        ("onnx-dynamic", {}),
        ("onnx", {"crop_pct": 0.875}),
        ("onnx", {"crop_mode": "border"}),
        ("onnx", {"crop_pct": 1.125}),
    ],
)
def test_javascript_code_gives_the_same_result_as_the_file(
    name: str, changes: dict, node_folder: Path, exported, photos, odd_photos
):
    path = node_folder / f"{name}.onnx"
    model = onnx.load(exported(name))
    (entry,) = (entry for entry in model.metadata_props if entry.key == "timmx")
    metadata = json.loads(entry.value)
    metadata["input"] |= changes
    entry.value = json.dumps(metadata)
    onnx.save(model, path)
    (node_folder / "run.mjs").write_text(make_snippet(path, "js"))
    for image in odd_photos if changes else photos:
        label, probability = said(["node", "run.mjs", str(image)], node_folder)
        assert (label, pytest.approx(probability, abs=2e-5)) == expected(path, image)


RECIPES = {
    **{
        f"{mode}-{pct}": {"crop_mode": mode, "crop_pct": pct}
        for mode in ("center", "squash", "border")
        for pct in (0.875, 1.0, 1.125)
    },
    **{name: {"interpolation": name} for name in ("nearest", "box", "bilinear", "hamming", "lanczos")},
    "gray": {"color_order": "L"},
    "gray-border": {"color_order": "L", "crop_mode": "border"},
    "bgr-border": {"color_order": "BGR", "crop_mode": "border"},
}


@pytest.mark.parametrize("recipe", RECIPES)
def test_javascript_code_preprocesses_images_as_timmx_does(
    recipe: str, node_folder: Path, exported, odd_photos
):
    """Pixels equal those of Pillow with any preprocessing."""
    path = exported("onnx")
    _, stated = read_artifact(path)
    channels = 1 if RECIPES[recipe].get("color_order") == "L" else 3
    level = 1.01 / 255 / 0.2  # 1 of 255: Pillow 13 resizes some images by height first
    for height, width in ((64, 64), (60, 91)):
        metadata = with_input(
            stated,
            mean=(0.5, 0.4, 0.3)[:channels],
            std=(0.2, 0.3, 0.4)[:channels],
            size=(channels, height, width),
            **RECIPES[recipe],
        )
        code = ['import sharp from "sharp";', *_read_in_javascript(Facts.of(path, metadata))]
        code.append(
            "for (const path of process.argv.slice(2)) process.stdout.write(new Uint8Array((await read(path)).buffer));"
        )
        (node_folder / "read.mjs").write_text("\n".join(code))
        done = subprocess.run(
            ["node", "read.mjs", *map(str, odd_photos)], cwd=node_folder, capture_output=True, check=False
        )
        assert done.returncode == 0, done.stderr.decode()
        found = np.frombuffer(done.stdout, np.float32).reshape(-1, channels, height, width)
        for image, x in zip(odd_photos, found, strict=True):
            wanted = ImagePreprocessor.of(metadata).read(image)
            np.testing.assert_allclose(x, wanted, atol=level, err_msg=image.name)


@pytest.mark.parametrize("name", [name for name, case in CASES.items() if case.backend != "torch-export"])
def test_kotlin_code_has_the_values_of_the_file(name: str, exported):
    """The code is parsed, not run on Android, and contains the values of the file."""
    code = make_snippet(exported(name), "kotlin")
    assert_parses(code, tree_sitter_kotlin)
    with open_subject(exported(name)) as subject:
        entry, in_graph = subject.runner.inputs[0], subject.preprocessor.in_graph
    assert ("0.309f" in code) != in_graph
    assert f'assets.open("{exported(name).name}")' in code
    assert (
        f"longArrayOf({CASES[name].options.get('batch_size', 1)}, 3, 64, 64)" in code or "ByteBuffer" in code
    )
    if entry.quantization is not None and not in_graph:
        assert f"/ {entry.quantization.scale:.9g}f).roundToInt() + {entry.quantization.zero_point})" in code


def test_an_unsupported_language_lists_the_supported_ones(exported, run_timmx):
    path = exported("onnx")
    done = run_timmx("inspect", path, "--snippet", "swift")
    assert done.exit_code == 2
    assert "have no snippet in swift" in done.stderr
    assert "hint: use one of python, kotlin, js" in done.stderr
    done = run_timmx("inspect", path, "--snippet", "cobol")
    assert done.exit_code == 2
    assert "hint: use one of python, swift, kotlin, js" in done.stderr
    done = run_timmx("inspect", path, "--snippet", "python", "--json")
    assert json.loads(done.stdout)["code"] == make_snippet(path, "python")

"""The code of `timmx inspect --snippet` gives the same result as the file in timmx."""

from __future__ import annotations

import json
import subprocess
import sys
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING

import forks
import node
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
    "onnx-uint8": Case("onnx", {"io": "uint8", "normalize": True}),
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


PYTHON_RUNS = """
import contextlib, io, json, os, runpy, sys, traceback

answers = {}
for name, (folder, script, images) in json.load(sys.stdin).items():
    os.chdir(folder)
    answers[name] = []
    for image in images:
        sys.argv = [script, image]
        with contextlib.redirect_stdout(io.StringIO()) as shown:
            try:
                runpy.run_path(script, run_name="__main__")
            except Exception:
                print(traceback.format_exc())
        answers[name].append(shown.getvalue())
print(json.dumps(answers))
"""
"""Runs scripts one after another, each as `__main__` in its own folder: converters are imported once."""


def run_python(scripts: dict[str, tuple[Path, Path, list[Path]]]) -> dict[str, list[str]]:
    """Run scripts in one new process: name -> (folder, script, images); returns what each prints for each image."""
    given = {
        name: (str(folder), str(script), list(map(str, images)))
        for name, (folder, script, images) in scripts.items()
    }
    done = forks.run([sys.executable, "-c", PYTHON_RUNS], input=json.dumps(given))
    assert done.returncode == 0, done.stderr
    return json.loads(done.stdout)


def parsed(shown: str) -> tuple[str, float]:
    words = shown.split()
    assert len(words) == 2, shown
    return words[0], float(words[1])


def assert_parses(code: str, grammar: ModuleType) -> None:
    """Check the syntax with the grammar of the language; names are not checked."""
    tree = tree_sitter.Parser(tree_sitter.Language(grammar.language())).parse(code.encode())
    assert not tree.root_node.has_error, code


@pytest.fixture(scope="module")
def python_answers(process, exported, photos, shared) -> dict[str, list[str]]:
    """What the Python code of each case prints for each photo."""
    paths = {name: exported(name) for name in CASES}

    def fill(folder: Path) -> None:
        scripts = {}
        for name, path in paths.items():
            (folder / f"{name}.py").write_text(make_snippet(path, "python"))
            scripts[name] = (path.parent, folder / f"{name}.py", photos)
        (folder / "answers.json").write_text(json.dumps(run_python(scripts)))

    return json.loads((shared("python-snippets", fill) / "answers.json").read_text())


@pytest.mark.parametrize("name", CASES)
def test_python_code_gives_the_same_result_as_the_file(name: str, exported, photos, python_answers):
    path = exported(name)
    assert "timmx" not in make_snippet(path, "python").replace(path.name, "")
    for image, shown in zip(photos, python_answers[name], strict=True):
        label, probability = parsed(shown)
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


@pytest.mark.parametrize("dtype", [np.uint16, np.int32, np.float32])
def test_python_code_refuses_pixels_that_pillow_clips(exported, tmp_path, dtype):
    path = exported("onnx")
    _, metadata = read_artifact(path)
    scope = {"Image": Image, "np": np}
    exec("\n".join(_read(Facts.of(path, metadata), Snippet())), scope)
    Image.fromarray(np.full((8, 8), 200, dtype)).save(tmp_path / "deep.tif")
    with pytest.raises(SystemExit, match=r"deep.tif has 16-bit or float pixels"):
        scope["read"](tmp_path / "deep.tif")


def test_python_code_for_core_ml_feeds_the_right_input(process, exported_digits, photos, tmp_path: Path):
    """The runtime exists only on macOS: elsewhere everything except the run itself is tested."""
    pictures = exported_digits("coreml", normalize=True, image_input=True, classifier=True)
    arrays = exported_digits("coreml")
    for path in (pictures, arrays):
        code = make_snippet(path, "python")
        compile(code, "snippet.py", "exec")
        if sys.platform == "darwin":
            (tmp_path / "snippet.py").write_text(code)
            scripts = {"snippet": (tmp_path, tmp_path / "snippet.py", photos[:1])}
            label, _ = parsed(run_python(scripts)["snippet"][0])
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
def node_packages(shared) -> Path:
    """A folder `node_modules` with the packages that the JavaScript needs."""
    return node.install(shared, "onnxruntime-node", "sharp")


NODE_RUNS = """
import { readFileSync, writeFileSync } from "node:fs";

const answers = [];
for (const [script, images] of JSON.parse(readFileSync("runs.json", "utf8"))) {
  let module;
  for (const image of images) {
    const number = answers.length;
    const lines = [];
    console.log = (...words) => lines.push(words.join(" "));
    process.argv[2] = image;
    try {
      if (!module?.read) module = await import(`./${script}?${number}`); // evaluated for each image
      if (module.read) writeFileSync(`${number}.bin`, new Uint8Array((await module.read(image)).buffer));
    } catch (error) {
      lines.push(error.stack);
    }
    answers.push(lines.join("\\n"));
  }
}
writeFileSync("answers.json", JSON.stringify(answers));
"""
"""Runs modules one after another in one process of Node; if a module exports `read`, the arrays are saved."""


def run_node(folder: Path, packages: Path, runs: dict[str, list[Path]]) -> None:
    """Run modules of a folder for images: the texts are in answers.json, the arrays in NUMBER.bin."""
    (folder / "node_modules").symlink_to(packages)
    (folder / "runs.json").write_text(
        json.dumps([(script, list(map(str, images))) for script, images in runs.items()])
    )
    (folder / "all.mjs").write_text(NODE_RUNS)
    done = subprocess.run(["node", "all.mjs"], cwd=folder, text=True, capture_output=True, check=False)
    assert done.returncode == 0, done.stderr


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


JAVASCRIPT_CASES = {
    "onnx": ("onnx", {}),
    "onnx-normalize-softmax": ("onnx-normalize-softmax", {}),
    "onnx-batch-3": ("onnx-batch-3", {}),
    "onnx-dynamic": ("onnx-dynamic", {}),
    "onnx-uint8": ("onnx-uint8", {}),
    "crop-0.875": ("onnx", {"crop_pct": 0.875}),
    "border": ("onnx", {"crop_mode": "border"}),
    "crop-1.125": ("onnx", {"crop_pct": 1.125}),
}


@pytest.fixture(scope="module")
def javascript_answers(
    node_packages: Path, exported, photos, odd_photos, shared
) -> dict[str, tuple[Path, list[str]]]:
    """For each case, its file, and what its JavaScript prints for each photo."""
    images = {name: odd_photos if changes else photos for name, (_, changes) in JAVASCRIPT_CASES.items()}

    def fill(folder: Path) -> None:
        for name, (case, changes) in JAVASCRIPT_CASES.items():
            model = onnx.load(exported(case))
            (entry,) = (entry for entry in model.metadata_props if entry.key == "timmx")
            metadata = json.loads(entry.value)
            metadata["input"] |= changes
            entry.value = json.dumps(metadata)
            onnx.save(model, folder / f"{name}.onnx")
            (folder / f"{name}.mjs").write_text(make_snippet(folder / f"{name}.onnx", "js"))
        run_node(folder, node_packages, {f"{name}.mjs": images[name] for name in JAVASCRIPT_CASES})

    folder = shared("javascript-snippets", fill)
    answers = iter(json.loads((folder / "answers.json").read_text()))
    return {
        name: (folder / f"{name}.onnx", [next(answers) for _ in images[name]]) for name in JAVASCRIPT_CASES
    }


@pytest.mark.parametrize("name", JAVASCRIPT_CASES)
def test_javascript_code_gives_the_same_result_as_the_file(name: str, javascript_answers, photos, odd_photos):
    path, answers = javascript_answers[name]
    _, changes = JAVASCRIPT_CASES[name]
    for image, shown in zip(odd_photos if changes else photos, answers, strict=True):
        label, probability = parsed(shown)
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
SIZES = ((64, 64), (60, 91))


def recipe_metadata(path: Path, recipe: str, size: tuple[int, int]) -> Metadata:
    _, stated = read_artifact(path)
    channels = 1 if RECIPES[recipe].get("color_order") == "L" else 3
    return with_input(
        stated,
        mean=(0.5, 0.4, 0.3)[:channels],
        std=(0.2, 0.3, 0.4)[:channels],
        size=(channels, *size),
        **RECIPES[recipe],
    )


@pytest.fixture(scope="module")
def javascript_arrays(node_packages: Path, exported, odd_photos, shared) -> Callable[..., np.ndarray]:
    """The array that the JavaScript of a recipe makes of each odd photo: (recipe, size) -> (photos, C, H, W)."""
    path = exported("onnx")
    scripts = {(recipe, size): f"{recipe}-{size[0]}.mjs" for recipe in RECIPES for size in SIZES}

    def fill(folder: Path) -> None:
        for (recipe, size), script in scripts.items():
            facts = Facts.of(path, recipe_metadata(path, recipe, size))
            lines = ['import sharp from "sharp";', *_read_in_javascript(facts), "export { read };"]
            (folder / script).write_text("\n".join(lines))
        run_node(folder, node_packages, dict.fromkeys(scripts.values(), odd_photos))

    folder = shared("javascript-arrays", fill)
    answers = json.loads((folder / "answers.json").read_text())

    def found(recipe: str, size: tuple[int, int]) -> np.ndarray:
        first = list(scripts).index((recipe, size)) * len(odd_photos)
        numbers = range(first, first + len(odd_photos))
        assert [answers[number] for number in numbers] == [""] * len(odd_photos)
        channels = 1 if RECIPES[recipe].get("color_order") == "L" else 3
        return np.stack(
            [np.fromfile(folder / f"{number}.bin", np.float32).reshape(channels, *size) for number in numbers]
        )

    return found


@pytest.mark.parametrize("recipe", RECIPES)
def test_javascript_code_preprocesses_images_as_timmx_does(
    recipe: str, javascript_arrays, exported, odd_photos
):
    """Pixels equal those of Pillow with any preprocessing."""
    level = 1.01 / 255 / 0.2  # 1 of 255: Pillow 13 resizes some images by height first
    for size in SIZES:
        preprocessor = ImagePreprocessor.of(recipe_metadata(exported("onnx"), recipe, size))
        for image, x in zip(odd_photos, javascript_arrays(recipe, size), strict=True):
            np.testing.assert_allclose(x, preprocessor.read(image), atol=level, err_msg=image.name)


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
    if name == "onnx-uint8":
        assert "ByteBuffer.wrap(x), longArrayOf(1, 64, 64, 3), OnnxJavaType.UINT8)" in code
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
    assert "hint: use one of python, swift, kotlin, js, cpp" in done.stderr
    done = run_timmx("inspect", path, "--snippet", "python", "--json")
    assert json.loads(done.stdout)["code"] == make_snippet(path, "python")

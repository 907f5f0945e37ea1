"""The code of `timmx inspect --snippet` for OpenVINO gives the same result as the file, in each language."""

from __future__ import annotations

import shutil
import subprocess
import sys
from pathlib import Path

import forks
import node
import numpy as np
import openvino
import pytest
import tree_sitter
import tree_sitter_cpp
from PIL import Image
from timmx.tools.snippets.snippet import make_snippet
from timmx.tools.subject.subject import open_subject

CASES = {"float": {}, "bytes": {"io": "uint8", "normalize": True}, "batch": {"batch_size": 2}}

OPENCV = """
#include <fstream>
#include <vector>
namespace cv {
enum { IMREAD_GRAYSCALE = 0, IMREAD_COLOR = 1, IMREAD_IGNORE_ORIENTATION = 128 };
struct Mat {
    std::vector<unsigned char> bytes;
    unsigned char* data = nullptr;
    int rows = 0, cols = 0;
    bool empty() const { return !data; }
};
inline Mat imread(const char* path, int) {
    std::ifstream file(path, std::ios::binary);
    Mat image;
    file.read(reinterpret_cast<char*>(&image.rows), 4).read(reinterpret_cast<char*>(&image.cols), 4);
    image.bytes.resize(3 * image.rows * image.cols);
    file.read(reinterpret_cast<char*>(image.bytes.data()), image.bytes.size());
    image.data = image.bytes.data();
    return image;
}
}
"""
"""Reads bytes in the order BGR in place of OpenCV, whose C++ headers are not on the package index."""


def expected(path: Path, image: Path) -> tuple[str, float]:
    with open_subject(path) as subject:
        (row,) = subject.probabilities(subject.preprocessor.read(image)[None])
    return subject.labels[int(row.argmax())], pytest.approx(float(row.max()), abs=2e-5)


def shown(text: str) -> tuple[str, float]:
    label, probability = text.split()
    return label, float(probability)


@pytest.mark.parametrize("name", CASES)
def test_python(process, exported_digits, image, tmp_path, name):
    path = exported_digits("openvino", **CASES[name])
    done = forks.run([sys.executable, "-c", make_snippet(path, "python"), str(image)], cwd=path.parent)
    assert shown(done.stdout) == expected(path, image), done.stderr


@pytest.mark.parametrize("name", CASES)
def test_cpp_is_parsed(exported_digits, name):
    code = make_snippet(exported_digits("openvino", **CASES[name]), "cpp")
    tree = tree_sitter.Parser(tree_sitter.Language(tree_sitter_cpp.language())).parse(code.encode())
    assert not tree.root_node.has_error, code


def test_cpp_is_compiled(exported_digits, image, tmp_path):
    if not shutil.which("g++"):
        pytest.skip("g++ is not installed")
    path = exported_digits("openvino")
    (tmp_path / "opencv2").mkdir()
    (tmp_path / "opencv2" / "imgcodecs.hpp").write_text(OPENCV)
    (tmp_path / "run.cpp").write_text(make_snippet(path, "cpp"))
    pixels = np.asarray(Image.open(image))[:, :, ::-1]
    size = np.array(pixels.shape[:2], np.int32)
    (tmp_path / "image").write_bytes(size.tobytes() + pixels.tobytes())
    package = Path(openvino.__file__).parent
    (library,) = (package / "libs").glob("libopenvino.so.*")
    command = ["g++", "-std=c++17", "-Wall", "-Werror", "run.cpp", "-o", "run", "-I", ".", str(library)]
    command += ["-I", str(package / "include"), f"-Wl,-rpath,{package / 'libs'}"]
    for step in (command, ["./run", "image"]):
        done = subprocess.run(step, cwd=tmp_path, text=True, capture_output=True, check=False)
        assert done.returncode == 0, done.stderr
    label, probability = shown(done.stdout)
    assert (label, probability) == expected(path, image)


def test_javascript(exported_digits, image, shared, tmp_path):
    packages = node.install(shared, "openvino-node@2026", "sharp", "typescript", "@types/node")
    path = exported_digits("openvino")
    (tmp_path / "node_modules").symlink_to(packages)
    code = make_snippet(path, "js")
    (tmp_path / "run.mjs").write_text(code)
    output = "request.getOutputTensor(0).data"
    assert code.count(output) == 1
    typed = code.replace(
        output, f"/** @type {{Float32Array}} */ ({output})"
    )  # any array, by openvino-node's types
    (tmp_path / "typed.mjs").write_text(typed)
    command = [
        "node",
        packages / "typescript" / "bin" / "tsc",
        "--noEmit",
        "--allowJs",
        "--checkJs",
        "--skipLibCheck",
    ]
    command += [
        "--strict",
        "false",
        "--module",
        "nodenext",
        "--target",
        "es2022",
        "--types",
        "node",
        "typed.mjs",
    ]
    checked = subprocess.run(command, cwd=tmp_path, text=True, capture_output=True, check=False)
    assert checked.returncode == 0, checked.stdout
    if not (packages / "openvino-node" / "bin").is_dir():
        pytest.skip("the install script of openvino-node downloads its library, and does not run here")
    done = subprocess.run(
        ["node", "run.mjs", str(image)], cwd=tmp_path, text=True, capture_output=True, check=False
    )
    assert shown(done.stdout) == expected(path, image), done.stderr

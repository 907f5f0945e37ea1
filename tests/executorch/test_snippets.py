"""The code for `.pte` files: Python runs, C++ compiles against executorch's headers, Kotlin and Swift parse."""

from __future__ import annotations

import contextlib
import io
import shutil
import subprocess
from pathlib import Path

import executorch.runtime
import pytest
import tree_sitter
import tree_sitter_kotlin
import tree_sitter_swift
from timmx.contract.metadata import Metadata
from timmx.errors import ConfigurationError
from timmx.tools.snippets.snippet import make_snippet
from timmx.tools.subject.subject import open_subject
from timmx_executorch.plugin import ExecuTorchBackend
from timmx_executorch.snippets import snippet

pytestmark = pytest.mark.usefixtures("export")
INCLUDE = Path(executorch.runtime.__file__).parents[1] / "include"


@pytest.mark.parametrize("name", ["fp32", "int8", "external"])
def test_python_code_gives_the_same_result_as_the_file(files, monkeypatch, name):
    path = files[name].path
    image = next(iter(sorted((Path(__file__).parents[2] / "examples/digits/samples/3").glob("*.png"))))
    monkeypatch.setattr("sys.argv", ["run.py", str(image)])
    with contextlib.redirect_stdout(io.StringIO()) as shown:
        exec(make_snippet(path, "python"), {"__name__": "__main__"})
    with open_subject(path) as subject:
        (row,) = subject.probabilities(subject.preprocessor.read(image)[None])
    label, probability = shown.getvalue().split()
    assert label == subject.labels[int(row.argmax())]
    assert float(probability) == pytest.approx(row.max(), abs=2e-5)


@pytest.mark.parametrize(
    ("name", "language", "grammar", "words"),
    [
        ("fp32", "kotlin", tree_sitter_kotlin, "Module.load(file.path)"),
        ("fp32", "swift", tree_sitter_swift, "Module(filePath: program)"),
        # as in extension/apple/ExecuTorch/Exported/ExecuTorchModule.h of executorch 1.4
        ("external", "swift", tree_sitter_swift, "Module(filePath: program, dataFilePaths: [weights])"),
    ],
)
def test_code_for_phones_parses(files, name, language, grammar, words):
    code = make_snippet(files[name].path, language)
    tree = tree_sitter.Parser(tree_sitter.Language(grammar.language())).parse(code.encode())
    assert not tree.root_node.has_error, code
    assert name in code
    assert words in code


@pytest.mark.skipif(shutil.which("g++") is None, reason="there is no C++ compiler")
@pytest.mark.parametrize("name", ["fp32", "external"])
def test_cpp_code_has_the_types_of_executorch(files, tmp_path, name):
    path = files[name].path
    metadata = Metadata.parse(path, ExecuTorchBackend().read_metadata(path))
    piece = snippet(path, metadata, "cpp")
    lines = ["#include <stdexcept>", "#include <vector>", *piece.imports, "float run(std::vector<float> x) {"]
    (tmp_path / "run.cpp").write_text(
        "\n".join([*lines, *piece.load, *piece.run, "return output[0];", "}", ""])
    )
    folders = (INCLUDE, INCLUDE / "executorch/runtime/core/portable_type/c10")
    subprocess.run(
        ["g++", "-std=c++17", "-fsyntax-only", "-w", "-DC10_USING_CUSTOM_GENERATED_MACROS"]
        + [f"-I{folder}" for folder in folders]
        + [tmp_path / "run.cpp"],
        check=True,
    )


def test_android_has_no_code_for_core_ml(files):
    with pytest.raises(ConfigurationError, match="computes with Core ML, which Android does not have"):
        make_snippet(files["coreml-fp16"].path, "kotlin")


def test_android_has_no_code_for_a_second_file(files):
    with pytest.raises(ConfigurationError, match="which ExecuTorch's Android library does not open"):
        make_snippet(files["external"].path, "kotlin")

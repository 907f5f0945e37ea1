"""The code of `timmx inspect --snippet` for ncnn gives the same result as the file; C++ and Kotlin are parsed."""

from __future__ import annotations

import shutil
import sys

import forks
import pytest
import tree_sitter
import tree_sitter_cpp
import tree_sitter_kotlin
from timmx.tools.snippets.snippet import make_snippet
from timmx.tools.subject.subject import open_subject

GRAMMARS = {"cpp": tree_sitter_cpp, "kotlin": tree_sitter_kotlin}


@pytest.mark.parametrize("mode", ["fp32", "fp16"])
def test_python(process, exported_digits, image, mode):
    path = exported_digits("ncnn", mode=mode)
    done = forks.run([sys.executable, "-c", make_snippet(path, "python"), str(image)], cwd=path.parent)
    label, probability = done.stdout.split()
    with open_subject(path) as subject:
        (row,) = subject.probabilities(subject.preprocessor.read(image)[None])
    assert label == subject.labels[int(row.argmax())], done.stderr
    assert float(probability) == pytest.approx(float(row.max()), abs=2e-5)


def test_python_reports_files_that_ncnn_cannot_load(process, exported_digits, image, tmp_path):
    for suffix in (".param", ".bin"):
        shutil.copy(exported_digits("ncnn").with_suffix(suffix), tmp_path / f"m{suffix}")
    code = make_snippet(tmp_path / "m.param", "python")
    (tmp_path / "m.bin").unlink()
    done = forks.run([sys.executable, "-c", code, str(image)], cwd=tmp_path)
    assert done.returncode == 1
    assert "ncnn cannot load the file" in done.stderr


@pytest.mark.parametrize("language", GRAMMARS)
@pytest.mark.parametrize("mode", ["fp32", "fp16"])
def test_code_is_parsed_and_sets_the_arithmetic(exported_digits, language, mode):
    code = make_snippet(exported_digits("ncnn", mode=mode), language)
    tree = tree_sitter.Parser(tree_sitter.Language(GRAMMARS[language].language())).parse(code.encode())
    assert not tree.root_node.has_error, code
    assert code.count("ncnn cannot load") == (2 if language == "kotlin" else 1)
    assert ("use_fp16_arithmetic" in code.rpartition("Native.load")[2]) == (mode == "fp32")

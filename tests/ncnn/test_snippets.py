"""The code of `timmx inspect --snippet` for ncnn gives the same result as the file; C++ and Kotlin are parsed."""

from __future__ import annotations

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


@pytest.mark.parametrize("language", GRAMMARS)
@pytest.mark.parametrize("mode", ["fp32", "fp16"])
def test_code_is_parsed_and_sets_the_arithmetic(exported_digits, language, mode):
    code = make_snippet(exported_digits("ncnn", mode=mode), language)
    tree = tree_sitter.Parser(tree_sitter.Language(GRAMMARS[language].language())).parse(code.encode())
    assert not tree.root_node.has_error, code
    assert ("use_fp16_arithmetic" in code.rpartition("Native.load")[2]) == (mode == "fp32")

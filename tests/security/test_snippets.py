"""Names and labels of a file stay text in `timmx inspect --snippet`: they are string literals, never code."""

from __future__ import annotations

import ast
import json
import random
import re
import shutil
import subprocess
from dataclasses import dataclass, replace
from functools import cache
from pathlib import Path
from typing import TYPE_CHECKING

import pytest
import tree_sitter
import tree_sitter_cpp
import tree_sitter_kotlin
import tree_sitter_swift
from timmx.contract import (
    InputMetadata,
    Metadata,
    ModelMetadata,
    OutputKind,
    OutputMetadata,
    in_ascii,
    quote_string,
)
from timmx.errors import ArtifactError
from timmx.tools.snippets import cpp, javascript, kotlin, python, swift
from timmx.tools.snippets.facts import Facts

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

    from timmx.contract import Snippet

LANGUAGES = ("python", "swift", "kotlin", "js", "cpp")
COMPOSERS = {
    "python": python.compose,
    "swift": swift.compose,
    "kotlin": kotlin.compose,
    "js": javascript.compose,
    "cpp": cpp.compose,
}

PIECES = [
    *"\"'`\\$#/%{}()[]<>;:=,.|&~^?!@_-+* \t\n\r\0\a\b\f\v\x1b\x7f\x85\xa0\xad",
    *"aZ0éßя漢字あ한\u0627\N{HEBREW LETTER ALEF}",
    *"\u0301\u200b\u200d\u200e\u2028\u2029\u202a\u202e\u2066\u2069\ufe0f\ufeff\ufffe\uffff",
    *"\ue000\U000e0041\U0010ffff\U0001f600\U0001f3ff\ud800\udbff\udc00\udfff\udcff",
    '"""',
    "'''",
    '\\"',
    "\\\\",
    "\\(run())",
    "\\u{41}",
    "\\u0041",
    "\\x41",
    "\\N{BULLET}",
    "${run()}",
    "$run",
    "{run()}",
    "*/",
    "/*",
    "//",
    '"#',
    '#"',
    "-->",
    "<!--",
    "</script>",
    "]]>",
    '"); run(); ("',
    '"\n    run()\n"',
    "\u2028run()\u2028",
    "\r\nrun()\r\n",
    "__proto__",
    "lambda",
    "import os",
]
"""What ends a literal, a line or a comment in some language, what begins a value, and what is hard to see."""

FIXED = [
    "$",
    "\\",
    '"',
    "\n",
    "\0",
    "\u2028",
    "\u2029",
    "\ud83d\ude00",  # two surrogates, which are not one character in Python
    "\ud800",
    "\U0001f468\u200d\U0001f469\u200d\U0001f467",
    "\u202e}txet\u202c",
    '${Runtime.getRuntime().exec("id")}',
    '\\(try! String(contentsOfFile: "/etc/passwd"))',
    '"];__import__("os").system("id");["',
    "</script><script>alert(1)</script>",
]


def odd_strings(count: int, seed: int = 0) -> list[str]:
    """Strings of up to 8 pieces, equal in each run; none is empty and all differ."""
    source = random.Random(seed)
    strings = dict.fromkeys(FIXED)
    while len(strings) < count:
        strings["".join(source.choices(PIECES, k=source.randint(1, 8)))] = None
    return list(strings)


@dataclass(frozen=True)
class Names:
    """The strings of one file."""

    file: str
    entry: str
    output: str
    classes: str
    labels: tuple[str, ...]

    @classmethod
    def plain(cls, count: int) -> Names:
        return cls("file", "entry", "output", "classes", tuple(f"label {number}" for number in range(count)))


def file_name(text: str) -> str:
    """The part of a string that can be the name of a file: UTF-8, without slashes and NUL."""
    name = re.sub("[/\0\ud800-\udfff]", "", text)[:60]
    return name if name.strip(".") else "file"


def files(strings: list[str], labels: int) -> Iterator[Names]:
    """Names of files that hold all strings, each in turn as another kind of name."""
    for start in range(0, len(strings), labels):
        part = strings[start : start + labels]
        part += strings[: labels - len(part)]
        entry, output, classes = (part[number % len(part)] for number in range(3))
        yield Names(file_name(part[-1]), entry, output, classes, tuple(part))


def metadata_of(names: Names, *, outputs: int = 1) -> Metadata:
    return Metadata(
        model=ModelMetadata(
            name="m",
            architecture="m",
            source="timm",
            trained=True,
            seed=None,
            weights_sha256="0" * 64,
            num_classes=len(names.labels),
            license=None,
        ),
        input=InputMetadata(
            name=names.entry,
            layout="NCHW",
            dtype="float32",
            value_range=(-1.0, 1.0),
            normalized_in_graph=False,
            size=(3, 64, 64),
            mean=(0.5, 0.5, 0.5),
            std=(0.5, 0.5, 0.5),
            interpolation="bicubic",
            crop_pct=0.9,
            crop_mode="center",
            color_order="RGB",
        ),
        outputs=tuple(
            OutputMetadata(name=names.output, kind=OutputKind.LOGITS, shape=(1, len(names.labels)))
            for _ in range(outputs)
        ),
        labels=names.labels,
        batch_size=1,
        precision="fp32",
        format={"probabilities_output": names.classes, "device": names.classes},
        versions={},
    )


def _onnx(names: Names, language: str) -> Snippet:
    from timmx_onnx.snippets import snippet

    return snippet(Path("folder", f"{names.file}.onnx"), metadata_of(names), language)


def _torch_export(names: Names, language: str) -> Snippet:
    from timmx_torch_export.snippets import snippet

    return snippet(Path("folder", f"{names.file}.pt2"), metadata_of(names), language)


def _coreml(names: Names, language: str) -> Snippet:
    from timmx_coreml import snippets

    make = snippets._python if language == "python" else snippets._swift
    return make(Path("folder", f"{names.file}.mlpackage"), metadata_of(names), picture=True, least=1)


def _coreml_arrays(names: Names, language: str) -> Snippet:
    from timmx_coreml import snippets

    make = snippets._python if language == "python" else snippets._swift
    metadata = replace(metadata_of(names), format={})
    return make(Path("folder", f"{names.file}.mlpackage"), metadata, picture=False, least=1)


def _litert(names: Names, language: str) -> Snippet:
    from timmx_litert import snippets

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(snippets, "associated_files", lambda path: ("labels.txt",))
        return snippets.snippet(
            Path("folder", f"{names.file}.tflite"), metadata_of(names, outputs=2), language
        )


def _openvino(names: Names, language: str) -> Snippet:
    from timmx_openvino.snippets import snippet

    return snippet(Path("folder", f"{names.file}.xml"), metadata_of(names), language)


def _executorch(names: Names, language: str) -> Snippet:
    from timmx_executorch.snippets import snippet

    return snippet(Path("folder", f"{names.file}.pte"), metadata_of(names), language)


def _executorch_weights(names: Names, language: str) -> Snippet:
    from timmx_executorch.snippets import snippet

    metadata = replace(metadata_of(names), format={"companions": {".ptd": "0" * 64}})
    return snippet(Path("folder", f"{names.file}.pte"), metadata, language)


def _through_timmx(names: Names, language: str) -> Snippet:
    facts = Facts.of(Path("folder", f"{names.file}.other"), metadata_of(names))
    return python.through_timmx(facts, "timmx-other")


MAKERS: list[tuple[Callable[[Names, str], Snippet], str]] = [
    (_onnx, "python"),
    (_torch_export, "python"),
    (_litert, "python"),
    (_coreml, "python"),
    (_openvino, "python"),
    (_executorch, "python"),
    (_through_timmx, "python"),
    (_onnx, "kotlin"),
    (_litert, "kotlin"),
    (_coreml, "swift"),
    (_coreml_arrays, "swift"),
    (_onnx, "js"),
    (_openvino, "js"),
    (_openvino, "cpp"),
    (_executorch, "kotlin"),
    (_executorch_weights, "swift"),
    (_executorch_weights, "cpp"),
]


def code_of(make: Callable[[Names, str], Snippet], names: Names, language: str) -> str:
    facts = Facts.of(Path("folder", f"{names.file}.x"), metadata_of(names))
    return COMPOSERS[language](facts, make(names, language))


@cache
def parser(language: str) -> tree_sitter.Parser:
    grammar = {"cpp": tree_sitter_cpp, "kotlin": tree_sitter_kotlin, "swift": tree_sitter_swift}[language]
    return tree_sitter.Parser(tree_sitter.Language(grammar.language()))


STRINGS = ("string_literal", "line_string_literal")
COMMENTS = ("comment", "line_comment")


def shape(code: str, language: str) -> tuple[list[str], list[str]]:
    """The nodes of the code in order, without the content of literals and comments, and the source of its literals."""
    nodes, literals = [], []
    if language == "python":
        for node in ast.walk(tree := ast.parse(code)):
            if isinstance(node, ast.Constant) and isinstance(node.value, str):
                literals.append(node.value)
                node.value = ""
        return [ast.dump(tree)], literals
    tree = parser(language).parse(code.encode())
    assert not tree.root_node.has_error, code
    pending = [tree.root_node]
    while pending:
        node = pending.pop()
        if node.type in STRINGS:
            assert not any("interpol" in child.type for child in node.children), node.text
            literals.append(node.text.decode())
            nodes.append("string")
        elif node.type in COMMENTS:
            nodes.append("comment")
        else:
            nodes.append(f"{node.type} {'' if node.child_count else node.text.decode()}")
            pending += reversed(node.children)
    return nodes, literals


CPP_ESCAPES = {b"n": b"\n", b"r": b"\r", b"t": b"\t", b"\\": b"\\", b'"': b'"', b"?": b"?"}


def decode(literal: str, language: str) -> str:
    """The text of a literal, by the escapes that Kotlin, Swift and C++ define."""
    assert literal[0] == literal[-1] == '"'
    if language == "cpp":
        return re.sub(
            rb"\\([0-7]{3}|.)",
            lambda match: CPP_ESCAPES.get(match[1]) or bytes([int(match[1], 8)]),
            literal[1:-1].encode(),
        ).decode()
    escapes = {"n": "\n", "r": "\r", "t": "\t", "\\": "\\", '"': '"', "$": "$"}
    pattern = r"\\(u\{[0-9a-f]+\}|u[0-9a-f]{4}|.)" if language == "swift" else r"\\(u[0-9a-f]{4}|.)"

    def character(match: re.Match[str]) -> str:
        text = match[1]
        return escapes[text] if text in escapes else chr(int(text[1:].strip("{}"), 16))

    return re.sub(pattern, character, literal[1:-1], flags=re.DOTALL)


def as_utf16(text: str) -> bytes:
    """Kotlin and JavaScript hold units of UTF-16: a pair of surrogates is one character there."""
    return text.encode("utf-16-le", "surrogatepass")


@pytest.mark.parametrize(
    ("make", "language"), MAKERS, ids=[f"{make.__name__[1:]}-{language}" for make, language in MAKERS]
)
def test_names_and_labels_change_string_literals_only(make, language):
    """2,000 strings as labels, names of tensors and names of files: the code is parsed, and is otherwise the same."""
    labels = 20
    plain = code_of(make, Names.plain(labels), language)
    for names in files(odd_strings(2000), labels):
        code = code_of(make, names, language)
        code.encode()  # no surrogate is left
        if language == "js":  # no parser here; see the test with Node
            assert without_literals(code, names) == without_literals(plain, Names.plain(labels))
            continue
        nodes, literals = shape(code, language)
        plain_nodes, _ = shape(plain, language)
        assert nodes == plain_nodes
        if language == "python":
            assert set(names.labels) <= set(literals)
        elif language == "kotlin":
            assert {as_utf16(label) for label in names.labels} <= {
                as_utf16(decode(literal, language)) for literal in literals
            }
        else:
            assert {swift_text(label) for label in names.labels} <= {
                decode(literal, language) for literal in literals
            }


def swift_text(text: str) -> str:
    return re.sub("[\ud800-\udfff]", "\ufffd", text)


def without_literals(code: str, names: Names) -> str:
    """The code of JavaScript with the literals of names replaced by a word."""
    texts = (
        f"folder/{names.file}.onnx",
        f"folder/{names.file}.xml",
        names.entry,
        names.output,
        *names.labels,
    )
    for literal in sorted((quote_string(text, "js") for text in texts), key=len, reverse=True):
        code = re.sub(rf"(?<=[\[( ]){re.escape(literal)}(?=[\]),])", "TEXT", code)
    return code


def test_a_name_of_a_file_stays_in_its_comment():
    """With many labels, a comment has a shell command with the name of the file in it."""
    for language in LANGUAGES:
        make = next(maker for maker, spoken in MAKERS if spoken == language)
        plain = code_of(make, Names.plain(30), language)
        for text in odd_strings(60, seed=1):
            names = replace(Names.plain(30), file=file_name(text))
            code = code_of(make, names, language)
            assert len(re.split("[\n\r\x0b\x0c\x85\u2028\u2029]", code)) == len(plain.split("\n"))
            assert re.search("[\0-\x09\x0b-\x1f\x7f-\x9f\u202a-\u202e\u2066-\u2069]", code) is None
            if language != "js":
                assert shape(code, language)[0] == shape(plain, language)[0]


def test_literals_of_python_have_the_text():
    for text in odd_strings(3000):
        literal = quote_string(text, "python")
        assert ast.literal_eval(literal) == text
        literal.encode()  # no surrogate is left in the code


@pytest.mark.parametrize("language", ["kotlin", "js", "swift", "cpp"])
def test_literals_of_the_other_languages_have_the_text(language):
    for text in odd_strings(3000):
        literal = quote_string(text, language)
        assert literal.encode().decode().isprintable()
        if language in ("swift", "cpp"):
            assert decode(literal, language) == swift_text(text)
        else:
            assert as_utf16(decode(literal, language)) == as_utf16(text)


@pytest.mark.parametrize(
    ("language", "escaped"),
    [
        ("python", '"\\U0001f600 \\xdf"'),
        ("swift", '"\\u{1f600} \\u{df}"'),
        ("kotlin", '"\\ud83d\\ude00 \\u00df"'),
        ("js", '"\\ud83d\\ude00 \\u00df"'),
        ("cpp", '"\\360\\237\\230\\200 \\303\\237"'),
    ],
)
def test_code_for_an_output_without_utf8_is_escaped_by_its_language(language, escaped):
    literal = quote_string("\U0001f600 \xdf", language)
    assert in_ascii(literal, language) == escaped
    for text in odd_strings(500, seed=2):
        literal = in_ascii(quote_string(text, language), language)
        assert literal.isascii()
        if language == "python":
            assert ast.literal_eval(literal) == text
        elif language in ("swift", "cpp"):
            assert decode(literal, language) == swift_text(text)
        else:
            assert as_utf16(decode(literal, language)) == as_utf16(text)


def test_node_reads_the_literals_and_the_code_of_javascript(tmp_path: Path):
    """One process of Node for all: each literal is one text, and each snippet is a module without syntax errors."""
    if not shutil.which("node"):
        pytest.skip("Node is not installed")
    strings = odd_strings(3000)
    cases = [[quote_string(text, "js"), as_utf16(text).hex()] for text in strings]
    modules = [code_of(_onnx, names, "js") for names in files(strings, 20)]
    (tmp_path / "cases.json").write_text(json.dumps({"cases": cases, "modules": modules}))
    (tmp_path / "check.js").write_text(
        """
const vm = require("node:vm");
const { cases, modules } = JSON.parse(require("node:fs").readFileSync("cases.json", "utf8"));
for (const [literal, hex] of cases) {
  const text = vm.runInThisContext(literal);
  if (typeof text !== "string" || Buffer.from(text, "utf16le").toString("hex") !== hex) throw new Error(literal);
}
for (const code of modules) new vm.SourceTextModule(code);
console.log(cases.length, modules.length);
"""
    )
    done = subprocess.run(
        ["node", "--experimental-vm-modules", "check.js"],
        cwd=tmp_path,
        capture_output=True,
        text=True,
        timeout=60,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    assert done.stdout.split() == ["3000", "150"]


@pytest.mark.parametrize("size", ["1); run(); (1", "batch"])
def test_a_number_of_classes_that_is_text_is_an_error(size):
    """A size may be a name, such as `batch`, and would be written into the code as it is."""
    metadata = metadata_of(Names.plain(3))
    (output,) = metadata.outputs
    metadata = replace(metadata, labels=None, outputs=(replace(output, shape=(1, size)),))
    with pytest.raises(ArtifactError, match="its output is classes, but its shape is"):
        Facts.of(Path("a.onnx"), metadata)


@pytest.mark.parametrize(
    ("composer", "language"), [(kotlin.compose, "kotlin"), (javascript.compose, "js"), (cpp.compose, "cpp")]
)
def test_an_element_type_that_is_text_is_an_error(composer, language):
    metadata = metadata_of(Names.plain(3))
    metadata = replace(metadata, input=replace(metadata.input, dtype='float32"; run(); "'))
    make = next(maker for maker, spoken in MAKERS if spoken == language)
    with pytest.raises(ArtifactError, match=f"which snippets in {language} do not support"):
        composer(Facts.of(Path("a.onnx"), metadata), make(Names.plain(3), language))

"""Code that loads and runs a `.tflite` with LiteRT: in Python, and on Android."""

from __future__ import annotations

import math
from typing import TYPE_CHECKING

from timmx.plugin import ArtifactError, Snippet, quote_string

from timmx_litert.task_metadata import associated_files

if TYPE_CHECKING:
    from pathlib import Path

    from timmx.plugin import Metadata

_LABELS = "labels.txt"
"""The file from which the task libraries read the class names; it is in a ZIP archive behind the model."""


def snippet(path: Path, metadata: Metadata, language: str) -> Snippet:
    """The lines for `python` or `kotlin`."""
    return _python(path, metadata) if language == "python" else _kotlin(path.name, metadata)


def _python(path: Path, metadata: Metadata) -> Snippet:
    file, entry, output = (
        quote_string(text, "python")
        for text in (path.as_posix(), metadata.input.name, metadata.outputs[0].name)
    )
    labels = list(metadata.labels or ())
    has_labels = "\n".join(labels).splitlines() == labels and _LABELS in associated_files(path)
    return Snippet(
        requires=("ai-edge-litert",),
        imports=("from ai_edge_litert.interpreter import Interpreter", "import zipfile"),
        load=(f"interpreter = Interpreter({file})", "run = interpreter.get_signature_runner()"),
        run=(f"output = run(**{{{entry}: x}})[{output}]",),
        labels=f'zipfile.ZipFile({file}).read("{_LABELS}").decode().splitlines()' if has_labels else "",
    )


def _kotlin(file: str, metadata: Metadata) -> Snippet:
    output = metadata.outputs[0]
    sizes = [size for size in output.shape if isinstance(size, int)]
    if len(sizes) < len(output.shape):
        raise ArtifactError(f"{file} is damaged: its output has a dynamic size", hint="export it again")
    count = math.prod(sizes)
    size, put = {"float32": (4, "asFloatBuffer().put(x)"), "int16": (2, "asShortBuffer().put(x)")}.get(
        metadata.input.dtype, (1, "put(x); rewind()")
    )
    item_size, array, get = {
        "float32": (4, "FloatArray", "asFloatBuffer().get(it)"),
        "int16": (2, "ShortArray", "asShortBuffer().get(it)"),
    }.get(output.dtype, (1, "ByteArray", "get(it)"))
    run = (
        "interpreter.runForMultipleInputsOutputs(arrayOf(input), "
        f"mapOf(interpreter.getOutputIndex({quote_string(output.name, 'kotlin')}) to result))"
        if len(metadata.outputs) > 1
        else "interpreter.run(input, result)"
    )
    return Snippet(
        requires=("com.google.ai.edge.litert:litert",),
        imports=(
            "import java.nio.ByteBuffer",
            "import java.nio.ByteOrder",
            "import org.tensorflow.lite.Interpreter",
        ),
        load=(
            f"val bytes = context.assets.open({quote_string(file, 'kotlin')}).readBytes()",
            "val model = ByteBuffer.allocateDirect(bytes.size).order(ByteOrder.nativeOrder()).put(bytes)",
            "val interpreter = Interpreter(model)",
        ),
        run=(
            f"val input = ByteBuffer.allocateDirect({size} * x.size).order(ByteOrder.nativeOrder()).apply {{ {put} }}",
            f"val result = ByteBuffer.allocateDirect({item_size} * {count}).order(ByteOrder.nativeOrder())",
            run,
            "result.rewind()",
            f"val output = {array}({count}).also {{ result.{get} }}",
        ),
    )

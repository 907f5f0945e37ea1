"""Code that loads and runs an `.onnx` file with ONNX Runtime: in Python, on Android, in Node."""

from __future__ import annotations

from typing import TYPE_CHECKING

from timmx.plugin import Snippet, quote_string

if TYPE_CHECKING:
    from pathlib import Path

    from timmx.plugin import Metadata


def snippet(path: Path, metadata: Metadata, language: str) -> Snippet:
    """The lines for `python`, `kotlin` or `js`."""
    file = path.name if language == "kotlin" else path.as_posix()  # in an app it is an asset
    file, entry, output = (
        quote_string(text, language) for text in (file, metadata.input.name, metadata.outputs[0].name)
    )
    make = {"python": _python, "kotlin": _kotlin, "js": _js}[language]
    return make(file, entry, output, metadata)


def _python(file: str, entry: str, output: str, metadata: Metadata) -> Snippet:
    return Snippet(
        requires=("onnxruntime",),
        imports=("import onnxruntime", "import json"),
        load=(f"session = onnxruntime.InferenceSession({file})",),
        run=(f"output = session.run([{output}], {{{entry}: x}})[0]",),
        labels='json.loads(session.get_modelmeta().custom_metadata_map["timmx"])["labels"]',
    )


def _shape(metadata: Metadata) -> list[int]:
    return [metadata.batch_size or 1, *metadata.input.shape]


def _js(file: str, entry: str, output: str, metadata: Metadata) -> Snippet:
    dtype = quote_string(metadata.input.dtype, "js")
    # A name in brackets is a key even if it is __proto__.
    feeds = f"{{ [{entry}]: new ort.Tensor({dtype}, x, {_shape(metadata)}) }}"
    return Snippet(
        requires=("onnxruntime-node",),
        imports=('import * as ort from "onnxruntime-node"; // in a browser: onnxruntime-web',),
        load=(f"const session = await ort.InferenceSession.create({file});",),
        run=(f"const output = (await session.run({feeds}))[{output}].data;",),
    )


def _kotlin(file: str, entry: str, output: str, metadata: Metadata) -> Snippet:
    shape = ", ".join(map(str, _shape(metadata)))
    takes_bytes = metadata.input.dtype == "uint8"
    buffer, dtype = ("ByteBuffer", ", OnnxJavaType.UINT8") if takes_bytes else ("FloatBuffer", "")
    return Snippet(
        requires=("com.microsoft.onnxruntime:onnxruntime-android",),
        imports=(
            *(["import ai.onnxruntime.OnnxJavaType"] if takes_bytes else []),
            "import ai.onnxruntime.OnnxTensor",
            "import ai.onnxruntime.OrtEnvironment",
            f"import java.nio.{buffer}",
        ),
        load=(
            "val environment = OrtEnvironment.getEnvironment()",
            f"val session = environment.createSession(context.assets.open({file}).readBytes())",
        ),
        run=(
            f"val tensor = OnnxTensor.createTensor(environment, {buffer}.wrap(x), longArrayOf({shape}){dtype})",
            f"val result = session.run(mapOf({entry} to tensor)).get({output}).get() as OnnxTensor",
            "val output = FloatArray(result.floatBuffer.remaining()).also { result.floatBuffer.get(it) }",
        ),
    )

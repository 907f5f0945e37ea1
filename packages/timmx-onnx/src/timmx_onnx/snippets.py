"""Code that loads and runs an `.onnx` file with ONNX Runtime: in Python, on Android, in Node."""

from __future__ import annotations

import json
from typing import TYPE_CHECKING

from timmx.plugin import Snippet

if TYPE_CHECKING:
    from pathlib import Path

    from timmx.plugin import Metadata


def snippet(path: Path, metadata: Metadata, language: str) -> Snippet:
    """The lines for `python`, `kotlin` or `js`."""
    file = path.name if language == "kotlin" else path.as_posix()  # in an app it is an asset
    return {"python": _python, "kotlin": _kotlin, "js": _js}[language](file, metadata)


def _python(file: str, metadata: Metadata) -> Snippet:
    entry, output = metadata.input.name, metadata.outputs[0].name
    return Snippet(
        requires=("onnxruntime",),
        imports=("import onnxruntime", "import json"),
        load=(f"session = onnxruntime.InferenceSession({json.dumps(file)})",),
        run=(f"output = session.run([{json.dumps(output)}], {{{json.dumps(entry)}: x}})[0]",),
        labels='json.loads(session.get_modelmeta().custom_metadata_map["timmx"])["labels"]',
    )


def _shape(metadata: Metadata) -> list[int]:
    return [metadata.batch_size or 1, *metadata.input.shape]


def _js(file: str, metadata: Metadata) -> Snippet:
    entry, output = metadata.input, metadata.outputs[0].name
    feeds = f'{{ {json.dumps(entry.name)}: new ort.Tensor("{entry.dtype}", x, {_shape(metadata)}) }}'
    return Snippet(
        requires=("onnxruntime-node",),
        imports=('import * as ort from "onnxruntime-node"; // in a browser: onnxruntime-web',),
        load=(f"const session = await ort.InferenceSession.create({json.dumps(file)});",),
        run=(f"const output = (await session.run({feeds}))[{json.dumps(output)}].data;",),
    )


def _kotlin(file: str, metadata: Metadata) -> Snippet:
    entry, output = metadata.input.name, metadata.outputs[0].name
    shape = ", ".join(map(str, _shape(metadata)))
    return Snippet(
        requires=("com.microsoft.onnxruntime:onnxruntime-android",),
        imports=(
            "import ai.onnxruntime.OnnxTensor",
            "import ai.onnxruntime.OrtEnvironment",
            "import java.nio.FloatBuffer",
        ),
        load=(
            "val environment = OrtEnvironment.getEnvironment()",
            f'val session = environment.createSession(context.assets.open("{file}").readBytes())',
        ),
        run=(
            f"val tensor = OnnxTensor.createTensor(environment, FloatBuffer.wrap(x), longArrayOf({shape}))",
            f'val result = session.run(mapOf("{entry}" to tensor)).get("{output}").get() as OnnxTensor',
            "val output = FloatArray(result.floatBuffer.remaining()).also { result.floatBuffer.get(it) }",
        ),
    )

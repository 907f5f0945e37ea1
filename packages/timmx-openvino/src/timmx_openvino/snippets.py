"""Code that loads and runs an OpenVINO model: in Python, C++ and Node."""

from __future__ import annotations

from typing import TYPE_CHECKING

from timmx.plugin import Snippet, quote_string

if TYPE_CHECKING:
    from pathlib import Path

    from timmx.plugin import Metadata


def snippet(path: Path, metadata: Metadata, language: str) -> Snippet:
    """The lines for `python`, `cpp` or `js`."""
    file = quote_string(path.as_posix(), language)
    make = {"python": _python, "cpp": _cpp, "js": _js}[language]
    return make(file, metadata)


def _python(file: str, metadata: Metadata) -> Snippet:
    return Snippet(
        requires=("openvino",),
        imports=("import openvino", "import json"),
        load=(f'model = openvino.Core().compile_model({file}, "CPU")',),
        run=("output = model(x)[0]",),
        labels='json.loads(model.get_runtime_model().get_rt_info("timmx").astype(str))["labels"]',
    )


def _shape(metadata: Metadata) -> str:
    return ", ".join(map(str, [metadata.batch_size or 1, *metadata.input.shape]))


def _js(file: str, metadata: Metadata) -> Snippet:
    dtype = {"float32": "f32", "uint8": "u8"}.get(metadata.input.dtype, metadata.input.dtype)
    return Snippet(
        requires=("openvino-node",),
        imports=('import { addon as ov } from "openvino-node";',),
        load=(
            "const core = new ov.Core();",
            f'const model = await core.compileModel(await core.readModel({file}), "CPU");',
            "const request = model.createInferRequest();",
        ),
        run=(
            f'request.setInputTensor(new ov.Tensor("{dtype}", [{_shape(metadata)}], x));',
            "request.infer();",
            "const output = request.getOutputTensor(0).data;",
        ),
    )


def _cpp(file: str, metadata: Metadata) -> Snippet:
    dtype = {"float32": "f32", "uint8": "u8"}.get(metadata.input.dtype, metadata.input.dtype)
    return Snippet(
        requires=("OpenVINO",),
        imports=("#include <openvino/openvino.hpp>",),
        load=(
            "ov::Core core;",
            f'ov::InferRequest request = core.compile_model({file}, "CPU").create_infer_request();',
        ),
        run=(
            f"request.set_input_tensor(ov::Tensor(ov::element::{dtype}, {{{_shape(metadata)}}}, x.data()));",
            "request.infer();",
            "const float* output = request.get_output_tensor(0).data<float>();",
        ),
    )

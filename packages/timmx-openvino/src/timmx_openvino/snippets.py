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
        load=(
            "core = openvino.Core()",
            f"graph = core.read_model({file})",
            'model = core.compile_model(graph, "CPU", {"INFERENCE_PRECISION_HINT": "f32"})',
        ),
        run=("output = model(x)[0]",),
        labels='json.loads(graph.get_rt_info("timmx").astype(str))["labels"]',
    )


def _element_type(metadata: Metadata) -> str:
    return "u8" if metadata.input.dtype == "uint8" else "f32"


def _shape(metadata: Metadata) -> str:
    return ", ".join(map(str, [metadata.batch_size or 1, *metadata.input.shape]))


def _js(file: str, metadata: Metadata) -> Snippet:
    return Snippet(
        requires=("openvino-node",),
        imports=('import { addon as ov } from "openvino-node";',),
        load=(
            "const core = new ov.Core();",
            f"const graph = await core.readModel({file});",
            'const model = await core.compileModel(graph, "CPU", { INFERENCE_PRECISION_HINT: "f32" });',
            "const request = model.createInferRequest();",
        ),
        run=(
            f'request.setInputTensor(new ov.Tensor("{_element_type(metadata)}", [{_shape(metadata)}], x));',
            "request.infer();",
            "const output = request.getOutputTensor(0).data;",
        ),
    )


def _cpp(file: str, metadata: Metadata) -> Snippet:
    return Snippet(
        requires=("OpenVINO",),
        imports=("#include <openvino/openvino.hpp>",),
        load=(
            "ov::Core core;",
            f'ov::CompiledModel model = core.compile_model({file}, "CPU", '
            "ov::hint::inference_precision(ov::element::f32));",
            "ov::InferRequest request = model.create_infer_request();",
        ),
        run=(
            f"request.set_input_tensor(ov::Tensor(ov::element::{_element_type(metadata)}, "
            f"{{{_shape(metadata)}}}, x.data()));",
            "request.infer();",
            "const float* output = request.get_output_tensor(0).data<float>();",
        ),
    )

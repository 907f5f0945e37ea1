"""Code that loads and runs an ncnn network: in Python, in C++, and in Kotlin through ncnn's C API."""

from __future__ import annotations

import math
from typing import TYPE_CHECKING

from timmx.plugin import Precision, Snippet, quote_string, shown

from timmx_ncnn.param_file import METADATA_MARK, WEIGHTS_SUFFIX

if TYPE_CHECKING:
    from pathlib import Path

    from timmx.plugin import Metadata

_OPTIONS = ("use_fp16_packed", "use_fp16_storage", "use_fp16_arithmetic")
"""ncnn turns them on by default: on ARM CPUs and GPUs it then computes files in float32 in half precision too."""


def snippet(path: Path, metadata: Metadata, language: str) -> Snippet:
    """The lines for `python`, `cpp` or `kotlin`."""
    make = {"python": _python, "cpp": _cpp, "kotlin": _kotlin}[language]
    return make(path, metadata)


def _options(metadata: Metadata) -> tuple[str, ...]:
    """The options to turn off."""
    return () if metadata.precision == Precision.FP16 else _OPTIONS


def _python(path: Path, metadata: Metadata) -> Snippet:
    file, weights, entry, output = (
        quote_string(text, "python")
        for text in (
            path.as_posix(),
            path.with_suffix(WEIGHTS_SUFFIX).as_posix(),
            metadata.input.name,
            metadata.outputs[0].name,
        )
    )
    return Snippet(
        requires=("ncnn",),
        imports=("import json", "import ncnn"),
        load=(
            "net = ncnn.Net()",
            *(f"net.opt.{name} = False" for name in _options(metadata)),
            f"if net.load_param({file}) or net.load_model({weights}):",
            '    raise SystemExit("ncnn cannot load the file")',
        ),
        run=(
            "extractor = net.create_extractor()",
            f"extractor.input({entry}, ncnn.Mat(x[0]).clone())",
            f"code, result = extractor.extract({output})",
            "if code:",
            '    raise SystemExit("ncnn cannot run the file")',
            "output = np.array(result)[None]",
        ),
        labels=f'json.loads(open({file}, encoding="utf-8").read().split("\\n{METADATA_MARK}")[-1])["labels"]',
    )


def _cpp(path: Path, metadata: Metadata) -> Snippet:
    file, weights, entry, output = (
        quote_string(text, "cpp")
        for text in (
            path.as_posix(),
            path.with_suffix(WEIGHTS_SUFFIX).as_posix(),
            metadata.input.name,
            metadata.outputs[0].name,
        )
    )
    channels, height, width = metadata.input.shape
    return Snippet(
        requires=("ncnn",),
        imports=("#include <net.h>",),
        load=(
            "ncnn::Net net;",
            *(f"net.opt.{name} = false;" for name in _options(metadata)),
            f"if (net.load_param({file}) || net.load_model({weights}))",
            '    throw std::runtime_error("ncnn cannot load the file");',
        ),
        run=(
            "ncnn::Extractor extractor = net.create_extractor();",
            f"extractor.input({entry}, ncnn::Mat(int(x.size()), x.data()).reshape({width}, {height}, {channels}));",
            "ncnn::Mat result;",
            f'if (extractor.extract({output}, result)) throw std::runtime_error("ncnn cannot run the file");',
            f"result = result.reshape({_size(metadata)});",
            "const float* output = result;",
        ),
    )


def _size(metadata: Metadata) -> int:
    return math.prod(int(size) for size in metadata.outputs[0].shape)


def _kotlin(path: Path, metadata: Metadata) -> Snippet:
    weights = path.with_suffix(WEIGHTS_SUFFIX).name
    asset, weights_asset, entry, output = (
        quote_string(text, "kotlin")
        for text in (path.name, weights, metadata.input.name, metadata.outputs[0].name)
    )
    channels, height, width = metadata.input.shape
    size = math.prod(metadata.input.shape)
    return Snippet(
        requires=(
            "net.java.dev.jna:jna",
            "libncnn.so of ncnn's Android release",
            f"{shown(weights)} in assets/",
        ),
        imports=(
            "import com.sun.jna.Library",
            "import com.sun.jna.Memory",
            "import com.sun.jna.Native",
            "import com.sun.jna.Pointer",
            "import com.sun.jna.ptr.PointerByReference",
        ),
        load=(
            *_C_API,
            'val ncnn: Ncnn = Native.load("ncnn", Ncnn::class.java)',
            f"val param = context.assets.open({asset}).readBytes() + 0.toByte()",
            f"val bytes = context.assets.open({weights_asset}).readBytes()",
            "val weights = Memory(bytes.size.toLong()).apply { write(0, bytes, 0, bytes.size) }",
            "val net = ncnn.ncnn_net_create().also {",
            *(
                f"    ncnn.ncnn_option_set_{name}(ncnn.ncnn_net_get_option(it), 0)"
                for name in _options(metadata)
            ),
            '    check(ncnn.ncnn_net_load_param_memory(it, param) == 0) { "ncnn cannot load the file" }',
            "    check(ncnn.ncnn_net_load_model_memory(it, weights) == bytes.size) "
            '{ "ncnn cannot load the weights" }',
            "}",
        ),
        run=(
            f"val data = Memory(4L * {size}).apply {{ write(0, x, 0, x.size) }}",
            f"val flat = ncnn.ncnn_mat_create_external_1d({size}, data, null)",
            f"val image = ncnn.ncnn_mat_reshape_3d(flat, {width}, {height}, {channels}, null)",
            "val extractor = ncnn.ncnn_extractor_create(net)",
            f"ncnn.ncnn_extractor_input(extractor, {entry}, image)",
            "val result = PointerByReference()",
            f"check(ncnn.ncnn_extractor_extract(extractor, {output}, result) == 0) "
            '{ "ncnn cannot run the file" }',
            f"val row = ncnn.ncnn_mat_reshape_1d(result.value, {_size(metadata)}, null)",
            f"val output = ncnn.ncnn_mat_get_data(row).getFloatArray(0, {_size(metadata)})",
            "listOf(flat, image, result.value, row).forEach(ncnn::ncnn_mat_destroy)",
            "ncnn.ncnn_extractor_destroy(extractor)",
        ),
    )


_C_API = (
    "interface Ncnn : Library {",
    "    fun ncnn_net_create(): Pointer",
    "    fun ncnn_net_get_option(net: Pointer): Pointer",
    *(f"    fun ncnn_option_set_{name}(option: Pointer, enable: Int)" for name in _OPTIONS),
    "    fun ncnn_net_load_param_memory(net: Pointer, text: ByteArray): Int",
    "    fun ncnn_net_load_model_memory(net: Pointer, weights: Pointer): Int",
    "    fun ncnn_mat_create_external_1d(w: Int, data: Pointer, allocator: Pointer?): Pointer",
    "    fun ncnn_mat_reshape_1d(mat: Pointer, w: Int, allocator: Pointer?): Pointer",
    "    fun ncnn_mat_reshape_3d(mat: Pointer, w: Int, h: Int, c: Int, allocator: Pointer?): Pointer",
    "    fun ncnn_mat_get_data(mat: Pointer): Pointer",
    "    fun ncnn_mat_destroy(mat: Pointer)",
    "    fun ncnn_extractor_create(net: Pointer): Pointer",
    "    fun ncnn_extractor_input(extractor: Pointer, name: String, mat: Pointer): Int",
    "    fun ncnn_extractor_extract(extractor: Pointer, name: String, mat: PointerByReference): Int",
    "    fun ncnn_extractor_destroy(extractor: Pointer)",
    "}",
)
"""The functions of ncnn's C API that the code calls, through Java Native Access: ncnn has no library for Kotlin.

`ncnn_net_load_model_memory` returns the number of bytes that the layers have read: `int`, and `size_t` since 2026.
"""

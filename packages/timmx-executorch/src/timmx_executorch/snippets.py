"""Code that loads and runs a `.pte` file: in Python, on Android, on Apple devices, and in C++."""

from __future__ import annotations

from typing import TYPE_CHECKING

from timmx.plugin import ConfigurationError, Snippet, quote_string

from timmx_executorch.options import Delegate
from timmx_executorch.pte_file import WEIGHTS_SUFFIX, weights_file

if TYPE_CHECKING:
    from pathlib import Path

    from timmx.plugin import Metadata


def snippet(path: Path, metadata: Metadata, language: str) -> Snippet:
    """The lines for `python`, `kotlin`, `swift` or `cpp`.

    Raises:
        ConfigurationError: Android has no Core ML, and its library does not open weights in a second file.
    """
    external = WEIGHTS_SUFFIX in metadata.format.get("companions", {})
    make = {"python": _python, "kotlin": _kotlin, "swift": _swift, "cpp": _cpp}[language]
    return make(path, metadata, external)


def _shape(metadata: Metadata) -> str:
    return ", ".join(map(str, [metadata.batch_size or 1, *metadata.input.shape]))


def _python(path: Path, metadata: Metadata, external: bool) -> Snippet:
    file = quote_string(path.as_posix(), "python")
    data = f", data_path={quote_string(weights_file(path).as_posix(), 'python')}" if external else ""
    return Snippet(
        requires=("executorch",),
        imports=("import torch", "from executorch.runtime import Runtime"),
        load=(
            f"program = Runtime.get().load_program({file}{data})",
            'method = program.load_method("forward")',
        ),
        run=("output = method.execute([torch.from_numpy(x)])[0].numpy()",),
    )


def _kotlin(path: Path, metadata: Metadata, external: bool) -> Snippet:
    if metadata.format.get("delegate") == Delegate.COREML:
        raise ConfigurationError(
            f"{path.name} computes with Core ML, which Android does not have",
            hint="export it with --delegate xnnpack, or use --snippet swift",
        )
    if external:
        raise ConfigurationError(
            f"{path.name} has its weights in a second file, which ExecuTorch's Android library does not open",
            hint="export it without --external-weights, or use --snippet cpp",
        )
    file = quote_string(path.name, "kotlin")
    return Snippet(
        requires=("org.pytorch:executorch-android",),
        imports=(
            "import java.io.File",
            "import org.pytorch.executorch.EValue",
            "import org.pytorch.executorch.Module",
            "import org.pytorch.executorch.Tensor",
        ),
        load=(
            f"val file = File(context.filesDir, {file}).apply {{",
            f"    context.assets.open({file}).use {{ asset -> outputStream().use {{ asset.copyTo(it) }} }}",
            "}",
            "val module = Module.load(file.path)",
        ),
        run=(
            f"val tensor = Tensor.fromBlob(x, longArrayOf({_shape(metadata)}))",
            "val output = module.forward(EValue.from(tensor))[0].toTensor().dataAsFloatArray",
        ),
    )


def _swift(path: Path, metadata: Metadata, external: bool) -> Snippet:
    stem = quote_string(path.stem, "swift")
    load = [f'let program = Bundle.main.path(forResource: {stem}, ofType: "pte")!']
    if external:
        load.append(f'let weights = Bundle.main.path(forResource: {stem}, ofType: "ptd")!')
    load.append(f"let module = Module(filePath: program{', dataFilePaths: [weights]' if external else ''})")
    return Snippet(
        imports=("import ExecuTorch",),
        load=tuple(load),
        run=(
            f"let tensor = Tensor<Float>(x, shape: [{_shape(metadata)}])",
            "let values: [Value] = try module.forward(tensor)",
            "let result: Tensor<Float> = values[0].tensor()!",
            "let output = result.scalars()",
        ),
    )


def _cpp(path: Path, metadata: Metadata, external: bool) -> Snippet:
    files = [path, *([weights_file(path)] if external else [])]
    names = ", ".join(quote_string(file.as_posix(), "cpp") for file in files)
    return Snippet(
        requires=("ExecuTorch",),
        imports=(
            "#include <executorch/extension/module/module.h>",
            "#include <executorch/extension/tensor/tensor.h>",
        ),
        load=(f"executorch::extension::Module program({names});",),
        run=(
            f"auto tensor = executorch::extension::from_blob(x.data(), {{{_shape(metadata)}}});",
            "const auto result = program.forward(tensor);",
            'if (!result.ok()) throw std::runtime_error("ExecuTorch cannot run the file");',
            "const float* output = result->at(0).toTensor().const_data_ptr<float>();",
        ),
    )

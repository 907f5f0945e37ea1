"""A small but complete backend for the kit's own tests; FAULT selects one fault."""

from __future__ import annotations

import json
import random
import zipfile
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Annotated, Any

import typer
from timmx.plugin import (
    ArtifactError,
    Capabilities,
    ExportBackend,
    Exported,
    Metadata,
    OpenSettings,
    Precision,
    Quantization,
    Runner,
    TensorSpec,
)

FAULT = ""

if FAULT == "imports torch":
    import torch  # noqa: F401
if FAULT == "prints on import":
    print("hello from a plugin")


@dataclass(frozen=FAULT != "mutable options")
class LoopbackOptions:
    level: Annotated[
        int, typer.Option("--level", help=None if FAULT == "undocumented option" else "An option of its own.")
    ] = 1
    quantized: Annotated[
        bool, typer.Option("--quantized", help="Take (N, H, W, C) in uint8, give int8: by calibration.")
    ] = False
    if FAULT == "takes a shared option's name":
        softmax: Annotated[bool, typer.Option("--softmax", help="Taken.")] = False


class Loopback(ExportBackend):
    if FAULT != "states no contract":
        contract = 1
    name = "loopback"
    help = "" if FAULT == "says nothing of itself" else "Exports to a zip of a torch.export archive."
    suffixes = ("loop",) if FAULT == "suffix without a dot" else (".loop",)
    options = LoopbackOptions
    capabilities = Capabilities(cuda="" if FAULT == "cannot without a reason" else "it is only a test")

    def create_command(self) -> Any:
        command = super().create_command()
        if FAULT == "options through **kwargs":

            def anything(**options: Any) -> Any:
                return command(**options)

            return anything
        return command

    def check_environment(self, request: Any = None, options: Any = None) -> Any:
        if FAULT == "raises in check_environment":
            raise OSError("no environment")
        return ()

    def export(self, job: Any, options: LoopbackOptions) -> Exported:
        import torch

        program = job.capture()
        if FAULT == "freezes the batch":
            program = torch.export.export(job.model, (job.example_input,))
        if FAULT == "computes wrong numbers":
            for value in program.state_dict.values():
                value.mul_(1.05)
        precision = Precision.INT8 if options.quantized else Precision.FP32
        metadata = job.metadata(precision, **(quantized_io(job) if options.quantized else {}))
        if FAULT == "states another layout than it takes":
            metadata = job.metadata(precision, input_layout="NHWC")
        if FAULT == "loses metadata":
            metadata = replace(metadata, labels=None, precision="unknown")
        if FAULT == "writes the final file itself":
            Path(job.request.output).write_bytes(b"half a file")
        if FAULT == "writes elsewhere":
            Path("by-product.txt").write_text("found in the current folder")
        if FAULT == "leaves a by-product next to the file":
            job.path.with_suffix(".log").write_text("a log")
        inner = job.path.with_name("program.pt2")
        torch.export.save(program, inner)
        with zipfile.ZipFile(job.path, "w") as archive:
            for name, content in (("program.pt2", inner.read_bytes()), ("timmx.json", metadata.dumps())):
                archive.writestr(zipfile.ZipInfo(name), content)
            if FAULT == "writes other bytes each time":
                archive.writestr(zipfile.ZipInfo("salt"), str(random.random()))
        inner.unlink()
        return Exported(precision)

    def open(self, path: Path, settings: OpenSettings) -> Runner:
        return LoopbackRunner(path, Metadata.parse(path, self.read_metadata(path)))

    def read_metadata(self, path: Path) -> dict[str, Any]:
        try:
            with zipfile.ZipFile(path) as archive:
                return json.loads(archive.read("timmx.json"))
        except zipfile.BadZipFile as exc:
            if FAULT == "lets library errors through":
                raise
            raise ArtifactError(f"{path} is damaged: export it again.") from exc


def quantized_io(job: Any) -> dict[str, Any]:
    """Ranges from two passes over the calibration inputs; the values in between are computed in float."""
    import torch

    calibration = job.calibration(None, 8)
    low = min(float(batch.min()) for batch in calibration.batches(3))
    high = max(float(batch.max()) for batch in calibration.batches(3))
    ranges: dict[str, float] = dict.fromkeys(job.output_names, 0.0)
    with torch.no_grad():
        for batch in calibration:
            found = job.model(torch.from_numpy(batch))
            for name, tensor in zip(ranges, found if isinstance(found, tuple) else (found,), strict=True):
                ranges[name] = max(ranges[name], 1.25 * float(tensor.abs().max()))
    scale = (high - low) / 255
    return {
        "input_dtype": "uint8",
        "input_layout": "NHWC",
        "input_quantization": Quantization(scale, round(-low / scale)),
        "output_dtypes": dict.fromkeys(ranges, "int8"),
        "output_quantization": {name: Quantization(greatest / 127, 0) for name, greatest in ranges.items()},
    }


class LoopbackRunner(Runner):
    def __init__(self, path: Path, metadata: Metadata) -> None:
        import io

        import torch

        with zipfile.ZipFile(path) as archive:
            self._module = torch.export.load(io.BytesIO(archive.read("program.pt2"))).module()
        stated, layout = metadata.input, metadata.input.layout
        shape = (metadata.batch_size or "batch", *stated.shape)
        if FAULT == "states another layout than it takes":
            layout, shape = "NCHW", (metadata.batch_size or "batch", *stated.size)
        self.inputs = (
            TensorSpec(
                name="input",
                shape=shape,
                dtype=stated.dtype,
                layout=layout,
                quantization=stated.quantization,
            ),
        )
        self.outputs = tuple(
            TensorSpec(
                name=output.name,
                shape=output.shape,
                dtype=output.dtype,
                layout="",
                quantization=output.quantization,
            )
            for output in metadata.outputs
        )
        if FAULT == "describes another artifact":
            self.outputs = (TensorSpec(name="result", shape=("?",), dtype="float32"),)

        self.intermediates = tuple(
            node.name
            for node in self._module.graph.nodes
            if node.op == "call_function" and "val" in node.meta
        )

    def run_intermediates(self, feeds: Any, names: Any) -> Any:
        import torch

        kept = {}

        class Keeping(torch.fx.Interpreter):
            def run_node(self, node: Any) -> Any:
                kept[node.name] = super().run_node(node)
                return kept[node.name]

        with torch.no_grad():
            Keeping(self._module).run(torch.from_numpy(self._floats(feeds)))
        found = {name: kept[name].numpy() for name in names}
        if FAULT == "gives intermediate values of another run":
            found = {name: array + 1 for name, array in found.items()}
        return found

    def run(self, feeds: Any) -> Any:
        import numpy as np
        import torch

        with torch.no_grad():
            found = self._module(torch.from_numpy(self._floats(feeds)))
        found = found if isinstance(found, tuple) else (found,)
        arrays = [tensor.numpy() for tensor in found]
        if FAULT == "mixes the rows of a batch":
            arrays = [array + 0.1 * array.mean(0) for array in arrays]
        for index, spec in enumerate(self.outputs):
            if spec.quantization:
                stored = np.rint(arrays[index] / spec.quantization.scale) + spec.quantization.zero_point
                arrays[index] = np.clip(stored, -128, 127).astype(np.int8)
        return dict(zip((spec.name for spec in self.outputs), arrays, strict=True))

    def _floats(self, feeds: Any) -> Any:
        import numpy as np

        (spec,), fed = self.inputs, feeds["input"]
        if str(fed.dtype) != spec.dtype:
            raise TypeError(f"{fed.dtype} was fed, {spec.dtype} is due")
        if spec.quantization:
            fed = np.float32(spec.quantization.scale) * (
                fed.astype(np.float32) - spec.quantization.zero_point
            )
        return np.ascontiguousarray(fed.transpose(0, 3, 1, 2)) if spec.layout == "NHWC" else fed

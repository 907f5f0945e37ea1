"""The Core ML delegate: the model inside the program, written and, where Core ML does not exist, evaluated."""

from __future__ import annotations

import hashlib
import json
import tempfile
import uuid
from pathlib import Path
from typing import TYPE_CHECKING, Any

import coremltools as ct
from executorch.backends.apple.coreml import executorchcoreml
from executorch.backends.apple.coreml.compiler import CoreMLBackend
from executorch.backends.apple.coreml.partition import CoreMLPartitioner
from executorch.exir.delegate import executorch_call_delegate
from timmx.plugin import ArtifactError, Runner, RuntimeUnavailable

from timmx_executorch.pte_file import reading
from timmx_executorch.runner import METHOD, described
from timmx_executorch.schema import SEGMENT

if TYPE_CHECKING:
    from collections.abc import Mapping

    import numpy as np
    from executorch.exir import EdgeProgramManager

_FOLDER, _MODEL, _FACTS = "lowered_module", "model.mlpackage", "metadata.json"
"""What ExecuTorch's delegate packs: a folder with the model, and the names of its inputs and outputs."""
_NAMESPACE = uuid.UUID("0d0c2f0c-7a2e-5b53-8d6b-3a8f6f5f3f61")


def core_ml_partitioner(*, half: bool) -> CoreMLPartitioner:
    """Gives all operations to Core ML, or fails: a part that ran elsewhere could not be verified."""
    specs = CoreMLBackend.generate_compile_specs(
        compute_precision=ct.precision.FLOAT16 if half else ct.precision.FLOAT32,
        minimum_deployment_target=ct.target.iOS16,
    )
    return CoreMLPartitioner(compile_specs=specs, lower_full_graph=True)


def name_models(edge: EdgeProgramManager) -> None:
    """Replace the random identifiers in the delegate's data, so that equal exports give equal bytes."""
    module = edge.exported_program().graph_module
    for node in module.graph.nodes:
        if node.target is executorch_call_delegate:
            lowered = getattr(module, node.args[0].target)
            lowered._processed_bytes = _renamed(lowered.processed_bytes)


def _renamed(content: bytes) -> bytes:
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name, _FOLDER)
        executorchcoreml.unflatten_directory_contents(content, name)
        manifest = folder / _MODEL / "Manifest.json"
        entries: dict[str, Any] = json.loads(manifest.read_text())
        digest, items, root = hashlib.sha256(), {}, ""
        for identifier, item in sorted(entries["itemInfoEntries"].items(), key=lambda pair: str(pair[1]["path"])):
            own = str(uuid.uuid5(_NAMESPACE, item["path"])).upper()
            items[own] = item
            root = own if identifier == entries["rootModelIdentifier"] else root
        manifest.write_text(json.dumps(entries | {"itemInfoEntries": items, "rootModelIdentifier": root}, indent=2))
        for path in sorted((folder / _MODEL).rglob("*")):
            if path.is_file():
                digest.update(path.read_bytes())
        facts = folder / _FACTS
        identifier = f"executorch_{uuid.uuid5(_NAMESPACE, digest.hexdigest())}"  # Core ML caches compiled models by it
        facts.write_text(json.dumps(json.loads(facts.read_text()) | {"identifier": identifier}))
        packed: bytes = executorchcoreml.flatten_directory_contents(str(folder))
        return packed


class CoreMLDelegateRunner(Runner):
    """Evaluates the Core ML model inside a program that is one call of the delegate.

    Raises:
        ArtifactError: the file is damaged.
        RuntimeUnavailable: timmx-coreml is not installed, or the program computes more than the model.
    """

    def __init__(self, path: Path) -> None:
        try:
            from timmx_coreml import open_runner
        except ModuleNotFoundError as exc:
            raise RuntimeUnavailable(
                f"{path} was made for Core ML, which exists only on Apple's systems",
                hint="uv pip install 'timmx-executorch[coreml]', whose evaluator runs the model inside",
            ) from exc
        with reading(path) as file:
            (plan,) = (plan for plan in file.program.plans if plan.name == METHOD)
            self.inputs, self.outputs, _ = described(path, file, plan)
            if len(plan.calls) != 1 or len(plan.delegates) != 1 or plan.delegates[0].data[0] != SEGMENT:
                raise RuntimeUnavailable(
                    f"{path} has operations outside of its Core ML model", hint="run it on an Apple device"
                )
            content = bytes(file.segment(plan.delegates[0].data[1]))
        self._folder = tempfile.TemporaryDirectory(ignore_cleanup_errors=True)
        folder = Path(self._folder.name, _FOLDER)
        model = folder / _MODEL
        if not executorchcoreml.unflatten_directory_contents(content, self._folder.name) or not model.is_dir():
            raise ArtifactError(f"the Core ML model in {path} is damaged", hint="export it again")
        self._model = open_runner(model)
        self.engine = self._model.engine
        self.intermediates = self._model.intermediates
        facts = json.loads((folder / _FACTS).read_text())
        self._inner = tuple(zip(self.outputs, facts["outputNames"], strict=True))

    @property
    def notes(self) -> tuple[str, ...]:
        return self._model.notes

    def run(self, feeds: Mapping[str, np.ndarray]) -> dict[str, np.ndarray]:
        outputs = self._model.run({self._model.inputs[0].name: feeds["input"]})
        # as ExecuTorch's delegate, which copies float16 outputs into the float32 tensors of the program
        return {spec.name: outputs[inner].astype(spec.dtype) for spec, inner in self._inner}

    def close(self) -> None:
        self._model.close()
        self._folder.cleanup()

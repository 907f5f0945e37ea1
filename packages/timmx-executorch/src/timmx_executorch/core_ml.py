"""The Core ML delegate: what goes to it, and the model that it puts into the program."""

from __future__ import annotations

import contextlib
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

from timmx_executorch.core_ml_data import FACTS, FOLDER, MODEL
from timmx_executorch.core_ml_float32 import Float32Operations

if TYPE_CHECKING:
    from collections.abc import Iterator

    import torch
    from executorch.exir import EdgeProgramManager
    from executorch.exir.backend.partitioner import PartitionResult

_NAMESPACE = uuid.UUID("0d0c2f0c-7a2e-5b53-8d6b-3a8f6f5f3f61")


class _Partitioner(CoreMLPartitioner):  # type: ignore[misc]
    def __init__(self, float32: Float32Operations, **options: Any) -> None:
        super().__init__(**options)
        self._float32 = float32

    def partition(self, exported_program: torch.export.ExportedProgram) -> PartitionResult:
        self._float32.find(exported_program)
        return super().partition(exported_program)


@contextlib.contextmanager
def core_ml_partitioner(*, half: bool) -> Iterator[CoreMLPartitioner]:
    """Gives all operations to Core ML, or fails: a part that ran elsewhere could not be verified.

    While it is open, the delegate's operations of nodes with the mark of `keep_float32` stay in float32: executorch 1.5
    has one precision for all.
    """
    specs = CoreMLBackend.generate_compile_specs(
        compute_precision=ct.precision.FLOAT16 if half else ct.precision.FLOAT32,
        minimum_deployment_target=ct.target.iOS16,
    )
    float32 = Float32Operations()
    original = CoreMLBackend.model_compute_precision_from_compile_specs
    if half:
        precision = ct.transform.FP16ComputePrecision(op_selector=float32.may_round)
        CoreMLBackend.model_compute_precision_from_compile_specs = lambda _: precision
    try:
        yield _Partitioner(float32, compile_specs=specs, lower_full_graph=True)
    finally:
        CoreMLBackend.model_compute_precision_from_compile_specs = staticmethod(original)


def name_models(edge: EdgeProgramManager) -> None:
    """Replace the random identifiers in the delegate's data, so that equal exports give equal bytes."""
    module = edge.exported_program().graph_module
    for node in module.graph.nodes:
        if node.target is executorch_call_delegate:
            lowered = getattr(module, node.args[0].target)
            lowered._processed_bytes = _renamed(lowered.processed_bytes)


def _renamed(content: bytes) -> bytes:
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name, FOLDER)
        executorchcoreml.unflatten_directory_contents(content, name)
        manifest = folder / MODEL / "Manifest.json"
        entries: dict[str, Any] = json.loads(manifest.read_text())
        digest, items, root = hashlib.sha256(), {}, ""
        for identifier, item in sorted(
            entries["itemInfoEntries"].items(), key=lambda pair: str(pair[1]["path"])
        ):
            own = str(uuid.uuid5(_NAMESPACE, item["path"])).upper()
            items[own] = item
            root = own if identifier == entries["rootModelIdentifier"] else root
        manifest.write_text(
            json.dumps(entries | {"itemInfoEntries": items, "rootModelIdentifier": root}, indent=2)
        )
        for path in sorted((folder / MODEL).rglob("*")):
            if path.is_file():
                digest.update(path.read_bytes())
        facts = folder / FACTS
        identifier = (
            f"executorch_{uuid.uuid5(_NAMESPACE, digest.hexdigest())}"  # Core ML caches compiled models by it
        )
        facts.write_text(json.dumps(json.loads(facts.read_text()) | {"identifier": identifier}))
        packed: bytes = executorchcoreml.flatten_directory_contents(str(folder))
        return packed

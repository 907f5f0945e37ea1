"""What a `.pte` file contains, read from its flatbuffer."""

from __future__ import annotations

from collections import Counter
from typing import TYPE_CHECKING, Any

from timmx_executorch.interface import numbered
from timmx_executorch.pte_file import reading
from timmx_executorch.schema import DELEGATE_CALL, KERNEL_CALL

if TYPE_CHECKING:
    from pathlib import Path

    from timmx_executorch.schema import Plan, Tensor


def inspect(path: Path) -> dict[str, Any]:
    """The calls of kernels and delegates by name, the tensors, and the named blobs.

    Raises:
        ArtifactError: the file is not an ExecuTorch program, or is damaged.
    """
    with reading(path) as file:
        (plan, *_) = file.program.plans
        return {
            "operations": dict(_calls(plan).most_common()),
            "inputs": [_tensor("input", number, entry) for number, entry in enumerate(plan.inputs)],
            "outputs": [_tensor("output", number, entry) for number, entry in enumerate(plan.outputs)],
            "named_data": len(file.program.named_data),
        }


def _calls(plan: Plan) -> Counter[str]:
    operators, delegates = plan.operators, [call.backend for call in plan.delegates]
    counts: Counter[str] = Counter()
    for kind, number in plan.calls:
        if kind == KERNEL_CALL:
            counts[operators[number]] += 1
        elif kind == DELEGATE_CALL:
            counts[delegates[number]] += 1
    return counts


def _tensor(base: str, number: int, tensor: Tensor) -> dict[str, Any]:
    return {"name": numbered(base, number), "shape": list(tensor.shape), "dtype": tensor.dtype}

"""The inputs and outputs of a `.pte` file, as its flatbuffer and its metadata describe them."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

from timmx.plugin import ArtifactError, Metadata, TensorSpec, parse_json_object

if TYPE_CHECKING:
    from pathlib import Path

    from timmx_executorch.pte_file import PteFile
    from timmx_executorch.schema import Plan, Tensor

METHOD = "forward"
_LAYOUTS = {2: "NC", 3: "NLC", 4: "NCHW"}


@dataclass(frozen=True)
class Interface:
    """What the method `forward` takes and returns.

    Attributes:
        plan: the method.
        inputs, outputs: in order.
        batch_max: the largest batch size; None if it is fixed.
    """

    plan: Plan
    inputs: tuple[TensorSpec, ...]
    outputs: tuple[TensorSpec, ...]
    batch_max: int | None


def interface(path: Path, file: PteFile) -> Interface:
    """Read the interface. A program has no names of outputs; the metadata has.

    Raises:
        ArtifactError: there is no method `forward`.
    """
    plan = next((plan for plan in file.program.plans if plan.name == METHOD), None)
    if plan is None:
        raise ArtifactError(f"{path} has no method {METHOD}", hint="name a file of timmx, or export it again")
    text = file.metadata
    metadata = None if text is None else Metadata.parse(path, parse_json_object(path, text))
    names = [output.name for output in metadata.outputs] if metadata else []
    inputs, outputs = plan.inputs, plan.outputs
    if len(names) != len(outputs):
        names = [numbered("output", number) for number in range(len(outputs))]
    return Interface(
        plan,
        tuple(_spec(tensor, numbered("input", number)) for number, tensor in enumerate(inputs)),
        tuple(_spec(tensor, name) for tensor, name in zip(outputs, names, strict=True)),
        inputs[0].sizes[0] if inputs and inputs[0].dynamic else None,
    )


def numbered(base: str, number: int) -> str:
    """A name for a tensor: `output`, `output_1`, ..."""
    return f"{base}_{number}" if number else base


def _spec(tensor: Tensor, name: str) -> TensorSpec:
    return TensorSpec(
        name=name, shape=tensor.shape, dtype=tensor.dtype, layout=_LAYOUTS.get(len(tensor.shape), "")
    )

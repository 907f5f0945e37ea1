"""A layer of the file as its translation sees it, and the table of the layers that are known."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import torch
from timmx.plugin import ArtifactError, UnsupportedError

from timmx_coreml.errors import damaged, not_evaluated
from timmx_coreml.neural_network.weights import read_weights

if TYPE_CHECKING:
    from collections.abc import Sequence

    from timmx.plugin import ArtifactError

Step = Callable[..., torch.Tensor | tuple[torch.Tensor, ...]]
"""What a layer does at run time: the input blobs, in order, to the output blob or blobs."""


@dataclass(frozen=True, kw_only=True)
class Layer:
    """One layer, its weights still in the file.

    Attributes:
        name: unique in well-kept files; errors quote it.
        kind: the protobuf's name of the layer type, such as `convolution`.
        params: the layer type's own message.
        inputs: names of the blobs that it reads.
        outputs: names of the blobs that it writes.
    """

    name: str
    kind: str
    params: Any
    inputs: tuple[str, ...]
    outputs: tuple[str, ...]

    def weights(
        self, field: str, shape: Sequence[int], channel_axis: int = 0, of: Any = None
    ) -> torch.Tensor:
        """The weights in `field` of the parameters (or of the message `of`), as float32."""
        try:
            return read_weights(getattr(self.params if of is None else of, field), shape, channel_axis)
        except ValueError as exc:
            raise self.damaged(f"its {field!r} {exc}") from exc
        except NotImplementedError as exc:
            raise self.refused(f"its weights are stored as {exc}") from exc

    def damaged(self, what: str) -> ArtifactError:
        """The error for contents that cannot be right."""
        return damaged(f"layer {self.name!r} ({self.kind}) is damaged: {what}")

    def refused(self, what: str) -> UnsupportedError:
        """The error for contents that may be right, but whose numbers cannot be told here."""
        return not_evaluated(f"timmx cannot evaluate layer {self.name!r} ({self.kind}): {what}")

    def pair(self, field: str, default: int) -> tuple[int, int]:
        """A repeated field of two, in the order height, width, or its default."""
        values = list(getattr(self.params, field))
        if not values:
            return default, default
        if len(values) != 2:
            raise self.damaged(f"its {field!r} has {len(values)} entries instead of 2")
        return int(values[0]), int(values[1])

    def borders(self, amounts: Any) -> tuple[int, int, int, int]:
        """A `BorderAmounts` message as top, bottom, left, right; none at all is zero."""
        edges = list(amounts.borderAmounts)
        if not edges:
            return 0, 0, 0, 0
        if len(edges) != 2:
            raise self.damaged(f"its border amounts have {len(edges)} entries instead of 2")
        top, bottom, left, right = (
            int(size) for edge in edges for size in (edge.startEdgeSize, edge.endEdgeSize)
        )
        return top, bottom, left, right


Translate = Callable[[Layer], Step]
_KNOWN: dict[str, tuple[Translate, tuple[int, ...] | None, int | None]] = {}


def translates(
    *kinds: str, inputs: tuple[int, ...] | None = (1,), outputs: int | None = 1
) -> Callable[[Translate], Translate]:
    """Register a function as the translation of some layer types.

    Args:
        kinds: names of the layer types.
        inputs: how many blobs it may read; None for one or more.
        outputs: how many blobs it writes; None for one or more.
    """

    def register(function: Translate) -> Translate:
        for kind in kinds:
            _KNOWN[kind] = (function, inputs, outputs)
        return function

    return register


def translate(layer: Layer) -> Step:
    """What a layer does, its weights read.

    Raises:
        UnsupportedError: the layer type, or a value in it, is not known.
        ArtifactError: its contents cannot be right.
    """
    if layer.kind == "custom":
        # No hint: Core ML cannot run it either without the app that has the class.
        raise UnsupportedError(
            f"timmx cannot evaluate layer {layer.name!r} (custom): it runs the class {layer.params.className!r} of an "
            "app"
        )
    if layer.kind not in _KNOWN:
        raise not_evaluated(f"timmx cannot evaluate layer {layer.name!r}: it has the type {layer.kind!r}")
    function, inputs, outputs = _KNOWN[layer.kind]
    for what, names, allowed in (
        ("inputs", layer.inputs, inputs),
        ("outputs", layer.outputs, None if outputs is None else (outputs,)),
    ):
        if (not names) if allowed is None else (len(names) not in allowed):
            expected = "at least 1" if allowed is None else " or ".join(map(str, allowed))
            raise layer.damaged(f"it has {len(names)} {what} instead of {expected}")
    return function(layer)

"""A layer of the file, and the registry of translations by layer type."""

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
"""Computes a layer: takes the input blobs in order, returns the output blob or blobs."""


@dataclass(frozen=True, kw_only=True)
class Layer:
    """One layer; its weights are read on request.

    Attributes:
        name: usually unique; errors quote it.
        kind: the name of the layer type in the protobuf, such as `convolution`.
        params: the message of the layer type.
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
        """Return the weights in `field` of the parameters (or of the message `of`) as float32."""
        try:
            return read_weights(getattr(self.params if of is None else of, field), shape, channel_axis)
        except ValueError as exc:
            raise self.damaged(f"its {field!r} {exc}") from exc
        except NotImplementedError as exc:
            raise self.unsupported(f"its weights are stored as {exc}") from exc

    def damaged(self, what: str) -> ArtifactError:
        """Return the error for invalid contents."""
        return damaged(f"layer {self.name!r} ({self.kind}) is damaged: {what}")

    def unsupported(self, what: str) -> UnsupportedError:
        """Return the error for contents that may be valid, but that timmx cannot evaluate."""
        return not_evaluated(f"timmx cannot evaluate layer {self.name!r} ({self.kind}): {what}")

    def pair(self, field: str, default: int) -> tuple[int, int]:
        """Return a repeated field of two as (height, width), or its default."""
        values = list(getattr(self.params, field))
        if not values:
            return default, default
        if len(values) != 2:
            raise self.damaged(f"its {field!r} has {len(values)} entries instead of 2")
        return int(values[0]), int(values[1])

    def borders(self, amounts: Any) -> tuple[int, int, int, int]:
        """Return a `BorderAmounts` message as (top, bottom, left, right); an empty one is zero."""
        axes = list(amounts.borderAmounts)
        if not axes:
            return 0, 0, 0, 0
        if len(axes) != 2:
            raise self.damaged(f"its border amounts have {len(axes)} entries instead of 2")
        top, bottom, left, right = (
            int(size) for axis in axes for size in (axis.startEdgeSize, axis.endEdgeSize)
        )
        return top, bottom, left, right


Translate = Callable[[Layer], Step]
_TRANSLATIONS: dict[str, tuple[Translate, tuple[int, ...] | None, int | None]] = {}


def translates(
    *kinds: str, inputs: tuple[int, ...] | None = (1,), outputs: int | None = 1
) -> Callable[[Translate], Translate]:
    """Register a function as the translation of some layer types.

    Args:
        kinds: the names of the layer types.
        inputs: the allowed numbers of input blobs; None for one or more.
        outputs: the number of output blobs; None for one or more.
    """

    def register(function: Translate) -> Translate:
        for kind in kinds:
            _TRANSLATIONS[kind] = (function, inputs, outputs)
        return function

    return register


def translate(layer: Layer) -> Step:
    """Return the step of a layer; its weights are read here.

    Raises:
        UnsupportedError: timmx cannot evaluate the layer type or a value in it.
        ArtifactError: its contents are invalid.
    """
    if layer.kind == "custom":
        # No hint: Core ML cannot run it either without the app that has the class.
        raise UnsupportedError(
            f"timmx cannot evaluate layer {layer.name!r} (custom): it runs the class {layer.params.className!r} of an "
            "app"
        )
    if layer.kind not in _TRANSLATIONS:
        raise not_evaluated(f"timmx cannot evaluate layer {layer.name!r}: it has the type {layer.kind!r}")
    function, inputs, outputs = _TRANSLATIONS[layer.kind]
    for what, names, allowed in (
        ("inputs", layer.inputs, inputs),
        ("outputs", layer.outputs, None if outputs is None else (outputs,)),
    ):
        if (not names) if allowed is None else (len(names) not in allowed):
            expected = "at least 1" if allowed is None else " or ".join(map(str, allowed))
            raise layer.damaged(f"it has {len(names)} {what} instead of {expected}")
    return function(layer)

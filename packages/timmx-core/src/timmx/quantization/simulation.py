"""Runs a captured program as if some of its layers computed in integers."""

from __future__ import annotations

from collections import ChainMap
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
from torch.export.graph_signature import InputKind
from torch.utils import _pytree as pytree

from timmx.capture import decompose
from timmx.contract import HARDSWISH_ZERO, CalibrationMethod, LayerKind, QuantizableLayer, WeightKey
from timmx.quantization.ranges import Observed

if TYPE_CHECKING:
    from collections.abc import Callable, Collection, Iterable, Iterator, Mapping, Sequence

    from timmx.contract import IntegerScheme

    Node = torch.fx.Node

aten = torch.ops.aten

_CONVOLUTIONS = frozenset(
    (
        aten.conv1d.default,
        aten.conv2d.default,
        aten.conv2d.padding,
        aten.conv3d.default,
        aten.conv_transpose2d.input,
        aten.convolution.default,
    )
)
_LINEAR = frozenset((aten.linear.default, aten.matmul.default, aten.mm.default, aten.addmm.default))
_FUSED = frozenset(
    (aten.relu.default, aten.relu6.default, aten.hardtanh.default, aten.clamp.default, aten.clamp_min.default)
)
"""What integer kernels apply to a result before they round it."""


@dataclass(frozen=True, kw_only=True)
class _Place:
    """A layer in the graph.

    Attributes:
        node: the layer.
        kind: its arithmetic.
        position: of its activation in the arguments; its weight is the next one.
        source: the node of its activation.
        weight: float32.
        axis: the weight's axis of the output channels; None if one scale has to do for all.
        result: the node whose value is rounded: the layer, or the activation function that is fused with it.
    """

    node: Node
    kind: LayerKind
    position: int
    source: Node
    weight: torch.Tensor
    axis: int | None
    result: Node


class IntegerSimulation:
    """Computes a captured program in float32, with chosen layers as in integers.

    Ranges come from `observe`, which is called once before layers are simulated.

    Args:
        program: float32; not changed.
        scheme: the arithmetic of an integer layer.

    Attributes:
        batch: the batch size that the program takes.
        layers: all that can be simulated, in order of execution; empty before `observe`.
    """

    def __init__(self, program: torch.export.ExportedProgram, scheme: IntegerScheme) -> None:
        program = decompose(program, {})  # without operations in place, which would change kept values
        self._scheme = scheme
        targets = {
            spec.arg.name: str(spec.target)
            for spec in program.graph_signature.input_specs
            if spec.kind is not InputKind.USER_INPUT
        }
        tensors = {**program.state_dict, **program.constants}
        nodes = list(program.graph.nodes)
        self._constants = {
            node: tensors[targets[node.name]].detach()
            for node in nodes
            if node.op == "placeholder" and node.name in targets
        }
        self._input = next(node for node in nodes if node.op == "placeholder" and node not in self._constants)
        self._steps = [node for node in nodes if node.op == "call_function"]
        self._outputs = [
            node for node in pytree.tree_leaves(nodes[-1].args) if isinstance(node, torch.fx.Node)
        ]
        self._sources = {node: tuple(node.all_input_nodes) for node in self._steps}
        self._last_of = self._last_uses()
        size = self._input.meta["val"].shape[0]
        self.batch = size if isinstance(size, int) else 1
        self._places: dict[str, _Place] = {}
        for node in self._steps:
            place = self._place(node)
            if place is not None:
                name = targets[node.args[place.position + 1].name]
                count = sum(name == other.partition("#")[0] for other in self._places)
                self._places[f"{name}#{count}" if count else name] = place
        self._layer_of = {place.node: name for name, place in self._places.items()}
        self._result_of = {place.result: name for name, place in self._places.items()}
        self._ranges: dict[Node, tuple[float, float]] = {}
        self._weights: dict[str, torch.Tensor] = {}
        self.layers: tuple[QuantizableLayer, ...] = ()

    def observe(self, inputs: Callable[[], Iterable[np.ndarray]]) -> None:
        """Observe the ranges of activations, and count multiply-adds.

        Args:
            inputs: returns batches of `batch` inputs, (N, C, H, W) float32; called twice unless the method is minmax.
        """
        nodes = {node for place in self._places.values() for node in (place.source, place.result)}
        observed = {node: Observed() for node in nodes}
        method = self._scheme.method

        sizes: dict[Node, int] = {}

        def widen(node: Node, value: Any) -> None:
            if isinstance(value, torch.Tensor):
                sizes[node] = value.numel() // self.batch
            if node in observed:
                observed[node].widen(value.cpu().numpy())

        def count(node: Node, value: Any) -> None:
            if node in observed:
                observed[node].count(value.cpu().numpy())

        for array in inputs():
            self._run(array, visit=widen)
        if method is not CalibrationMethod.MINMAX:
            for array in inputs():
                self._run(array, visit=count)
        self._ranges = {node: values.range(method, self._scheme.bits) for node, values in observed.items()}
        if self._scheme.clips_hardswish:
            for node, (low, high) in self._ranges.items():
                if all(user.target is aten.hardswish.default for user in node.users):
                    self._ranges[node] = max(low, HARDSWISH_ZERO), high
        self.layers = tuple(self._layer(name, place, sizes) for name, place in self._places.items())

    def outputs(
        self, array: np.ndarray, integer: Collection[str] = (), stored: Collection[str] = ()
    ) -> list[np.ndarray]:
        """The outputs for a batch with some layers in integers, and others with integer weights in float."""
        values = self._run(array, frozenset(integer), frozenset(stored))
        return [values[node].cpu().numpy() for node in self._outputs]

    def outputs_of_each(
        self, array: np.ndarray, groups: Sequence[Collection[str]], *, stored: bool = False
    ) -> tuple[list[np.ndarray], Iterator[list[np.ndarray]]]:
        """The outputs for a batch in float, and with each group of layers alone in integers; or `stored` weights only.

        For a group, only what follows its layers is computed again; all float values are in memory until then.
        """
        exact = self._run(array, keep=True)

        def run(group: frozenset[str]) -> dict[Node, Any]:
            integer, weights_only = (frozenset[str](), group) if stored else (group, frozenset[str]())
            return self._run(array, integer, weights_only, exact=exact)

        each = (run(frozenset(group)) for group in groups)
        return (
            [exact[node].cpu().numpy() for node in self._outputs],
            ([values.get(node, exact[node]).cpu().numpy() for node in self._outputs] for values in each),
        )

    @torch.no_grad()
    def _run(
        self,
        array: np.ndarray,
        integer: frozenset[str] = frozenset(),
        stored: frozenset[str] = frozenset(),
        *,
        exact: Mapping[Node, Any] | None = None,
        keep: bool = False,
        visit: Callable[[Node, Any], object] | None = None,
    ) -> dict[Node, Any]:
        """The value of each node, as far as it is needed.

        Args:
            integer: names of layers.
            stored: names of layers in float whose weights are integers.
            exact: the values in float, of which only those are computed again that differ.
            keep: keep all values, not only the outputs.
            visit: receives each value.
        """
        values: dict[Node, Any] = {}
        known = ChainMap(values, self._constants, dict(exact or {}))
        if exact is None:
            device = next((value.device for value in self._constants.values()), "cpu")
            values[self._input] = torch.from_numpy(np.ascontiguousarray(array)).to(device)
            if visit is not None:
                visit(self._input, values[self._input])

        for node in self._steps:
            layer, ended = self._layer_of.get(node), self._result_of.get(node)
            same = layer not in integer | stored and not any(
                source in values for source in self._sources[node]
            )
            if exact is not None and same:
                continue
            args, kwargs = torch.fx.map_arg((node.args, node.kwargs), known.__getitem__)
            if layer in integer:
                args = self._in_integers(layer, list(args))
            elif layer in stored:
                args = self._with_stored_weight(layer, list(args))
            result = node.target(*args, **kwargs)
            if ended in integer and self._places[ended].kind in self._scheme.rounded_results:
                result = self._round(result, node)
            values[node] = result
            if visit is not None:
                visit(node, result)
            if not keep and exact is None:
                for source in self._last_of.get(node, ()):
                    values.pop(source, None)
        return values

    def _in_integers(self, name: str, args: list[Any]) -> list[Any]:
        place = self._places[name]
        args[place.position] = self._round(args[place.position], place.source)
        return self._with_stored_weight(name, args)

    def _with_stored_weight(self, name: str, args: list[Any]) -> list[Any]:
        place = self._places[name]
        if name not in self._weights:
            self._weights[name] = self._rounded_weight(place)
        args[place.position + 1] = self._weights[name]
        return args

    def _rounded_weight(self, place: _Place) -> torch.Tensor:
        weight, limit = place.weight, self._scheme.weight_limit
        if place.axis is None or not self._scheme.per_channel:
            largest = weight.abs().amax()
        else:
            others = [axis for axis in range(weight.ndim) if axis != place.axis]
            largest = weight.abs().amax(others, keepdim=True)
        scale = torch.where(largest > 0, largest, 1.0) / limit
        return torch.round(weight / scale).clamp(-limit, limit) * scale

    def _round(self, value: torch.Tensor, node: Node) -> torch.Tensor:
        """Round an activation to the integers of its observed range."""
        low, high = self._ranges[node]
        levels = 2**self._scheme.bits
        if self._scheme.symmetric:
            largest = levels // 2 - 1
            scale, zero, limits = max(-low, high) / largest, 0, (-largest, largest)
        else:
            scale = (high - low) / (levels - 1)
            limits = (0, levels - 1)
            zero = round(-low / scale) if scale > 0 else 0
        if not (np.isfinite(scale) and scale >= np.finfo(np.float32).tiny):
            return value
        return torch.fake_quantize_per_tensor_affine(value, scale, min(zero, limits[1]), *limits)

    def _place(self, node: Node) -> _Place | None:
        """The layer of a node; None if it has no constant weight of floats."""
        convolution = node.target in _CONVOLUTIONS
        if not convolution and node.target not in _LINEAR:
            return None
        position = int(node.target is aten.addmm.default)  # whose first argument is the bias
        source, parameter = node.args[position : position + 2]
        if not isinstance(source, torch.fx.Node) or source in self._constants:
            return None
        weight = self._constants.get(parameter) if isinstance(parameter, torch.fx.Node) else None
        if weight is None or weight.dtype is not torch.float32 or weight.ndim < 2 or not bool(weight.any()):
            return None
        axis: int | None = 0
        if node.target is aten.conv_transpose2d.input or (
            node.target is aten.convolution.default and node.args[6]
        ):
            axis = 1 if weight.shape[0] == source.meta["val"].shape[1] and self._groups(node) == 1 else None
        elif not convolution and node.target is not aten.linear.default:
            if weight.ndim != 2:
                return None
            axis = 1
        result = node
        if len(node.users) == 1:
            user = next(iter(node.users))
            result = user if user.target in _FUSED else node
        return _Place(
            node=node,
            kind=LayerKind.CONVOLUTION if convolution else LayerKind.LINEAR,
            position=position,
            source=source,
            weight=weight,
            axis=axis,
            result=result,
        )

    @staticmethod
    def _groups(node: Node) -> int:
        position = 8 if node.target is aten.convolution.default else 6
        return int(node.args[position]) if len(node.args) > position else 1  # type: ignore[arg-type]

    def _layer(self, name: str, place: _Place, sizes: Mapping[Node, int]) -> QuantizableLayer:
        weight, node = place.weight, place.node
        transposed = node.target is aten.conv_transpose2d.input
        positions = sizes[place.source if transposed else node]
        convolution = place.kind is LayerKind.CONVOLUTION
        each = weight[0].numel() if convolution else weight.numel() // weight.shape[place.axis or 0]
        return QuantizableLayer(name, place.kind, WeightKey.of(weight.cpu().numpy()), positions * each)

    def _last_uses(self) -> dict[Node, list[Node]]:
        """The values that a node is the last to use, by that node."""
        last: dict[Node, Node] = {}
        for node in self._steps:
            last |= dict.fromkeys(self._sources[node], node)
        ends: dict[Node, list[Node]] = {}
        for source, node in last.items():
            if source not in self._outputs:
                ends.setdefault(node, []).append(source)
        return ends

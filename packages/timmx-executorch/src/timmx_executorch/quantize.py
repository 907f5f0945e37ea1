"""Quantizes a lowered program with torchao's pt2e flow, for the integer kernels of XNNPACK."""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
from executorch.backends.transforms.duplicate_dynamic_quant_chain import DuplicateDynamicQuantChainPass
from executorch.backends.xnnpack.quantizer.xnnpack_quantizer import XNNPACKQuantizer
from timmx.plugin import LayerKind, WeightKey
from torch.utils import _pytree as pytree
from torchao.quantization.pt2e import PerChannelMinMaxObserver, PlaceholderObserver
from torchao.quantization.pt2e.quantize_pt2e import convert_pt2e, prepare_pt2e
from torchao.quantization.pt2e.quantizer import (
    FixedQParamsQuantizationSpec,
    QuantizationAnnotation,
    QuantizationConfig,
    QuantizationSpec,
    Quantizer,
)

from timmx_executorch.convert import quiet

if TYPE_CHECKING:
    from collections.abc import Callable, Collection, Mapping

aten = torch.ops.aten

ANNOTATION = "quantization_annotation"
"""The key of torchao's annotations in a node's metadata."""
_LOW, _HIGH = -128, 127
_KINDS = {aten.conv2d.default: LayerKind.CONVOLUTION, aten.linear.default: LayerKind.LINEAR}
_SMALLEST_SCALE = 2**-20
"""Of a channel's weights. XNNPACK's quantizer has 2**-12, which rounds channels below 0.016 to 7 bits or fewer."""
_WEIGHTS = QuantizationSpec(
    dtype=torch.int8,
    quant_min=-127,
    quant_max=127,
    qscheme=torch.per_channel_symmetric,
    ch_axis=0,
    observer_or_fake_quant_ctr=PerChannelMinMaxObserver.with_args(eps=_SMALLEST_SCALE),
)
_FIXED = FixedQParamsQuantizationSpec(
    dtype=torch.int8,
    scale=1.0,
    zero_point=0,
    quant_min=_LOW,
    quant_max=_HIGH,
    qscheme=torch.per_tensor_affine,
)
"""Stands for a range until `_Planned` knows whose it is."""
_RUN_TIME = QuantizationSpec(
    dtype=torch.int8,
    quant_min=_LOW,
    quant_max=_HIGH,
    qscheme=torch.per_tensor_affine,
    is_dynamic=True,
    observer_or_fake_quant_ctr=PlaceholderObserver.with_args(eps=2**-20),
)


@dataclass(frozen=True)
class Layer:
    """A convolution or linear layer.

    Attributes:
        node: its name in the module of the program.
        kind: its arithmetic.
        weight: recognizes it in the model.
        dynamic: whether XNNPACK computes it with ranges of each run: no convolution of groups of channels or of one
            channel, and none whose padding is an operation of its own, which executorch 1.5 writes but does not run.
    """

    node: str
    kind: LayerKind
    weight: WeightKey
    dynamic: bool


def layers(program: torch.export.ExportedProgram) -> list[Layer]:
    """The layers with a constant weight that can compute in integers, in order of execution."""
    module = program.module()
    found = []
    for node in module.graph.nodes:
        if node.target in _KINDS and node.args[1].op == "get_attr":
            weight = _attribute(module, node.args[1].target)
            grouped = weight.ndim == 4 and (
                weight.shape[1] == 1 or (len(node.args) > 6 and node.args[6] != 1)
            )
            padded = node.args[0].target in (aten.pad.default, aten.constant_pad_nd.default)
            key = WeightKey.of(weight)
            found.append(Layer(node.name, _KINDS[node.target], key, not (grouped or padded)))
    return found


def _attribute(module: torch.nn.Module, path: str) -> np.ndarray:
    owner, _, name = path.rpartition(".")
    tensor = getattr(module.get_submodule(owner), name)
    return np.asarray(tensor.detach().cpu().numpy())


class StaticQuantizer(XNNPACKQuantizer):  # type: ignore[misc]
    """Annotates the chosen operations with fixed ranges.

    Args:
        chosen: names of nodes.
        ranges: low and high of values by node.
    """

    def __init__(self, chosen: Collection[str], ranges: Mapping[str, tuple[float, float]]) -> None:
        super().__init__()
        self._ranges = ranges
        self.set_global(QuantizationConfig(_FIXED, _FIXED, _WEIGHTS, None))
        self.set_filter_function(lambda node: node.name in chosen or not _chooses(node))

    def annotate(self, model: torch.fx.GraphModule) -> torch.fx.GraphModule:
        model = super().annotate(model)
        for node in model.graph.nodes:
            annotation = node.meta.get(ANNOTATION)
            if annotation is None:
                continue
            if annotation.output_qspec is _FIXED:
                annotation.output_qspec = self._spec(node)
            for source, spec in annotation.input_qspec_map.items():
                if spec is _FIXED:
                    annotation.input_qspec_map[source] = self._spec(source)
        return model

    def _spec(self, node: torch.fx.Node) -> FixedQParamsQuantizationSpec:
        low, high = self._ranges[node.name]
        scale = max((high - low) / (_HIGH - _LOW), 2**-20)
        return replace(_FIXED, scale=scale, zero_point=int(np.clip(round(_LOW - low / scale), _LOW, _HIGH)))


class LayerQuantizer(Quantizer):  # type: ignore[misc]
    """Annotates the weights of the chosen layers, and if `activations`, their inputs with ranges of each run."""

    def __init__(self, chosen: Collection[str], *, activations: bool) -> None:
        super().__init__()
        self._chosen, self._activations = chosen, activations

    def annotate(self, model: torch.fx.GraphModule) -> torch.fx.GraphModule:
        for node in model.graph.nodes:
            if node.name in self._chosen:
                specs = {node.args[1]: _WEIGHTS} | ({node.args[0]: _RUN_TIME} if self._activations else {})
                node.meta[ANNOTATION] = QuantizationAnnotation(input_qspec_map=specs, _annotated=True)
        return model

    def validate(self, model: torch.fx.GraphModule) -> None:
        """Nothing to check."""


def quantize(
    program: torch.export.ExportedProgram, quantizer: Quantizer, example: torch.Tensor
) -> torch.fx.GraphModule:
    """The program's module with Q/DQ operations where the quantizer annotates it.

    Args:
        example: any input; the weights are observed when the module runs.
    """
    with quiet():
        prepared = prepare_pt2e(program.module(), quantizer)
        prepared(example)
        module = convert_pt2e(prepared)
        # XNNPACK computes wrong values if convolutions of stride 1 and 2 share a rounded input (executorch 1.5)
        DuplicateDynamicQuantChainPass()(module)
        return module


def trace(
    module: torch.fx.GraphModule, example: torch.Tensor, batch_max: int | None
) -> torch.export.ExportedProgram:
    """The program of a quantized module, with a dynamic batch size up to `batch_max`."""
    shapes = None if batch_max is None else ({0: torch.export.Dim("batch", min=1, max=batch_max)},)
    with quiet():
        return torch.export.export(module, (example,), dynamic_shapes=shapes)


def run(module: Callable[[torch.Tensor], Any], batch: np.ndarray) -> list[np.ndarray]:
    """The outputs of a module for a batch of its size."""
    with torch.no_grad():
        return [output.numpy() for output in pytree.tree_leaves(module(torch.from_numpy(batch)))]


_PAIRS = frozenset((aten.add.Tensor, aten.mul.Tensor))
_ADDS = _PAIRS | {aten.cat.default, aten.adaptive_avg_pool2d.default}
"""Operations that XNNPACK computes in integers if their inputs are."""
_MOVES = frozenset(
    (
        aten.relu.default,
        aten.hardtanh.default,
        aten.max_pool2d.default,
        aten.reshape.default,
        aten.permute.default,
        aten.transpose.int,
        aten.slice.Tensor,
        aten.constant_pad_nd.default,
    )
)
"""Operations that keep integers."""


def _chooses(node: torch.fx.Node) -> bool:
    """Whether a node is in integers only if it is chosen."""
    return node.target in _KINDS or node.target in _ADDS


def inner_outputs(program: torch.export.ExportedProgram) -> frozenset[str]:
    """The nodes whose results are outputs, and inputs of other operations: XNNPACK cannot return them as integers."""
    graph = program.module().graph
    found: set[str] = set()
    for node in graph.output_node().all_input_nodes:
        if len(node.users) > 1:
            found.add(node.name)
            while node.target in _MOVES:
                node = node.all_input_nodes[0]
                found.add(node.name)
    return frozenset(found)


def with_sums(program: torch.export.ExportedProgram, integers: Collection[str]) -> frozenset[str]:
    """The nodes of these layers, and the sums, products, averages and concatenations of their results."""
    results: set[str] = set()
    chosen = set(integers)
    floats = inner_outputs(program)
    for node in program.module().graph.nodes:
        sources = [source for source in pytree.tree_leaves(node.args) if isinstance(source, torch.fx.Node)]
        if node.name in integers:
            results.add(node.name)
        elif node.name not in floats and sources and all(source.name in results for source in sources):
            sums = node.target in _ADDS and not (node.target in _PAIRS and len(sources) < 2)
            if sums:
                chosen.add(node.name)
            if sums or node.target in _MOVES:
                results.add(node.name)
    return frozenset(chosen)


def entry_name(program: torch.export.ExportedProgram) -> str:
    """The name of the input's node."""
    return next(node.name for node in program.module().graph.nodes if node.op == "placeholder")

"""Batch norm folded into the convolution or linear layer before it, where one observed forward shows it exact."""

from __future__ import annotations

from collections import Counter
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

import torch
from timm.layers import BatchNormAct2d, Conv2dSame, FrozenBatchNormAct2d, SyncBatchNormAct
from torch import nn
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils.weak import WeakIdKeyDictionary
from torchvision.ops.misc import FrozenBatchNorm2d

if TYPE_CHECKING:
    from collections.abc import Iterator

# Exact types only: a subclass may compute something else. All have the output channels first in `weight`.
_LINEAR = (nn.Conv1d, nn.Conv2d, nn.Conv3d, Conv2dSame, nn.Linear)
_NORMS = (
    nn.BatchNorm1d,
    nn.BatchNorm2d,
    nn.BatchNorm3d,
    nn.SyncBatchNorm,
    BatchNormAct2d,
    SyncBatchNormAct,
    FrozenBatchNorm2d,
    FrozenBatchNormAct2d,
)
_OWN_DATA = ("weight", "bias", "running_mean", "running_var")


def fold_batch_norms(model: nn.Module, example: torch.Tensor) -> int:
    """Fold, in place, each batch norm that is the only reader of one linear layer's output.

    Which norm follows which layer is taken from the tensors of one forward pass, not from names or order:
    the layer and the norm run once, every operation that reads the layer's output lies inside the norm, and
    nothing else touches the weights of either. The folded norm leaves the model; its activation stays.

    Args:
        model: in eval mode.
        example: (N, C, H, W), one input is enough.

    Returns:
        How many norms were folded.

    Source: Jacob et al., "Quantization and Training of Neural Networks for Efficient
        Integer-Arithmetic-Only Inference" (2018), section 3.2; computed in float64.
    """
    pairs = _foldable(model, example)
    replacements: dict[int, nn.Module] = {}
    for layer, norm in pairs:
        _fold(layer, norm)
        replacements[id(norm)] = _rest_of(norm)
    replace_modules(model, replacements)
    return len(pairs)


def replace_modules(model: nn.Module, replacements: dict[int, nn.Module]) -> None:
    """Put new modules in the place of old ones, under every parent and name that they have.

    Args:
        model: changed in place; itself never replaced.
        replacements: from the old module's `id` to the new module.
    """
    for parent in list(model.modules()):
        for name, child in parent._modules.items():
            if child is not None and id(child) in replacements:
                parent._modules[name] = replacements[id(child)]


def untouched(module: nn.Module) -> bool:
    """Whether nobody hooked into the module's call or set its `forward`: replacing it then loses nothing."""
    hooks = (
        module._forward_hooks,
        module._forward_pre_hooks,
        module._backward_hooks,
        module._backward_pre_hooks,
    )
    return not any(hooks) and "forward" not in vars(module)


@dataclass
class _Output:
    """What became of one linear layer's output tensor."""

    layer: nn.Module
    ndim: int
    norm: nn.Module | None = None
    """The norm that was called with this very tensor."""
    readers: set[nn.Module | None] = field(default_factory=set)
    """The watched modules whose operations read it; None for anything else."""


class _Dataflow(TorchDispatchMode):
    """Watches layers and norms during one forward: who reads whose output, and whose weights.

    The dispatcher's level is below autograd, TorchScript and no-op methods, so that every real read is
    seen, and a look at a shape is none.
    """

    def __init__(self, layers: list[nn.Module], norms: list[nn.Module]) -> None:
        super().__init__()  # type: ignore[no-untyped-call]
        self.calls: Counter[nn.Module] = Counter()
        self.outputs: WeakIdKeyDictionary = WeakIdKeyDictionary()
        self.records: list[_Output] = []
        self.read_by_others: set[nn.Module] = set()
        self._running: list[nn.Module] = []
        self._owners: dict[int, list[nn.Module]] = {}
        for module in (*layers, *norms):
            for tensor in _own_tensors(module):
                self._owners.setdefault(id(tensor), []).append(module)
        self._handles = [
            handle
            for module in (*layers, *norms)
            for handle in (
                module.register_forward_pre_hook(self._enter),
                module.register_forward_hook(self._leave, always_call=True),
            )
        ]
        self._layers = set(layers)

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        kwargs = kwargs or {}
        reader = self._running[-1] if self._running else None
        for tensor in _tensors((args, kwargs)):
            if (output := self.outputs.get(tensor)) is not None:
                output.readers.add(reader)
            owners = self._owners.get(id(tensor))
            if owners is not None and reader not in owners:
                self.read_by_others.update(owners)
        return func(*args, **kwargs)

    def read_outside(self, value: Any) -> None:
        """Tensors that the model hands out are read by its caller."""
        for tensor in _tensors(value):
            if (output := self.outputs.get(tensor)) is not None:
                output.readers.add(None)

    def remove_hooks(self) -> None:
        for handle in self._handles:
            handle.remove()

    def _enter(self, module: nn.Module, args: tuple[Any, ...]) -> None:
        self.calls[module] += 1
        self._running.append(module)
        if module not in self._layers and len(args) == 1 and isinstance(args[0], torch.Tensor):
            output = self.outputs.get(args[0])
            if output is not None:
                output.norm = module

    def _leave(self, module: nn.Module, args: tuple[Any, ...], result: Any) -> None:
        self._running.pop()
        if module in self._layers and isinstance(result, torch.Tensor):
            self.outputs[result] = output = _Output(module, result.ndim)
            self.records.append(output)


def _foldable(model: nn.Module, example: torch.Tensor) -> list[tuple[nn.Module, nn.Module]]:
    """The pairs (layer, norm), in the order of execution, whose fold is exact."""
    layers = [module for module in model.modules() if type(module) in _LINEAR and untouched(module)]
    norms = [module for module in model.modules() if type(module) in _NORMS and _is_constant_affine(module)]
    if not layers or not norms:
        return []
    holders = Counter(
        id(parameter) for module in model.modules() for parameter in module._parameters.values()
    )
    dataflow = _Dataflow(layers, norms)
    try:
        with torch.no_grad(), dataflow:
            dataflow.read_outside(model(example))
    finally:
        dataflow.remove_hooks()
    return [
        (output.layer, output.norm)
        for output in dataflow.records
        if output.norm is not None
        and output.readers == {output.norm}
        and dataflow.calls[output.layer] == dataflow.calls[output.norm] == 1
        and dataflow.read_by_others.isdisjoint((output.layer, output.norm))
        and all(holders[id(p)] == 1 for p in output.layer._parameters.values() if p is not None)
        and _fits(output)
    ]


def _is_constant_affine(norm: nn.Module) -> bool:
    """Whether the norm is a fixed scale and shift per channel: statistics kept, not training, no hooks."""
    return (
        not norm.training
        and getattr(norm, "running_mean", None) is not None
        and getattr(norm, "running_var", None) is not None
        and untouched(norm)
    )


def _fits(output: _Output) -> bool:
    """Whether the norm's channels are the layer's: axis 1 of a batched output, one type on one device."""
    layer, mean = output.layer, output.norm.running_mean  # type: ignore[union-attr]
    weight = layer.weight
    return bool(
        output.ndim == weight.ndim
        and len(mean) == len(weight)  # type: ignore[arg-type]
        and weight.dtype == mean.dtype
        and weight.is_floating_point()  # type: ignore[operator]
        and weight.device == mean.device
    )


@torch.no_grad()
def _fold(layer: Any, norm: Any) -> None:
    """Scale the layer's output channels as the norm does, in float64, and give it the norm's shift as bias."""
    scale = (norm.running_var.double() + norm.eps).rsqrt()
    if norm.weight is not None:
        scale *= norm.weight.double()
    bias = -norm.running_mean.double()
    if layer.bias is not None:
        bias += layer.bias.double()
    bias *= scale
    if norm.bias is not None:
        bias += norm.bias.double()
    weight = layer.weight
    weight.copy_(weight.double() * scale.reshape(-1, *[1] * (weight.ndim - 1)))
    if layer.bias is not None:
        layer.bias.copy_(bias)
    else:
        layer.bias = nn.Parameter(bias.to(weight.dtype), requires_grad=weight.requires_grad)


def _rest_of(norm: nn.Module) -> nn.Module:
    """What a norm does after normalising: its drop and activation, or nothing."""
    steps = [getattr(norm, name, None) for name in ("drop", "act")]
    kept = [step for step in steps if step is not None and not isinstance(step, nn.Identity)]
    if len(kept) == 1:
        return kept[0]
    return nn.Sequential(*kept) if kept else nn.Identity()


def _own_tensors(module: nn.Module) -> Iterator[torch.Tensor]:
    for name in _OWN_DATA:
        if isinstance(tensor := getattr(module, name, None), torch.Tensor):
            yield tensor


def _tensors(value: Any) -> Iterator[torch.Tensor]:
    """All tensors in nested tuples, lists and dicts."""
    if isinstance(value, torch.Tensor):
        yield value
    elif isinstance(value, (tuple, list)):
        for item in value:
            yield from _tensors(item)
    elif isinstance(value, dict):
        yield from _tensors(list(value.values()))

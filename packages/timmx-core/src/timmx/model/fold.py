"""Folds batch norms into the convolution or linear layer before them, where one forward pass shows that it is exact."""

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
    """Fold, in place, each batch norm that is the only reader of a linear layer's output.

    The pairs are found from the tensors of one forward pass, not from names or order: the layer and the norm run
    once, only operations inside the norm read the layer's output, and no other module uses the weights of either.
    The folded norm is removed from the model; its activation stays.

    Args:
        model: in eval mode.
        example: (N, C, H, W), one input is enough.

    Returns:
        Number of folded norms.

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
    """Replace modules under all their parents and names.

    Args:
        model: changed in place; the root itself is not replaced.
        replacements: new modules by the `id` of the old ones.
    """
    for parent in list(model.modules()):
        for name, child in parent._modules.items():
            if child is not None and id(child) in replacements:
                parent._modules[name] = replacements[id(child)]


def is_replaceable(module: nn.Module) -> bool:
    """Whether the module has no hooks and no `forward` of its own instance, which a replacement would lose."""
    hooks = (
        module._forward_hooks,
        module._forward_pre_hooks,
        module._backward_hooks,
        module._backward_pre_hooks,
    )
    return not any(hooks) and "forward" not in vars(module)


@dataclass
class _Output:
    """The modules that used the output tensor of one linear layer."""

    layer: nn.Module
    ndim: int
    norm: nn.Module | None = None
    """The norm that was called with this tensor object."""
    readers: set[nn.Module | None] = field(default_factory=set)
    """The watched modules whose operations read it; None for any other code."""


class _Dataflow(TorchDispatchMode):
    """Records, during one forward pass, which layers and norms read which outputs and weights.

    The dispatcher lies below autograd, TorchScript and no-op methods, so every real read is recorded, and access to
    a shape is not.
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
        """Record that the caller reads the model's outputs."""
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
    """The pairs (layer, norm) whose fold is exact, in order of execution."""
    layers = [module for module in model.modules() if type(module) in _LINEAR and is_replaceable(module)]
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
    """Whether the norm is a fixed scale and shift per channel: in eval mode, with statistics, without hooks."""
    return (
        not norm.training
        and getattr(norm, "running_mean", None) is not None
        and getattr(norm, "running_var", None) is not None
        and is_replaceable(norm)
    )


def _fits(output: _Output) -> bool:
    """Whether norm and layer have the same channels (axis 1 of a batched output), type and device."""
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
    """Multiply the norm's scale into the layer's weight and add its shift to the bias, in float64."""
    scale = (norm.running_var.double() + norm.eps).rsqrt()
    _keep_statistics(layer, norm, scale)
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


FOLDED_STATISTICS = "timmx_folded_statistics"
"""Attribute of a layer into which a norm was folded: mean and variance per channel of its outputs in training.
With the `eps` of the norm in the variance, they are its `bias` and the square of its `weight`."""


def _keep_statistics(layer: Any, norm: Any, scale: torch.Tensor) -> None:
    """Store the statistics of the layer's new outputs; initial ones, of a norm that was not trained, are not stored."""
    if bool((norm.running_mean == 0).all()) and bool((norm.running_var == 1).all()):
        return
    weight = torch.ones_like(scale) if norm.weight is None else norm.weight.double()
    mean = torch.zeros_like(scale) if norm.bias is None else norm.bias.double()
    # Arrays, which torch.export does not see.
    setattr(layer, FOLDED_STATISTICS, (mean.cpu().numpy(), weight.square().cpu().numpy()))


def _rest_of(norm: nn.Module) -> nn.Module:
    """The steps of a norm after normalization: its drop and activation, or an identity."""
    modules = [getattr(norm, name, None) for name in ("drop", "act")]
    steps = [step for step in modules if step is not None and not isinstance(step, nn.Identity)]
    if len(steps) == 1:
        return steps[0]
    return nn.Sequential(*steps) if steps else nn.Identity()


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

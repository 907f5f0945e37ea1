"""Runs a PyTorch model in another arithmetic: exactly (float64), or rounded to half precision after every operation."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
from torch.overrides import TorchFunctionMode
from torch.utils import _pytree as pytree

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

_ATTRIBUTES = ("__get__", "__set__", "__delete__")


class ExactArithmetic(TorchFunctionMode):
    """Computes every function of torch in float64 while it is active.

    Unlike `module.double()` it copies one operation's weights at a time, and models whose forward names float32 run.
    """

    def __torch_function__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        kwargs = kwargs or {}
        if getattr(func, "__name__", "") in _ATTRIBUTES:
            return func(*args, **kwargs)
        if func is torch.Tensor.float:
            func = torch.Tensor.double
        target = args[0] if _writes(func) and args else None
        with torch._C.DisableTorchFunction():
            if isinstance(target, torch.Tensor) and target.dtype is torch.float32:
                return func(*args, **kwargs)  # it cannot change the type of its target
            return widen(func(*widen(args), **widen(kwargs)))


class RoundedArithmetic(TorchFunctionMode):
    """Computes in float32 and rounds the arguments and results of every function of torch to a half-precision type."""

    def __init__(self, dtype: torch.dtype) -> None:
        super().__init__()
        self._dtype = dtype

    def __torch_function__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        kwargs = kwargs or {}
        if getattr(func, "__name__", "") in _ATTRIBUTES:
            return func(*args, **kwargs)
        with torch._C.DisableTorchFunction():
            if _writes(func):
                result = func(*args, **kwargs)
                if isinstance(result, torch.Tensor) and result.dtype is torch.float32:
                    result.copy_(self._round(result))
                return result
            return self._round(func(*self._round(args), **self._round(kwargs)))

    def _round(self, values: Any) -> Any:
        return _map(values, lambda tensor: tensor.to(self._dtype).float())


def widen(values: Any) -> Any:
    """The values with float64 instead of float32, tensors and types."""
    return _map(values, torch.Tensor.double, torch.float64)


def _map(
    values: Any, function: Callable[[torch.Tensor], torch.Tensor], dtype: torch.dtype = torch.float32
) -> Any:
    def convert(value: Any) -> Any:
        if isinstance(value, torch.Tensor):
            return function(value) if value.dtype is torch.float32 else value
        return dtype if value is torch.float32 else value

    return pytree.tree_map(convert, values)


def _writes(func: Any) -> bool:
    name: str = getattr(func, "__name__", "")
    if name.startswith("__"):
        return name in ("__setitem__", "__iadd__", "__isub__", "__imul__", "__itruediv__")
    return name.endswith("_")


@dataclass(frozen=True, kw_only=True)
class ExactValue:
    """A value of a graph.

    Attributes:
        name: the node's name.
        module: path of the module in the model that computes it; empty for the model itself.
        kind: the operation, such as `conv2d`.
        array: float32.
        rounding_db: PyTorch's float32 result for the same inputs against it, as `own_db` measures it; infinite if
            they are equal.
    """

    name: str
    module: str
    kind: str
    array: np.ndarray
    rounding_db: float


class ExactGraph(torch.fx.Interpreter):
    """Runs a captured graph; computes every operation in float64 and rounds its results once to float32.

    So each value is the exact result, to the last bit, of the values that its operation takes, however much the
    whole graph amplifies rounding.
    """

    def __init__(self, module: torch.fx.GraphModule) -> None:
        super().__init__(module)
        self._values: dict[str, list[ExactValue]] = {}

    def values(self, inputs: torch.Tensor) -> tuple[list[ExactValue], list[ExactValue]]:
        """Run once.

        Returns:
            The float values in order of execution, the input first; and those of the outputs.
        """
        self._values = {}
        with torch.no_grad():
            self.run(inputs)
        sources: list[torch.fx.Node] = []
        output_node = next(iter(self.graph.find_nodes(op="output")))
        torch.fx.map_arg(output_node.args, sources.append)
        values, self._values = self._values, {}
        return [value for found in values.values() for value in found], [
            values[source.name][0] for source in sources
        ]

    def run_node(self, n: torch.fx.Node) -> Any:
        rounded: Any = None
        if n.op == "call_function" and isinstance(n.target, torch._ops.OpOverload):
            args, kwargs = self.fetch_args_kwargs_from_env(n)
            if not _is_view(n.target) and not n.target._schema.is_mutable:
                rounded = n.target(*args, **kwargs)
            result = _exact_call(n.target, args, kwargs)
        else:
            result = super().run_node(n)
        if n.op in ("call_function", "placeholder"):
            own = list(_float_tensors(rounded))
            overwritten = any(map(_writes_in_place, n.users))
            self._values[n.name] = [
                ExactValue(
                    name=n.name,
                    module=_module_of(n),
                    kind=_kind_of(n),
                    array=_array(tensor).copy() if overwritten else _array(tensor),
                    rounding_db=own_db(_array(tensor), _array(own[index])) if own else math.inf,
                )
                for index, tensor in enumerate(_float_tensors(result))
            ]
        return result


def own_db(exact: np.ndarray, result: np.ndarray) -> float:
    """The ratio of an operation's result to its exact one, at the worst index of any axis, in dB.

    An error in one weight of a convolution changes one channel. Rounding errors are relative to the terms of a sum,
    so a channel of small values counts like an average one.
    """
    exact = exact.astype(np.float64)
    error, energy = np.square(result.astype(np.float64) - exact), np.square(exact)
    if not np.isfinite(error).all():
        return -math.inf
    mean, worst = float(energy.mean()), float(error.mean())
    if not mean:
        return -math.inf if worst else math.inf
    worst /= mean
    for axis in range(exact.ndim):
        if exact.shape[axis] > 1:
            others = tuple(other for other in range(exact.ndim) if other != axis)
            noise, signal = error.mean(axis=others), energy.mean(axis=others)
            worst = max(worst, float((noise / np.maximum(signal, mean)).max()))
    return -10 * math.log10(worst) if worst > 0 else math.inf


def _exact_call(target: torch._ops.OpOverload, args: Any, kwargs: Any) -> Any:
    schema = target._schema
    if _is_view(target):
        return target(*args, **kwargs)
    wide = widen(args)
    results = target(*wide, **widen(kwargs))
    if schema.is_mutable:
        for argument, before, after in zip(schema.arguments, args, wide, strict=False):
            if argument.alias_info is not None and argument.alias_info.is_write and after is not before:
                before.copy_(after)
        return args[0]
    return pytree.tree_map(
        lambda value: (
            value.float() if isinstance(value, torch.Tensor) and value.dtype is torch.float64 else value
        ),
        results,
    )


def _is_view(target: torch._ops.OpOverload) -> bool:
    schema = target._schema
    return not schema.is_mutable and any(item.alias_info is not None for item in schema.returns)


def _writes_in_place(node: torch.fx.Node) -> bool:
    return isinstance(node.target, torch._ops.OpOverload) and node.target._schema.is_mutable


def _array(tensor: torch.Tensor) -> np.ndarray:
    return tensor.detach().cpu().numpy()


def _float_tensors(result: Any) -> Iterator[torch.Tensor]:
    for value in pytree.tree_leaves(result):
        if isinstance(value, torch.Tensor) and value.dtype is torch.float32 and value.numel():
            yield value


def _module_of(node: torch.fx.Node) -> str:
    """The path of the innermost module, as in the model that the user named."""
    scopes = [path for path, _ in (node.meta.get("nn_module_stack") or {}).values()]
    path = str(scopes[-1]) if scopes else ""
    path = path.removeprefix("L['self'].").removeprefix("L__self___")
    return path.removeprefix("model.")


def _kind_of(node: torch.fx.Node) -> str:
    if node.op == "placeholder":
        return "input"
    packet = getattr(node.target, "overloadpacket", node.target)
    return str(getattr(packet, "__name__", packet))

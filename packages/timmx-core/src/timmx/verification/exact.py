"""Runs a PyTorch model in another arithmetic: exactly (float64), or rounded to half precision after every operation."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import torch
from torch.overrides import TorchFunctionMode
from torch.utils import _pytree as pytree

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

    import numpy as np

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
    """

    name: str
    module: str
    kind: str
    array: np.ndarray


class ExactGraph(torch.fx.Interpreter):
    """Runs a captured graph; computes every operation in float64 and rounds its results once to float32.

    So each value is the exact result, to the last bit, of the values that its operation takes, however much the
    whole graph amplifies rounding.
    """

    def __init__(self, module: torch.fx.GraphModule) -> None:
        super().__init__(module)
        self._values: list[ExactValue] = []

    def values(self, inputs: torch.Tensor) -> tuple[list[ExactValue], tuple[np.ndarray, ...]]:
        """Run once.

        Returns:
            The float values in order of execution, the input first, and the outputs.
        """
        self._values = []
        with torch.no_grad():
            results = self.run(inputs)
        outputs = [tensor.cpu().numpy() for tensor in pytree.tree_leaves(results)]
        values, self._values = self._values, []
        return values, tuple(outputs)

    def run_node(self, n: torch.fx.Node) -> Any:
        if n.op == "call_function" and isinstance(n.target, torch._ops.OpOverload):
            args, kwargs = self.fetch_args_kwargs_from_env(n)
            result = _exact_call(n.target, args, kwargs)
        else:
            result = super().run_node(n)
        if n.op in ("call_function", "placeholder"):
            self._values += [
                ExactValue(
                    name=n.name, module=_module_of(n), kind=_kind_of(n), array=tensor.detach().cpu().numpy()
                )
                for tensor in _float_tensors(result)
            ]
        return result


def _exact_call(target: torch._ops.OpOverload, args: Any, kwargs: Any) -> Any:
    schema = target._schema
    if not schema.is_mutable and any(item.alias_info is not None for item in schema.returns):
        return target(*args, **kwargs)  # a view
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

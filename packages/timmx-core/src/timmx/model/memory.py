"""Estimates the memory that a model needs for a large input, before it is allocated."""

from __future__ import annotations

import math
import weakref
from typing import TYPE_CHECKING, Any

from timmx.base import memory_bytes, size_text
from timmx.errors import ConfigurationError

if TYPE_CHECKING:
    from torch import nn

_SMALL = 2**22
"""Inputs of up to this many numbers, such as 3 x 1024 x 1024, are not checked."""

_BYTES_PER_NUMBER = 20
"""Of a synthetic input, while it is made: two float64 and one float32 arrays."""


def check_memory(module: nn.Module, size: tuple[int, int, int], count: int) -> None:
    """Check that a model can run at an input size on this machine, if the input is large.

    Args:
        module: takes (N, C, H, W).
        size: (channels, height, width).
        count: number of inputs that are in memory and run at once.

    Raises:
        ConfigurationError: the inputs and activations do not fit into this machine's memory.
    """
    elements, memory = math.prod(size), memory_bytes()
    if elements <= _SMALL or memory is None:
        return
    inputs = count * elements * _BYTES_PER_NUMBER
    needed = inputs if inputs > memory else max(inputs, count * activation_bytes(module, size))
    if needed > memory:
        raise ConfigurationError(
            f"inputs of {' x '.join(map(str, size))} need about {size_text(needed)} of memory in this model, and this "
            f"machine has {size_text(memory)}",
            hint="use a smaller --input-size or --in-chans",
        )


def activation_bytes(module: nn.Module, size: tuple[int, int, int]) -> int:
    """The largest size of the activations of one input that are in memory at once; 0 if it cannot be estimated.

    The model runs on tensors without data, as on its device: with PyTorch's fused attention, for example.
    """
    import torch
    from torch._subclasses.fake_tensor import FakeTensorMode
    from torch.utils._python_dispatch import TorchDispatchMode
    from torch.utils._pytree import tree_leaves

    class Peak(TorchDispatchMode):
        now = most = 0

        def __init__(self) -> None:
            super().__init__()  # type: ignore[no-untyped-call]
            self.known: weakref.WeakSet[Any] = weakref.WeakSet()

        def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
            result = func(*args, **(kwargs or {}))
            for tensor in tree_leaves(result):
                if isinstance(tensor, torch.Tensor):
                    self.count(tensor.untyped_storage())
            return result

        def count(self, storage: Any) -> None:
            if storage not in self.known:
                size_bytes = storage.nbytes()
                self.known.add(storage)
                self.now += size_bytes
                self.most = max(self.most, self.now)
                weakref.finalize(storage, self.free, size_bytes)

        def free(self, size_bytes: int) -> None:
            self.now -= size_bytes

    peak = Peak()
    tensors = {**dict(module.named_parameters()), **dict(module.named_buffers())}
    try:
        with torch.no_grad(), FakeTensorMode() as fake:
            own: dict[str, torch.Tensor] = {
                name: fake.from_tensor(tensor) for name, tensor in tensors.items()
            }
            inputs = torch.empty(1, *size)
            with peak:
                torch.func.functional_call(module, own, (inputs,))
    except Exception:  # an operation that needs values, or fails: the real run reports it
        return 0
    return peak.most

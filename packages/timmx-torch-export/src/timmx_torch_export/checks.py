"""Checks the arguments of operators whose kernels do not.

Most operators check what they are given. These are called by others, such as `_fft_r2c` by `fft_rfft2`, which have
done so: called with sizes that do not fit, their kernels read or write outside the memory of a tensor.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import torch

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping


def check_arguments(module: torch.nn.Module) -> None:
    """Replace each call of such an operator in a module by a call that checks its arguments first."""
    for part in module.modules():
        if not isinstance(part, torch.fx.GraphModule):
            continue
        changed = False
        for node in part.graph.nodes:
            if isinstance(node.target, torch._ops.OpOverload) and node.target._schema.name in _CHECKS:
                node.target = _checked(node.target)
                changed = True
        if changed:
            part.recompile()


def is_kernel(operator: torch._ops.OpOverload) -> bool:
    """Whether an operator has a kernel that makes its results.

    Others are TorchScript's, on numbers, lists and texts of Python, some of which crash; or variants that resize the
    tensors that they write to.
    """
    schema = operator._schema
    name = f"{schema.name}.{schema.overload_name}" if schema.overload_name else schema.name
    return torch._C._dispatch_has_kernel(name) and not any(item.is_out for item in schema.arguments)


def _checked(operator: torch._ops.OpOverload) -> Callable[..., Any]:
    check = _CHECKS[operator._schema.name]
    names = [argument.name for argument in operator._schema.arguments]

    def call(*arguments: Any, **named: Any) -> Any:
        check(dict(zip(names, arguments, strict=False)) | named)
        return operator(*arguments, **named)

    call.__name__ = f"checked_{operator._schema.name.partition('::')[2]}"  # torch generates code with it
    return call


def _require(fits: bool, what: str) -> None:
    if not fits:
        raise ValueError(f"the arguments of {what} do not fit each other")


def _check_batch_norm(call: Mapping[str, Any]) -> None:
    shape = call["input"].shape
    names = ("weight", "bias", "running_mean", "running_var")
    vectors = [call[name] for name in names if call.get(name) is not None]
    _require(len(shape) > 1 and all(vector.shape == shape[1:2] for vector in vectors), "a batch norm")
    stored = all(call.get(name) is not None for name in names[2:])
    _require(stored or call.get("training", False), "a batch norm")


def _check_weight_norm(call: Mapping[str, Any]) -> None:
    direction, length, dim = call["v"], call["g"], call.get("dim", 0)
    if dim in (0, direction.dim() - 1):  # others have no kernel of their own
        fits = direction.numel() > 0 and length.numel() == direction.shape[dim]
        _require(fits and direction.is_contiguous() and length.is_contiguous(), "a weight norm")


def _check_fft(call: Mapping[str, Any]) -> None:
    shape, dims = call["self"].shape, call["dim"]
    _require(
        bool(dims) and len(set(dims)) == len(dims) and all(0 <= dim < len(shape) for dim in dims),
        "a Fourier transform",
    )
    _require(all(shape), "a Fourier transform")
    size = call.get("last_dim_size")
    _require(size is None or (size > 0 and shape[dims[-1]] == size // 2 + 1), "a Fourier transform")


def _check_attention(call: Mapping[str, Any]) -> None:
    query, key, value = (call[name].shape for name in ("query", "key", "value"))
    _require(
        len(query) == len(key) == len(value) == 4
        and all((*query, *key))
        and query[:2] == key[:2] == value[:2]
        and key[2] == value[2]
        and query[3] == key[3] == value[3],
        "an attention",
    )
    mask = call.get("attn_mask", call.get("attn_bias"))
    if mask is not None:
        sizes = (*query[:3], key[2])[4 - mask.dim() :]
        _require(
            mask.dim() in (2, 4)
            and all(size in (1, full) for size, full in zip(mask.shape, sizes, strict=True)),
            "an attention",
        )


def _check_recurrent(call: Mapping[str, Any]) -> None:
    images, states, weights = call["input"], call["hx"], call["params"]
    gates, states = (3, [states]) if isinstance(states, torch.Tensor) else (4, states)
    directions = 2 if call["bidirectional"] else 1
    layers, per_cell = call["num_layers"] * directions, 4 if call["has_biases"] else 2
    fits = images.dim() == 3 and images.is_floating_point() and len(states) == (1 if gates == 3 else 2)
    fits = (
        fits
        and len(weights) == layers * per_cell > 0
        and all(weight.dim() for weight in weights[1::per_cell])
    )
    _require(fits, "a recurrent layer")
    batch, size = images.shape[0 if call["batch_first"] else 1], weights[1].shape[-1]
    shapes = []
    for layer in range(layers):
        width = images.shape[2] if layer < directions else directions * size
        shapes += [(gates * size, width), (gates * size, size), (gates * size,), (gates * size,)][:per_cell]
    _require(
        all(tuple(state.shape) == (layers, batch, size) for state in states)
        and all(tuple(weight.shape) == shape for weight, shape in zip(weights, shapes, strict=True))
        and all(tensor.dtype == images.dtype for tensor in (*states, *weights)),
        "a recurrent layer",
    )


_CHECKS: dict[str, Callable[[Mapping[str, Any]], None]] = {
    **dict.fromkeys(
        ("aten::_native_batch_norm_legit", "aten::_native_batch_norm_legit_no_training"), _check_batch_norm
    ),
    **dict.fromkeys(("aten::_weight_norm", "aten::_weight_norm_interface"), _check_weight_norm),
    **dict.fromkeys(("aten::gru", "aten::lstm"), _check_recurrent),
    **dict.fromkeys(("aten::_fft_c2c", "aten::_fft_c2r", "aten::_fft_r2c"), _check_fft),
    **dict.fromkeys(
        (
            "aten::_scaled_dot_product_efficient_attention",
            "aten::_scaled_dot_product_flash_attention",
            "aten::_scaled_dot_product_flash_attention_for_cpu",
        ),
        _check_attention,
    ),
}

"""Runs a typed ONNX in PyTorch, each node in the types of the graph, to compare with the arithmetic of a GPU."""

from __future__ import annotations

import torch
from torch.nn import functional

FUNCTIONS = {
    "Abs": torch.abs,
    "Add": torch.add,
    "Div": torch.div,
    "Erf": torch.erf,
    "Exp": torch.exp,
    "HardSwish": functional.hardswish,
    "Identity": lambda x: x,
    "MatMul": torch.matmul,
    "Max": torch.maximum,
    "Min": torch.minimum,
    "Mul": torch.mul,
    "Neg": torch.neg,
    "Pow": torch.pow,
    "Reciprocal": torch.reciprocal,
    "Relu": torch.relu,
    "Sigmoid": torch.sigmoid,
    "Sqrt": torch.sqrt,
    "Sub": torch.sub,
    "Tanh": torch.tanh,
}
TYPES = {"FLOAT": torch.float32, "FLOAT16": torch.float16, "BFLOAT16": torch.bfloat16, "INT64": torch.int64}


def run(model, inputs, device):
    """The first output of an `onnx_ir.Model` for inputs (N, C, H, W) float32, as float32 on the host."""
    values = {model.graph.inputs[0]: torch.from_numpy(inputs).to(device)}
    for value in model.graph.initializers.values():
        kind = TYPES.get(value.dtype.name)
        array = value.const_value.numpy()
        if kind in (torch.float16, torch.bfloat16):
            values[value] = torch.from_numpy(array.astype("float32")).to(device, kind)
        else:
            values[value] = torch.from_numpy(array.copy()).to(device)
    with torch.inference_mode():
        for node in model.graph:
            arguments = [None if value is None else values[value] for value in node.inputs]
            attributes = {name: attribute.value for name, attribute in node.attributes.items()}
            result = compute(node.op_type, arguments, attributes)
            result = result if isinstance(result, (list, tuple)) else [result]
            for value, tensor in zip(node.outputs, result, strict=False):
                if value.dtype is not None and value.dtype.name in TYPES:
                    assert tensor.dtype == TYPES[value.dtype.name], (node.op_type, tensor.dtype, value.dtype)
                values[value] = tensor
    return values[model.graph.outputs[0]].float().cpu().numpy()


def compute(kind, inputs, attributes):
    if kind in FUNCTIONS:
        return FUNCTIONS[kind](*inputs, **attributes)
    return globals()[f"_{kind.lower()}"](*inputs, **attributes)


def _hardsigmoid(x, alpha=0.2, beta=0.5):
    return (x * alpha + beta).clamp(0, 1)


def _cast(x, to, **_):
    from onnx_ir import DataType

    return x.to(TYPES[DataType(to).name])


def _conv(x, weight, bias=None, pads=(), strides=(1, 1), dilations=(1, 1), group=1, **_):
    top, left, bottom, right = pads or (0, 0, 0, 0)
    x = functional.pad(x, (left, right, top, bottom))
    return functional.conv2d(x, weight, bias, list(strides), 0, list(dilations), group)


def _gemm(a, b, c=None, alpha=1.0, beta=1.0, transA=0, transB=0):  # noqa: N803 - ONNX's names
    product = alpha * ((a.T if transA else a) @ (b.T if transB else b))
    return product if c is None else product + beta * c


def _maxpool(x, kernel_shape, pads=(), strides=(1, 1), **_):
    top, left, bottom, right = pads or (0, 0, 0, 0)
    x = functional.pad(x, (left, right, top, bottom), value=float("-inf"))
    return functional.max_pool2d(x, list(kernel_shape), list(strides))


def _averagepool(x, kernel_shape, pads=(), strides=(1, 1), ceil_mode=0, count_include_pad=0, **_):
    assert not any(pads)
    return functional.avg_pool2d(
        x, list(kernel_shape), list(strides), ceil_mode=bool(ceil_mode), count_include_pad=False
    )


def _globalaveragepool(x):
    return x.mean((2, 3), keepdim=True)


def _reducemean(x, axes=None, keepdims=1, **_):
    return x.mean(axes.tolist(), keepdim=bool(keepdims))


def _layernormalization(x, scale, bias=None, axis=-1, epsilon=1e-5, **_):
    return functional.layer_norm(x, x.shape[axis:], scale, bias, epsilon)


def _softmax(x, axis=-1):
    return x.softmax(axis)


def _gelu(x, approximate="none"):
    return functional.gelu(x, approximate=approximate)


def _clip(x, low=None, high=None):
    return x.clamp(low, high)


def _transpose(x, perm):
    return x.permute(*perm)


def _reshape(x, shape, allowzero=0):
    sizes = [x.shape[index] if size == 0 else size for index, size in enumerate(shape.tolist())]
    return x.reshape(sizes)


def _flatten(x, axis=1):
    return x.flatten(axis) if axis else x.reshape(1, -1)


def _concat(*parts, axis):
    return torch.cat(parts, axis)


def _split(x, sizes=None, axis=0, num_outputs=None):
    return x.split(sizes.tolist() if sizes is not None else x.shape[axis] // num_outputs, axis)


def _squeeze(x, axes):
    return x.squeeze(tuple(axes.tolist()))


def _unsqueeze(x, axes):
    for axis in sorted(axes.tolist()):
        x = x.unsqueeze(axis)
    return x


def _expand(x, shape):
    return x.expand(torch.broadcast_shapes(x.shape, tuple(shape.tolist()))).clone()


def _gather(x, indices, axis=0):
    result = x.index_select(axis, indices.reshape(-1))
    return result.reshape(*x.shape[:axis], *indices.shape, *x.shape[axis % x.ndim + 1 :])


def _slice(x, starts, ends, axes=None, steps=None):
    picks = [slice(None)] * x.ndim
    for position, axis in enumerate(axes.tolist()):
        step = 1 if steps is None else int(steps[position])
        picks[axis] = slice(int(starts[position]), min(int(ends[position]), x.shape[axis]), step)
    return x[tuple(picks)]


def _shape(x, start=0, end=None):
    return torch.tensor(x.shape[start:end], device=x.device)


def _quantizelinear(x, scale, zero_point, axis=1, **_):
    return torch.round(x / _along(scale, x, axis)).clamp(-128, 127).to(zero_point.dtype)


def _dequantizelinear(x, scale, zero_point, axis=1, **_):
    return x.to(scale.dtype) * _along(scale, x, axis)


def _along(scale, x, axis):
    if scale.ndim == 0:
        return scale
    return scale.reshape([-1 if index == axis % x.ndim else 1 for index in range(x.ndim)])

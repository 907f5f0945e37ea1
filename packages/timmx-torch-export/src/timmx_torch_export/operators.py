"""The operators that a `.pt2` file may call without `--trust`: arithmetic on tensors, and on sizes.

Not among them: operators that open files (`aten::from_file`), resize or replace a tensor's memory (`set_`, `resize_`,
`empty`), skip checks of indices and sparse formats, or call functions of Python. The arguments of some are checked when
they are called (`timmx_torch_export.checks`).
"""

from __future__ import annotations

import re

_ATEN = frozenset(
    """
    _adaptive_avg_pool2d _adaptive_avg_pool3d _assert_scalar _assert_tensor_metadata _fft_c2c _fft_c2r _fft_r2c
    _log_softmax _native_batch_norm_legit _native_batch_norm_legit_no_training _scaled_dot_product_efficient_attention
    _scaled_dot_product_flash_attention _scaled_dot_product_flash_attention_for_cpu _shape_as_tensor _softmax _to_copy
    _unsafe_view _weight_norm _weight_norm_interface
    abs absolute acos acosh adaptive_avg_pool1d adaptive_avg_pool2d adaptive_avg_pool3d adaptive_max_pool1d
    adaptive_max_pool2d add addbmm addcdiv addcmul addmm addmv affine_grid_generator alias all alpha_dropout amax amin
    aminmax any arange arctan arctan2 argmax argmin argsort as_strided asin asinh atan atan2 atanh avg_pool1d
    avg_pool2d avg_pool3d
    baddbmm batch_norm bernoulli bilinear bitwise_and bitwise_left_shift bitwise_not bitwise_or bitwise_right_shift
    bitwise_xor bmm broadcast_tensors broadcast_to bucketize
    cat cdist ceil celu channel_shuffle chunk clamp clamp_max clamp_min clip clone col2im complex concat concatenate
    conj constant_pad_nd contiguous conv1d conv2d conv3d conv_transpose1d conv_transpose2d conv_transpose3d convolution
    copy copysign cos cosh cosine_similarity cross cumprod cumsum
    deg2rad detach diag diag_embed diagonal diff div divide dot dropout
    einsum elu embedding eq erf erfc erfinv exp exp2 expand expand_as expm1 eye
    feature_alpha_dropout feature_dropout fft_fft fft_fft2 fft_fftfreq fft_fftn fft_fftshift fft_ifft fft_ifft2
    fft_ifftn fft_ifftshift fft_irfft fft_irfft2 fft_irfftn fft_rfft fft_rfft2 fft_rfftfreq fft_rfftn fill flatten flip
    fliplr flipud float_power floor floor_divide fmax fmin fmod frac full full_like frobenius_norm
    gather ge gelu glu greater greater_equal grid_sampler grid_sampler_2d group_norm gru gt
    hardshrink hardsigmoid hardswish hardtanh heaviside hstack hypot
    im2col imag index index_add index_fill index_put index_select inner instance_norm is_nonzero isclose isfinite isinf
    isnan isneginf isposinf item
    kron
    layer_norm le leaky_relu lerp less less_equal lift_fresh lift_fresh_copy linalg_inv linalg_norm linalg_vector_norm
    linear linspace log log10 log1p log2 log_sigmoid log_softmax logaddexp logaddexp2 logical_and logical_not logical_or
    logical_xor logit logsumexp lstm lt
    masked_fill masked_scatter masked_select matmul max max_pool1d max_pool2d max_pool2d_with_indices max_pool3d
    max_pool3d_with_indices maximum mean median meshgrid min minimum mish mm moveaxis movedim mul multiply mv
    nan_to_num nanmean nansum narrow native_dropout native_group_norm native_layer_norm ne neg negative new_full
    new_ones new_zeros nonzero norm normal not_equal nuclear_norm numpy_T
    one_hot ones ones_like outer
    pad permute pixel_shuffle pixel_unshuffle polar positive pow prelu prod
    quantile
    rad2deg rand rand_like randint randn randn_like randperm ravel real reciprocal reflection_pad1d reflection_pad2d
    reflection_pad3d relu relu6 remainder repeat repeat_interleave replication_pad1d replication_pad2d
    replication_pad3d reshape reshape_as rms_norm roll rot90 round rrelu rsqrt rsub
    scalar_tensor scaled_dot_product_attention scatter scatter_add scatter_reduce searchsorted select select_scatter
    selu sgn sigmoid sign silu sin sinc sinh slice slice_scatter softmax softplus softshrink sort special_expit split
    split_with_sizes sqrt square squeeze stack std std_mean sub subtract sum swapaxes swapdims sym_constrain_range
    sym_constrain_range_for_size sym_is_contiguous sym_numel sym_size sym_storage_offset sym_stride
    t take_along_dim tan tanh tensor_split tensordot threshold tile to topk trace transpose tril tril_indices triu
    triu_indices true_divide trunc type_as
    unbind unflatten unfold unsqueeze upsample_bicubic2d upsample_bilinear2d upsample_linear1d upsample_nearest1d
    upsample_nearest2d upsample_nearest3d upsample_trilinear3d _upsample_bicubic2d_aa _upsample_bilinear2d_aa
    _upsample_nearest_exact1d _upsample_nearest_exact2d _upsample_nearest_exact3d
    var var_mean vdot vector_norm view view_as view_as_complex view_as_real vstack
    where
    xlogy
    zero zeros zeros_like
    """.split()
)
"""Names of `torch.ops.aten`, without overloads and without the underscore of in-place variants."""

_SIZES = frozenset(
    {
        f"_operator.{name}"
        for name in "eq ne le ge lt gt neg pos mul add sub floordiv mod truediv and_ or_".split()
    }
    | {f"torch.sym_{name}" for name in "not int float ite max min sqrt".split()}
    | {"math.trunc", "torch._sym_sqrt"}
)
"""Functions on sizes."""

_REGIONS = frozenset(
    f"torch.ops.higher_order.{name}" for name in ("wrap_with_set_grad_enabled", "wrap_with_autocast")
)
"""Operators that run a graph inside the graph, without gradients or in another precision."""

_PACKED = ("lstm.data", "gru.data")
"""Recurrent layers on packed sequences, which do not check the sizes of their parts."""

_ATEN_TARGET = re.compile(r"torch\.ops\.aten\.([A-Za-z_]\w*)\.([A-Za-z]\w*)", re.ASCII)


def is_tensor_operator(target: str) -> bool:
    """Whether this is an ATen operator that may be called."""
    match = _ATEN_TARGET.fullmatch(target)
    return (
        match is not None
        and (match[1] in _ATEN or match[1].removesuffix("_") in _ATEN)
        and match[2] != "out"
        and not match[2].endswith("_out")
        and f"{match[1]}.{match[2]}" not in _PACKED
    )


def is_size_function(target: str) -> bool:
    """Whether this is a function on sizes that may be called."""
    return target in _SIZES


def is_region(target: str) -> bool:
    """Whether this is an operator that runs a graph inside the graph."""
    return target in _REGIONS

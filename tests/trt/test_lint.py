"""The lint reports graphs that TensorRT would reject, misread or run slowly; each graph breaks one rule."""

from __future__ import annotations

import ml_dtypes
import numpy as np
import onnx
import onnx_ir as ir
import pytest
from onnx import TensorProto
from onnx.helper import make_graph, make_model, make_node, make_opsetid, make_tensor_value_info
from onnx.numpy_helper import from_array
from timmx_tensorrt.lint import lint

FLOAT = TensorProto.FLOAT
HALF = np.float16
FLOAT8 = ml_dtypes.float8_e4m3fn


def scale(size=32, dtype=np.float32):
    return np.full(size, 0.01, dtype)


def graph(nodes, constants, *, opset=21, inputs=None, outputs=None, domains=()):
    """A model with these nodes, by default from X (batch, 32, 8, 8) to Y of the same shape."""
    interface = (
        inputs or [make_tensor_value_info("X", FLOAT, ["batch", 32, 8, 8])],
        outputs or [make_tensor_value_info("Y", FLOAT, ["batch", 32, 8, 8])],
    )
    tensors = [from_array(np.asarray(array), name) for name, array in constants.items()]
    imports = [make_opsetid("", opset), *(make_opsetid(domain, 1) for domain in domains)]
    return make_model(make_graph(nodes, "g", *interface, tensors), opset_imports=imports, ir_version=10)


def pair(source, output, zero_point="zero", step="step"):
    """A Q/DQ pair around an activation."""
    return [
        make_node("QuantizeLinear", [source, step, zero_point], [f"{output}_q"], f"{output}_quantize"),
        make_node("DequantizeLinear", [f"{output}_q", step, zero_point], [output], f"{output}_dequantize"),
    ]


def weight(name="w", axis: int | None = 0):
    attributes = {} if axis is None else {"axis": axis}
    inputs = [f"{name}_int8", f"{name}_scale", f"{name}_zero"]
    return make_node("DequantizeLinear", inputs, [name], f"{name}_dequantize", **attributes)


def constants(**changes):
    """The constants of `pair` and `weight`, for convolutions from 32 to 32 channels."""
    defaults = {
        "step": np.float32(0.02),
        "zero": np.int8(0),
        "w_int8": np.full((32, 32, 1, 1), 3, np.int8),
        "w_scale": scale(),
        "w_zero": np.zeros(32, np.int8),
    }
    return defaults | changes


def convolution(*, opset=21, axis: int | None = 0, extra=(), bias=(), **changes):
    nodes = [*extra, *pair("X", "x"), weight(axis=axis), make_node("Conv", ["x", "w", *bias], ["Y"], "conv")]
    return graph(nodes, constants(**changes), opset=opset)


def residual(*, shortcut: bool, main: bool):
    """X + Conv(X), quantized again after the sum."""
    nodes = [*pair("X", "x"), weight(), make_node("Conv", ["x", "w"], ["c"], "conv")]
    nodes += pair("c", "m") if main else []
    nodes += [
        make_node("Add", ["m" if main else "c", "x" if shortcut else "X"], ["sum"], "add"),
        make_node("Relu", ["sum"], ["relu"], "relu"),
        *pair("relu", "Y"),
    ]
    return graph(nodes, constants())


def in_float8(**changes):
    """The result of `constants`, with FLOAT8E4M3FN in place of int8."""
    eight_bits = {
        name: np.asarray(array).astype(FLOAT8)
        for name, array in constants().items()
        if np.asarray(array).dtype == np.int8
    }
    return eight_bits | changes


def entries(findings):
    return [(finding.where, finding.reason) for finding in findings]


def assert_one_error(model, where, words, **options):
    findings = lint(model, **{"dynamic_batch": True} | options)
    ((place, reason),) = entries(findings.errors)
    assert (place, words in reason) == (where, True), reason
    assert findings.warnings == ()


def assert_one_warning(model, where, words):
    findings = lint(model, dynamic_batch=True)
    assert findings.errors == ()
    ((place, reason),) = entries(findings.warnings)
    assert (place, words in reason) == (where, True), reason


def test_correctly_quantized_convolution_has_no_findings():
    model = convolution()
    onnx.checker.check_model(model, full_check=True)
    for form in (model, ir.from_proto(model)):
        findings = lint(form, dynamic_batch=True)
        assert (findings.errors, findings.warnings) == ((), ())


@pytest.mark.parametrize("name", ["test_resnet", "test_vit"])
def test_float_graphs_of_timm_models_have_no_findings(float32_onnx, name):
    findings = lint(onnx.load(float32_onnx(name)), dynamic_batch=True)
    assert (findings.errors, findings.warnings) == ((), ())


def test_float8_has_the_same_rules():
    model = convolution(**in_float8())
    onnx.checker.check_model(model, full_check=True)
    findings = lint(model, dynamic_batch=True)
    assert (findings.errors, findings.warnings) == ((), ())
    scales = scale()
    scales[5] = 1
    assert_one_error(convolution(axis=None, **in_float8()), "w_dequantize", "no axis")
    assert_one_error(convolution(axis=1, **in_float8()), "w_dequantize", "output channels of Conv are on 0")
    assert_one_error(convolution(**in_float8(w_zero=np.ones(32, FLOAT8))), "w_dequantize", "other than 0")
    assert_one_error(convolution(**in_float8(w_zero=np.zeros(16, FLOAT8))), "w_dequantize", "16 zero points")
    assert_one_warning(convolution(**in_float8(w_scale=scales)), "w_dequantize", "exactly 1")
    assert_one_warning(convolution(**in_float8(step=np.float32(1))), "x_quantize", "exactly 1")
    dead = in_float8(w_scale=scales, w_int8=np.zeros((32, 32, 1, 1), FLOAT8))
    assert lint(convolution(**dead), dynamic_batch=True).warnings == ()


def test_float8_e5m2_is_refused():
    wide = np.zeros((32, 32, 1, 1), ml_dtypes.float8_e5m2)
    model = convolution(w_int8=wide, w_zero=np.zeros(32, ml_dtypes.float8_e5m2))
    assert_one_error(model, "w_dequantize", "FLOAT8E5M2; TensorRT takes only int8 and FLOAT8E4M3FN")


def test_float8_needs_no_quantized_shortcut():
    model = residual(shortcut=False, main=False)
    for tensor in model.graph.initializer:
        if tensor.data_type == TensorProto.INT8:
            tensor.CopyFrom(from_array(onnx.numpy_helper.to_array(tensor).astype(FLOAT8), tensor.name))
    assert lint(model, dynamic_batch=True).warnings == ()


def test_uint8_is_misread_as_int8():
    model = convolution()
    model.graph.node[0].input[2] = model.graph.node[1].input[2] = "unsigned"
    model.graph.initializer.append(from_array(np.uint8(0), "unsigned"))
    errors = entries(lint(model, dynamic_batch=True).errors)
    assert [where for where, _ in errors] == ["x_quantize", "x_dequantize"]
    assert all("reads as int8" in reason for _, reason in errors)


def test_missing_zero_point_is_ambiguous():
    model = convolution()
    del model.graph.node[0].input[2]
    assert_one_error(model, "x_quantize", "no zero point")


def test_zero_point_other_than_zero_is_refused():
    model = convolution(w_zero=np.ones(32, np.int8))
    assert_one_error(model, "w_dequantize", "other than 0")


def test_computed_zero_point_is_refused():
    model = convolution(extra=[make_node("Identity", ["zero"], ["again"], "identity")])
    model.graph.node[1].input[2] = "again"
    model.graph.value_info.append(make_tensor_value_info("again", TensorProto.INT8, []))
    assert_one_error(model, "x_quantize", "zero point that is computed")


def test_numbers_of_zero_points_and_scales_must_be_equal():
    assert_one_error(convolution(w_zero=np.zeros(16, np.int8)), "w_dequantize", "16 zero points")


def test_computed_scale_is_refused():
    model = convolution(extra=[make_node("Abs", ["step"], ["computed"], "abs")])
    model.graph.node[1].input[1] = "computed"
    assert_one_error(model, "x_quantize", "scale that is computed")


def test_integer_scale_is_refused():
    model = convolution(w_scale=np.full(32, 1, np.int32))
    assert_one_error(model, "w_dequantize", "not float32, float16 or bfloat16")


@pytest.mark.parametrize("wrong", [0.0, -0.01, np.inf, np.nan])
def test_scale_that_is_not_finite_and_positive_is_refused(wrong):
    scales = scale()
    scales[5] = wrong
    assert_one_error(convolution(w_scale=scales), "w_dequantize", "not finite and above 0")


def test_scale_of_exactly_one_gives_a_warning():
    scales = scale()
    scales[5] = 1
    assert_one_warning(convolution(w_scale=scales), "w_dequantize", "exactly 1")
    dead = convolution(w_scale=scales, w_int8=np.zeros((32, 32, 1, 1), np.int8))
    assert lint(dead, dynamic_batch=True).warnings == ()
    assert_one_warning(convolution(step=np.float32(1)), "x_quantize", "exactly 1")


def test_half_scales_need_opset_19():
    half = scale(dtype=HALF)
    model = convolution(w_scale=half, opset=18)
    assert_one_error(model, "w_dequantize", "opset 19")
    assert lint(convolution(w_scale=half), dynamic_batch=True).errors == ()


def test_subnormal_half_scale_gives_a_warning():
    scales = scale(dtype=HALF)
    scales[5] = 2e-5
    assert_one_warning(convolution(w_scale=scales), "w_dequantize", "flush to 0")
    assert lint(convolution(w_scale=scales.astype(np.float32)), dynamic_batch=True).warnings == ()


def test_activation_with_several_scales_is_refused():
    model = convolution(step=scale(), zero=np.zeros(32, np.int8))
    for node in model.graph.node[:2]:
        node.attribute.append(onnx.helper.make_attribute("axis", 1))
    errors = entries(lint(model, dynamic_batch=True).errors)
    assert [where for where, _ in errors] == ["x_quantize", "x_dequantize"]
    assert all("one scale for all" in reason for _, reason in errors)


def test_scales_per_channel_need_an_axis():
    assert_one_error(convolution(axis=None), "w_dequantize", "no axis")


def test_scales_must_be_on_the_axis_of_the_output_channels():
    assert_one_error(convolution(axis=1), "w_dequantize", "output channels of Conv are on 0")


def test_numbers_of_scales_and_channels_must_be_equal():
    model = convolution(w_scale=scale(16), w_zero=np.zeros(16, np.int8))
    assert_one_error(model, "w_dequantize", "these differ")


def test_scales_per_block_are_refused():
    model = convolution(
        w_scale=np.full((32, 2, 1, 1), 0.01, np.float32), w_zero=np.zeros((32, 2, 1, 1), np.int8)
    )
    assert_one_error(model, "w_dequantize", "one scale per block")


def test_quantized_bias_is_refused():
    nodes = [weight("b")]
    changes = {"b_int8": np.ones(32, np.int8), "b_scale": scale(), "b_zero": np.zeros(32, np.int8)}
    assert_one_error(convolution(extra=nodes, bias=["b"], **changes), "conv", "quantized bias")


def test_int32_is_refused():
    nodes = [weight("b")]
    changes = {"b_int8": np.ones(32, np.int32), "b_scale": scale(), "b_zero": np.zeros(32, np.int32)}
    errors = entries(lint(convolution(extra=nodes, bias=["b"], **changes), dynamic_batch=True).errors)
    assert ("b_dequantize", True) in [(where, "int32" in reason) for where, reason in errors]


def test_layer_with_one_quantized_operand_gives_a_warning():
    model = convolution()
    model.graph.node[3].input[0] = "X"
    assert_one_warning(model, "conv", "input is not quantized")


def test_convolution_after_casts_gives_a_warning():
    model = convolution()
    casts = [make_node("Cast", [name], [f"{name}_wide"], f"{name}_cast", to=FLOAT) for name in ("x", "w")]
    conv = model.graph.node.pop()
    conv.input[:] = ["x_wide", "w_wide"]
    model.graph.node.extend([*casts, conv])
    assert_one_warning(model, "conv", "is a Cast")


def test_float8_convolutions_without_a_kernel_are_refused():
    grouped = convolution(**in_float8(w_int8=np.ones((32, 4, 1, 1), FLOAT8)))
    grouped.graph.node[3].attribute.append(onnx.helper.make_attribute("group", 8))
    assert_one_error(grouped, "conv", "grouped convolution")
    transposed = convolution(axis=1, **in_float8())
    transposed.graph.node[3].op_type = "ConvTranspose"
    assert_one_error(transposed, "conv", "transposed convolution")


def test_unfused_residual_sums_give_a_warning():
    assert lint(residual(shortcut=True, main=False), dynamic_batch=True).warnings == ()
    assert_one_warning(residual(shortcut=False, main=False), "add", "float shortcut")
    assert_one_warning(residual(shortcut=True, main=True), "add", "both inputs quantized")


def test_dynamic_batch_must_be_symbolic_in_inputs_and_outputs():
    frozen = [make_tensor_value_info("Y", FLOAT, [1, 32, 8, 8])]
    relu = [make_node("Relu", ["X"], ["Y"], "relu")]
    assert_one_error(graph(relu, {}, outputs=frozen), "Y", "no dynamic batch size")
    renamed = [make_tensor_value_info("Y", FLOAT, ["s77", 32, 8, 8])]
    assert_one_error(graph(relu, {}, outputs=renamed), "", "different names for the batch size: batch, s77")


def test_other_symbolic_sizes_are_refused():
    relu = [make_node("Relu", ["X"], ["Y"], "relu")]
    tall = [make_tensor_value_info("X", FLOAT, ["batch", 32, "height", 8])]
    assert_one_error(graph(relu, {}, inputs=tall), "X", "unknown size")
    static = [make_tensor_value_info("Y", FLOAT, [1, 32, 8, 8])]
    assert_one_error(graph(relu, {}, outputs=static), "X", "unknown size", dynamic_batch=False)


@pytest.mark.parametrize("opset", [17, 23])
def test_unsupported_opset_gives_a_warning(opset):
    assert_one_warning(graph([make_node("Relu", ["X"], ["Y"], "relu")], {}, opset=opset), "", "18 to 22")


def test_float64_is_refused():
    nodes = [
        make_node("Cast", ["X"], ["double"], "widen", to=TensorProto.DOUBLE),
        make_node("Cast", ["double"], ["Y"], "narrow", to=FLOAT),
    ]
    model = graph(nodes, {})
    model.graph.value_info.append(make_tensor_value_info("double", TensorProto.DOUBLE, ["batch", 32, 8, 8]))
    assert_one_error(model, "widen", "float64")
    constant = graph(
        [make_node("Cast", ["c"], ["f"], to=FLOAT), make_node("Add", ["X", "f"], ["Y"])], {"c": np.float64(1)}
    )
    assert_one_error(constant, "c", "float64")


def test_operator_of_another_domain_is_refused():
    model = graph(
        [make_node("Gelu", ["X"], ["Y"], "gelu", domain="com.microsoft")], {}, domains=["com.microsoft"]
    )
    assert_one_error(model, "gelu", "com.microsoft.Gelu")


def test_half_output_is_refused():
    half = [make_tensor_value_info("Y", TensorProto.FLOAT16, ["batch", 32, 8, 8])]
    model = graph([make_node("Cast", ["X"], ["Y"], "cast", to=TensorProto.FLOAT16)], {}, outputs=half)
    assert_one_error(model, "Y", "FLOAT16")

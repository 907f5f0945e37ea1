"""`emulate_rounding` computes the values of a typed half-precision graph in float32."""

from __future__ import annotations

import warnings
from functools import cache

import numpy as np
import onnx
import onnx_ir as ir
import onnxruntime
import pytest
from onnx.reference import ReferenceEvaluator
from timmx.errors import UnsupportedError
from timmx_onnx.precision import lower_precision
from timmx_tensorrt.rounding import emulate_rounding, half_types

pytestmark = pytest.mark.usefixtures("export")

HALVES = {"fp16": ir.DataType.FLOAT16, "bf16": ir.DataType.BFLOAT16}
CODES = {"fp16": int(onnx.TensorProto.FLOAT16), "bf16": int(onnx.TensorProto.BFLOAT16)}
STEP = {"fp16": 2.0**-10, "bf16": 2.0**-7}
"""The distance from 1 to the next number. The rounding error of a tensor is about a sixth of it."""

ROUNDED_ONCE = frozenset("Add Cast Concat Gather MaxPool Mul Relu Reshape Slice Squeeze Transpose".split())
"""Operators whose result ONNX's reference rounds only once; it decomposes Gelu, Gemm and others in half."""


@pytest.fixture(scope="module")
def typed(float32_onnx):
    """The graph of a timm model in one of the half precisions: name, half -> model."""

    @cache
    def make(name, half):
        model = ir.load(float32_onnx(name))
        lower_precision(model, HALVES[half])
        return ir.to_proto(model)

    return make


def from_text(body, opset=22):
    """A model from onnx's text format, checked, with the types of all values."""
    proto = onnx.parser.parse_model(f'<ir_version: 10, opset_import: ["": {opset}]> {body}')
    proto = onnx.shape_inference.infer_shapes(proto, check_type=True, strict_mode=True)
    onnx.checker.check_model(proto, full_check=True)
    return proto


def emulate(proto):
    return ir.to_proto(emulate_rounding(ir.from_proto(proto)))


def single_node(node, feeds):
    """A model with one node and typed inputs, which the reference needs for Gelu."""
    helper = onnx.helper
    inputs = [
        helper.make_tensor_value_info(name, helper.np_dtype_to_tensor_dtype(array.dtype), array.shape)
        for name, array in feeds.items()
    ]
    outputs = [helper.make_empty_tensor_value_info(name) for name in node.output]
    graph = helper.make_graph([node], "single_node", inputs, outputs)
    return helper.make_model(graph, opset_imports=[helper.make_opsetid("", 22)])


def run(proto, feeds, names=None, optimized=True):
    settings = onnxruntime.SessionOptions()
    settings.log_severity_level = 3
    if not optimized:
        settings.graph_optimization_level = onnxruntime.GraphOptimizationLevel.ORT_DISABLE_ALL
    session = onnxruntime.InferenceSession(
        proto.SerializeToString(), settings, providers=["CPUExecutionProvider"]
    )
    return session.run(names, feeds)


def compare_with_reference(proto, feeds, **tolerance):
    """The outputs of the emulated graph, after a comparison with ONNX's reference on the typed graph."""
    with np.errstate(all="ignore"), warnings.catch_warnings():
        warnings.simplefilter("ignore")
        expected = ReferenceEvaluator(proto).run(None, feeds)
    outputs = run(emulate(proto), feeds)
    for left, right in zip(outputs, expected, strict=True):
        np.testing.assert_allclose(left, np.asarray(right, left.dtype), **({"rtol": 0} | tolerance))
    return outputs


def values(count=4096, spread=1.0):
    return (np.random.default_rng(0).standard_normal(count) * spread).astype(np.float32)


@pytest.mark.parametrize("half", HALVES)
@pytest.mark.parametrize("name", ["test_resnet", "test_vit", "test_efficientnet"])
def test_every_node_of_a_timm_model_agrees_with_the_onnx_reference(typed, name, half):
    """Each node gets the same inputs: over a whole model, different orders of summation diverge."""
    proto = typed(name, half)
    element_types = {value.name: value.type.tensor_type.elem_type for value in proto.graph.value_info}
    names = [name for node in proto.graph.node for name in node.output]
    model = emulate(proto)
    del model.graph.output[:]
    model.graph.output.extend(map(onnx.helper.make_empty_tensor_value_info, names))
    inputs = np.random.default_rng(0).standard_normal((1, 3, 64, 64), np.float32)
    outputs = dict(zip(names, run(model, {"input": inputs}, names), strict=True)) | {"input": inputs}
    weights = {tensor.name: onnx.numpy_helper.to_array(tensor) for tensor in proto.graph.initializer}
    operators = set()
    for node in proto.graph.node:
        feeds = {
            name: weights[name]
            if name in weights
            else outputs[name].astype(onnx.helper.tensor_dtype_to_np_dtype(element_types.get(name, 1)))
            for name in node.input
            if name
        }
        expected = ReferenceEvaluator(single_node(node, feeds)).run(None, feeds)[0].astype(np.float64)
        error = np.linalg.norm(outputs[node.output[0]] - expected) / np.linalg.norm(expected)
        in_half = element_types.get(node.output[0]) == CODES[half]
        limit = 1e-6 if not in_half else 0 if node.op_type in ROUNDED_ONCE else STEP[half]
        if in_half and node.op_type == "MatMul":  # processors sum in different orders, which flips a last bit
            limit = STEP[half] / 50
        assert error <= limit, (node.name, node.op_type, error)
        operators.add(node.op_type)
    assert operators & {"MatMul", "Conv"}


@pytest.mark.parametrize("half", HALVES)
def test_chain_of_layers_has_the_bits_of_the_reference(half):
    generator, code = np.random.default_rng(0), CODES[half]
    proto = from_text(
        f"""g (float[8, 64] x, float[64, 64] a, float[64, 64] b, float[64] c) => (float[8, 64] y) {{
            xh = Cast<to = {code}>(x)  ah = Cast<to = {code}>(a)  bh = Cast<to = {code}>(b)  ch = Cast<to = {code}>(c)
            m = MatMul(xh, ah)  s = Add(m, ch)  r = Relu(s)  n = MatMul(r, bh)  t = Transpose<perm = [0, 1]>(n)
            e = Add(t, xh)  p = Mul(e, ch)  y = Cast<to = 1>(p)
        }}"""
    )
    feeds = {
        name: generator.standard_normal(shape, np.float32)
        for name, shape in {"x": (8, 64), "a": (64, 64), "b": (64, 64), "c": (64,)}.items()
    }
    (outputs,) = compare_with_reference(proto, feeds)
    (plain,) = run(
        from_text(
            """g (float[8, 64] x, float[64, 64] a, float[64, 64] b, float[64] c) => (float[8, 64] y) {
                m = MatMul(x, a)  s = Add(m, c)  r = Relu(s)  n = MatMul(r, b)  e = Add(n, x)  y = Mul(e, c)
            }"""
        ),
        feeds,
    )
    assert np.abs(outputs - plain).max() > 0.1 * STEP[half] * np.abs(plain).max()


def test_float16_overflow_is_inf_and_underflow_is_zero():
    body = "g (float[N] x) => (float[N] y) {{ h = Cast<to = {0}>(x) p = Mul(h, h) y = Cast<to = 1>(p) }}"
    inputs = np.array([300, -300, 1e-4, 3e-5, 2], np.float32)
    (outputs,) = compare_with_reference(from_text(body.format(CODES["fp16"])), {"x": inputs})
    assert outputs.tolist() == [np.inf, np.inf, 0, 0, 4]
    (outputs,) = compare_with_reference(
        from_text(body.format(CODES["bf16"])), {"x": np.array([1e15], np.float32)}
    )
    assert 0.99e30 < outputs[0] < 1.01e30


def test_casts_of_the_input_round():
    body = "g (float[N] x) => (float[N] y) {{ h = Cast<to = {0}>(x) y = Cast<to = 1>(h) }}"
    inputs = np.array([1e-9, 65519, 65520, 1e30, 1 + 2**-12, 1 + 2**-11 + 2**-20, 6e-8], np.float32)
    (outputs,) = compare_with_reference(from_text(body.format(CODES["fp16"])), {"x": inputs})
    assert outputs[:4].tolist() == [0, 65504, np.inf, np.inf]
    (outputs,) = compare_with_reference(from_text(body.format(CODES["bf16"])), {"x": inputs})
    assert outputs[0] > 0
    assert 0.99e30 < outputs[3] < 1.01e30


@pytest.mark.parametrize("name", ["test_resnet", "test_vit", "test_efficientnet"])
def test_onnx_runtime_does_not_remove_the_rounding(typed, name, tmp_path):
    model = emulate(typed(name, "fp16"))
    settings = onnxruntime.SessionOptions()
    settings.log_severity_level = 3
    assert settings.graph_optimization_level == onnxruntime.GraphOptimizationLevel.ORT_ENABLE_ALL
    settings.optimized_model_filepath = str(tmp_path / "optimized.onnx")
    onnxruntime.InferenceSession(model.SerializeToString(), settings, providers=["CPUExecutionProvider"])
    optimized = onnx.load(tmp_path / "optimized.onnx")
    before, after = (
        sum(
            attribute.name == "to" and attribute.i == CODES["fp16"]
            for node in graph.graph.node
            for attribute in node.attribute
        )
        for graph in (model, optimized)
    )
    assert after == before > 20


@pytest.mark.parametrize("half", HALVES)
def test_onnx_runtime_fuses_no_patterns_across_the_rounding(half):
    """Decomposed linear layer, GELU and layer norm: fused kernels would give other values."""
    code = CODES[half]
    proto = from_text(
        f"""g (float[16, 32] x, float[32, 32] w, float[32] b) => (float[16, 32] y, float[16, 32] z)
        <float two = {{2}}, float root = {{1.4142135}}, float one = {{1}}, float small = {{0.001}},
        int64[1] last = {{-1}}> {{
            xh = Cast<to = {code}>(x) wh = Cast<to = {code}>(w) bh = Cast<to = {code}>(b)
            twoh = Cast<to = {code}>(two) rooth = Cast<to = {code}>(root) oneh = Cast<to = {code}>(one)
            smallh = Cast<to = {code}>(small)
            m = MatMul(xh, wh) s = Add(m, bh)
            d = Div(s, rooth) e = Erf(d) o = Add(e, oneh) k = Mul(s, o) g = Div(k, twoh)
            mean = ReduceMean(s, last) c = Sub(s, mean) q = Pow(c, twoh) v = ReduceMean(q, last)
            ve = Add(v, smallh) sd = Sqrt(ve) n = Div(c, sd) scaled = Mul(n, bh) shifted = Add(scaled, bh)
            y = Cast<to = 1>(g) z = Cast<to = 1>(shifted)
        }}"""
    )
    model, generator = emulate(proto), np.random.default_rng(0)
    feeds = {
        name: generator.standard_normal(shape, np.float32)
        for name, shape in {"x": (16, 32), "w": (32, 32), "b": (32,)}.items()
    }
    for left, right in zip(run(model, feeds), run(model, feeds, optimized=False), strict=True):
        assert (left != right).mean() < 0.02


def test_quantization_with_half_scales_agrees_with_the_reference():
    """With `precision` the reference divides in float32, like kernels; scales are rounded to half first."""
    body = """g (float[64, 64] x, int8[64, 32] w) => (float[64, 32] y, int8[64, 64] q)
        <float s = {0.0312}, float[32] sw = {%s}, int8 zero = {0}, int8[32] zeros = {%s}> {
            sh = Cast<to = 10>(s) swh = Cast<to = 10>(sw) xh = Cast<to = 10>(x)
            q = QuantizeLinear<precision = 1>(xh, sh, zero)
            dq = DequantizeLinear(q, sh, zero)
            dw = DequantizeLinear<axis = 1>(w, swh, zeros)
            m = MatMul(dq, dw)
            y = Cast<to = 1>(m)
        }"""
    scales = ", ".join(str(0.0011 * (1 + index)) for index in range(32))
    proto = from_text(body % (scales, ", ".join("0" * 32)), opset=23)
    generator = np.random.default_rng(0)
    feeds = {
        "x": generator.standard_normal((64, 64), np.float32),
        "w": generator.integers(-127, 128, (64, 32), np.int8),
    }
    outputs, stored = compare_with_reference(proto, feeds)
    rounded_scale = np.float32(np.float16(0.0312))
    exact = np.rint(feeds["x"].astype(np.float16).astype(np.float32) / rounded_scale)
    assert np.array_equal(stored, np.clip(exact, -128, 127))
    assert np.array_equal(outputs, outputs.astype(np.float16))


def test_division_in_half_changes_a_quantized_number_by_at_most_one():
    body = """g (float[N] x) => (int8[N] q) <float s = {0.0312}, int8 zero = {0}> {
        sh = Cast<to = 10>(s) xh = Cast<to = 10>(x) q = QuantizeLinear(xh, sh, zero) }"""
    proto = from_text(body, opset=21)
    (outputs,) = compare_with_reference(proto, {"x": values()}, atol=1)
    expected = ReferenceEvaluator(proto).run(None, {"x": values()})[0]
    assert (outputs != expected).mean() < 0.02


def test_type_attributes_become_float32():
    proto = from_text(
        """g (float[2, 4] x, float[4] w) => (float[2, 4] a, float[2, 4] b, float[2, 4] c, float[2, 4] d)
        <int64[2] shape = {2, 4}> {
            xh = Cast<to = 10>(x) wh = Cast<to = 10>(w)
            third = ConstantOfShape<value = float16[1] {13652}>(shape)
            ah = Add(xh, third) a = Cast<to = 1>(ah)
            bh = LayerNormalization<stash_type = 1>(xh, wh) b = Cast<to = 1>(bh)
            eye = EyeLike<dtype = 10>(x) ch = Mul(eye, xh) c = Cast<to = 1>(ch)
            like = CastLike(x, xh) dh = Mul(like, like) d = Cast<to = 1>(dh)
        }"""
    )
    generator = np.random.default_rng(0)
    feeds = {
        "x": generator.standard_normal((2, 4), np.float32),
        "w": generator.standard_normal(4, np.float32),
    }
    outputs = compare_with_reference(proto, feeds, rtol=2 * STEP["fp16"])
    assert all(np.array_equal(array, array.astype(np.float16)) for array in outputs)


def test_random_numbers_are_rounded():
    proto = from_text(
        "g () => (float[64] y) { h = RandomNormal<dtype = 10, shape = [64], seed = 1.0>() y = Cast<to = 1>(h) }",
        opset=21,
    )
    (outputs,) = run(emulate(proto), {})
    assert np.array_equal(outputs, outputs.astype(np.float16))
    assert len(np.unique(outputs)) > 32


def test_attention_with_half_softmax_runs():
    proto = from_text(
        """g (float[1, 2, 8, 16] x) => (float[1, 2, 8, 16] y) {
            h = Cast<to = 10>(x) a = Attention<softmax_precision = 10>(h, h, h) y = Cast<to = 1>(a)
        }""",
        opset=23,
    )
    inputs = values(256).reshape(1, 2, 8, 16)
    (outputs,) = compare_with_reference(proto, {"x": inputs}, rtol=4 * STEP["fp16"], atol=4 * STEP["fp16"])
    assert np.array_equal(outputs, outputs.astype(np.float16))


def test_clip_with_limits_as_attributes_is_rounded():
    proto = from_text(
        "g (float[3] x) => (float[3] y) { h = Cast<to = 10>(x) c = Clip<min = -0.1, max = 0.3333>(h)"
        " y = Cast<to = 1>(c) }",
        opset=10,
    )
    (outputs,) = run(emulate(proto), {"x": np.array([-1, 0, 1], np.float32)})
    assert outputs.tolist() == [float(np.float16(-0.1)), 0, float(np.float16(0.3333))]


def test_subgraphs_of_if_and_loop_are_rounded():
    proto = from_text(
        """g (float[4] x, bool which) => (float[4] y, float[4] z)
        <int64 times = {3}, bool go = {1}> {
            h = Cast<to = 10>(x)
            r = If(which) <
                then_branch = yes () => (float16[4] t) { t = Mul(h, h) },
                else_branch = no () => (float16[4] e) { third = Constant<value = float16 {13652}>() e = Add(h, third) }
            >
            l = Loop(times, go, h) <
                body = step (int64 i, bool before, float16[4] carried) => (bool after, float16[4] next) {
                    after = Identity(before) next = Mul(carried, h)
                }
            >
            y = Cast<to = 1>(r) z = Cast<to = 1>(l)
        }"""
    )
    inputs = np.array([0.1, 1.7, 60, 300], np.float32)
    for which in (True, False):
        _, looped = compare_with_reference(proto, {"x": inputs, "which": np.array(which)})
    assert np.isinf(looped).tolist() == [False, False, True, True]


def test_half_inputs_outputs_and_functions_become_float32():
    proto = onnx.parser.parse_model(
        """<ir_version: 10, opset_import: ["": 22, "own": 1]>
        g (float16[4] x) => (float16[4] y, float16[4] x2) { y = own.square(x) x2 = Identity(x) }
        <domain: "own", opset_import: ["": 22]> square (a) => (b) { b = Mul(a, a) }"""
    )
    model = emulate(proto)
    values_of_graph = (*model.graph.input, *model.graph.output)
    assert [value.name for value in values_of_graph] == ["x", "y", "x2"]
    assert {value.type.tensor_type.elem_type for value in values_of_graph} == {onnx.TensorProto.FLOAT}
    square, same = run(model, {"x": np.array([1e-9, 0.1, 300, -2], np.float32)})
    with np.errstate(over="ignore"):
        assert np.array_equal(same, np.array([0, 0.1, 300, -2], np.float16))
        assert np.array_equal(square, same.astype(np.float16) * same.astype(np.float16))


def test_original_model_is_not_changed_and_weights_are_converted_lazily(typed):
    proto = typed("test_efficientnet", "bf16")
    model = ir.from_proto(proto)
    before = ir.to_proto(model).SerializeToString()
    result = emulate_rounding(model)
    assert ir.to_proto(model).SerializeToString() == before
    assert half_types(model) == {ir.DataType.BFLOAT16}
    for name, value in result.graph.initializers.items():
        weight, original = value.const_value, model.graph.initializers[name].const_value
        if original.dtype is ir.DataType.BFLOAT16:
            assert isinstance(weight, ir.LazyTensor)
            assert np.array_equal(weight.numpy(), original.numpy().astype(np.float32))
        else:
            assert weight is original


def test_sequence_of_half_values_is_refused():
    proto = from_text(
        """g (float[4] x) => (float[4] y) <int64 first = {0}> {
            h = Cast<to = 10>(x)
            s = SequenceConstruct(h, h)
            t = SequenceAt(s, first) y = Cast<to = 1>(t)
        }"""
    )
    with pytest.raises(UnsupportedError, match="SequenceConstruct"):
        emulate_rounding(ir.from_proto(proto))


def test_half_types_of_a_model_are_detected():
    assert not half_types(ir.from_proto(from_text("g (float[4] x) => (float[4] y) { y = Relu(x) }")))
    proto = onnx.parser.parse_model(
        """<ir_version: 10, opset_import: ["": 22]> g (float[N] x) => (float[N] y) {
            h = Cast<to = 16>(x) y = Cast<to = 1>(h) }"""
    )
    assert half_types(ir.from_proto(proto)) == {ir.DataType.BFLOAT16}

"""`rounded`: the numbers of a typed half-precision graph, computed in float32."""

from __future__ import annotations

import warnings
from functools import cache

import numpy as np
import onnx
import onnx_ir as ir
import onnxruntime
import pytest
import timmx
from onnx.reference import ReferenceEvaluator
from timmx.errors import UnsupportedError
from timmx.testing import awakened_model
from timmx_onnx.precision import lower_precision
from timmx_tensorrt.rounding import half_types, rounded

HALVES = {"fp16": ir.DataType.FLOAT16, "bf16": ir.DataType.BFLOAT16}
CODES = {"fp16": int(onnx.TensorProto.FLOAT16), "bf16": int(onnx.TensorProto.BFLOAT16)}
STEP = {"fp16": 2.0**-10, "bf16": 2.0**-7}
"""From 1 to the next number. Rounding a tensor errs by about a third of a half of it."""

ROUNDED_ONCE = frozenset(
    "Add Cast Concat Gather MatMul MaxPool Mul Relu Reshape Slice Squeeze Transpose".split()
)
"""Of these ONNX's reference rounds the result and nothing inside; Gelu, Gemm and others it takes apart in half."""


@pytest.fixture(scope="module")
def typed(tmp_path_factory):
    """A timm model's graph, of 64 x 64 pixels, in a half precision."""
    folder = tmp_path_factory.mktemp("typed")

    @cache
    def make(name, half):
        path = folder / f"{name}.onnx"
        if not path.exists():
            options = {"img_size": 64} if name == "test_vit" else {}
            timmx.export(
                "onnx",
                awakened_model(name, **options),
                output=path,
                opset=22,
                verify=False,
                input_size=(3, 64, 64),
            )
        model = ir.load(path)
        lower_precision(model, HALVES[half])
        return ir.to_proto(model)

    return make


def from_text(body, opset=22):
    """A model from onnx's text format, checked, with the types of all values."""
    proto = onnx.parser.parse_model(f'<ir_version: 10, opset_import: ["": {opset}]> {body}')
    proto = onnx.shape_inference.infer_shapes(proto, check_type=True, strict_mode=True)
    onnx.checker.check_model(proto, full_check=True)
    return proto


def twin(proto):
    return ir.to_proto(rounded(ir.from_proto(proto)))


def alone(node, feeds):
    """A model of one node: the reference knows Gelu only where its input has a type."""
    helper = onnx.helper
    inputs = [
        helper.make_tensor_value_info(name, helper.np_dtype_to_tensor_dtype(array.dtype), array.shape)
        for name, array in feeds.items()
    ]
    outputs = [helper.make_empty_tensor_value_info(name) for name in node.output]
    graph = helper.make_graph([node], "alone", inputs, outputs)
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


def same_as_reference(proto, feeds, **tolerance):
    """What the twin gives, after comparing it with what ONNX's reference gives for the typed graph."""
    with np.errstate(all="ignore"), warnings.catch_warnings():
        warnings.simplefilter("ignore")
        expected = ReferenceEvaluator(proto).run(None, feeds)
    found = run(twin(proto), feeds)
    for left, right in zip(found, expected, strict=True):
        np.testing.assert_allclose(left, np.asarray(right, left.dtype), **({"rtol": 0} | tolerance))
    return found


def values(count=4096, spread=1.0):
    return (np.random.default_rng(0).standard_normal(count) * spread).astype(np.float32)


@pytest.mark.parametrize("half", HALVES)
@pytest.mark.parametrize("name", ["test_resnet", "test_vit", "test_efficientnet"])
def test_every_node_of_a_timm_model_gives_what_onnx_defines(typed, name, half):
    """Fed with the same numbers, node by node: over a whole model any two orders of summation drift apart."""
    proto = typed(name, half)
    known = {value.name: value.type.tensor_type.elem_type for value in proto.graph.value_info}
    made = [name for node in proto.graph.node for name in node.output]
    model = twin(proto)
    del model.graph.output[:]
    model.graph.output.extend(map(onnx.helper.make_empty_tensor_value_info, made))
    inputs = np.random.default_rng(0).standard_normal((1, 3, 64, 64), np.float32)
    found = dict(zip(made, run(model, {"input": inputs}, made), strict=True)) | {"input": inputs}
    weights = {tensor.name: onnx.numpy_helper.to_array(tensor) for tensor in proto.graph.initializer}
    seen = set()
    for node in proto.graph.node:
        feeds = {
            name: weights[name]
            if name in weights
            else found[name].astype(onnx.helper.tensor_dtype_to_np_dtype(known.get(name, 1)))
            for name in node.input
            if name
        }
        expected = ReferenceEvaluator(alone(node, feeds)).run(None, feeds)[0].astype(np.float64)
        error = np.linalg.norm(found[node.output[0]] - expected) / np.linalg.norm(expected)
        in_half = known.get(node.output[0]) == CODES[half]
        limit = 1e-6 if not in_half else 0 if node.op_type in ROUNDED_ONCE else STEP[half]
        assert error <= limit, (node.name, node.op_type, error)
        seen.add(node.op_type)
    assert seen & {"MatMul", "Conv"}


@pytest.mark.parametrize("half", HALVES)
def test_a_chain_of_layers_has_the_bits_of_the_reference(half):
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
    (found,) = same_as_reference(proto, feeds)
    (plain,) = run(
        from_text(
            """g (float[8, 64] x, float[64, 64] a, float[64, 64] b, float[64] c) => (float[8, 64] y) {
                m = MatMul(x, a)  s = Add(m, c)  r = Relu(s)  n = MatMul(r, b)  e = Add(n, x)  y = Mul(e, c)
            }"""
        ),
        feeds,
    )
    assert np.abs(found - plain).max() > 0.1 * STEP[half] * np.abs(plain).max()


def test_overflow_is_inf_and_what_is_too_small_is_zero_in_float16():
    body = "g (float[N] x) => (float[N] y) {{ h = Cast<to = {0}>(x) p = Mul(h, h) y = Cast<to = 1>(p) }}"
    inputs = np.array([300, -300, 1e-4, 3e-5, 2], np.float32)
    (found,) = same_as_reference(from_text(body.format(CODES["fp16"])), {"x": inputs})
    assert found.tolist() == [np.inf, np.inf, 0, 0, 4]
    (found,) = same_as_reference(from_text(body.format(CODES["bf16"])), {"x": np.array([1e15], np.float32)})
    assert 0.99e30 < found[0] < 1.01e30


def test_the_casts_of_the_input_itself_round():
    body = "g (float[N] x) => (float[N] y) {{ h = Cast<to = {0}>(x) y = Cast<to = 1>(h) }}"
    inputs = np.array([1e-9, 65519, 65520, 1e30, 1 + 2**-12, 1 + 2**-11 + 2**-20, 6e-8], np.float32)
    (found,) = same_as_reference(from_text(body.format(CODES["fp16"])), {"x": inputs})
    assert found[:4].tolist() == [0, 65504, np.inf, np.inf]
    (found,) = same_as_reference(from_text(body.format(CODES["bf16"])), {"x": inputs})
    assert found[0] > 0
    assert 0.99e30 < found[3] < 1.01e30


@pytest.mark.parametrize("name", ["test_resnet", "test_vit", "test_efficientnet"])
def test_onnx_runtime_optimizes_no_rounding_away(typed, name, tmp_path):
    model = twin(typed(name, "fp16"))
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
def test_patterns_that_onnx_runtime_would_fuse_round_in_between(half):
    """Linear layer, GELU and layer norm taken apart: with fused kernels the numbers would be others."""
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
    model, generator = twin(proto), np.random.default_rng(0)
    feeds = {
        name: generator.standard_normal(shape, np.float32)
        for name, shape in {"x": (16, 32), "w": (32, 32), "b": (32,)}.items()
    }
    for left, right in zip(run(model, feeds), run(model, feeds, optimized=False), strict=True):
        assert (left != right).mean() < 0.02


def test_quantization_with_half_scales_is_that_of_the_reference():
    """`precision` has the reference divide in float32, as kernels do; scales are rounded to half first."""
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
    found, stored = same_as_reference(proto, feeds)
    rounded_scale = np.float32(np.float16(0.0312))
    exact = np.rint(feeds["x"].astype(np.float16).astype(np.float32) / rounded_scale)
    assert np.array_equal(stored, np.clip(exact, -128, 127))
    assert np.array_equal(found, found.astype(np.float16))


def test_a_division_in_half_moves_a_quantized_number_by_one_at_most():
    body = """g (float[N] x) => (int8[N] q) <float s = {0.0312}, int8 zero = {0}> {
        sh = Cast<to = 10>(s) xh = Cast<to = 10>(x) q = QuantizeLinear(xh, sh, zero) }"""
    proto = from_text(body, opset=21)
    (found,) = same_as_reference(proto, {"x": values()}, atol=1)
    expected = ReferenceEvaluator(proto).run(None, {"x": values()})[0]
    assert (found != expected).mean() < 0.02


def test_attributes_that_name_a_type_follow():
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
    found = same_as_reference(proto, feeds, rtol=2 * STEP["fp16"])
    assert all(np.array_equal(array, array.astype(np.float16)) for array in found)


def test_random_numbers_are_rounded_too():
    proto = from_text(
        "g () => (float[64] y) { h = RandomNormal<dtype = 10, shape = [64], seed = 1.0>() y = Cast<to = 1>(h) }",
        opset=21,
    )
    (found,) = run(twin(proto), {})
    assert np.array_equal(found, found.astype(np.float16))
    assert len(np.unique(found)) > 32


def test_attention_runs_whatever_the_type_of_its_softmax():
    proto = from_text(
        """g (float[1, 2, 8, 16] x) => (float[1, 2, 8, 16] y) {
            h = Cast<to = 10>(x) a = Attention<softmax_precision = 10>(h, h, h) y = Cast<to = 1>(a)
        }""",
        opset=23,
    )
    inputs = values(256).reshape(1, 2, 8, 16)
    (found,) = same_as_reference(proto, {"x": inputs}, rtol=4 * STEP["fp16"], atol=4 * STEP["fp16"])
    assert np.array_equal(found, found.astype(np.float16))


def test_a_clip_whose_limits_are_attributes_is_rounded():
    proto = from_text(
        "g (float[3] x) => (float[3] y) { h = Cast<to = 10>(x) c = Clip<min = -0.1, max = 0.3333>(h)"
        " y = Cast<to = 1>(c) }",
        opset=10,
    )
    (found,) = run(twin(proto), {"x": np.array([-1, 0, 1], np.float32)})
    assert found.tolist() == [float(np.float16(-0.1)), 0, float(np.float16(0.3333))]


def test_bodies_of_if_and_loop_are_rounded():
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
        _, looped = same_as_reference(proto, {"x": inputs, "which": np.array(which)})
    assert np.isinf(looped).tolist() == [False, False, True, True]


def test_half_inputs_outputs_and_functions_become_float32():
    proto = onnx.parser.parse_model(
        """<ir_version: 10, opset_import: ["": 22, "own": 1]>
        g (float16[4] x) => (float16[4] y, float16[4] x2) { y = own.square(x) x2 = Identity(x) }
        <domain: "own", opset_import: ["": 22]> square (a) => (b) { b = Mul(a, a) }"""
    )
    model = twin(proto)
    edges = (*model.graph.input, *model.graph.output)
    assert [edge.name for edge in edges] == ["x", "y", "x2"]
    assert {edge.type.tensor_type.elem_type for edge in edges} == {onnx.TensorProto.FLOAT}
    square, same = run(model, {"x": np.array([1e-9, 0.1, 300, -2], np.float32)})
    with np.errstate(over="ignore"):
        assert np.array_equal(same, np.array([0, 0.1, 300, -2], np.float16))
        assert np.array_equal(square, same.astype(np.float16) * same.astype(np.float16))


def test_the_given_model_stays_as_it_is_and_weights_are_widened_when_they_are_asked_for(typed):
    proto = typed("test_efficientnet", "bf16")
    model = ir.from_proto(proto)
    before = ir.to_proto(model).SerializeToString()
    result = rounded(model)
    assert ir.to_proto(model).SerializeToString() == before
    assert half_types(model) == {ir.DataType.BFLOAT16}
    for name, value in result.graph.initializers.items():
        mine, given = value.const_value, model.graph.initializers[name].const_value
        if given.dtype is ir.DataType.BFLOAT16:
            assert isinstance(mine, ir.LazyTensor)
            assert np.array_equal(mine.numpy(), given.numpy().astype(np.float32))
        else:
            assert mine is given


def test_what_cannot_be_rounded_is_refused_by_name():
    proto = from_text(
        """g (float[4] x) => (float[4] y) <int64 first = {0}> {
            h = Cast<to = 10>(x)
            s = SequenceConstruct(h, h)
            t = SequenceAt(s, first) y = Cast<to = 1>(t)
        }"""
    )
    with pytest.raises(UnsupportedError, match="SequenceConstruct"):
        rounded(ir.from_proto(proto))


def test_a_model_without_half_types_is_told():
    assert not half_types(ir.from_proto(from_text("g (float[4] x) => (float[4] y) { y = Relu(x) }")))
    proto = onnx.parser.parse_model(
        """<ir_version: 10, opset_import: ["": 22]> g (float[N] x) => (float[N] y) {
            h = Cast<to = 16>(x) y = Cast<to = 1>(h) }"""
    )
    assert half_types(ir.from_proto(proto)) == {ir.DataType.BFLOAT16}

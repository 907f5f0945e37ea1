"""`lower_precision`: the types in the half-precision file, and the accuracy of its outputs."""

from __future__ import annotations

from collections import Counter

import numpy as np
import onnx
import onnx_ir as ir
import onnxruntime
import pytest
import timm
import torch
from onnx.reference import ReferenceEvaluator
from timmx.base.snr import SignalToNoise
from timmx.capture.trace import capture
from timmx.errors import ConfigurationError
from timmx.model.wrap import ExportModule, Normalize
from timmx.testing import awakened_model
from timmx_onnx.precision import lower_precision, overflowing

pytestmark = pytest.mark.usefixtures("export")

FLOAT, HALF, BRAIN = onnx.TensorProto.FLOAT, onnx.TensorProto.FLOAT16, onnx.TensorProto.BFLOAT16
NORMALIZE = Normalize((0.485, 0.456, 0.406), (0.229, 0.224, 0.225))


def translate(module, inputs, opset=20, dynamic=True):
    """The float32 graph of a module, and PyTorch's outputs for `inputs`."""
    module.eval()
    with torch.no_grad():
        reference = module(inputs).numpy()
    program = capture(module, inputs[:2], dynamic=dynamic)
    shapes = ({0: "batch"},) if dynamic else None
    names = {"input_names": ["input"], "output_names": ["output"]}
    translated = torch.onnx.export(
        program, (), opset_version=opset, dynamic_shapes=shapes, verbose=False, **names
    )
    return translated.model, reference


def translate_timm(name, opset=20, **options):
    model = awakened_model(name, **options)
    torch.manual_seed(0)
    inputs = torch.rand(4, *model.pretrained_cfg["input_size"])
    return *translate(ExportModule(model, NORMALIZE), inputs, opset), inputs.numpy()


def from_text(text):
    model = ir.from_proto(onnx.parser.parse_model(text))
    model.ir_version = 10
    return model


def save(model, path):
    """Save and check a model; return it as onnx reads it, with a type for every value from strict inference."""
    ir.save(model, path)
    onnx.checker.check_model(str(path), full_check=True)
    proto = onnx.load(path)
    del proto.graph.value_info[:]
    proto = onnx.shape_inference.infer_shapes(proto, check_type=True, strict_mode=True)
    names = [name for node in proto.graph.node for name in node.output if name]
    names += [tensor.name for tensor in proto.graph.initializer]
    assert Counter(names).most_common(1)[0][1] == 1
    return proto


def types(proto):
    graph = proto.graph
    element_types = {
        value.name: value.type.tensor_type.elem_type
        for value in (*graph.input, *graph.output, *graph.value_info)
    }
    return element_types | {tensor.name: tensor.data_type for tensor in graph.initializer}


def nodes(proto, *op_types):
    return [node for node in proto.graph.node if node.op_type in op_types]


def run(path, inputs):
    session = onnxruntime.InferenceSession(str(path), providers=["CPUExecutionProvider"])
    return session.run(["output"], {"input": inputs})[0]


def snr_db(reference, outputs):
    result = SignalToNoise()
    result.update(reference, outputs)
    return result.snr_db


@pytest.fixture(scope="module")
def vit(tmp_path_factory):
    """Two blocks of test_vit in float16: the report, the file, its proto, PyTorch's outputs, and the inputs."""
    path = tmp_path_factory.mktemp("vit") / "model.onnx"
    model, reference, inputs = translate_timm("test_vit", depth=2)
    report = lower_precision(model, ir.DataType.FLOAT16)
    return report, path, save(model, path), reference, inputs


def test_vision_transformer_is_float16_with_norms_and_softmax_in_float32(vit):
    report, path, proto, reference, inputs = vit
    assert snr_db(reference, run(path, inputs)) > 35
    assert [(value.name, value.type.tensor_type.elem_type) for value in proto.graph.input] == [
        ("input", FLOAT)
    ]
    assert [(value.name, value.type.tensor_type.elem_type) for value in proto.graph.output] == [
        ("output", FLOAT)
    ]
    assert proto.graph.input[0].type.tensor_type.shape.dim[0].dim_param == "batch"
    element_types = types(proto)
    for node in nodes(proto, "LayerNormalization", "Softmax"):
        assert {element_types[name] for name in (*node.input, *node.output)} == {FLOAT}
    for node in nodes(proto, "MatMul", "Gemm", "Conv", "Gelu"):
        assert {element_types[name] for name in (*node.input, *node.output)} == {HALF}
    assert report.float32_nodes["LayerNormalization"] == len(nodes(proto, "LayerNormalization")) == 5
    assert report.float32_nodes["Softmax"] == 2
    assert report.casts == len(nodes(proto, "Cast"))


def test_each_weight_is_stored_once_at_half_its_size(vit):
    _, _, proto, _, _ = vit
    parameters = sum(parameter.numel() for parameter in timm.create_model("test_vit", depth=2).parameters())
    stored = [tensor.raw_data for tensor in proto.graph.initializer]
    assert sum(map(len, stored)) < 2.1 * parameters  # in bytes; norms and the position embedding take 4 each
    large = [data for data in stored if len(data) > 4096]
    assert len(set(large)) == len(large)


def test_input_normalization_is_float32(vit):
    _, _, proto, _, _ = vit
    element_types = types(proto)
    subtract, divide = nodes(proto, "Sub")[0], nodes(proto, "Div")[0]
    assert subtract.input[0] == "input"
    assert divide.input[0] == subtract.output[0]
    assert {element_types[name] for node in (subtract, divide) for name in (*node.input, *node.output)} == {
        FLOAT
    }


def test_no_cast_is_redundant(vit):
    _, _, proto, _, _ = vit
    casts = nodes(proto, "Cast")
    results = {node.output[0] for node in casts}
    assert not results & {node.input[0] for node in casts}
    assert len({(node.input[0], node.attribute[0].i) for node in casts}) == len(casts)


@pytest.mark.parametrize(
    ("name", "options"),
    [("test_resnet", {}), ("test_convnext3", {}), ("test_coatnet", {"depths": (1, 1, 1, 1)})],
    ids=["test_resnet", "test_convnext3", "test_coatnet"],
)
def test_other_families_keep_their_accuracy(name, options, tmp_path):
    model, reference, inputs = translate_timm(name, **options)
    lower_precision(model, ir.DataType.FLOAT16)
    proto = save(model, tmp_path / "model.onnx")
    assert snr_db(reference, run(tmp_path / "model.onnx", inputs)) > 30
    element_types = types(proto)
    assert {element_types[node.input[1]] for node in nodes(proto, "Conv", "MatMul", "Gemm")} == {HALF}


def test_attention_of_opset_23_has_its_softmax_in_float32(tmp_path):
    model, reference, inputs = translate_timm("test_vit", opset=23, depth=2)
    lower_precision(model, ir.DataType.FLOAT16)
    proto = save(model, tmp_path / "model.onnx")
    attention = nodes(proto, "Attention")
    assert len(attention) == 2
    for node in attention:
        assert {item.name: item.i for item in node.attribute}["softmax_precision"] == FLOAT
        assert types(proto)[node.output[0]] == HALF
    assert snr_db(reference, run(tmp_path / "model.onnx", inputs)) > 35


def test_bfloat16_needs_opset_22_and_keeps_the_accuracy(tmp_path):
    torch.manual_seed(0)
    model = torch.nn.Sequential(
        torch.nn.Conv2d(3, 16, 3), torch.nn.GELU(), torch.nn.Flatten(), torch.nn.Linear(576, 8)
    )
    inputs = torch.randn(4, 3, 8, 8)
    graph, reference = translate(model, inputs, opset=22)
    lower_precision(graph, ir.DataType.BFLOAT16)
    proto = save(graph, tmp_path / "model.onnx")
    assert {types(proto)[name] for node in nodes(proto, "Conv", "Gemm") for name in node.input} == {BRAIN}
    # ONNX Runtime's CPU has no bfloat16 convolution.
    (outputs,) = ReferenceEvaluator(proto).run(None, {"input": inputs.numpy()})
    assert snr_db(reference, outputs) > 30
    graph.opset_imports[""] = 20
    with pytest.raises(ConfigurationError, match="--opset 22"):
        lower_precision(graph, ir.DataType.BFLOAT16)


class NormsOfLargeValues(torch.nn.Module):
    """Norms that PyTorch or the exporter decomposes, of values whose squares overflow float16."""

    def forward(self, x):
        x = torch.nn.functional.hardswish(x) * 500
        root_mean_square = torch.nn.functional.rms_norm(x, x.shape[-1:])
        norm = torch.linalg.vector_norm(x, dim=-1, keepdim=True)
        response = norm / (norm.mean(dim=-2, keepdim=True) + 1e-6)
        unit = torch.nn.functional.normalize(x, dim=-1)
        standard = (x - x.mean(-1, keepdim=True)) / torch.sqrt(x.var(-1, keepdim=True, correction=0) + 1e-6)
        return root_mean_square + torch.tanh(x * response / 1000) + unit + standard


def test_decomposed_norms_do_not_overflow(tmp_path):
    inputs = torch.randn(4, 16, 64)
    model, reference = translate(NormsOfLargeValues(), inputs)
    report = lower_precision(model, ir.DataType.FLOAT16)
    assert report.float32_nodes["ReduceMean"] >= 3
    proto = save(model, tmp_path / "model.onnx")
    # The reference evaluator computes float16 as float16; ONNX Runtime on a CPU does not.
    (outputs,) = ReferenceEvaluator(proto).run(None, {"input": inputs.numpy()})
    assert snr_db(reference, outputs) > 45


class LinearAttention(torch.nn.Module):
    """A product that overflows float16, divided by another."""

    def __init__(self):
        super().__init__()
        self.first = torch.nn.Linear(8, 8)
        self.last = torch.nn.Linear(8, 4)

    def forward(self, x):
        keys = torch.relu(self.first(x)) * 300
        product = keys.transpose(1, 2) @ keys
        return self.last(keys @ product / (product.sum(dim=1, keepdim=True) + 1))


def test_activations_that_overflow_stay_float32(tmp_path):
    torch.manual_seed(0)
    inputs = torch.randn(4, 32, 8)
    model, reference = translate(LinearAttention(), inputs)
    feeds = {"input": inputs.numpy()}
    all_half = model.clone()
    lower_precision(all_half, ir.DataType.FLOAT16)
    with np.errstate(all="ignore"):
        (outputs,) = ReferenceEvaluator(ir.to_proto(all_half)).run(None, feeds)
    assert not np.isfinite(outputs).all()
    keep = overflowing(model, feeds)
    assert [value.name for value in model.graph.outputs] == ["output"]
    report = lower_precision(model, ir.DataType.FLOAT16, keep)
    assert report.float32_nodes["MatMul"] == 2
    assert report.half_nodes > 2
    (outputs,) = ReferenceEvaluator(save(model, tmp_path / "model.onnx")).run(None, feeds)
    assert snr_db(reference, outputs) > 40


@pytest.mark.parametrize("size", [1e6, 1e-10], ids=["overflow", "underflow"])
def test_weights_out_of_range_stay_float32_and_are_reported(size, tmp_path):
    torch.manual_seed(0)
    module = torch.nn.Sequential(torch.nn.Linear(8, 16), torch.nn.GELU(), torch.nn.Linear(16, 4, bias=False))
    with torch.no_grad():
        module[2].weight.mul_(size)
    inputs = torch.randn(4, 8)
    model, reference = translate(module, inputs)
    report = lower_precision(model, ir.DataType.FLOAT16)
    proto = save(model, tmp_path / "model.onnx")
    assert len(report.out_of_range) == 1
    assert types(proto)[report.out_of_range[0]] == FLOAT
    assert {types(proto)[name] for node in nodes(proto, "Gelu") for name in node.input} == {HALF}
    assert snr_db(reference, run(tmp_path / "model.onnx", inputs.numpy())) > 50


HEAD = '<ir_version: 10, opset_import: ["" : 20]>'


def test_constant_shared_by_float32_and_float16_nodes_is_stored_in_both_types(tmp_path):
    model = from_text(f"""{HEAD} graph (float[N, 2] input) => (float[N, 2] output)
    <float[2] w = {{1.0001, -0.3}}, float[2] b = {{0.1, 0.2}}> {{
        a = Relu(input)
        c = LayerNormalization(a, w, b)
        d = Relu(c)
        output = Mul(d, w)
    }}""")
    lower_precision(model, ir.DataType.FLOAT16)
    proto = save(model, tmp_path / "model.onnx")
    stored = {tensor.name: onnx.numpy_helper.to_array(tensor) for tensor in proto.graph.initializer}
    assert {name: array.dtype.name for name, array in stored.items()} == {
        "w": "float32",
        "b": "float32",
        "w_float16": "float16",
    }
    assert stored["w"][0] == np.float32(1.0001)
    assert nodes(proto, "LayerNormalization")[0].input[1:] == ["w", "b"]


def test_attention_mask_out_of_range_is_added_in_float32(tmp_path):
    model = from_text(f"""{HEAD} graph (float[N, 3] input) => (float[N, 3] output)
    <float[3] mask = {{0, -3.4e38, 0}}, float[3] scale = {{2, 3, 4}}> {{
        scores = Relu(input)
        masked = Add(scores, mask)
        output = Softmax(masked)
    }}""")
    report = lower_precision(model, ir.DataType.FLOAT16)
    assert report.out_of_range == ("mask",)
    save(model, tmp_path / "model.onnx")
    outputs = run(tmp_path / "model.onnx", np.ones((1, 3), np.float32))
    np.testing.assert_array_equal(outputs, [[0.5, 0, 0.5]])


def test_subgraphs_functions_and_custom_operators_stay_valid(tmp_path):
    model = from_text("""<ir_version: 10, opset_import: ["" : 20, "com.microsoft" : 1, "local" : 1]>
    graph (float[N, 4] input, bool flag) => (float[N, 4] output) <float[N, 4] d, float[N, 4] e> {
        a = Relu(input)
        b = If(flag) <then_branch = then () => (float[N, 4] x) {
                c = Constant<value_float = 2.0>()
                x = Mul(a, c)
            }, else_branch = otherwise () => (float[N, 4] y) { y = Neg(a) }>
        d = local.twice(b)
        e = com.microsoft.FastGelu(d)
        output = Tanh(e)
    }
    <domain: "local", opset_import: ["" : 20]> twice (x) => (y) { y = Add(x, x) }""")
    whole = ir.to_proto(model).SerializeToString()
    report = lower_precision(model, ir.DataType.FLOAT16)
    assert report.float32_nodes == {"FastGelu": 1, "If": 1}
    assert report.half_nodes == 3
    ir.save(model, tmp_path / "model.onnx")
    onnx.checker.check_model(str(tmp_path / "model.onnx"))
    inputs = np.linspace(0.1, 0.6, 8, dtype=np.float32).reshape(2, 4)
    for flag in (True, False):
        feeds = {"input": inputs, "flag": np.array(flag)}
        exact, half = (
            onnxruntime.InferenceSession(file, providers=["CPUExecutionProvider"]).run(None, feeds)[0]
            for file in (whole, str(tmp_path / "model.onnx"))
        )
        np.testing.assert_allclose(half, exact, atol=2e-3)


def test_resize_scales_and_counts_stay_float32_in_an_unsorted_graph(tmp_path):
    model = from_text(f"""{HEAD} graph (float[1, 1, 4, 4] input) => (float[1, 1, 8, 8] output)
    <float[4] scales = {{1, 1, 2, 2}}> {{
        a = Relu(input)
        b = Resize<mode = "nearest">(a, , scales)
        shape = Shape(input)
        size = Cast<to = 1>(shape)
        large = Mul(size, size)
        count = ReduceMax<keepdims = 0>(large)
        output = Div(b, count)
    }}""")
    first = model.graph[0]
    model.graph.remove(first)
    model.graph.append(first)
    report = lower_precision(model, ir.DataType.FLOAT16)
    proto = save(model, tmp_path / "model.onnx")
    assert types(proto)["scales"] == types(proto)["large"] == FLOAT
    assert types(proto)["b"] == HALF
    assert report.float32_nodes["Mul"] == 1
    outputs = run(tmp_path / "model.onnx", np.full((1, 1, 4, 4), 8, np.float32))
    np.testing.assert_array_equal(outputs, np.full((1, 1, 8, 8), 0.5))


def test_quantized_graph_keeps_its_integers_and_scales_out_of_range(tmp_path):
    model = from_text("""<ir_version: 10, opset_import: ["" : 21]>
    graph (float[N, 2] input) => (float[N, 2] output)
    <float sx = {0.01}, int8 z = {0}, int8[2, 2] w = {1, 2, 3, 4}, float[2] sw = {0.5, 0.25},
     int8[2] zw = {0, 0}, int8[2] v = {1, 2}, float sv = {1e-8}> {
        a = Relu(input)
        q = QuantizeLinear(a, sx, z)
        d = DequantizeLinear(q, sx, z)
        dw = DequantizeLinear<axis = 1>(w, sw, zw)
        m = MatMul(d, dw)
        dv = DequantizeLinear(v, sv, z)
        output = Add(m, dv)
    }""")
    report = lower_precision(model, ir.DataType.FLOAT16)
    proto = save(model, tmp_path / "model.onnx")
    element_types = types(proto)
    assert report.out_of_range == ("sv",)
    assert (
        element_types["sx"],
        element_types["sw"],
        element_types["w"],
        element_types["m"],
        element_types["dv"],
    ) == (HALF, HALF, 3, HALF, FLOAT)
    outputs = run(tmp_path / "model.onnx", np.ones((1, 2), np.float32))
    np.testing.assert_allclose(outputs, [[2.0, 1.5]], atol=1e-2)


def test_layout_operations_between_float32_nodes_need_no_casts(tmp_path):
    model = from_text(f"""{HEAD} graph (float[2, 3] input) => (float[6] output)
    <float[3] w = {{1, 1, 1}}, float[3] b = {{0, 0, 0}}, int64[1] flat = {{6}}> {{
        a = Relu(input)
        c = LayerNormalization(a, w, b)
        d = Transpose<perm = [1, 0]>(c)
        e = Softmax<axis = 0>(d)
        output = Reshape(e, flat)
    }}""")
    report = lower_precision(model, ir.DataType.FLOAT16)
    save(model, tmp_path / "model.onnx")
    assert report.float32_nodes == {"LayerNormalization": 1, "Reshape": 1, "Softmax": 1, "Transpose": 1}
    assert report.casts == 2  # around the Relu

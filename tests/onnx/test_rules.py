"""onnxscript's rules for several nodes are matched near a node, with the same result, and lose no initializer."""

from __future__ import annotations

import numpy as np
import onnx
import onnx.reference
import onnx_ir as ir
import timmx_onnx.rules
from onnxscript import rewriter

MODEL = """<ir_version: 10, opset_import: ["" : 20]>
agraph (float[N, 8] x) => (float[N, 8] y, float[N, 3] z, float[N, 5] w)
<int64[1] zero = {0}, int64[1] middle = {4}, int64[1] three = {3}, int64[1] end = {8}, int64[1] axis = {1}> {
   second = Slice(x, middle, end, axis)
   first = Slice(x, zero, middle, axis)
   turned = Neg(second)
   y = Concat<axis = 1>(turned, first)
   z = Slice(x, zero, three, axis)
   w = Slice(y, three, end, axis)
}"""


def rewritten(rules):
    model = ir.from_proto(onnx.parser.parse_model(MODEL))
    rewriter.rewrite(model, rules)
    return [(node.op_type, [value.name for value in node.inputs]) for node in model.graph]


def test_slices_are_joined_as_by_the_original_matcher():
    replaced = [
        rule
        for rule in rewriter._DEFAULT_REWRITE_RULES
        if isinstance(rule._matcher, timmx_onnx.rules._SameInputMatcher)
    ]
    assert replaced, "onnxscript has no such rules any more: remove timmx_onnx.rules"
    fast = rewritten(replaced)
    for rule in replaced:
        rule._matcher = rule._matcher._matcher
    try:
        assert fast == rewritten(replaced)
    finally:
        timmx_onnx.rules.install()
    assert "Split" in [kind for kind, _ in fast]


CLAMPS = """<ir_version: 10, opset_import: ["" : 20]>
agraph (float[N, 8] x) => (float[N, 8] y, float[N, 8] z)
<float one = {1.0}, float two = {2.0}, float three = {3.0}, float four = {4.0}> {
   x1 = Min(x, two)
   y = Max(x1, one)
   x2 = Min(x, four)
   z = Max(x2, three)
}"""


def test_two_clamps_of_one_tensor_keep_their_limits():
    model = ir.from_proto(onnx.parser.parse_model(CLAMPS))
    rewriter.rewrite(model)
    assert [node.op_type for node in model.graph] == ["Clip", "Clip"]
    proto = ir.to_proto(model)
    onnx.checker.check_model(proto, full_check=True)
    x = np.linspace(0, 5, 8, dtype=np.float32)[None]
    y, z = onnx.reference.ReferenceEvaluator(proto).run(None, {"x": x})
    np.testing.assert_array_equal(y, x.clip(1, 2))
    np.testing.assert_array_equal(z, x.clip(3, 4))

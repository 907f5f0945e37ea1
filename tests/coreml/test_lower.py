"""`lower`: each rewrite is exact, and coremltools 9.0 still needs it.

If a test `..._is_needed` fails, a later coremltools no longer needs the rewrite: then remove the rewrite.
"""

from __future__ import annotations

import itertools
import warnings

import numpy as np
import pytest
import torch
import torch.nn.functional as F  # noqa: N812 - torch's own customary name
from timmx.base.snr import SignalToNoise
from timmx.capture.lowering.ranks import permutation_steps
from timmx.capture.trace import capture
from timmx.errors import UnsupportedError
from timmx.testing import awaken
from timmx_coreml.convert import quiet
from timmx_coreml.float32_islands import float32_islands, large_nodes
from timmx_coreml.lower import lower
from timmx_coreml.mil import MilEvaluator
from torch import nn
from witnesses import Does

pytestmark = pytest.mark.usefixtures("export")

aten = torch.ops.aten


class Recurrent(nn.Module):
    def __init__(self):
        super().__init__()
        self.lstm = nn.LSTM(8, 6, batch_first=True, bidirectional=True)

    def forward(self, input):
        return self.lstm(input)[0]


def windows(x):
    """Swin's partition of (N, H, W, C) into windows of 2 x 2, with an intermediate of rank 6."""
    n, h, w, c = x.shape
    return x.reshape(n, h // 2, 2, w // 2, 2, c).permute(0, 1, 3, 2, 4, 5).reshape(-1, 4, c).softmax(-1)


def hidden_units(x):
    """Like hiera's: a linear layer, a slice, a maximum and a normalized sum at rank 6."""
    n, c, h, w = x.shape
    x = x.reshape(n, c, h // 2, 2, w // 2, 2)
    x = F.linear(x, torch.arange(6.0).reshape(3, 2)) + x[..., :1]
    x = sum(torch.stack((x, x * 2), 3).unbind(3)).transpose(1, 3)
    x = F.layer_norm(F.gelu(x), (3,)) * x.amax(2, keepdim=True)
    return torch.cat((x, x), 5).mean((2, 3)).flatten(1)


PIXELS, TOKENS = (4, 6, 8), (5, 8)

MISSING = {
    "alias": (lambda x: aten.alias(x) + 1, PIXELS),
    "addcmul": (lambda x: torch.addcmul(x, x, x, value=0.5), PIXELS),
    "addcdiv": (lambda x: torch.addcdiv(x, x, x.exp(), value=0.5), PIXELS),
    "bicubic": (lambda x: F.interpolate(x, (9, 5), mode="bicubic"), PIXELS),
    "bicubic factors": (lambda x: F.interpolate(x, scale_factor=(1.5, 0.5), mode="bicubic"), PIXELS),
    "antialiased bicubic": (lambda x: F.interpolate(x, (3, 11), mode="bicubic", antialias=True), PIXELS),
    "rsub alpha": (lambda x: torch.rsub(x, 2.0, alpha=3), PIXELS),
    "clamped integers": (
        lambda x: F.one_hot(x.argmax(-1).clamp(min=1), 8).float().flatten(1),
        PIXELS,
    ),
    "negative pad": (lambda x: F.pad(x, (-1, 2, 1, -2)), PIXELS),
    "bilinear factors": (lambda x: F.interpolate(x, scale_factor=0.6, mode="bilinear"), PIXELS),
    "overlapping fold": (
        lambda x: F.fold(F.unfold(x, (3, 2), padding=1, stride=2), (6, 8), (3, 2), padding=1, stride=2),
        PIXELS,
    ),
    "exact nearest": (lambda x: F.interpolate(x, (9, 5), mode="nearest-exact"), PIXELS),
    "celu": (lambda x: F.celu(x, 2.0), PIXELS),
    "var_mean": (lambda x: torch.stack(torch.var_mean(x, 1, correction=1), 1), PIXELS),
    "circular pad": (lambda x: F.pad(x, (1, 2, 3, 0), "circular"), PIXELS),
    "pixel unshuffle": (lambda x: F.pixel_unshuffle(x, 2), PIXELS),
    "rank 6": (hidden_units, PIXELS),
}
"""Operations that coremltools 9.0 refuses."""

WRONG = {
    "add alpha": (lambda x: torch.add(x, x * x, alpha=3), PIXELS),
    "sub alpha": (lambda x: torch.sub(x, x * x, alpha=3), PIXELS),
    "gelu tanh": (lambda x: F.gelu(x, approximate="tanh"), PIXELS),
    "rms norm": (lambda x: F.rms_norm(x * 0.001, (8,), torch.arange(8.0), 1e-6), PIXELS),
    "reciprocal": (lambda x: 1 / (x.abs() * 0.01 + 0.001), PIXELS),
    "softplus threshold": (lambda x: F.softplus(x, beta=2, threshold=1), PIXELS),
    "antialiased bilinear": (lambda x: F.interpolate(x, (3, 4), mode="bilinear", antialias=True), PIXELS),
}
"""Operations that it converts incorrectly without an error."""


UNSURE = {
    "bilinear to no multiple": (lambda x: F.interpolate(x, (40, 30), mode="bilinear"), PIXELS),
    "nearest to no multiple": (lambda x: F.interpolate(x, (9, 5)), PIXELS),
    "uneven average": (lambda x: F.adaptive_avg_pool2d(x, (5, 3)), PIXELS),
    "even average": (lambda x: F.adaptive_avg_pool2d(x, (3, 4)), PIXELS),
}
"""Operations that it converts to undocumented behavior of Core ML, or only at a fixed batch size."""

FUNCTIONS = MISSING | WRONG | UNSURE
FIXED_TOO = ["rank 6", "negative pad", "overlapping fold", "uneven average"]
"""Gaps whose rewrites depend on sizes, and so differ at a fixed batch size."""


def convert(program, count=1, target="iOS15", precision="FLOAT32", selector=None):
    """An ML program; `count` may be a `ct.RangeDim`; `selector` selects operations that may be float16."""
    with quiet(), warnings.catch_warnings():
        warnings.simplefilter("ignore")
        import coremltools as ct

        example = next(n for n in program.graph.nodes if n.name in program.graph_signature.user_inputs)
        return ct.convert(
            program,
            source="pytorch",
            minimum_deployment_target=ct.target[target],
            compute_precision=ct.transform.FP16ComputePrecision(selector)
            if selector
            else ct.precision[precision],
            inputs=[ct.TensorType("input", (count, *example.meta["val"].shape[1:]), np.float32)],
            outputs=[ct.TensorType("output", dtype=np.float32)],
            skip_model_load=True,
        )


def snr_db(reference, result):
    ratio = SignalToNoise()
    ratio.update(reference, result)
    return ratio.snr_db


@pytest.fixture
def evaluate(tmp_path):
    """Run a converted model from its saved file, as one batch or image by image."""
    counter = itertools.count()

    def run(model, inputs, together=False):
        path = tmp_path / f"{next(counter)}.mlpackage"
        model.save(str(path))
        evaluator = MilEvaluator(model.get_spec(), path / "Data" / "com.apple.CoreML")
        batches = [inputs] if together else inputs.split(1)
        return np.concatenate([np.asarray(evaluator.run({"input": batch})["output"]) for batch in batches])

    return run


def operations(model):
    function = model.get_spec().mlProgram.functions["main"]
    return [op.type for op in next(iter(function.block_specializations.values())).operations]


def random(shape, count=3):
    return torch.randn(count, *shape, generator=torch.Generator().manual_seed(0))


@torch.no_grad()
def check(module, shape, evaluate, dynamic=False, floor_db=100, eager_db=100, **options):
    """Check that `lower` and coremltools keep the function; return the converted model."""
    inputs = random(shape)
    module.eval()
    reference = module(inputs).numpy()
    lowered = lower(capture(module, inputs if dynamic else inputs[:1], dynamic=dynamic))
    eager = lowered.module()
    answers = eager(inputs) if dynamic else torch.cat([eager(one) for one in inputs.split(1)])
    assert snr_db(reference, answers.numpy()) >= eager_db
    count = 1
    if dynamic:
        import coremltools as ct

        count = ct.RangeDim(1, 8, default=1)
    model = convert(lowered, count, **options)
    assert snr_db(reference, evaluate(model, inputs, together=dynamic)) >= floor_db
    if dynamic:
        assert snr_db(reference, evaluate(model, inputs)) >= floor_db
    return model


@pytest.mark.parametrize(
    ("gap", "dynamic"), [(gap, True) for gap in FUNCTIONS] + [(gap, False) for gap in FIXED_TOO]
)
def test_rewrite_is_exact(gap, dynamic, evaluate):
    function, shape = FUNCTIONS[gap]
    check(Does(function), shape, evaluate, dynamic)


@pytest.mark.parametrize("gap", MISSING)
def test_rewrite_of_missing_operation_is_needed(gap):
    function, shape = MISSING[gap]
    program = capture(Does(function), random(shape, 1), dynamic=False).run_decompositions({})
    with pytest.raises((NotImplementedError, ValueError, RuntimeError)):
        convert(program)


@pytest.mark.parametrize("gap", WRONG)
def test_rewrite_of_wrong_conversion_is_needed(gap, evaluate):
    function, shape = WRONG[gap]
    inputs = random(shape)
    model = convert(capture(Does(function), inputs[:1], dynamic=False).run_decompositions({}))
    assert snr_db(function(inputs).numpy(), evaluate(model, inputs)) < 90


@pytest.mark.parametrize("dynamic", [False, True])
def test_recurrent_layer_is_one_operation(dynamic, evaluate):
    assert operations(check(Recurrent(), TOKENS, evaluate, dynamic)).count("lstm") == 1


def test_translation_of_recurrent_layer_is_needed(monkeypatch):
    from coremltools.converters.mil.frontend.torch.torch_op_registry import _TORCH_OPS_REGISTRY

    monkeypatch.delitem(_TORCH_OPS_REGISTRY.name_to_func_mapping, "lstm.input", raising=False)
    program = capture(Recurrent().eval(), random(TOKENS, 1), dynamic=False).run_decompositions({})
    with pytest.raises(NotImplementedError, match="lstm"):
        convert(program)


@pytest.mark.parametrize("dynamic", [False, True])
def test_window_partition_is_one_transposition(dynamic, evaluate):
    """A partition through rank 6 becomes one transposition of rank 5 or less."""
    assert operations(check(Does(windows), PIXELS, evaluate, dynamic)).count("transpose") == 1


@pytest.mark.parametrize("limit", [4, 5])
def test_any_permutation_takes_few_steps(limit):
    for order in itertools.permutations(range(6)):
        steps = permutation_steps(order, limit)
        assert len(steps) <= 7 - limit
        result = tuple(range(6))
        for step in steps:
            result = tuple(result[dim] for dim in step)
            assert sum(after != before + 1 for before, after in itertools.pairwise(step)) < limit
        assert result == order


def masked(mask=None, **options):
    def attend(x):
        return F.scaled_dot_product_attention(x, x * 0.5, x + 1, attn_mask=mask, **options)

    return Does(attend)


INFINITE = torch.zeros(5, 5).masked_fill(torch.ones(5, 5).triu(1).bool(), -torch.inf)
ATTENTION = {
    "plain": masked(),
    "standard scale": masked(scale=8**-0.5),
    "another scale": masked(scale=0.2),
    "causal": masked(is_causal=True),
    "infinite mask": masked(INFINITE),
    "boolean mask": masked(INFINITE == 0),
    "mask a head": masked(torch.randn(4, 5, 5, generator=torch.Generator().manual_seed(1))),
    "grouped heads": Does(
        lambda x: F.scaled_dot_product_attention(x, x[:, :2], x[:, 2:] * 2, scale=0.2, enable_gqa=True)
    ),
}


@pytest.mark.parametrize("kind", ATTENTION)
@pytest.mark.parametrize("target", ["iOS15", "iOS18"])
def test_attention(kind, target, evaluate):
    """One operation if the target has it, and correct in float16 too."""
    options = {"target": target, "precision": "FLOAT16", "floor_db": 40}
    model = check(ATTENTION[kind], (4, *TOKENS), evaluate, dynamic=True, **options)
    assert ("scaled_dot_product_attention" in operations(model)) == (target == "iOS18")


def test_attention_of_other_ranks(evaluate):
    for shape in (TOKENS, (2, 4, *TOKENS)):
        model = check(masked(), shape, evaluate, target="iOS18", floor_db=100)
        assert "scaled_dot_product_attention" in operations(model)


def test_attention_with_a_scale_is_decomposed_without_the_rewrite():
    program = capture(ATTENTION["standard scale"], random((4, *TOKENS)), dynamic=False).run_decompositions({})
    assert "scaled_dot_product_attention" not in operations(convert(program, 3, target="iOS18"))


def test_grouped_heads_fail_without_the_rewrite():
    program = capture(ATTENTION["grouped heads"], random((4, *TOKENS)), dynamic=False).run_decompositions({})
    with pytest.raises(ValueError, match=r"broadcast|shape|dim|match"):
        convert(program, 3, target="iOS18")


def test_norms_and_activations_stay_whole():
    class Block(nn.Module):
        def __init__(self):
            super().__init__()
            self.norm = nn.LayerNorm(8)

        def forward(self, input):
            return F.gelu(F.gelu(F.silu(self.norm(input))), approximate="tanh").softmax(-1)

    kinds = operations(convert(lower(capture(Block().eval(), random(TOKENS, 1), dynamic=False))))
    assert sorted(kind for kind in kinds if kind != "const") == [
        "gelu", "gelu", "layer_norm", "silu", "softmax"
    ]  # fmt: skip


@pytest.mark.parametrize("dynamic", [False, True])
def test_group_norm_is_one_norm(dynamic, evaluate):
    """Its squares stay inside one operation and do not overflow float16."""
    norm = nn.GroupNorm(2, 4)
    with torch.no_grad():
        norm.weight += torch.arange(4.0)
        norm.bias -= 1
    options = {"precision": "FLOAT16", "floor_db": 50, "target": "iOS18"}
    model = check(Does(lambda x: norm(x * 1000)), PIXELS, evaluate, dynamic, **options)
    assert operations(model).count("layer_norm") == 1


def test_group_norm_overflows_without_the_rewrite(evaluate):
    inputs = random(PIXELS)
    module = Does(lambda x: F.group_norm(x * 1000, 2))
    model = convert(capture(module, inputs[:1], dynamic=False).run_decompositions({}), precision="FLOAT16")
    assert not snr_db(module(inputs).numpy(), evaluate(model, inputs)) > 20


def test_roll_is_slices(evaluate):
    kinds = operations(check(Does(lambda x: x.roll((-1, 3), (2, 3)) * 2), PIXELS, evaluate, dynamic=True))
    assert "gather" not in kinds
    assert kinds.count("concat") == 2


def test_broadcasting_needs_no_tiles(evaluate):
    kinds = operations(check(Does(lambda x: F.normalize(x, dim=1)), PIXELS, evaluate, dynamic=True))
    assert "tile" not in kinds
    module = Does(lambda x: x.mean(1, keepdim=True).expand(-1, 4, -1, -1))
    assert "tile" in operations(check(module, PIXELS, evaluate, dynamic=True))


def test_dynamic_reshapes_compute_no_sizes():
    model = Does(lambda x: windows(x).reshape(x.shape[0], -1, x.shape[-1]).transpose(1, 2).flatten(1))
    lowered = lower(capture(model, random(PIXELS), dynamic=True))
    assert not [node for node in lowered.graph.nodes if "sym_size" in str(node.target)]


def test_copy_at_the_output_is_removed(evaluate):
    """A copy at the output is removed, and its input becomes the output."""
    kinds = operations(check(Does(lambda x: (x * 2).clone()), PIXELS, evaluate))
    assert [kind for kind in kinds if kind != "const"] == ["mul"]


def test_program_is_not_changed():
    program = capture(Does(windows), random(PIXELS, 1), dynamic=False)
    before = str(program.graph)
    lower(program)
    assert str(program.graph) == before


@torch.no_grad()
def test_large_values_stay_float32(evaluate):
    """A linear attention whose sums overflow float16, between float16 convolutions."""

    class Linear(nn.Module):
        def __init__(self):
            super().__init__()
            self.first = nn.Conv2d(4, 4, 1)
            self.last = nn.Conv2d(4, 4, 1)

        def forward(self, input):
            x = self.first(input).flatten(2).exp() * 100
            total = x @ x.transpose(1, 2)
            return self.last((total @ x / total.sum((1, 2), keepdim=True)).reshape(input.shape) / 100)

    torch.manual_seed(0)
    inputs = random(PIXELS)
    module = Linear().eval()
    lowered = lower(capture(module, inputs[:1], dynamic=False))
    assert {"matmul", "matmul_1", "sum_1"} <= large_nodes(lowered, inputs.split(1))
    reference = module(inputs).numpy()
    assert not snr_db(reference, evaluate(convert(lowered, precision="FLOAT16"), inputs)) > 20
    model = convert(lowered, selector=float32_islands(lowered, inputs.split(1)))
    assert snr_db(reference, evaluate(model, inputs)) > 40
    function = model.get_spec().mlProgram.functions["main"]
    types = {
        op.type: {output.type.tensorType.dataType for output in op.outputs}
        for op in next(iter(function.block_specializations.values())).operations
    }
    float16, float32 = 10, 11  # MIL.proto
    assert types["conv"] == {float16}
    assert types["matmul"] == {float32}


def test_no_islands_if_float16_is_enough():
    lowered = lower(capture(masked(INFINITE), random((4, *TOKENS), 1), dynamic=False))
    assert float32_islands(lowered, [random((4, *TOKENS), 1)]) is None


class Layer(nn.Module):
    def __init__(self, function):
        super().__init__()
        self.inner = Does(function)

    def forward(self, input):
        return self.inner(input)


@pytest.mark.parametrize(
    ("function", "reason"),
    [
        (
            torch.special.bessel_j0,
            r"no translation of aten\.special_bessel_j0.*in inner \(Does\)\nhint: use timmx onnx",
        ),
        (
            lambda x: x.reshape(1, 2, 2, 2, 3, 8).cumsum(1),
            r"at most 5 dimensions; aten\.cumsum.*in inner \(Does\)",
        ),
    ],
)
def test_unsupported_operation_is_reported_with_its_layer(function, reason):
    with pytest.raises(UnsupportedError, match=reason):
        lower(capture(Layer(function), random(PIXELS, 1), dynamic=False))


def small(family):
    """A family's own layers, few and narrow."""
    from importlib import import_module

    convit, csatv2, hiera, nest, sequencer, swin_transformer = (
        import_module(f"timm.models.{name}")
        for name in ("convit", "csatv2", "hiera", "nest", "sequencer", "swin_transformer")
    )
    builders = {
        "convit": lambda: convit.ConVit(
            img_size=32, embed_dim=16, depth=2, num_heads=2, local_up_to_layer=1, num_classes=5
        ),
        "csatv2": lambda: csatv2.CSATv2(
            dims=(8, 8, 16, 16), depths=(1, 1, 1, 1), transformer_depths=(0, 0, 1, 1), num_classes=5
        ),
        "hiera": lambda: hiera.Hiera(img_size=(64, 64), embed_dim=16, stages=(1, 1, 1, 1), num_classes=5),
        "nest": lambda: nest.Nest(
            img_size=64, num_levels=2, embed_dims=(16, 32), num_heads=(1, 2), depths=(1, 1), num_classes=5
        ),
        "sequencer": lambda: sequencer.Sequencer2d(
            img_size=56,
            layers=(1, 1, 1, 1),
            embed_dims=(16, 16, 16, 16),
            hidden_sizes=(8, 8, 8, 8),
            num_classes=5,
        ),
        "swin": lambda: swin_transformer.SwinTransformer(
            img_size=64, window_size=4, embed_dim=16, depths=(2, 2), num_heads=(2, 2), num_classes=5
        ),
    }
    size = {"convit": 32, "sequencer": 56}.get(family, 64)
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        return awaken(builders[family](), input_size=(3, size, size)), (3, size, size)


@pytest.mark.parametrize("family", ["convit", "csatv2", "hiera", "nest", "sequencer", "swin"])
def test_family_that_needs_rewrites_converts_correctly(family, evaluate):
    """With a dynamic batch size; test_families.py has the whole models and fixed batch sizes."""
    model, shape = small(family)
    check(Does(model), shape, evaluate, dynamic=True, floor_db=90, eager_db=90)

"""`lower`: each rewrite is exact, and coremltools 9.0 still needs it.

A conversion takes a second, so many functions are converted in one model: each has its own output, which one test
checks. If a test `..._is_needed` fails, a later coremltools no longer needs the rewrite: then remove the rewrite.
"""

from __future__ import annotations

import itertools
import warnings
from dataclasses import dataclass

import numpy as np
import pytest
import torch
import torch.nn.functional as F  # noqa: N812 - torch's own customary name
from timmx.base.snr import SignalToNoise
from timmx.capture.lowering.ranks import permutation_steps
from timmx.capture.trace import capture
from timmx.errors import UnsupportedError
from timmx.testing import awaken
from timmx_coreml.convert import quiet, validation_per_pipeline
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
        return self.lstm(input[:, 0])[0]


class Together(nn.Module):
    """Modules with the same input, each with its own output."""

    def __init__(self, modules):
        super().__init__()
        self.parts = nn.ModuleList(modules)

    def forward(self, input):
        return tuple(part(input) for part in self.parts)


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


PIXELS = (4, 6, 8)

MISSING = {
    "alias": lambda x: aten.alias(x) + 1,
    "addcmul": lambda x: torch.addcmul(x, x, x, value=0.5),
    "addcdiv": lambda x: torch.addcdiv(x, x, x.exp(), value=0.5),
    "bicubic": lambda x: F.interpolate(x, (9, 5), mode="bicubic"),
    "bicubic factors": lambda x: F.interpolate(x, scale_factor=(1.5, 0.5), mode="bicubic"),
    "antialiased bicubic": lambda x: F.interpolate(x, (3, 11), mode="bicubic", antialias=True),
    "rsub alpha": lambda x: torch.rsub(x, 2.0, alpha=3),
    "clamped integers": lambda x: F.one_hot(x.argmax(-1).clamp(min=1), 8).float().flatten(1),
    "negative pad": lambda x: F.pad(x, (-1, 2, 1, -2)),
    "bilinear factors": lambda x: F.interpolate(x, scale_factor=0.6, mode="bilinear"),
    "overlapping fold": lambda x: F.fold(
        F.unfold(x, (3, 2), padding=1, stride=2), (6, 8), (3, 2), padding=1, stride=2
    ),
    "exact nearest": lambda x: F.interpolate(x, (9, 5), mode="nearest-exact"),
    "celu": lambda x: F.celu(x, 2.0),
    "var_mean": lambda x: torch.stack(torch.var_mean(x, 1, correction=1), 1),
    "circular pad": lambda x: F.pad(x, (1, 2, 3, 0), "circular"),
    "pixel unshuffle": lambda x: F.pixel_unshuffle(x, 2),
    "rank 6": hidden_units,
}
"""Operations that coremltools 9.0 refuses."""

WRONG = {
    "add alpha": lambda x: torch.add(x, x * x, alpha=3),
    "sub alpha": lambda x: torch.sub(x, x * x, alpha=3),
    "gelu tanh": lambda x: F.gelu(x, approximate="tanh"),
    "rms norm": lambda x: F.rms_norm(x * 0.001, (8,), torch.arange(8.0), 1e-6),
    "reciprocal": lambda x: 1 / (x.abs() * 0.01 + 0.001),
    "softplus threshold": lambda x: F.softplus(x, beta=2, threshold=1),
    "antialiased bilinear": lambda x: F.interpolate(x, (3, 4), mode="bilinear", antialias=True),
}
"""Operations that it converts incorrectly without an error."""


UNSURE = {
    "bilinear to no multiple": lambda x: F.interpolate(x, (40, 30), mode="bilinear"),
    "nearest to no multiple": lambda x: F.interpolate(x, (9, 5)),
    "uneven average": lambda x: F.adaptive_avg_pool2d(x, (5, 3)),
    "even average": lambda x: F.adaptive_avg_pool2d(x, (3, 4)),
}
"""Operations that it converts to undocumented behavior of Core ML, or only at a fixed batch size."""

FUNCTIONS = MISSING | WRONG | UNSURE
FIXED_TOO = ["rank 6", "negative pad", "overlapping fold", "uneven average"]
"""Gaps whose rewrites depend on sizes, and so differ at a fixed batch size."""

STRUCTURES = {
    "recurrent": Recurrent(),
    "windows": windows,
    "roll": lambda x: x.roll((-1, 3), (2, 3)) * 2,
    "normalize": lambda x: F.normalize(x, dim=1),
    "expand": lambda x: x.mean(1, keepdim=True).expand(-1, 4, -1, -1),
    "copy": lambda x: (x * 2).clone(),
}
"""Functions whose operations in the converted model are checked."""


@validation_per_pipeline()
def convert(program, count=1, target="iOS15", precision="FLOAT32", selector=None):
    """An ML program; `count` may be a `ct.RangeDim`; `selector` selects operations that may be float16."""
    with quiet(), warnings.catch_warnings():
        warnings.simplefilter("ignore")
        import coremltools as ct

        example = next(n for n in program.graph.nodes if n.name in program.graph_signature.user_inputs)
        names = [f"output_{index}" for index in range(len(program.graph_signature.user_outputs))]
        return ct.convert(
            program,
            source="pytorch",
            minimum_deployment_target=ct.target[target],
            compute_precision=ct.transform.FP16ComputePrecision(selector)
            if selector
            else ct.precision[precision],
            inputs=[ct.TensorType("input", (count, *example.meta["val"].shape[1:]), np.float32)],
            outputs=[ct.TensorType(name, dtype=np.float32) for name in names],
            skip_model_load=True,
        )


def snr_db(reference, result):
    ratio = SignalToNoise()
    ratio.update(reference, result)
    return ratio.snr_db


@pytest.fixture(scope="module")
def evaluate(tmp_path_factory):
    """The outputs of a converted model, run from its saved file, as one batch or image by image."""
    counter = itertools.count()
    folder = tmp_path_factory.mktemp("packages")

    def run(model, inputs, together=False):
        path = folder / f"{next(counter)}.mlpackage"
        model.save(str(path))
        evaluator = MilEvaluator(model.get_spec(), path / "Data" / "com.apple.CoreML")
        answers = [evaluator.run({"input": batch}) for batch in ([inputs] if together else inputs.split(1))]
        names = sorted(answers[0], key=lambda name: int(name.removeprefix("output_")))
        return [np.concatenate([np.asarray(answer[name]) for answer in answers]) for name in names]

    return run


def operations(model, output=None):
    """The types of all operations, or of those that an output is computed from."""
    function = model.get_spec().mlProgram.functions["main"]
    block = next(iter(function.block_specializations.values()))
    needed, kinds = {output}, []
    for op in reversed(block.operations):
        if output is None or needed.intersection(value.name for value in op.outputs):
            kinds.append(op.type)
            needed.update(value.name for bound in op.inputs.values() for value in bound.arguments)
    return kinds


def random(shape, count=3):
    return torch.randn(count, *shape, generator=torch.Generator().manual_seed(0))


@dataclass
class Output:
    """What one function computes: in PyTorch, lowered in PyTorch, and in the converted model."""

    reference: np.ndarray
    lowered: np.ndarray
    converted: list[np.ndarray]
    operations: list[str]

    def check(self, floor_db=100, lowered_db=100):
        """Check that `lower` and coremltools keep the function; return the types of the operations."""
        assert snr_db(self.reference, self.lowered) >= lowered_db
        for array in self.converted:
            assert snr_db(self.reference, array) >= floor_db
        return self.operations


@torch.no_grad()
def convert_together(functions, shape, evaluate, dynamic, **options):
    """Convert named functions in one model: name -> Output."""
    module = Together(
        part if isinstance(part, nn.Module) else Does(part) for part in functions.values()
    ).eval()
    inputs = random(shape)
    lowered = lower(capture(module, inputs if dynamic else inputs[:1], dynamic=dynamic))
    run = lowered.module()
    answers = [run(batch) for batch in ([inputs] if dynamic else inputs.split(1))]
    count = 1
    if dynamic:
        import coremltools as ct

        count = ct.RangeDim(1, 8, default=1)
    model = convert(lowered, count, **options)
    converted = [evaluate(model, inputs, together) for together in ([False, True] if dynamic else [False])]
    return {
        name: Output(
            reference=module.parts[index](inputs).numpy(),
            lowered=torch.cat([answer[index] for answer in answers]).numpy(),
            converted=[outputs[index] for outputs in converted],
            operations=operations(model, f"output_{index}"),
        )
        for index, name in enumerate(functions)
    }


@pytest.fixture(scope="module")
def rewritten(evaluate):
    """The rewritten functions at a batch size: `dynamic`, name -> Output."""
    fixed = {name: FUNCTIONS[name] for name in FIXED_TOO} | STRUCTURES
    return {
        dynamic: convert_together(functions, PIXELS, evaluate, dynamic)
        for dynamic, functions in ((True, FUNCTIONS | STRUCTURES), (False, fixed))
    }


@pytest.mark.parametrize(
    ("gap", "dynamic"), [(gap, True) for gap in FUNCTIONS] + [(gap, False) for gap in FIXED_TOO]
)
def test_rewrite_is_exact(gap, dynamic, rewritten):
    rewritten[dynamic][gap].check()


@pytest.mark.parametrize("gap", MISSING)
def test_rewrite_of_missing_operation_is_needed(gap):
    program = capture(Does(MISSING[gap]), random(PIXELS, 1), dynamic=False).run_decompositions({})
    with pytest.raises((NotImplementedError, ValueError, RuntimeError)):
        convert(program)


@pytest.fixture(scope="module")
def not_rewritten(evaluate):
    """The functions that coremltools converts incorrectly, without `lower`: name -> outputs."""
    inputs = random(PIXELS)
    module = Together(map(Does, WRONG.values()))
    model = convert(capture(module, inputs[:1], dynamic=False).run_decompositions({}))
    return dict(zip(WRONG, evaluate(model, inputs), strict=True))


@pytest.mark.parametrize("gap", WRONG)
def test_rewrite_of_wrong_conversion_is_needed(gap, not_rewritten):
    assert snr_db(WRONG[gap](random(PIXELS)).numpy(), not_rewritten[gap]) < 90


@pytest.mark.parametrize("dynamic", [False, True])
def test_recurrent_layer_is_one_operation(dynamic, rewritten):
    assert rewritten[dynamic]["recurrent"].check().count("lstm") == 1


def test_translation_of_recurrent_layer_is_needed(monkeypatch):
    from coremltools.converters.mil.frontend.torch.torch_op_registry import _TORCH_OPS_REGISTRY

    monkeypatch.delitem(_TORCH_OPS_REGISTRY.name_to_func_mapping, "lstm.input", raising=False)
    program = capture(Recurrent().eval(), random(PIXELS, 1), dynamic=False).run_decompositions({})
    with pytest.raises(NotImplementedError, match="lstm"):
        convert(program)


@pytest.mark.parametrize("dynamic", [False, True])
def test_window_partition_is_one_transposition(dynamic, rewritten):
    """A partition through rank 6 becomes one transposition of rank 5 or less."""
    assert rewritten[dynamic]["windows"].check().count("transpose") == 1


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

    return attend


INFINITE = torch.zeros(6, 6).masked_fill(torch.ones(6, 6).triu(1).bool(), -torch.inf)
ATTENTION = {
    "plain": masked(),
    "standard scale": masked(scale=8**-0.5),
    "another scale": masked(scale=0.2),
    "causal": masked(is_causal=True),
    "infinite mask": masked(INFINITE),
    "boolean mask": masked(INFINITE == 0),
    "mask a head": masked(torch.randn(4, 6, 6, generator=torch.Generator().manual_seed(1))),
    "grouped heads": lambda x: F.scaled_dot_product_attention(
        x, x[:, :2], x[:, 2:] * 2, scale=0.2, enable_gqa=True
    ),
}


class LoudNorm(nn.Module):
    """A group norm of values whose squares overflow float16."""

    def __init__(self):
        super().__init__()
        self.norm = nn.GroupNorm(2, 4)
        with torch.no_grad():
            self.norm.weight += torch.arange(4.0)
            self.norm.bias -= 1

    def forward(self, input):
        return self.norm(input * 1000)


@pytest.fixture(scope="module")
def half(evaluate):
    """Attention and a group norm in float16, with a dynamic batch size: target -> name -> Output."""
    functions = ATTENTION | {"group norm": LoudNorm()}
    return {
        target: convert_together(functions, PIXELS, evaluate, True, target=target, precision="FLOAT16")
        for target in ("iOS15", "iOS18")
    }


@pytest.mark.parametrize("kind", ATTENTION)
@pytest.mark.parametrize("target", ["iOS15", "iOS18"])
def test_attention(kind, target, half):
    """One operation if the target has it, and correct in float16 too."""
    kinds = half[target][kind].check(floor_db=40)
    assert ("scaled_dot_product_attention" in kinds) == (target == "iOS18")


def test_attention_of_other_ranks(evaluate):
    ranks = {
        3: lambda x: masked()(x[:, 0]),
        5: lambda x: masked()(x.reshape(x.shape[0], 2, 2, 6, 8)),
    }
    for output in convert_together(ranks, PIXELS, evaluate, False, target="iOS18").values():
        assert "scaled_dot_product_attention" in output.check()


def test_attention_with_a_scale_is_decomposed_without_the_rewrite():
    program = capture(Does(ATTENTION["standard scale"]), random(PIXELS), dynamic=False).run_decompositions({})
    assert "scaled_dot_product_attention" not in operations(convert(program, 3, target="iOS18"))


def test_grouped_heads_fail_without_the_rewrite():
    program = capture(Does(ATTENTION["grouped heads"]), random(PIXELS), dynamic=False).run_decompositions({})
    with pytest.raises(ValueError, match=r"broadcast|shape|dim|match"):
        convert(program, 3, target="iOS18")


def test_norms_and_activations_stay_single_operations():
    class Block(nn.Module):
        def __init__(self):
            super().__init__()
            self.norm = nn.LayerNorm(8)

        def forward(self, input):
            return F.gelu(F.gelu(F.silu(self.norm(input))), approximate="tanh").softmax(-1)

    kinds = operations(convert(lower(capture(Block().eval(), random(PIXELS, 1), dynamic=False))))
    assert sorted(kind for kind in kinds if kind != "const") == [
        "gelu", "gelu", "layer_norm", "silu", "softmax"
    ]  # fmt: skip


def test_group_norm_is_one_norm(evaluate, half):
    """Its squares stay inside one operation and do not overflow float16."""
    fixed = convert_together(
        {"group norm": LoudNorm()}, PIXELS, evaluate, False, target="iOS18", precision="FLOAT16"
    )
    for outputs in (fixed, half["iOS18"]):
        assert outputs["group norm"].check(floor_db=50).count("layer_norm") == 1


def test_group_norm_overflows_without_the_rewrite(evaluate):
    inputs = random(PIXELS)
    module = Does(lambda x: F.group_norm(x * 1000, 2))
    model = convert(capture(module, inputs[:1], dynamic=False).run_decompositions({}), precision="FLOAT16")
    (outputs,) = evaluate(model, inputs)
    assert not snr_db(module(inputs).numpy(), outputs) > 20


def test_roll_is_slices(rewritten):
    kinds = rewritten[True]["roll"].check()
    assert "gather" not in kinds
    assert kinds.count("concat") == 2


def test_broadcasting_needs_no_tiles(rewritten):
    assert "tile" not in rewritten[True]["normalize"].check()
    assert "tile" in rewritten[True]["expand"].check()


def test_dynamic_reshapes_compute_no_sizes():
    model = Does(lambda x: windows(x).reshape(x.shape[0], -1, x.shape[-1]).transpose(1, 2).flatten(1))
    lowered = lower(capture(model, random(PIXELS), dynamic=True))
    assert not [node for node in lowered.graph.nodes if "sym_size" in str(node.target)]


def test_copy_at_the_output_is_removed(rewritten):
    """A copy at the output is removed, and its input becomes the output."""
    kinds = rewritten[False]["copy"].check()
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
    (outputs,) = evaluate(convert(lowered, precision="FLOAT16"), inputs)
    assert not snr_db(reference, outputs) > 20
    model = convert(lowered, selector=float32_islands(lowered, inputs.split(1)))
    (outputs,) = evaluate(model, inputs)
    assert snr_db(reference, outputs) > 40
    function = model.get_spec().mlProgram.functions["main"]
    types = {
        op.type: {output.type.tensorType.dataType for output in op.outputs}
        for op in next(iter(function.block_specializations.values())).operations
    }
    float16, float32 = 10, 11  # MIL.proto
    assert types["conv"] == {float16}
    assert types["matmul"] == {float32}


def test_no_islands_if_float16_is_enough():
    lowered = lower(capture(Does(masked(INFINITE)), random(PIXELS, 1), dynamic=False))
    assert float32_islands(lowered, [random(PIXELS, 1)]) is None


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
    """A family's own layers, few and narrow, and their input size."""
    from importlib import import_module

    convit, csatv2, hiera, nest, sequencer, swin_transformer = (
        import_module(f"timm.models.{name}")
        for name in ("convit", "csatv2", "hiera", "nest", "sequencer", "swin_transformer")
    )
    builders = {
        "convit": lambda: convit.ConVit(
            img_size=32, embed_dim=16, depth=2, num_heads=2, local_up_to_layer=1, num_classes=5
        ),
        # one convolutional and one transformer block
        "csatv2": lambda: csatv2.CSATv2(dims=(8,), depths=(2,), transformer_depths=(1,), num_classes=5),
        "hiera": lambda: hiera.Hiera(
            img_size=(64, 64),
            embed_dim=16,
            stages=(1, 1),
            q_pool=1,
            mask_unit_attn=(True, False),
            num_classes=5,
        ),
        "nest": lambda: nest.Nest(
            img_size=64, num_levels=2, embed_dims=(16, 32), num_heads=(1, 2), depths=(1, 1), num_classes=5
        ),
        "sequencer": lambda: sequencer.Sequencer2d(
            img_size=56,
            layers=(0, 1),
            patch_sizes=(7, 2),
            embed_dims=(16, 16),
            hidden_sizes=(8, 8),
            mlp_ratios=(3, 3),
            num_classes=5,
        ),
        # the second block shifts its windows
        "swin": lambda: swin_transformer.SwinTransformer(
            img_size=64, window_size=4, embed_dim=16, depths=(0, 2), num_heads=(2, 2), num_classes=5
        ),
    }
    size = {"convit": 32, "sequencer": 56}.get(family, 64)
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        model = awaken(builders[family](), input_size=(3, size, size))
    with torch.no_grad():
        model(torch.zeros(1, 3, size, size))  # ConViT computes its positions in the first run
    return model, (3, size, size)


@pytest.mark.parametrize("family", ["convit", "csatv2", "hiera", "nest", "sequencer", "swin"])
def test_family_that_needs_rewrites_converts_correctly(family, evaluate):
    """With a dynamic batch size; test_families.py has the whole models and fixed batch sizes."""
    model, shape = small(family)
    outputs = convert_together({family: model}, shape, evaluate, True)
    outputs[family].check(floor_db=90, lowered_db=90)

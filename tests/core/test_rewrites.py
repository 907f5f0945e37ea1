"""Rewrites of captured graphs: equal values without the operation."""

from __future__ import annotations

import onnxruntime
import pytest
import torch
from timm.layers.halo_attn import HaloAttn
from timmx.base.snr import SignalToNoise
from timmx.capture.rewrites import replace_unfold
from timmx.capture.trace import capture

UNFOLD = torch.ops.aten.unfold.default


class Unfold(torch.nn.Module):
    """`Tensor.unfold` once or several times, inside a child module."""

    def __init__(self, *windows):
        super().__init__()
        self.windows = torch.nn.Sequential(*(Window(*window) for window in windows))

    def forward(self, x):
        return self.windows(x) * 2


class Window(torch.nn.Module):
    def __init__(self, dim, size, step):
        super().__init__()
        self.window = (dim, size, step)

    def forward(self, x):
        return x.unfold(*self.window)


def rewritten(module, x, **dynamic):
    program = torch.export.export(module, (x,), **dynamic)
    graph_module = program.module()
    return graph_module, replace_unfold(graph_module)


def targets(graph_module):
    return {node.target for node in graph_module.graph.nodes}


@pytest.mark.parametrize(
    "windows",
    [
        [(2, 3, 1)],
        [(2, 3, 3)],
        [(2, 4, 3)],  # the last columns are in no window
        [(-1, 2, 5)],
        [(-3, 1, 2)],
        [(3, 11, 1)],  # one window that is the whole dimension
        [(1, 3, 7)],
        [(2, 4, 2), (3, 4, 2)],  # halonet
        [(2, 4, 2), (-1, 2, 1), (0, 2, 1)],
    ],
)
def test_unfold_is_replaced_by_slices_with_equal_values(windows):
    module = Unfold(*windows)
    x = torch.randn(2, 3, 11, 11)
    graph_module, count = rewritten(module, x)
    assert count == len(windows)
    assert UNFOLD not in targets(graph_module)
    assert torch.equal(graph_module(x), module(x))
    again = torch.export.export(graph_module, (x,)).module()
    assert torch.equal(again(x), module(x))


def test_batch_and_unfolded_size_may_be_symbolic():
    module = Unfold((2, 4, 3), (3, 2, 1))
    x = torch.randn(2, 3, 11, 11)
    shapes = ({0: torch.export.Dim("batch", min=1), 2: torch.export.Dim("height", min=7)},)
    graph_module, _ = rewritten(module, x, dynamic_shapes=shapes)
    again = torch.export.export(graph_module, (x,), dynamic_shapes=shapes).module()
    for size in ((1, 3, 7, 11), (2, 3, 11, 11), (5, 3, 12, 11)):
        x = torch.randn(size)
        assert torch.equal(again(x), module(x))


def test_new_nodes_keep_the_scope_of_the_old_one():
    graph_module, _ = rewritten(Unfold((2, 4, 3)), torch.randn(2, 3, 11, 11))
    (stack,) = graph_module.graph.find_nodes(op="call_function", target=torch.ops.aten.stack.default)
    assert [path for path, _ in stack.meta["nn_module_stack"].values()] == ["", "windows", "windows.0"]


def test_a_graph_without_unfold_and_a_scalar_are_not_changed():
    _, count = rewritten(torch.nn.Linear(3, 4), torch.randn(2, 3))
    assert count == 0
    x = torch.tensor(3.0)
    graph_module, count = rewritten(Unfold((0, 1, 1)), x)
    assert count == 0
    assert torch.equal(graph_module(x), torch.tensor([6.0]))


def test_halo_attention_is_correct_in_onnx_runtime_with_and_without_the_rewrite(export, tmp_path):
    """The exporter's own translation of unfold is correct in torch 2.14.1 with onnxscript 0.7.2.

    A whole halonet can say otherwise: with random weights whose attention runs away, PyTorch's own float32 output
    lies at -4 dB from its float64 one, and nothing can be told.
    """
    torch.manual_seed(0)
    module = HaloAttn(32, num_heads=4, block_size=8, halo_size=3).eval()
    x = torch.randn(4, 32, 32, 32)
    shapes = ({0: torch.export.Dim("batch", min=1)},)
    with torch.no_grad():
        reference = module(x)
        raw = torch.export.export(module, (x[:2],), dynamic_shapes=shapes)
        graph_module = raw.module()
        assert replace_unfold(graph_module) == 2
        assert torch.equal(graph_module(x), reference)
        slices = torch.export.export(graph_module, (x[:2],), dynamic_shapes=shapes)
    for name, program in (("raw", raw), ("slices", slices)):
        path = tmp_path / f"{name}.onnx"
        torch.onnx.export(program, (), str(path), input_names=["input"], verbose=False)
        session = onnxruntime.InferenceSession(str(path), providers=["CPUExecutionProvider"])
        result = SignalToNoise()
        result.update(reference.numpy(), session.run(None, {"input": x.numpy()})[0])
        assert result.snr_db > 100


class Positions(torch.nn.Module):
    """Positions looked up as in gemma4_vit, and made of sines as in xcit: they do not depend on the pixels."""

    def forward(self, input):
        rows, columns = torch.meshgrid(torch.arange(3), torch.arange(4), indexing="ij")
        table = torch.nn.functional.one_hot(rows * 4 + columns, 12).float().sin()
        return input + table.sum(-1)


class Filled(torch.nn.Module):
    """Writes the pixels into zeros, which are therefore not constant."""

    def forward(self, input):
        canvas = torch.zeros(1, 1, 3, 4)
        canvas[..., ::2] = input[..., ::2]
        return canvas * 2 + torch.arange(4)


@pytest.mark.parametrize("dynamic", [False, True])
def test_operations_that_start_with_a_constructor_are_folded(dynamic):
    x = torch.randn(2, 1, 3, 4)
    program = capture(Positions(), x, dynamic=dynamic)
    kinds = [str(n.target) for n in program.graph.nodes if n.op == "call_function"]
    assert [kind for kind in kinds if "assert" not in kind] == ["aten.add.Tensor"]
    assert torch.equal(program.module()(x), Positions()(x))


def test_a_tensor_that_the_input_is_written_into_is_not_folded():
    first, second = torch.randn(2, 1, 1, 3, 4).unbind()
    module = capture(Filled(), first, dynamic=False).module()
    for x in (first, second, first):
        assert torch.equal(module(x), Filled()(x))


class Shifted(torch.nn.Module):
    """Adds a sine of a parameter and a buffer, multiplies by a view of another one, and outputs a constant."""

    def __init__(self):
        super().__init__()
        self.angle, self.scale, self.spare = (torch.nn.Parameter(torch.rand(4)) for _ in range(3))
        self.register_buffer("offset", torch.rand(4), persistent=False)

    def forward(self, input):
        wave = (self.angle.sin() + self.offset).view(1, 1, 1, 4)
        return input * self.scale.view(1, 1, 1, 4) + wave, self.spare.cos()


@pytest.mark.parametrize("dynamic", [False, True])
def test_folding_replaces_the_weights_that_only_constants_use(dynamic, tmp_path):
    module, x = Shifted().requires_grad_(False), torch.randn(2, 1, 3, 4)
    program = capture(module, x, dynamic=dynamic)
    assert sorted(program.state_dict) == ["_folded_0", "scale", "spare"]
    assert not program.constants
    torch.export.save(program, tmp_path / "model.pt2")
    for saved in (program, torch.export.load(tmp_path / "model.pt2")):
        for result, expected in zip(saved.module()(x), module(x), strict=True):
            assert torch.equal(result, expected)

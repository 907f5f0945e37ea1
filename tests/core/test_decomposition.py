"""Programs are decomposed as by torch, which is slower."""

from __future__ import annotations

from collections import Counter

import pytest
import timm
import torch
from timmx.plugin import decompose, quick_decompositions
from torch import nn
from torch.export import ExportedProgram
from torch.utils._pytree import tree_leaves

aten = torch.ops.aten


def operations(program):
    return Counter(str(node.target) for node in program.graph.nodes if node.op == "call_function")


class Blocks(nn.Module):
    """Operations that occur once and several times, in place, with several results, without an input."""

    def __init__(self):
        super().__init__()
        self.conv = nn.Conv2d(4, 4, 3, padding=1)
        self.norm = nn.LayerNorm(8)
        self.register_buffer("scale", torch.full((4, 1, 1), 0.5))

    def forward(self, x):
        for _ in range(2):
            x = self.conv(x).relu_()
            x += self.scale
        first, second = x.chunk(2, dim=1)
        grid = torch.linspace(0, 1, 8) + torch.tensor([0.25, 0.5]).repeat(4)
        x = self.norm(torch.cat((second, first), dim=1)) * grid
        attended = nn.functional.scaled_dot_product_attention(x, x, x.flip(1))
        values, _ = attended.transpose(1, 2).reshape(x.shape).max(dim=-1)
        return values.flatten(1), x


class ViewsInPlace(nn.Module):
    """Changes tensors that have views, made before and after the change."""

    def forward(self, x):
        y = x.sigmoid()
        y[:, 0].add_(1)
        z = y * 2
        before = z.transpose(1, 2)
        z.mul_(3)
        return (before + z.transpose(1, 2)).flatten(1).softmax(dim=-1)


class Nothing(nn.Module):
    def forward(self, x):
        return x + 1


def captured(module, example, **options):
    return torch.export.export(module.eval().requires_grad_(False), (example,), **options)


@pytest.mark.parametrize("module", [Blocks(), ViewsInPlace(), Nothing()])
@pytest.mark.parametrize("dynamic", [False, True])
def test_a_program_is_decomposed_as_by_torch(module, dynamic):
    example = torch.rand(2, 4, 8, 8)
    shapes = ({0: torch.export.Dim("batch", min=1)},) if dynamic else None
    program = captured(module, example, dynamic_shapes=shapes)
    before = str(program.graph)
    expected = program.run_decompositions()
    for _ in range(2):  # the second time, the decompositions are known
        found = decompose(program)
        assert operations(found).keys() == operations(expected).keys()
        assert not operations(found) - operations(expected)  # torch splits once for each part
        outputs = zip(
            tree_leaves(found.module()(example)), tree_leaves(expected.module()(example)), strict=True
        )
        assert all(torch.equal(ours, theirs) for ours, theirs in outputs)
    assert str(program.graph) == before


@pytest.mark.parametrize("name", ["test_vit", "test_resnet", "test_convnext", "test_efficientnet"])
def test_a_model_is_decomposed_as_by_torch(name):
    model = timm.create_model(name)
    example = torch.rand(1, 3, *model.pretrained_cfg["input_size"][1:])
    program = captured(model, example)
    expected, found = program.run_decompositions(), decompose(program)
    assert operations(found) == operations(expected)
    assert torch.equal(found.module()(example), expected.module()(example))
    for ours, theirs in zip(found.graph.nodes, expected.graph.nodes, strict=True):
        if ours.op == "call_function":
            shapes = [
                [getattr(value, "shape", None) for value in tree_leaves(node.meta.get("val"))]
                for node in (ours, theirs)
            ]
            assert shapes[0] == shapes[1]
            assert ours.meta["nn_module_stack"].keys() == theirs.meta["nn_module_stack"].keys()


def test_only_operations_of_the_table_are_decomposed_by_its_functions():
    program = captured(Blocks(), torch.rand(2, 4, 8, 8))
    table = {aten.layer_norm.default: lambda x, *options: x * 2}
    found = operations(decompose(program, table))
    assert "aten.layer_norm.default" not in found
    assert found["aten.conv2d.default"] == 2
    table = {aten.layer_norm.default: lambda x, *options: x * 3}
    example = torch.rand(2, 4, 8, 8)
    assert torch.equal(
        decompose(program, table).module()(example)[1], program.run_decompositions(table).module()(example)[1]
    )


def test_functions_that_a_converter_puts_into_a_program_are_traced():
    program = captured(Nothing(), torch.rand(2, 4))
    for factor in (2, 3):
        (node,) = (node for node in program.graph.nodes if node.op == "call_function")
        node.target = lambda x, y, factor=factor: torch.softmax(x * factor, -1) + y
        program.graph_module.recompile()
        with quick_decompositions():
            found = program.run_decompositions()
        example = torch.rand(2, 4)
        assert torch.equal(found.module()(example), torch.softmax(example * factor, -1) + 1)
        assert "aten._softmax.default" in operations(found)


def test_other_code_gets_the_function_of_torch_back():
    original = ExportedProgram.run_decompositions

    def fail():
        with quick_decompositions():
            assert ExportedProgram.run_decompositions is not original
            raise ValueError("converter")

    with pytest.raises(ValueError, match="converter"):
        fail()
    assert ExportedProgram.run_decompositions is original

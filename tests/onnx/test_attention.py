"""Attention with more or fewer than four axes is reshaped for PyTorch's ONNX exporter."""

from __future__ import annotations

import pytest
import torch
import torch.nn.functional as F  # noqa: N812 - torch's own customary name
from timmx_onnx.attention import with_four_axes

ATTENTION = torch.ops.aten.scaled_dot_product_attention.default


class Attention(torch.nn.Module):
    def __init__(self, lead: tuple[int, ...], mask: tuple[int, ...] | None) -> None:
        super().__init__()
        self.lead = lead
        self.mask = None if mask is None else torch.nn.Buffer(torch.randn(mask))

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        query = x.reshape(x.shape[0], *self.lead, 6, 8)
        return F.scaled_dot_product_attention(query, query * 2, query + 1, attn_mask=self.mask, scale=0.3)


@pytest.mark.parametrize("dynamic", [False, True])
@pytest.mark.parametrize(
    ("lead", "mask"),
    [
        ((3, 4), None),
        ((3, 4), (6, 6)),
        ((3, 4), (4, 6, 6)),
        ((12,), (6, 6)),
        ((), None),
        ((2, 3, 2), (3, 1, 6, 6)),
    ],
)
def test_attention_has_four_axes_and_equal_outputs(lead, mask, dynamic):
    torch.manual_seed(0)
    module = Attention(lead, mask).eval()
    count = 48
    for size in lead:
        count *= size
    shapes = ({0: torch.export.Dim("batch", min=1)},) if dynamic else None
    program = torch.export.export(module, (torch.randn(2, count),), dynamic_shapes=shapes)
    four = with_four_axes(program)
    assert (four is program) == (len(lead) == 1)
    nodes = four.graph.find_nodes(op="call_function", target=ATTENTION)
    assert [node.args[0].meta["val"].ndim for node in nodes] == [4]
    inputs = torch.randn(3 if dynamic else 2, count)
    torch.testing.assert_close(four.module()(inputs), module(inputs))

"""MIL's recurrent operations, step by step in float32 and rounded once at the end.

`gru` is missing because its documentation is inconsistent: the formula applies the reset gate after the product with
the weights, and `reset_after`, False by default, means before.
"""

from __future__ import annotations

import torch
from torch import Tensor

from timmx_coreml.mil.operations.activation import by_name
from timmx_coreml.mil.operations.registry import operation


@operation()
def rnn(
    x: Tensor,
    initial_h: Tensor,
    weight_ih: Tensor,
    weight_hh: Tensor,
    bias: Tensor | None = None,
    direction: str = "forward",
    output_sequence: bool = False,
    activation: str = "tanh",
) -> tuple[Tensor, Tensor]:
    h, states = initial_h, []
    for step in _steps(x, direction):
        h = by_name(activation, _sum(step @ weight_ih.T + h @ weight_hh.T, bias))
        states.append(h)
    return _sequence(states, direction, output_sequence), h


@operation()
def lstm(
    x: Tensor,
    initial_h: Tensor,
    initial_c: Tensor,
    weight_ih: Tensor,
    weight_hh: Tensor,
    bias: Tensor | None = None,
    peephole: Tensor | None = None,
    weight_ih_back: Tensor | None = None,
    weight_hh_back: Tensor | None = None,
    bias_back: Tensor | None = None,
    peephole_back: Tensor | None = None,
    direction: str = "forward",
    output_sequence: bool = False,
    recurrent_activation: str = "sigmoid",
    cell_activation: str = "tanh",
    activation: str = "tanh",
    clip: float | None = None,
) -> tuple[Tensor, Tensor, Tensor]:
    if peephole is not None or peephole_back is not None or clip is not None:
        raise NotImplementedError("peephole and clip, whose formulas MIL does not document")
    names = (recurrent_activation, cell_activation, activation)
    if direction != "bidirectional":
        states, h, c = _lstm(x, initial_h, initial_c, weight_ih, weight_hh, bias, direction, names)
        return _sequence(states, direction, output_sequence), h, c
    if weight_ih_back is None or weight_hh_back is None:
        raise ValueError("no weights for the backward direction")
    h_forward, h_backward = initial_h.chunk(2, 1)
    c_forward, c_backward = initial_c.chunk(2, 1)
    forward, h1, c1 = _lstm(x, h_forward, c_forward, weight_ih, weight_hh, bias, "forward", names)
    backward, h2, c2 = _lstm(
        x, h_backward, c_backward, weight_ih_back, weight_hh_back, bias_back, "reverse", names
    )
    sequences = [
        _sequence(forward, "forward", output_sequence),
        _sequence(backward, "reverse", output_sequence),
    ]
    return torch.cat(sequences, 2), torch.cat([h1, h2], 1), torch.cat([c1, c2], 1)


def _lstm(
    x: Tensor,
    h: Tensor,
    c: Tensor,
    weight_ih: Tensor,
    weight_hh: Tensor,
    bias: Tensor | None,
    direction: str,
    activations: tuple[str, str, str],
) -> tuple[list[Tensor], Tensor, Tensor]:
    recurrent, cell, final = activations
    states = []
    for step in _steps(x, direction):
        gates = _sum(step @ weight_ih.T + h @ weight_hh.T, bias).chunk(4, 1)
        i, f, o = (by_name(recurrent, gate) for gate in gates[:3])
        c = f * c + i * by_name(cell, gates[3])
        h = o * by_name(final, c)
        states.append(h)
    return states, h, c


def _steps(x: Tensor, direction: str) -> list[Tensor]:
    """Return the steps of x (steps, batch, features) in processing order."""
    if direction not in ("forward", "reverse"):
        raise NotImplementedError(f"direction {direction!r}")
    return list(x.unbind(0) if direction == "forward" else x.flip(0).unbind(0))


def _sequence(states: list[Tensor], direction: str, output_sequence: bool) -> Tensor:
    """Return all states in the order of the input's steps, or only the last."""
    if not output_sequence:
        return states[-1].unsqueeze(0)
    return torch.stack(states if direction == "forward" else states[::-1])


def _sum(product: Tensor, bias: Tensor | None) -> Tensor:
    return product if bias is None else product + bias

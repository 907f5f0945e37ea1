"""Recurrent layers as coremltools writes them, against torch's cells."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from coremltools.converters.mil import Builder as mb  # noqa: N813
from neural_networks import evaluate, from_mil, random, tensor
from timmx.errors import UnsupportedError

LENGTH, BATCH, IN, OUT = 5, 2, 4, 3


def lstm(bidirectional: bool) -> torch.nn.LSTM:
    torch.manual_seed(0)
    return torch.nn.LSTM(IN, OUT, bidirectional=bidirectional).requires_grad_(False)


def gates(parameter):
    """torch's order is input, forget, cell, output; MIL's is input, forget, output, cell."""
    i, f, z, o = np.split(parameter.numpy(), 4)
    return np.concatenate([i, f, o, z])


def mil_lstm(module, suffix=""):
    return {
        "weight_ih": gates(getattr(module, f"weight_ih_l0{suffix}")),
        "weight_hh": gates(getattr(module, f"weight_hh_l0{suffix}")),
        "bias": gates(getattr(module, f"bias_ih_l0{suffix}") + getattr(module, f"bias_hh_l0{suffix}")),
    }


@pytest.mark.parametrize("whole", [False, True])
def test_lstm(whole):
    module, x, h, c = lstm(False), random(LENGTH, BATCH, IN), random(BATCH, OUT), random(BATCH, OUT, seed=1)
    spec = from_mil(
        lambda x, h, c: mb.lstm(
            x=x, initial_h=h, initial_c=c, direction="forward", output_sequence=whole, **mil_lstm(module)
        ),
        x.shape, h.shape, c.shape,
    )  # fmt: skip
    outputs, (h_n, c_n) = module(tensor(x), (tensor(h)[None], tensor(c)[None]))
    expected = outputs if whole else outputs[-1:], h_n[0], c_n[0]
    for computed, reference in zip(evaluate(spec, x, h, c), expected, strict=True):
        assert np.allclose(computed, reference, atol=1e-6)


@pytest.mark.parametrize("whole", [False, True])
def test_bidirectional_lstm(whole):
    module = lstm(True)
    x, h, c = random(LENGTH, BATCH, IN), random(BATCH, 2 * OUT), random(BATCH, 2 * OUT, seed=1)
    back = {f"{name}_back": value for name, value in mil_lstm(module, "_reverse").items()}
    spec = from_mil(
        lambda x, h, c: mb.lstm(
            x=x, initial_h=h, initial_c=c, direction="bidirectional", output_sequence=whole,
            **mil_lstm(module), **back,
        ),
        x.shape, h.shape, c.shape,
    )  # fmt: skip
    states = (torch.stack(tensor(state).chunk(2, 1)) for state in (h, c))
    outputs, (h_n, c_n) = module(tensor(x), tuple(states))
    last = torch.cat((outputs[-1:, :, :OUT], outputs[:1, :, OUT:]), -1)
    expected = outputs if whole else last, torch.cat((*h_n,), -1), torch.cat((*c_n,), -1)
    for computed, reference in zip(evaluate(spec, x, h, c), expected, strict=True):
        assert np.allclose(computed, reference, atol=1e-6)


def test_reversed_sequence_of_outputs_is_refused():
    x, h = random(LENGTH, BATCH, IN), random(BATCH, OUT)
    spec = from_mil(
        lambda x, h: mb.lstm(
            x=x, initial_h=h, initial_c=h, direction="reverse", output_sequence=True, **mil_lstm(lstm(False))
        ),
        x.shape, h.shape,
    )  # fmt: skip
    with pytest.raises(UnsupportedError, match="reverseInput"):
        evaluate(spec, x, h)


@pytest.mark.parametrize("whole", [False, True])
def test_gru(whole):
    w_r, w_o, w_z = (random(OUT, IN, seed=i) for i in range(3))
    r_r, r_o, r_z = (random(OUT, OUT, seed=i) for i in range(3, 6))
    b_r, b_o, b_z = (random(OUT, seed=i) for i in range(6, 9))
    x, h = random(LENGTH, BATCH, IN, seed=9), random(BATCH, OUT, seed=10)
    spec = from_mil(
        lambda x, h: mb.gru(
            x=x, initial_h=h, weight_ih=np.concatenate([w_r, w_o, w_z]),
            weight_hh=np.concatenate([r_r, r_o, r_z]), bias=np.concatenate([b_r, b_o, b_z]),
            direction="forward", output_sequence=whole,
        ),
        x.shape, h.shape,
    )  # fmt: skip
    outputs, y = [], h
    for vector in x:
        z = 1 / (1 + np.exp(-(vector @ w_z.T + y @ r_z.T + b_z)))
        r = 1 / (1 + np.exp(-(vector @ w_r.T + y @ r_r.T + b_r)))
        y = (1 - z) * np.tanh(vector @ w_o.T + (r * y) @ r_o.T + b_o) + z * y
        outputs.append(y)
    sequence, last = evaluate(spec, x, h)
    assert np.allclose(sequence, outputs if whole else outputs[-1:], atol=1e-6)
    assert np.allclose(last, y, atol=1e-6)

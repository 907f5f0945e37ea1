"""LSTM and GRU layers; sequences are (sequence, batch, vector, 1, 1)."""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING, Any

import torch

from timmx_coreml.neural_network.activations import activation
from timmx_coreml.neural_network.layer import Layer, Step, translates

if TYPE_CHECKING:
    from collections.abc import Sequence

Activation = Callable[[torch.Tensor], torch.Tensor]
Cell = Callable[[torch.Tensor, tuple[torch.Tensor, ...]], tuple[torch.Tensor, ...]]
"""One step: takes a vector and the states before it, returns the states after it, the output first."""


@translates("uniDirectionalLSTM", inputs=(1, 3), outputs=None)
def _lstm(layer: Layer) -> Step:
    params = layer.params
    cell = _lstm_cell(layer, params.weightParams, params.activations)
    return _unidirectional(layer, cell, 2, bool(params.params.sequenceOutput), bool(params.reverseInput))


@translates("gru", inputs=(1, 2), outputs=None)
def _gru(layer: Layer) -> Step:
    params = layer.params
    cell = _gru_cell(layer)
    return _unidirectional(layer, cell, 1, bool(params.sequenceOutput), bool(params.reverseInput))


@translates("biDirectionalLSTM", inputs=(1, 5), outputs=None)
def _bidirectional_lstm(layer: Layer) -> Step:
    params = layer.params
    if len(params.weightParams) != 2:
        raise layer.damaged(f"it has {len(params.weightParams)} sets of weights instead of 2")
    if len(layer.outputs) not in (1, 5):
        raise layer.damaged(f"it has {len(layer.outputs)} outputs instead of 1 or 5")
    forward = _lstm_cell(layer, params.weightParams[0], params.activationsForwardLSTM)
    backward = _lstm_cell(layer, params.weightParams[1], params.activationsBackwardLSTM)
    size, whole, count = int(params.outputVectorSize), bool(params.params.sequenceOutput), len(layer.outputs)

    def run(x: torch.Tensor, *states: torch.Tensor) -> tuple[torch.Tensor, ...]:
        sequence = _vectors(x, int(params.inputVectorSize))
        forward_y, forward_states = _sweep(forward, sequence, _states(states[:2], sequence, size, 2))
        backward_y, backward_states = _sweep(
            backward, sequence.flip(0), _states(states[2:], sequence, size, 2)
        )
        # In a sequence, each backward output is joined to the forward one of the same vector.
        y = torch.cat((forward_y, backward_y.flip(0)) if whole else (forward_y[-1:], backward_y[-1:]), -1)
        return tuple(
            blob[..., None, None] for blob in (y, *(s[None] for s in (*forward_states, *backward_states)))
        )[:count]

    return run


def _unidirectional(layer: Layer, cell: Cell, states_count: int, whole: bool, backwards: bool) -> Step:
    size, in_size = int(layer.params.outputVectorSize), int(layer.params.inputVectorSize)
    count = len(layer.outputs)
    if count not in (1, 1 + states_count):
        raise layer.damaged(f"it has {count} outputs instead of 1 or {1 + states_count}")

    def run(x: torch.Tensor, *states: torch.Tensor) -> tuple[torch.Tensor, ...]:
        sequence = _vectors(x, in_size)
        if backwards and whole and len(sequence) > 1:
            raise layer.unsupported(
                "it uses reverseInput with a sequence of outputs, whose order is not documented"
            )
        sequence = sequence.flip(0) if backwards else sequence
        outputs, final = _sweep(cell, sequence, _states(states, sequence, size, states_count))
        y = outputs if whole else outputs[-1:]
        return tuple(blob[..., None, None] for blob in (y, *(state[None] for state in final)))[:count]

    return run


def _vectors(x: torch.Tensor, size: int) -> torch.Tensor:
    if x.ndim != 5 or tuple(x.shape[2:]) != (size, 1, 1):
        raise ValueError(f"a sequence must be (sequence, batch, {size}, 1, 1)")
    return x[..., 0, 0]


def _states(
    blobs: Sequence[torch.Tensor], sequence: torch.Tensor, size: int, count: int
) -> tuple[torch.Tensor, ...]:
    """Return the initial states as (batch, size); zeros by default."""
    batch = sequence.shape[1]
    return tuple(blob.reshape(batch, size) for blob in blobs) or (torch.zeros(batch, size),) * count


def _sweep(
    cell: Cell, sequence: torch.Tensor, states: tuple[torch.Tensor, ...]
) -> tuple[torch.Tensor, tuple[torch.Tensor, ...]]:
    """Run a cell over a sequence; return all outputs and the last states."""
    outputs = []
    for vector in sequence:
        states = cell(vector, states)
        outputs.append(states[0])
    return torch.stack(outputs), states


def _activations(layer: Layer, messages: Any, count: int) -> list[Activation]:
    if len(messages) != count:
        raise layer.damaged(f"it has {len(messages)} activations instead of {count}")
    return [activation(layer, message) for message in messages]


def _clip(x: torch.Tensor) -> torch.Tensor:
    return x.clamp(-50.0, 50.0)


def _lstm_cell(layer: Layer, weights: Any, activations: Any) -> Cell:
    """Return the cell of an LSTM. Source: `LSTMParams` in Apple's NeuralNetwork.proto."""
    params = layer.params.params
    size, in_size = int(layer.params.outputVectorSize), int(layer.params.inputVectorSize)
    f, g, h = _activations(layer, activations, 3)
    gates = "inputGate", "forgetGate", "blockInput", "outputGate"
    w = torch.cat([layer.weights(f"{gate}WeightMatrix", [size, in_size], of=weights) for gate in gates])
    r = torch.cat([layer.weights(f"{gate}RecursionMatrix", [size, size], of=weights) for gate in gates])
    bias = torch.zeros(4 * size)
    if params.hasBiasVectors:
        bias = torch.cat([layer.weights(f"{gate}BiasVector", [size], of=weights) for gate in gates])
    if params.forgetBias:
        bias[size : 2 * size] += 1
    peep_i, peep_f, peep_o = (
        layer.weights(f"{gate}PeepholeVector", [size], of=weights)
        if params.hasPeepholeVectors
        else torch.zeros(size)
        for gate in ("inputGate", "forgetGate", "outputGate")
    )
    coupled, limit = bool(params.coupledInputAndForgetGate), float(params.cellClipThreshold) or 50.0

    def cell(x: torch.Tensor, states: tuple[torch.Tensor, ...]) -> tuple[torch.Tensor, ...]:
        y, c = states
        i, forget, z, o = (x @ w.T + y @ r.T + bias).chunk(4, -1)
        i, z = f(_clip(i + peep_i * c)), g(_clip(z))
        forget = 1 - i if coupled else f(_clip(forget + peep_f * c))
        c = (c * forget + i * z).clamp(-limit, limit)
        return h(c) * f(_clip(o + peep_o * c)), c

    return cell


def _gru_cell(layer: Layer) -> Cell:
    """Return the cell of a GRU. Source: `GRULayerParams` in Apple's NeuralNetwork.proto."""
    params = layer.params
    size, in_size = int(params.outputVectorSize), int(params.inputVectorSize)
    f, g = _activations(layer, params.activations, 2)
    gates = "updateGate", "resetGate", "outputGate"
    w_z, w_r, w_o = (layer.weights(f"{gate}WeightMatrix", [size, in_size]) for gate in gates)
    r_z, r_r, r_o = (layer.weights(f"{gate}RecursionMatrix", [size, size]) for gate in gates)
    b_z, b_r, b_o = (
        layer.weights(f"{gate}BiasVector", [size]) if params.hasBiasVectors else torch.zeros(size)
        for gate in gates
    )

    def cell(x: torch.Tensor, states: tuple[torch.Tensor, ...]) -> tuple[torch.Tensor, ...]:
        (y,) = states
        z = f(_clip(x @ w_z.T + y @ r_z.T + b_z))
        reset = f(_clip(x @ w_r.T + y @ r_r.T + b_r))
        o = g(_clip(x @ w_o.T + (y * reset) @ r_o.T + b_o))
        return ((1 - z) * o + z * y,)

    return cell

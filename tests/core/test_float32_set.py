"""Which operations of a half-precision file stay in float32: as few as its floor allows."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from timmx.quantization.float32_set import smallest_float32_set
from timmx.quantization.half import HalfPrecisionProgram
from torch import nn


def costs(noise: dict[str, float]):
    """The ratio where every operation that is not in float32 adds its own noise."""
    return lambda kept: (
        -10 * np.log10(1e-12 + sum(value for name, value in noise.items() if name not in kept))
    )


def test_only_the_operations_that_matter_stay_in_float32():
    noise = {f"operation {index}": 1e-6 for index in range(40)} | {"operation 7": 1e-1, "operation 21": 1e-2}
    measure = costs(noise)
    found = smallest_float32_set(list(noise), measure, 30.0)
    assert found.items == {"operation 7", "operation 21"}
    assert found.minimal
    assert found.snr_db == measure(found.items) >= 30


def test_none_of_the_chosen_operations_can_move_back():
    noise = {f"operation {index}": 10.0 ** -(index % 5) for index in range(30)}
    measure = costs(noise)
    found = smallest_float32_set(list(noise), measure, 20.0)
    assert measure(found.items) >= 20
    assert all(measure(found.items - {item}) < 20 for item in found.items)


def test_a_floor_that_float32_does_not_reach_gives_no_choice():
    assert smallest_float32_set(["a", "b"], lambda kept: 10.0 * len(kept), 30.0) is None


def test_nothing_stays_in_float32_where_half_precision_is_enough():
    assert smallest_float32_set(["a", "b"], lambda kept: 40.0, 30.0).items == frozenset()


class Cancels(nn.Module):
    """Adds a large constant and takes it away again, which leaves little of float16's 11 bits."""

    def __init__(self) -> None:
        super().__init__()
        self.first = nn.Linear(12, 8)
        self.last = nn.Linear(8, 4)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        x = self.first(x.flatten(1))
        x = (x + 900.0) - 900.0
        return self.last(x.tanh())


def test_the_operations_of_a_program_that_cancel_stay_in_float32():
    torch.manual_seed(0)
    program = torch.export.export(Cancels().eval(), (torch.zeros(1, 3, 2, 2),))
    half = HalfPrecisionProgram(
        program, np.random.default_rng(0).normal(size=(4, 3, 2, 2)).astype(np.float32)
    )
    assert len(half.operations) == 5
    assert half.snr_db(()) < 20
    assert half.snr_db(half.operations) == np.inf
    found = smallest_float32_set(half.operations, half.snr_db, 40.0)
    assert found.items == {"add", "sub"}
    assert half.snr_db(found.items) >= 40


class InPlace(Cancels):
    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return super().forward(x.clone().mul_(2.0).add_(0.5))


@pytest.mark.parametrize("module", [Cancels(), InPlace()], ids=["functional", "in place"])
def test_earlier_measurements_do_not_change_later_ones(module):
    program = torch.export.export(module.eval(), (torch.zeros(2, 3, 2, 2),))
    inputs = np.random.default_rng(0).normal(size=(5, 3, 2, 2)).astype(np.float32)
    half = HalfPrecisionProgram(program, inputs)
    names = half.operations
    for kept in (names[1:], names[:-1], names[:-2], names, (), names[2:], names[2:], (names[0], names[-1])):
        assert half.snr_db(kept) == HalfPrecisionProgram(program, inputs).snr_db(kept)

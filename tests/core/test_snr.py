"""The measure of verification: signal, noise, and how batches are merged."""

import math

import numpy as np
import pytest
from timmx.base.snr import SignalToNoise


def measured(reference, candidate, batch: int | None = None) -> SignalToNoise:
    snr = SignalToNoise()
    step = batch or len(reference)
    for start in range(0, len(reference), step):
        snr.update(reference[start : start + step], candidate[start : start + step])
    return snr


def test_noise_is_measured_against_the_variation_between_inputs() -> None:
    reference = np.array([[100.0, 1.0], [100.0, -1.0]])
    snr = measured(reference, reference + np.array([[0.1, 0.0], [0.0, 0.0]]))
    assert snr.signal == pytest.approx(2.0)
    assert snr.noise == pytest.approx(0.01)
    assert snr.snr_db == pytest.approx(10 * math.log10(200))
    assert snr.cosine_min > 0.999999  # so the cosine does not show the difference


@pytest.mark.parametrize("batch", [1, 3, 7, 64])
def test_batches_give_the_same_result_as_one_batch(batch: int) -> None:
    rng = np.random.default_rng(0)
    reference = rng.normal(3, 2, (64, 5, 4)).astype(np.float32)
    candidate = reference + rng.normal(0, 1e-3, reference.shape).astype(np.float32)
    snr = measured(reference, candidate, batch)
    true, judged = reference.astype(np.float64), candidate.astype(np.float64)
    assert snr.count == 64
    assert snr.signal == pytest.approx(((true - true.mean(0)) ** 2).sum(), rel=1e-12)
    assert snr.noise == pytest.approx(((judged - true) ** 2).sum(), rel=1e-12)
    assert snr.energy == pytest.approx((true**2).sum(), rel=1e-12)
    assert snr.max_abs_diff == pytest.approx(np.abs(judged - true).max(), rel=1e-12)
    cosines = (true * judged).sum((1, 2)) / np.sqrt((true**2).sum((1, 2)) * (judged**2).sum((1, 2)))
    assert snr.cosine_min == pytest.approx(cosines.min(), abs=1e-12)


@pytest.mark.parametrize("batch", [1, 4, 100])
def test_a_tiny_variation_on_a_large_offset_is_not_lost(batch: int) -> None:
    variation = np.random.default_rng(0).normal(0, 1e-3, (100, 10))
    snr = measured(variation + 1e6, variation + 1e6, batch)
    true = ((variation - variation.mean(0)) ** 2).sum()
    assert snr.signal == pytest.approx(true, rel=1e-5)  # 1e6 + 1e-3 has 7 digits of the variation
    assert not measured(variation + 1e2, variation + 1e2, batch).vacuous


def test_an_output_larger_than_a_chunk_is_measured_completely() -> None:
    reference = np.random.default_rng(0).normal(size=(3, 1 << 20)).astype(np.float32)
    snr = measured(reference, reference * np.float32(1.001))
    assert snr.snr_db == pytest.approx(60 + 10 * math.log10(2 / 3), abs=0.1)  # 3 inputs: their own mean


def test_an_output_that_does_not_depend_on_its_input_is_vacuous() -> None:
    reference = np.tile(np.float32([1, 2, 3]), (4, 1))
    snr = measured(reference, reference + np.float32(1e-4))
    assert snr.vacuous
    assert snr.snr_db == -math.inf
    assert snr.energy_snr_db == pytest.approx(10 * math.log10(14 / 3e-8), abs=0.1)
    assert measured(reference[:1], reference[:1]).vacuous  # one input shows no variation


def test_equal_outputs_have_no_noise() -> None:
    reference = np.random.default_rng(0).normal(size=(4, 10))
    snr = measured(reference, reference)
    assert snr.snr_db == math.inf
    assert snr.cosine_min == pytest.approx(1)
    assert snr.max_abs_diff == 0
    assert snr.top1_agreement == 1


@pytest.mark.parametrize("bad", [math.nan, math.inf])
def test_a_value_that_is_not_finite_fails_all_later_batches(bad: float) -> None:
    reference = np.random.default_rng(0).normal(size=(4, 10))
    candidate = reference.copy()
    candidate[1, 3] = bad
    snr = measured(reference, candidate, batch=1)
    assert snr.snr_db == -math.inf
    assert math.isnan(snr.max_abs_diff)
    assert math.isnan(snr.cosine_min)


def test_top1_agreement_is_the_share_of_equal_classes() -> None:
    reference = np.eye(4)
    candidate = reference.copy()
    candidate[0, 2] = 2.0
    assert measured(reference, candidate, batch=3).top1_agreement == 0.75
    assert measured(reference.reshape(4, 2, 2), reference.reshape(4, 2, 2)).top1_agreement is None
    assert measured(reference[:, :1], reference[:, :1]).top1_agreement is None


def test_half_precision_is_measured_in_float64() -> None:
    reference = np.array([[30000.0], [-30000.0]], dtype=np.float16)
    assert measured(reference, reference / 2).snr_db == pytest.approx(10 * math.log10(4), abs=1e-6)


def test_zero_rows_have_a_defined_cosine() -> None:
    zeros, ones = np.zeros((2, 3)), np.ones((2, 3))
    assert measured(zeros, zeros).cosine_min == 1
    assert measured(ones, zeros).cosine_min == 0


def test_other_shapes_are_refused() -> None:
    snr = SignalToNoise()
    with pytest.raises(ValueError, match=r"\(2, 3\).*\(2, 4\)"):
        snr.update(np.ones((2, 3)), np.ones((2, 4)))
    snr.update(np.ones((2, 3)), np.ones((2, 3)))
    with pytest.raises(ValueError, match=r"\(3,\).*\(4,\)"):
        snr.update(np.ones((2, 4)), np.ones((2, 4)))

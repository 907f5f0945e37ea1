"""Results of verification: correct, wrong, vacuous, fixed batch size, unproven."""

from __future__ import annotations

import numpy as np
import pytest
from timmx.cli.results import verdict
from timmx.contract.capabilities import Precision
from timmx.contract.options import agreement_share
from timmx.contract.runner import Runner, TensorSpec
from timmx.errors import ConfigurationError, VerificationError
from timmx.inputs.samples import ImageSamples, SyntheticSamples
from timmx.model.data_config import DataConfig
from timmx.verification.comparison import FLOORS_DB, Reference, Status, verify

CONFIG = DataConfig(
    input_size=(3, 8, 8),
    mean=(0.5,) * 3,
    std=(0.25,) * 3,
    interpolation="bicubic",
    crop_pct=0.9,
    crop_mode="center",
)


class Answers(Runner):
    """A runner that computes a test's function in numpy."""

    inputs = (TensorSpec(name="input", shape=("batch", 3, 8, 8), dtype="float32", layout="NCHW"),)
    outputs = (TensorSpec(name="output", shape=("batch", 5), dtype="float32", layout="NC"),)

    def __init__(self, compute, batch_sizes=(1, 2, 3)):
        self.compute, self.batch_sizes, self.seen = compute, batch_sizes, []

    def run(self, feeds):
        self.seen.append(len(feeds["input"]))
        return {"output": self.compute(feeds["input"])}


WEIGHT = np.random.default_rng(0).normal(size=(192, 5)).astype(np.float32)


def model(x):
    return x.reshape(len(x), -1) @ WEIGHT


def reference(compute=model):
    samples = SyntheticSamples(CONFIG, in_graph=False)
    return Reference(
        samples=samples,
        outputs=(compute(samples.take(range(len(samples)))),),
        names=("output",),
        classes=True,
    )


def judge(
    runner, *, compute=model, batch_size=None, conclusive=True, min_snr_db=None, precision=Precision.FP32
):
    return verify(
        runner,
        reference(compute),
        precision=precision,
        batch_size=batch_size,
        conclusive=conclusive,
        min_snr_db=min_snr_db,
    )


def test_a_correct_artifact_is_verified_at_three_batch_sizes():
    runner = Answers(model)
    report = judge(runner)
    assert report.status is Status.VERIFIED
    assert report.snr_db > 100
    assert report.top1_agreement == 1.0
    assert set(runner.seen) == {1, 2, 3}


def test_the_smallest_and_largest_accepted_batch_are_run():
    runner = Answers(model, batch_sizes=(2, 4, 16))
    assert judge(runner).batch_sizes == (2, 4, 16)
    assert {2, 4, 16} <= set(runner.seen)


@pytest.mark.parametrize("batch", [1, 4, 7])
def test_a_static_batch_is_kept_and_all_inputs_are_compared(batch):
    runner = Answers(model)
    report = judge(runner, batch_size=batch)
    assert set(runner.seen) == {batch}
    assert sum(runner.seen) >= report.inputs == 6


def test_wrong_outputs_that_a_cosine_accepts_fail():
    def offset(x):
        return model(x) + 1000

    def nearly_constant(x):
        return offset(x[:1]).repeat(len(x), axis=0)

    report = judge(Answers(nearly_constant), compute=offset)
    assert min(figures.cosine_min for figures in report.outputs) > 0.99
    assert report.status is Status.FAILED


def test_a_fixed_batch_size_is_an_error():
    with pytest.raises(VerificationError, match="fixed a size that should be dynamic"):
        judge(Answers(lambda x: model(x)[:2]))


def test_rows_that_leak_into_each_other_fail():
    assert judge(Answers(lambda x: model(x) + model(x)[-1:] * 1e-2)).status is Status.FAILED


def test_a_model_that_ignores_its_input_is_vacuous():
    def constant(x):
        return np.ones((len(x), 5), np.float32)

    report = judge(Answers(constant), compute=constant)
    assert report.status is Status.FAILED
    assert "vacuous" in report.reason


def test_untrained_weights_are_unproven_unless_a_floor_is_given():
    def noisy(x):
        return model(x) * 1.1

    assert judge(Answers(noisy), conclusive=False).status is Status.UNPROVEN
    assert judge(Answers(noisy), conclusive=False, min_snr_db=60).status is Status.FAILED
    assert judge(Answers(noisy), conclusive=False, min_snr_db=10).status is Status.VERIFIED


class Photos(ImageSamples):
    """Synthetic inputs that count as images."""

    def __init__(self, count):
        self.origin = f"{count} images of photos"
        self._inputs = SyntheticSamples(CONFIG, False, count)

    def __len__(self):
        return len(self._inputs)

    def take(self, indices):
        return self._inputs.take(indices)


def disagree(x):
    """The outputs of the model at 13 dB."""
    return model(x) + 0.15 * model(x)[:, ::-1]


def judge_photos(count, compute=disagree, threshold=None, **options):
    samples = Photos(count)
    outputs = model(samples.take(range(count)))
    report = verify(
        Answers(compute, batch_sizes=(1,)),
        Reference(samples=samples, outputs=(outputs,), names=("output",), classes=True, threshold=threshold),
        **{"precision": Precision.INT8, "batch_size": 1, "conclusive": True} | options,
    )
    found = compute(samples.take(range(count)))
    if threshold is None:
        agreement = (found.argmax(1) == outputs.argmax(1)).mean()
    else:
        agreement = ((found >= threshold) == (outputs >= threshold)).mean()
    assert report.agreement == pytest.approx(agreement)
    return report, f"{100 * agreement:.1f} %"


@pytest.mark.parametrize("precision", [Precision.INT8, Precision.FP8])
def test_8_bit_activations_must_agree_with_the_model_on_64_images(precision):
    report, agreement = judge_photos(64, precision=precision)
    assert report.snr_db > FLOORS_DB[precision]
    assert report.top1_agreement < 0.9
    assert report.status is Status.FAILED
    assert report.disagrees
    assert report.reason == (
        f"output has the model's top-1 class for {agreement} of 64 images of photos, the floor is 95 %"
    )
    assert judge_photos(64, min_agreement=0.5, precision=precision)[0].status is Status.VERIFIED
    assert judge_photos(64, model, precision=precision)[0].status is Status.VERIFIED


@pytest.mark.parametrize(
    ("count", "options"),
    [(63, {}), (64, {"precision": Precision.INT8_WEIGHTS}), (64, {"min_agreement": 0.0})],
)
def test_a_low_agreement_is_noted_where_it_does_not_fail(count, options):
    report, agreement = judge_photos(count, **options)
    assert report.status is Status.VERIFIED
    assert report.notes == (
        f"The file has the model's top-1 class for {agreement} of {count} images of photos.",
    )
    assert f"verified, but with a top-1 agreement of only {agreement}" in verdict(report)[0]


def test_labels_that_do_not_exclude_each_other_must_agree_too():
    threshold = float(np.median(model(Photos(64).take(range(64)))))
    report, agreement = judge_photos(64, threshold=threshold, min_agreement=0.999)
    assert report.status is Status.FAILED
    assert report.disagrees
    assert report.reason == (
        f"output agrees with the model on {agreement} of the labels of 64 images of photos, the floor is 99.9 %"
    )
    assert judge_photos(64, threshold=threshold, min_agreement=0.5)[0].status is Status.VERIFIED


def test_untrained_weights_need_no_agreement_unless_a_floor_is_given():
    report, _ = judge_photos(64, conclusive=False, trained=False)
    assert (report.status, report.notes) == (Status.UNPROVEN, ())
    report, _ = judge_photos(6, conclusive=False, trained=False, min_agreement=1.0)
    assert report.status is Status.FAILED


def test_an_agreement_without_classes_is_refused():
    reference = Reference(
        samples=Photos(8), outputs=(model(Photos(8).take(range(8))),), names=("a",), classes=False
    )
    with pytest.raises(ConfigurationError, match="--min-agreement needs"):
        verify(
            Answers(model),
            reference,
            precision=Precision.INT8,
            batch_size=1,
            conclusive=True,
            min_agreement=0.9,
        )


def test_agreements_are_shares_or_percentages():
    assert [agreement_share(value) for value in (None, 0.9, 1, 90, 100, 0)] == [None, 0.9, 1, 0.9, 1, 0]
    for value in (-1, 101, float("nan")):
        with pytest.raises(ConfigurationError, match="from 0 to 100"):
            agreement_share(value)


def test_every_row_of_a_large_static_batch_is_compared():
    def late_rows_are_zero(x):
        return model(x) * (np.arange(len(x)) < 6)[:, None].astype(np.float32)

    assert judge(Answers(late_rows_are_zero), batch_size=16).status is Status.FAILED


def test_other_inputs_or_outputs_than_the_model_has_are_an_error():
    runner = Answers(model)
    runner.inputs = (TensorSpec(name="pixels", shape=(1, 3, 8, 8), dtype="float32"),)
    with pytest.raises(VerificationError, match="inputs are pixels"):
        judge(runner)
    runner = Answers(model)
    runner.outputs = (*runner.outputs, TensorSpec(name="extra", shape=(1,), dtype="float32"))
    with pytest.raises(VerificationError, match="outputs are output, extra"):
        judge(runner)
    with pytest.raises(VerificationError, match="float64"):
        judge(Answers(lambda x: model(x).astype(np.float64)))


def test_an_artifact_that_fails_to_run_is_an_error_with_its_cause():
    def fails(x):
        raise OSError("no such kernel")

    with pytest.raises(VerificationError, match="fails at batch size 1: OSError: no such kernel"):
        judge(Answers(fails))


def test_not_a_number_fails():
    report = judge(Answers(lambda x: model(x) * np.nan))
    assert report.status is Status.FAILED
    assert report.to_dict()["snr_db"] == "-inf"


@pytest.mark.parametrize(
    ("precision", "status"), [("fp32", "failed"), ("fp16", "verified"), ("int8", "verified")]
)
def test_the_floor_follows_the_precision(precision, status):
    report = judge(Answers(lambda x: model(x) * 1.01), precision=Precision(precision))
    assert report.status == status

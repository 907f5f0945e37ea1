"""What the arithmetic can resolve: files of models that amplify rounding."""

from __future__ import annotations

import copy
import functools
from dataclasses import replace

import numpy as np
import pytest
import torch
from timmx.cli.results import verdict
from timmx.contract.capabilities import Precision
from timmx.contract.runner import Operation, Runner, TensorSpec
from timmx.inputs.samples import SyntheticSamples
from timmx.model.data_config import DataConfig
from timmx.verification import arithmetic
from timmx.verification.arithmetic import Skipped, compare_by_operation, judge_arithmetic
from timmx.verification.comparison import Reference, Status, VerificationReport, run_reference, verify
from timmx.verification.exact import ExactArithmetic
from torch import nn

CONFIG = DataConfig(
    input_size=(3, 8, 8),
    mean=(0.5,) * 3,
    std=(0.25,) * 3,
    interpolation="bicubic",
    crop_pct=0.9,
    crop_mode="center",
)


class Chaotic(nn.Module):
    """Doubles the rounding error in each of `steps` steps, as the logistic map does."""

    def __init__(self, steps: int) -> None:
        super().__init__()
        generator = torch.Generator().manual_seed(0)
        self.steps = steps
        self.fc = nn.Linear(192, 16)
        self.head = nn.Linear(16, 5)
        for parameter in self.parameters():
            parameter.data = 0.1 * torch.randn(parameter.shape, generator=generator)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        x = self.fc(x.flatten(1)).sigmoid()
        for _ in range(self.steps):
            x = 4 * x * (1 - x)
        return self.head(x)


@functools.cache
def chaotic(steps: int) -> Chaotic:
    return Chaotic(steps).eval().requires_grad_(False)


@functools.cache
def captured(steps: int) -> torch.fx.GraphModule:
    return torch.export.export(chaotic(steps), (torch.zeros(1, 3, 8, 8),)).module()


class Layers(Runner):
    """The same model in numpy; `weights` may differ from the model's."""

    inputs = (TensorSpec(name="input", shape=(1, 3, 8, 8), dtype="float32", layout="NCHW"),)
    outputs = (TensorSpec(name="output", shape=(1, 5), dtype="float32", layout="NC"),)

    def __init__(self, model: Chaotic, separate: bool = True, dtype=np.float32) -> None:
        self.weights = {
            name: value.numpy().astype(dtype, copy=True) for name, value in model.state_dict().items()
        }
        self.dtype = dtype
        self.steps = [
            ("flatten", lambda x: x.reshape(len(x), -1)),
            ("first", lambda x: self.linear("fc", x)),
            ("squash", lambda x: 1 / (1 + np.exp(-x))),
            *((f"step {index}", self.double) for index in range(model.steps)),
            ("last", lambda x: self.linear("head", x)),
        ]
        self.separate = separate

    def linear(self, name: str, x: np.ndarray) -> np.ndarray:
        # in another order than PyTorch
        products = x[:, None, ::-1] * self.weights[f"{name}.weight"][None, :, ::-1]
        return products.sum(axis=-1, dtype=self.dtype) + self.weights[f"{name}.bias"]

    def double(self, x: np.ndarray) -> np.ndarray:
        return (self.dtype(4) * x) * (self.dtype(1) - x)

    @property
    def operations(self):
        names = ["input", *(name for name, _ in self.steps[:-1]), "output"]
        found = [
            Operation(name, name.split()[0].capitalize(), (names[i],), (names[i + 1],))
            for i, (name, _) in enumerate(self.steps)
        ]
        return tuple(found) if self.separate else ()

    def run(self, feeds):
        value = feeds["input"].astype(self.dtype)
        for _, function in self.steps:
            value = function(value)
        return {"output": value.astype(np.float32)}

    def run_operation(self, name, inputs):
        (value,) = inputs.values()
        (operation,) = (item for item in self.operations if item.name == name)
        return {operation.outputs[0]: dict(self.steps)[name](value.astype(self.dtype))}


class Original:
    """The model of `Layers`, as the session gives it."""

    device = "cpu"

    def __init__(self, module: nn.Module) -> None:
        self.module = module

    def weights(self):
        return self.module.parameters()

    def original(self):
        return self.module

    def graph(self, batch_size):
        assert batch_size == 1
        return captured(self.module.steps)


def judged(
    steps: int,
    change=None,
    *,
    precision=Precision.FP32,
    fixed_floor=False,
    floor=None,
    lucky=False,
    **options,
):
    """The judgment of a file of a model that doubles its rounding errors `steps` times."""
    model = chaotic(steps)
    runner = Layers(model, **options)
    if change is not None:
        change(runner.weights)
    samples = SyntheticSamples(CONFIG, in_graph=False)
    outputs = run_reference(model, samples, "cpu")
    if lucky:  # as if PyTorch's float32 had no rounding errors for these inputs
        inputs = torch.from_numpy(samples.take(range(len(samples)))).double()
        outputs = [copy.deepcopy(model).double()(inputs).detach().float().numpy()]
    reference = Reference(samples=samples, outputs=outputs, names=("output",), classes=True)
    report = verify(runner, reference, precision=precision, batch_size=1, conclusive=True, min_snr_db=floor)
    assert report.status is Status.FAILED, "the case should be below its floor"
    return judge_arithmetic(
        report, runner, reference, Original(model), precision=precision, fixed_floor=fixed_floor
    )


def plant(name: str):
    """A change by 1 % of one weight."""

    def change(weights):
        index = np.unravel_index(np.abs(weights[name]).argmax(), weights[name].shape)
        weights[name][index] *= np.float32(1.01)

    return change


def test_a_file_as_exact_as_float32_allows_is_verified_with_both_figures():
    report = judged(15).report
    assert report.status is Status.VERIFIED
    assert 30 <= report.resolvable_db < 66
    assert report.exact_db >= report.resolvable_db - 6
    assert report.snr_db < report.floor_db == 60
    assert report.operations == 0
    text = "\n".join(verdict(report))
    assert f"against float64: {report.exact_db:.1f} dB" in text
    assert f"{report.resolvable_db:.1f} dB" in text
    assert VerificationReport.from_dict(report.to_dict()) == report


def test_below_30_db_operations_are_compared_one_by_one():
    report = judged(24).report
    assert report.status is Status.VERIFIED
    assert report.reason == "operation by operation"
    assert report.resolvable_db < 30
    assert report.operations == 28
    assert report.operation_db > 110
    assert verdict(report)[0].startswith("verified: operation by operation")
    assert any("28 operations compared one by one" in line for line in verdict(report))
    assert VerificationReport.from_dict(report.to_dict()) == report


def test_a_lucky_run_of_pytorch_does_not_decide():
    """One run of a model that amplifies rounding may be close to float64 by chance, as if the file were wrong."""
    report = judged(24, lucky=True).report
    assert report.status is Status.VERIFIED
    assert report.reason == "operation by operation"
    assert report.resolvable_db < 30


@pytest.mark.parametrize(("name", "operation"), [("fc.weight", "first"), ("head.weight", "last")])
def test_an_error_of_1_percent_in_one_weight_is_found_and_located(name, operation):
    judgment = judged(24, plant(name))
    assert judgment.report.status is Status.FAILED
    assert judgment.cause == "conversion"
    assert f"{operation} (" in judgment.report.reason
    assert f"the linear of {name.partition('.')[0]}" in judgment.report.reason
    assert "report this model" in judgment.hint


def test_without_separate_operations_the_file_is_unproven():
    judgment = judged(24, separate=False)
    assert judgment.report.status is Status.UNPROVEN
    assert "the model amplifies rounding" in judgment.report.reason
    assert "does not run operations separately" in judgment.report.reason


def test_where_float32_resolves_enough_a_wrong_weight_fails_and_is_located():
    judgment = judged(12, plant("fc.weight"))
    assert judgment.report.resolvable_db > 30
    assert judgment.report.status is Status.FAILED
    assert "the conversion is the cause: first (First), the linear of fc" in judgment.report.reason


def test_a_floor_of_the_user_applies_whatever_the_arithmetic_resolves():
    judgment = judged(15, fixed_floor=True, floor=70.0)
    assert judgment.report.status is Status.FAILED
    assert "PyTorch's own float32 has" in judgment.report.reason


def test_half_precision_is_named_as_the_cause_of_its_own_rounding():
    judgment = judged(10, precision=Precision.FP16, dtype=np.float16)
    assert judgment.report.status is Status.FAILED
    assert judgment.cause == "precision"
    assert "the precision is the cause, not the conversion" in judgment.report.reason
    assert "use fp32" in judgment.hint


@pytest.mark.parametrize(
    ("name", "value", "reason"),
    [("memory_bytes", lambda: 1000, "of memory"), ("_MOST_SECONDS", -1.0, "it takes about")],
)
def test_a_measurement_that_would_take_too_much_is_skipped_with_its_reason(monkeypatch, name, value, reason):
    monkeypatch.setattr(arithmetic, name, value)
    report = judged(15).report
    assert report.status is Status.FAILED
    assert report.resolvable_db is None
    assert "what float32 can resolve was not measured: " in report.reason
    assert reason in report.reason


def test_too_many_intermediate_values_are_not_compared(monkeypatch):
    monkeypatch.setattr(arithmetic, "_MOST_VALUES_BYTES", 100)
    model = chaotic(12)
    samples = SyntheticSamples(CONFIG, in_graph=False)
    reference = Reference(
        samples=samples, outputs=run_reference(model, samples, "cpu"), names=("output",), classes=True
    )
    with pytest.raises(Skipped, match="intermediate values take"):
        compare_by_operation(Layers(model), reference, Original(model), Precision.FP32)


def test_the_inputs_on_which_the_file_differs_most_are_measured():
    model, samples = chaotic(6), SyntheticSamples(CONFIG, in_graph=False)
    last = samples.take([len(samples) - 1])

    class WrongOnce(Layers):
        def run(self, feeds):
            outputs = super().run(feeds)
            if np.array_equal(feeds["input"], last):
                outputs["output"] = outputs["output"] * np.float32(1.01)
            return outputs

    reference = Reference(
        samples=samples, outputs=run_reference(model, samples, "cpu"), names=("output",), classes=True
    )
    runner = WrongOnce(model)
    report = verify(runner, reference, precision=Precision.FP32, batch_size=1, conclusive=True)
    assert report.noisiest[0] == len(samples) - 1
    judgment = judge_arithmetic(
        report, runner, reference, Original(model), precision=Precision.FP32, fixed_floor=False
    )
    assert judgment.report.status is Status.FAILED
    assert judgment.report.exact_db < 60


def test_records_of_earlier_versions_are_read():
    report = VerificationReport(
        status=Status.VERIFIED,
        reason="operation by operation",
        resolvable_db=20.0,
        exact_db=19.0,
        operations=9,
    )
    data = report.to_dict()
    assert "noisiest" not in data
    for name in ("resolvable_db", "exact_db", "operations", "operation_db"):
        del data[name]
    earlier = VerificationReport.from_dict(data)
    assert earlier == replace(report, resolvable_db=None, exact_db=None, operations=0, operation_db=None)


class NamesFloat32(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.conv = nn.Conv2d(3, 4, 3)
        self.norm = nn.BatchNorm2d(4)
        self.scale = nn.Parameter(torch.full((1, 4, 1, 1), 1 / 3))

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        x = self.norm(self.conv(x)).float() * self.scale
        x += self.scale
        buffer = torch.zeros_like(x)
        buffer[:, 1:] = x[:, 1:]
        return nn.functional.relu(buffer, inplace=True).to(torch.float32).mean((2, 3))


def test_a_model_that_names_float32_runs_in_float64():
    model, inputs = NamesFloat32().eval(), torch.randn(2, 3, 8, 8)
    with torch.no_grad():
        with ExactArithmetic():
            exact = model(inputs.double())
        doubled = model.double()
        weights = doubled.conv(inputs.double())
        expected = doubled.norm(weights) * model.scale + model.scale
    expected[:, :1] = 0
    expected = expected.relu().mean((2, 3))
    assert exact.dtype is torch.float64
    torch.testing.assert_close(exact, expected, rtol=1e-12, atol=1e-12)

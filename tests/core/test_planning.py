"""Quantization plans: layers are found and simulated, and those that integers cost most stay in float."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from timmx.base import worst_db
from timmx.capture import capture
from timmx.contract import IntegerScheme, LayerKind, LayerState, WeightKey, Wish
from timmx.errors import ConfigurationError, UnsupportedError
from timmx.inputs.calibration import choose_calibration
from timmx.model.data_config import DataConfig
from timmx.quantization import Planner
from timmx.quantization.simulation import IntegerSimulation

CONFIG = DataConfig(
    input_size=(3, 16, 16),
    mean=(0.5,) * 3,
    std=(0.25,) * 3,
    interpolation="bicubic",
    crop_pct=1.0,
    crop_mode="center",
)
UNROUNDED = IntegerScheme(rounded_results=frozenset())
GENERATOR = torch.Generator().manual_seed(0)


class Net(torch.nn.Module):
    """Three convolutions; the second one gets a channel that dwarfs the others, and the third one ignores it."""

    def __init__(self, outlier: float = 1.0) -> None:
        super().__init__()
        self.first = torch.nn.Conv2d(3, 8, 3, padding=1)
        self.second = torch.nn.Conv2d(8, 8, 1)
        self.third = torch.nn.Conv2d(8, 8, 3)
        self.head = torch.nn.Linear(8, 5)
        for parameter in self.parameters():
            torch.nn.init.normal_(parameter, std=0.3, generator=GENERATOR)
        with torch.no_grad():
            self.first.weight[0] *= outlier
            self.second.weight[:, 0] /= outlier

    def forward(self, input):
        x = torch.nn.functional.relu(self.first(input), inplace=True)
        x = self.third(torch.nn.functional.relu(self.second(x), inplace=True) + x[:, 1:2])
        return self.head(torch.nn.functional.relu(x).mean((2, 3)))


def chain(count: int) -> torch.nn.Module:
    """Convolutions in a row, and a linear layer."""
    convolutions = [torch.nn.Conv2d(3, 3, 1) for _ in range(count)]
    return torch.nn.Sequential(*convolutions, torch.nn.Flatten(), torch.nn.Linear(3 * 16 * 16, 5))


def program_of(module: torch.nn.Module, batch: int = 1) -> torch.export.ExportedProgram:
    return capture(module.eval(), torch.zeros(batch, 3, 16, 16), dynamic=False)


@pytest.fixture(scope="module")
def calibration(tmp_path_factory: pytest.TempPathFactory):
    path = tmp_path_factory.mktemp("calibration") / "inputs.pt"
    torch.save(torch.rand(40, 3, 16, 16, generator=GENERATOR) * 4 - 2, path)
    return choose_calibration(path, 40, CONFIG, False)


def planner(
    module: torch.nn.Module, calibration, scheme: IntegerScheme | None = None, classes=lambda: None
) -> Planner:
    return Planner(program_of(module), calibration, scheme or IntegerScheme(), classes)


def simulation(module: torch.nn.Module, calibration, **scheme) -> IntegerSimulation:
    made = IntegerSimulation(program_of(module), IntegerScheme(**scheme))
    made.observe(lambda: calibration.batches(1))
    return made


def test_layers_are_named_counted_and_recognized_in_another_order_of_axes(calibration):
    module = Net()
    layers = simulation(module, calibration).layers
    assert [(layer.name, layer.kind, layer.multiply_adds) for layer in layers] == [
        ("first.weight", LayerKind.CONVOLUTION, 16 * 16 * 8 * 27),
        ("second.weight", LayerKind.CONVOLUTION, 16 * 16 * 8 * 8),
        ("third.weight", LayerKind.CONVOLUTION, 14 * 14 * 8 * 72),
        ("head.weight", LayerKind.LINEAR, 5 * 8),
    ]
    channels_last = module.first.weight.detach().numpy().transpose(0, 2, 3, 1)
    assert WeightKey.of(channels_last) == layers[0].weight
    assert WeightKey.of(-channels_last) != layers[0].weight


def test_layers_whose_weights_a_converter_has_multiplied_are_matched_by_their_size_and_order(calibration):
    made = planner(Net(), calibration)
    keys = [layer.weight for layer in made.layers]
    multiplied = WeightKey(keys[1].size, 1)
    assert made.match([keys[0], multiplied, keys[2], WeightKey(7, 7)]) == [
        "first.weight",
        "second.weight",
        "third.weight",
        None,
    ]


@pytest.mark.parametrize("scheme", [{}, {"symmetric": True}, {"bits": 16, "symmetric": True}])
def test_a_layer_alone_costs_the_same_whether_all_or_only_what_follows_it_is_computed(calibration, scheme):
    made = simulation(Net(), calibration, **scheme)
    array = next(iter(calibration))
    names = [layer.name for layer in made.layers]
    exact, each = made.outputs_of_each(array, [[name] for name in names])
    np.testing.assert_array_equal(exact[0], made.outputs(array)[0])
    for name, outputs in zip(names, each, strict=True):
        np.testing.assert_array_equal(outputs[0], made.outputs(array, [name])[0])
        assert not np.array_equal(outputs[0], exact[0])


def test_the_simulation_is_the_arithmetic_of_the_scheme(calibration):
    module, array = Net(), next(iter(calibration))
    made = simulation(module, calibration, rounded_results=frozenset())
    found = made.outputs(array, ["head.weight"])[0]
    with torch.no_grad():
        pooled = []
        hook = module.head.register_forward_pre_hook(lambda _module, inputs: pooled.append(inputs[0]))
        for inputs in calibration:
            module(torch.from_numpy(inputs))
        hook.remove()
        scale = max(float(value.max()) for value in pooled) / 255  # not negative, after a relu
        weight = module.head.weight.numpy()
        steps = np.abs(weight).max(1, keepdims=True) / 127
        integers = np.rint(pooled[0].numpy() / scale)
        expected = scale * integers @ (np.rint(weight / steps) * steps).T + module.head.bias.numpy()
    np.testing.assert_allclose(found, expected, rtol=1e-5, atol=1e-6)


def test_the_layer_that_integers_destroy_stays_in_float(calibration):
    made = planner(Net(outlier=1000.0), calibration, UNROUNDED)
    names = [layer.name for layer in made.layers]
    assert made.predict(frozenset(names)).snr_db < 0
    run = made._simulation.outputs  # stands for a file that is what was predicted
    plan, built, measured = made.choose(
        names,
        Wish(floor_db=10, target_db=15),
        lambda plan: (plan.kept, lambda batch: run(batch, set(names) - plan.kept)),
    )
    assert built == plan.kept == {"second.weight"}
    assert measured == plan.predicted
    assert measured.snr_db > 15
    states = {name: LayerState.INTEGER for name in names if name not in plan.kept}
    facts = made.facts(plan, measured, states)
    assert facts["kept_for_accuracy"] == ["second.weight"]
    assert facts["layers"] == {"integer": 3, "stored": 0, "float": 1}
    assert 0.8 < facts["integer_share"] < 1


def test_a_small_layer_stays_in_float_for_more_than_the_target_and_a_large_one_does_not(calibration):
    module = torch.nn.Sequential(
        torch.nn.Conv2d(3, 2, 1),
        torch.nn.Conv2d(2, 40, 3, padding=1),
        torch.nn.Conv2d(40, 40, 3),
        torch.nn.Flatten(),
    )
    with torch.no_grad():
        module[0].weight[0] *= 30
        module[1].weight[:, 0] /= 30
    made = planner(module, calibration, UNROUNDED)
    names = frozenset(layer.name for layer in made.layers)
    all_db = made.predict(names).snr_db
    for preferred_db, kept in ((all_db + 3, {"1.weight"}), (200, set())):
        plan, _, measured = made.choose(
            names,
            Wish(floor_db=all_db - 5, target_db=all_db - 1, preferred_db=preferred_db),
            lambda plan: (None, lambda batch: made._simulation.outputs(batch, names - plan.kept)),
        )
        assert plan.kept == kept
        assert measured.snr_db >= (preferred_db if kept else all_db)


def test_integers_are_not_spent_on_what_hardswish_turns_into_zero(calibration):
    module = torch.nn.Sequential(torch.nn.Conv2d(3, 8, 3), torch.nn.Hardswish(), torch.nn.Conv2d(8, 4, 1))
    with torch.no_grad():
        module[0].weight[0] *= 60
        module[0].bias[0] -= 150
    wide, clipped = (
        planner(module, calibration, IntegerScheme(clips_hardswish=clips))
        .predict(frozenset({"0.weight"}))
        .snr_db
        for clips in (False, True)
    )
    assert clipped > wide + 6


def test_a_file_that_is_worse_than_predicted_gets_more_layers_in_float(calibration):
    made = planner(Net(), calibration)
    names = [layer.name for layer in made.layers]
    outputs = made._simulation.outputs
    tried = []

    def build(plan):
        tried.append(plan.kept)

        def run(batch):
            exact = outputs(batch)[0]
            wrong = 0.3 * np.roll(exact, 1, axis=1) if "first.weight" not in plan.kept else 0
            return [outputs(batch, set(names) - plan.kept)[0] + wrong]

        return len(tried), run

    plan, built, measured = made.choose(names, Wish(floor_db=10, target_db=15), build)
    assert tried[0] == frozenset()
    assert len(tried[1]) == 1
    assert built == len(tried)
    assert "first.weight" in plan.kept
    assert measured.snr_db > 15


@pytest.mark.parametrize(("seed", "outlier", "more_db"), [(0, 5, 7), (1, 20, 1), (2, 20, 3), (0, 50, 5)])
def test_no_layer_stays_in_float_that_the_wish_does_not_need(calibration, seed, outlier, more_db):
    GENERATOR.manual_seed(seed)
    made = planner(Net(outlier=outlier), calibration)
    names = frozenset(layer.name for layer in made.layers)
    target = made.predict(names).snr_db + more_db
    run = made._simulation.outputs  # stands for a file that is what was predicted
    plan, kept, _ = made.choose(
        names,
        Wish(floor_db=target, target_db=target),
        lambda plan: (plan.kept, lambda batch: run(batch, names - plan.kept)),
    )
    assert kept == plan.kept != frozenset()
    assert plan.predicted.snr_db >= target
    for name in kept:
        without = made.predict(names - kept | {name}).snr_db
        assert without < target or without < plan.predicted.snr_db - 1


def test_a_largest_drop_is_met_or_refused_with_what_can_be_reached(calibration):
    module = Net(outlier=1000.0)
    with torch.no_grad():
        truth = np.concatenate([module(torch.from_numpy(inputs)).argmax(1).numpy() for inputs in calibration])
    made = planner(module, calibration, UNROUNDED, lambda: truth)
    names = [layer.name for layer in made.layers]
    outputs = made._simulation.outputs
    wish = Wish(floor_db=12, max_drop=0.0)
    plan, _, measured = made.choose(
        names, wish, lambda plan: (None, lambda batch: outputs(batch, set(names) - plan.kept))
    )
    assert measured.drop == 0
    assert made.facts(plan, measured, {})["drop_of"] == "accuracy"
    with pytest.raises(
        UnsupportedError, match=r"--max-drop 0 cannot be met: the best file loses \d+\.\d\d points of"
    ):
        made.choose(names, wish, lambda plan: (None, lambda batch: [-outputs(batch)[0]]))


def test_a_drop_that_is_larger_than_predicted_is_met_with_more_layers_in_float(calibration):
    torch.manual_seed(0)
    made = planner(chain(10), calibration)
    names = [layer.name for layer in made.layers]
    outputs = made._simulation.outputs

    def build(plan):  # every class is wrong while fewer than seven layers are in float
        wrong = len(plan.kept) < 7
        return len(plan.kept), lambda batch: [outputs(batch)[0] * (-1 if wrong else 1)]

    plan, built, measured = made.choose(names, Wish(floor_db=10, max_drop=0.5), build)
    assert 7 <= built == len(plan.kept) < len(names)
    assert measured.drop == 0


def test_without_classes_a_drop_is_refused(calibration):
    def classes():
        raise ConfigurationError("no classes", hint="leave --max-drop out")

    made = planner(Net(), calibration, classes=classes)
    with pytest.raises(ConfigurationError, match="no classes"):
        made.choose(
            ["head.weight"], Wish(floor_db=12, max_drop=1), lambda plan: (None, made._simulation.outputs)
        )


def test_measuring_each_layer_takes_at_most_three_runs_over_the_calibration_data(tmp_path):
    torch.save(torch.rand(4, 3, 16, 16, generator=GENERATOR) * 4 - 2, tmp_path / "few.pt")
    few = choose_calibration(tmp_path / "few.pt", 4, CONFIG, False)
    module = torch.nn.Sequential(
        torch.nn.Conv2d(3, 8, 1), *(torch.nn.Conv2d(8, 8, 1) for _ in range(19)), torch.nn.Flatten()
    )
    made = planner(module, few)
    groups = made._groups()
    assert len(made.layers) == 20
    assert sum(map(len, groups)) == 20
    following = [20 - 2 * at for at in range(len(groups))] if len(groups) == 10 else None
    share = sum(1 - sum(map(len, groups[:at])) / 20 for at in range(len(groups)))
    assert 1 + share <= 3, f"{len(groups)} groups {following}"
    noise = made._noise_of_each()
    assert noise.keys() == {layer.name for layer in made.layers}
    assert all(noise[name] == noise[group[0]] for group in groups for name in group)


def test_batches_of_several_inputs_give_the_same_figures(calibration):
    module = Net()
    single = planner(module, calibration)
    several = Planner(program_of(module, batch=4), calibration, IntegerScheme(), lambda: None)
    names = frozenset(layer.name for layer in single.layers)
    assert several.layers == single.layers
    assert several.predict(names, drop=True).drop == single.predict(names, drop=True).drop
    outputs = [planned._simulation.outputs for planned in (single, several)]
    one = np.concatenate([outputs[0](array)[0] for array in calibration.batches(1)])
    four = np.concatenate([outputs[1](array)[0] for array in calibration.batches(4)])
    assert worst_db([one], [four]) > 90

"""Checks that run artifacts and compare them with PyTorch, independently of the core's verification."""

from __future__ import annotations

import json
import shutil
from typing import TYPE_CHECKING, Any

import importlib_metadata
import numpy as np
import pytest

from timmx.base import SignalToNoise
from timmx.contract import OpenSettings, TensorSpec
from timmx.errors import ArtifactError, RuntimeUnavailable
from timmx.inputs import (
    SYNTHETIC_INPUTS,
    ImagePreprocessor,
    SyntheticSamples,
    feed,
    fetch,
    run_batches,
)
from timmx.testing.base import ConformanceBase, export_check, metadata_of, open_or_skip, requires
from timmx.testing.exports import MODELS, batch_size, dynamic_batch
from timmx.testing.models import small_model
from timmx.verification import FLOORS_DB

if TYPE_CHECKING:
    from collections.abc import Callable
    from pathlib import Path

    from timmx.contract import ExportBackend, Runner
    from timmx.exporting import ExportResult

    Export = Callable[..., ExportResult]

_SOME, _LAST = 4, 5
"""Number of intermediate values that are checked: some from the whole graph, and the last ones."""


class ParityChecks(ConformanceBase):
    """The artifact computes what the model computes, and its descriptions are correct."""

    @export_check
    @requires("dynamic_batch")
    @pytest.mark.parametrize("model", MODELS)
    def test_numbers_at_several_batch_sizes(
        self, exported: Export, subject: ExportBackend, model: str
    ) -> None:
        result = exported(model, **dynamic_batch(subject, model))
        with open_or_skip(subject, result.path) as runner:
            assert isinstance(runner.inputs[0].shape[0], str), "a dynamic batch size has a name"
            for batch in runner.batch_sizes:
                self._compare(runner, result, model, batch)

    @export_check
    @pytest.mark.parametrize("batch", [1, 4])
    def test_numbers_at_a_static_batch(self, exported: Export, subject: ExportBackend, batch: int) -> None:
        batch = batch_size(subject, batch)
        result = exported("test_vit", **({} if batch == 1 else {"batch_size": batch}))
        with open_or_skip(subject, result.path) as runner:
            assert runner.inputs[0].shape[0] == batch
            self._compare(runner, result, "test_vit", batch)

    @export_check
    @requires("larger_batches")
    def test_rows_do_not_touch_each_other(self, exported: Export, subject: ExportBackend) -> None:
        result = exported("test_vit", batch_size=4)
        with open_or_skip(subject, result.path) as runner:
            inputs = _inputs(result, 4)
            inputs[2] = inputs[0]
            first = _run(runner, inputs)
            np.testing.assert_allclose(first[0], first[2], rtol=1e-3, atol=1e-4 * np.abs(first).max())
            inputs[1] = 0
            second = _run(runner, inputs)
            np.testing.assert_allclose(first[0], second[0], rtol=1e-3, atol=1e-4 * np.abs(first).max())

    @export_check
    def test_metadata_is_read_back(self, classifier: ExportResult, subject: ExportBackend) -> None:
        assert subject.read_metadata(classifier.path) == classifier.metadata
        metadata = metadata_of(classifier)
        assert metadata.to_json() == classifier.metadata
        assert metadata.precision == classifier.precision

    @export_check
    def test_versions_of_the_toolchain_are_in_the_metadata(
        self, exported: Export, subject: ExportBackend
    ) -> None:
        versions = metadata_of(exported()).versions
        assert isinstance(subject.toolchain, tuple), "`toolchain` is a tuple of names of distributions"
        for name in subject.toolchain:
            installed = list(importlib_metadata.distributions(name=name))
            assert versions.get(name) == (installed[0].version if installed else None)

    @export_check
    def test_inspect_returns_json_values(self, exported: Export, subject: ExportBackend) -> None:
        facts = subject.inspect(exported().path)
        assert json.loads(json.dumps(facts)) == facts
        assert all(count > 0 for count in facts.get("operations", {}).values())
        assert facts.get("parameters", 1) > 0

    @export_check
    def test_runner_describes_the_artifact(self, exported: Export, subject: ExportBackend) -> None:
        batch = batch_size(subject, 4)
        result = exported("test_vit", batch_size=batch)
        with open_or_skip(subject, result.path) as runner:
            for spec in (*runner.inputs, *runner.outputs):
                assert isinstance(spec, TensorSpec)
                np.dtype(spec.dtype)
            assert [spec.name for spec in runner.inputs] == ["input"]
            metadata = metadata_of(result)
            (taken,), stated = runner.inputs, metadata.input
            assert taken.shape == (batch, *stated.shape), "in the stated layout"
            assert taken.layout in ("", stated.layout)
            assert (taken.dtype, taken.quantization) == (stated.dtype, stated.quantization)
            given = {output.name: output for output in metadata.outputs}
            assert {spec.name for spec in runner.outputs} == given.keys()
            for spec in runner.outputs:
                output = given[spec.name]
                assert (spec.shape, spec.dtype) == (output.shape, output.dtype)
                assert spec.quantization == output.quantization

    @export_check
    def test_intermediate_values_lead_to_the_output(self, exported: Export, subject: ExportBackend) -> None:
        result = exported()
        with open_or_skip(subject, result.path) as runner:
            names = runner.intermediates
            if not names:
                return  # optional
            assert len(set(names)) == len(names), "each name stands for one value"
            (taken,) = runner.inputs
            feeds = {taken.name: feed(taken, _inputs(result, 1))}
            chosen = tuple(dict.fromkeys((*names[:: max(1, len(names) // _SOME)], *names[-_LAST:])))
            values = runner.run_intermediates(feeds, chosen)
            assert set(values) == set(chosen)
            for name, value in values.items():
                assert np.isfinite(value.astype(np.float64)).all(), f"{name} has numbers that are not finite"
            outputs = runner.run(feeds)
            for spec in runner.outputs:
                output = fetch(spec, outputs[spec.name])
                assert any(_alike(values[name], output) for name in names[-_LAST:]), (
                    f"none of the last {_LAST} intermediate values is the output {spec.name}"
                )

    @export_check
    def test_separate_operations_lead_to_the_output(self, exported: Export, subject: ExportBackend) -> None:
        result = exported()
        with open_or_skip(subject, result.path) as runner:
            operations = runner.operations
            if not operations:
                return  # optional
            assert len({item.name for item in operations}) == len(operations), "each name is one operation"
            (taken,) = runner.inputs
            present = {taken.name: feed(taken, _inputs(result, 1))}
            for item in operations:
                values = runner.run_operation(item.name, {name: present[name] for name in item.inputs})
                assert set(values) == set(item.outputs), f"the outputs of {item.name}"
                assert present.keys().isdisjoint(values), "each name is one value"
                present |= values
            outputs = runner.run({taken.name: present[taken.name]})
            for spec in runner.outputs:
                assert _alike(fetch(spec, present[spec.name]), fetch(spec, outputs[spec.name]))

    @export_check
    def test_runner_opens_and_closes_again(self, exported: Export, subject: ExportBackend) -> None:
        result = exported()
        answers = []
        for _ in range(2):
            with open_or_skip(subject, result.path) as runner:
                answers.append(_run(runner, _inputs(result, 1)))
            runner.close()
        np.testing.assert_array_equal(answers[0], answers[1])

    @export_check
    def test_damaged_files_are_reported(
        self, exported: Export, subject: ExportBackend, tmp_path: Path
    ) -> None:
        result = exported()
        if result.path.is_dir():
            self._damage_each_file(subject, result.path, tmp_path)
            return
        content = result.path.read_bytes()
        for damaged in (b"", b"not an artifact", content[: len(content) // 2]):
            path = tmp_path / f"damaged{result.path.suffix}"
            path.write_bytes(damaged)
            with pytest.raises(ArtifactError):
                subject.open(path, OpenSettings()).close()

    @export_check
    def test_a_second_file_of_another_export_is_reported(
        self, exported: Export, subject: ExportBackend, tmp_path: Path
    ) -> None:
        result = exported()
        for companion in result.files[1:]:
            folder = tmp_path / f"changed {companion.name}"
            folder.mkdir()
            for path in result.files:
                (shutil.copytree if path.is_dir() else shutil.copy)(path, folder / path.name)
            changed = folder / companion.name
            if changed.is_dir():
                changed = next(path for path in sorted(changed.rglob("*")) if path.is_file())
            with changed.open("ab") as file:
                file.write(b"x")
            with pytest.raises(ArtifactError):
                subject.read_metadata(folder / result.path.name)
            with pytest.raises((ArtifactError, RuntimeUnavailable)):
                subject.open(folder / result.path.name, OpenSettings()).close()

    def _damage_each_file(self, subject: ExportBackend, folder: Path, to: Path) -> None:
        for number, part in enumerate(sorted(path for path in folder.rglob("*") if path.is_file())):
            for keep in (None, 0.5):
                copy = to / f"damaged{number}{keep}{folder.suffix}"
                shutil.copytree(folder, copy)
                target = copy / part.relative_to(folder)
                content = target.read_bytes()
                target.unlink() if keep is None else target.write_bytes(content[: int(len(content) * keep)])
                with pytest.raises(ArtifactError):
                    subject.open(copy, OpenSettings()).close()

    def _compare(self, runner: Any, result: ExportResult, model: str, batch: int) -> None:
        import torch

        # Of one set, as in verification: the first of each set have the same contrast, and outputs that are alike.
        count = batch * -(-SYNTHETIC_INPUTS // batch)
        with torch.inference_mode():
            normalized = torch.from_numpy(_inputs(result, count, in_graph=False))
            expected = small_model(model)(normalized).numpy()
        inputs = _inputs(result, count)
        measure = SignalToNoise()
        found = [_run(runner, inputs[start : start + batch]) for start in range(0, count, batch)]
        measure.update(expected, np.concatenate(found))
        floor = FLOORS_DB[result.precision]
        assert measure.snr_db >= floor, f"{measure.snr_db:.1f} dB at batch {batch}; the floor is {floor:g} dB"


def _inputs(result: ExportResult, batch: int, seed: int = 0, in_graph: bool | None = None) -> np.ndarray:
    """Synthetic images as the artifact takes them, (batch, C, H, W); not those of the core's own verification.

    `in_graph` says whether they are pixels in [0, 1] or normalized; by default as in the metadata.
    """
    preprocessor = ImagePreprocessor.of(metadata_of(result))
    in_graph = preprocessor.in_graph if in_graph is None else in_graph
    return SyntheticSamples(preprocessor.data_config, in_graph, batch, seed).take(range(batch))


def _run(runner: Runner, inputs: np.ndarray) -> np.ndarray:
    """The output named `output` in real numbers, for inputs (N, C, H, W) float32."""
    return run_batches(runner, inputs, ["output"])["output"]


def _alike(value: np.ndarray, output: np.ndarray) -> bool:
    """Whether an intermediate value is an output, within the precision of 8 bits."""
    if value.size != output.size:
        return False
    return bool(np.linalg.norm(value.ravel() - output.ravel()) <= 0.03 * np.linalg.norm(output))

"""Checks that the core's commands work with the artifact."""

from __future__ import annotations

import json
from typing import TYPE_CHECKING, Any

import numpy as np
import pytest
from typer.testing import CliRunner

from timmx.cli import app
from timmx.contract import OpenSettings
from timmx.errors import RuntimeUnavailable
from timmx.inputs import SyntheticSamples
from timmx.testing.base import LABELS, ConformanceBase, export_check, metadata_of

if TYPE_CHECKING:
    from pathlib import Path

    from timmx.contract import ExportBackend
    from timmx.exporting import ExportResult


class ToolChecks(ConformanceBase):
    """`timmx inspect`, `predict`, `eval` and `bench` on the file of a classifier."""

    @export_check
    def test_tools_take_the_artifact(
        self, classifier: ExportResult, subject: ExportBackend, tmp_path: Path
    ) -> None:
        inspection = _json("inspect", classifier.path)
        assert inspection["model"]["architecture"] == metadata_of(classifier).model.architecture
        try:
            subject.open(classifier.path, OpenSettings()).close()
        except RuntimeUnavailable as exc:
            pytest.skip(f"the artifact cannot be run here: {exc.message}")
        images = _images(classifier, tmp_path / "images")
        expected = self._predictions(subject, classifier, images)
        predictions = _json("predict", classifier.path, tmp_path / "images")
        first = {item["path"]: item["predictions"][0] for item in predictions["images"]}
        assert {path: LABELS.index(entry["label"]) for path, entry in first.items()} == expected
        correct = sum(LABELS[number] in path for path, number in expected.items())
        evaluation = _json("eval", classifier.path, "--data", tmp_path / "images")
        accuracy = evaluation["count"], round(evaluation["top1"] * len(expected))
        assert accuracy == (len(expected), correct)
        (case,) = _json("bench", classifier.path, "--seconds", "0.2")["cases"]
        assert case["error"] is None or not case["error"]
        assert case["p50_ms"] > 0

    def _predictions(
        self, subject: ExportBackend, result: ExportResult, images: dict[str, Any]
    ) -> dict[str, int]:
        """The class of each image, from the artifact's own runner."""
        from timmx.inputs import ImagePreprocessor, run_batches

        preprocessor = ImagePreprocessor.of(metadata_of(result))
        read = {}
        with subject.open(result.path, OpenSettings()) as runner:
            name = runner.outputs[0].name
            for path in images.values():
                found = run_batches(runner, preprocessor.read(path)[None], [name])
                read[str(path)] = int(np.argmax(found[name]))
        return read


def _images(result: ExportResult, folder: Path) -> dict[str, Path]:
    """Two images in the folder of each class that can have one on every system."""
    from PIL import Image

    from timmx.inputs import ImagePreprocessor

    config = ImagePreprocessor.of(metadata_of(result)).data_config
    names = [label for label in LABELS if '"' not in label]
    pixels = SyntheticSamples(config, True, 2 * len(names)).take(range(2 * len(names)))
    paths = {}
    for number, picture in enumerate(pixels):
        path = folder / names[number % len(names)] / f"{number}.png"
        path.parent.mkdir(parents=True, exist_ok=True)
        Image.fromarray(np.rint(255 * picture.transpose(1, 2, 0)).astype(np.uint8)).save(path)
        paths[path.name] = path
    return paths


def _json(*arguments: object) -> dict[str, Any]:
    done = CliRunner().invoke(app, [*map(str, arguments), "--json"])
    assert done.exit_code == 0, f"timmx {' '.join(map(str, arguments))}: {done.output}"
    found: dict[str, Any] = json.loads(done.stdout)
    return found

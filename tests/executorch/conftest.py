"""The digits model in every mode and for every delegate, exported once for all workers."""

from __future__ import annotations

import json
from pathlib import Path
from types import SimpleNamespace

import pytest
import timmx
from litert_quality import write_seen_digits


@pytest.fixture(scope="session")
def training_digits(shared):
    """A folder of digits that are not among the samples."""
    return shared("training-digits", lambda folder: write_seen_digits(folder / "seen", 32)) / "seen"


@pytest.fixture(scope="session")
def files(export, shared, digits, training_digits):
    """Results by the file's stem: `path`, `verification`, `metadata`, `notes`."""
    targets = {
        "fp32": {},
        "fp16": {"mode": "fp16"},
        "weight-int8": {"mode": "weight-int8"},
        "dynamic-int8": {"mode": "dynamic-int8"},
        "int8": {"mode": "int8", "calibration_data": training_digits},
        "portable": {"delegate": "portable"},
        "coreml-fp16": {"delegate": "coreml", "mode": "fp16"},
        "external": {"external_weights": True},
    }

    def fill(folder):
        wanted = [{"format": "executorch", "output": f"{stem}.pte", **own} for stem, own in targets.items()]
        done = timmx.export_many(digits, wanted, folder)
        (folder / "result.json").write_text(json.dumps(done.to_dict()))

    folder = shared("executorch-digits", fill)
    report = json.loads((folder / "result.json").read_text())
    assert report["failed"] == []
    return {
        Path(item["path"]).stem: SimpleNamespace(**(item | {"path": folder / Path(item["path"]).name}))
        for item in report["artifacts"]
    }

"""Files run by Core ML itself, as on macOS. Core ML is not here, so a stand-in answers for it.

The stand-in is coremltools' own `MLModel` but for what needs macOS: loading and predicting. It computes by our
evaluator, and answers what coremltools documents for `predict`.
"""

from __future__ import annotations

import inspect
from pathlib import Path

import numpy as np
import pytest
import timmx
from PIL import Image
from timmx.errors import ArtifactError, RuntimeUnavailable
from timmx_coreml.options import ComputeUnits
from timmx_coreml.package import read
from timmx_coreml.runner import Evaluator, open_runner


@pytest.fixture
def macos(monkeypatch):
    """A machine where coremltools reaches Core ML; `refused` and `bridge` say how a file is received."""
    import coremltools as ct

    class StandIn(ct.models.MLModel):
        refused: str | None = None
        bridge: object | None = object()

        def __init__(self, model, *arguments, skip_model_load=False, compute_units=None, **options):
            super().__init__(model, *arguments, skip_model_load=True, **options)
            self.asked = compute_units
            if isinstance(model, str) and not skip_model_load:
                self.__proxy__ = None if self.refused else self.bridge
                self._framework_error = self.refused and RuntimeError(self.refused)
                self._evaluator = Evaluator(read(Path(model)))

        def predict(self, data):
            fed = {}
            for name, value in data.items():
                if isinstance(value, Image.Image):
                    pixels = np.asarray(value)
                    value = pixels[None, None] if pixels.ndim == 2 else pixels.transpose(2, 0, 1)[None]
                fed[name] = value
            found = self._evaluator.run(fed)
            # Core ML's dictionaries have no order.
            return {
                name: dict(reversed(value.items())) if isinstance(value, dict) else value
                for name, value in found.items()
            }

    source = inspect.getsource(ct.models.MLModel.__init__)
    assert "self.__proxy__" in source
    assert "self._framework_error" in source
    assert "compute_units" in inspect.signature(ct.models.MLModel).parameters
    monkeypatch.setattr("sys.platform", "darwin")
    monkeypatch.setattr(ct.models, "MLModel", StandIn)
    return StandIn


def test_core_ml_is_asked_on_the_units_that_were_named(tmp_path, digits, macos):
    import coremltools as ct

    result = timmx.export("coreml", digits, output=tmp_path / "a.mlpackage", compute_units="cpu-ne")
    assert result.verification.status == "verified"
    assert result.verification.engine == ""
    for units, real in (
        (ComputeUnits.ALL, ct.ComputeUnit.ALL),
        (ComputeUnits.CPU, ct.ComputeUnit.CPU_ONLY),
        (ComputeUnits.CPU_GPU, ct.ComputeUnit.CPU_AND_GPU),
        (ComputeUnits.CPU_NE, ct.ComputeUnit.CPU_AND_NE),
    ):
        with open_runner(result.path, units) as runner:
            assert runner._engine._model.asked is real


@pytest.mark.parametrize("kind", ["mlprogram", "neuralnetwork"])
def test_pictures_and_dictionaries_go_through_core_ml(tmp_path, digits, macos, kind):
    path = tmp_path / ("a.mlpackage" if kind == "mlprogram" else "a.mlmodel")
    options = {"normalize": True, "image_input": True, "classifier": True, "softmax": True}
    result = timmx.export("coreml", digits, output=path, convert_to=kind, **options)
    assert result.verification.status == "verified"
    assert result.verification.top1_agreement == 1.0


def test_a_file_that_core_ml_refuses_is_told(tmp_path, digits, macos, monkeypatch):
    result = timmx.export("coreml", digits, output=tmp_path / "a.mlpackage", verify=False)
    monkeypatch.setattr(macos, "refused", "unsupported opset")
    with pytest.raises(ArtifactError, match=r"unsupported opset\nhint: .*--target"):
        timmx.open(result.path)
    monkeypatch.setattr(macos, "refused", None)
    monkeypatch.setattr(macos, "bridge", None)
    with pytest.raises(RuntimeUnavailable, match=r"bridge.*\nhint: .*uv pip install --reinstall"):
        timmx.open(result.path)

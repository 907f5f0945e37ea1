"""Engines are code: only those that this user built on this machine are loaded without `--trust`."""

from __future__ import annotations

import hashlib
import json

import pytest
import timmx
from timmx.base.progress import Reporter, reporting
from timmx.errors import ArtifactError
from timmx.plugin import is_own, remember_own
from timmx_tensorrt.sidecar import sidecar_path

PLAN = b"\0 any code"


@pytest.fixture(autouse=True)
def _own_cache(tmp_path, monkeypatch):
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    monkeypatch.setenv("HOME", str(tmp_path))


@pytest.fixture
def engine(tensorrt, tmp_path, monkeypatch):
    """An engine of somebody else; `loads` lists what TensorRT was asked to load."""
    loads = []
    original = tensorrt.Runtime.deserialize_cuda_engine

    def deserialize(self, plan):
        loads.append(bytes(plan))
        return original(self, plan)

    monkeypatch.setattr(tensorrt.Runtime, "deserialize_cuda_engine", deserialize)
    path = tmp_path / "other.engine"
    path.write_bytes(PLAN)
    return path, loads


def test_engine_of_somebody_else_is_refused_before_tensorrt_sees_it(engine):
    path, loads = engine
    with pytest.raises(ArtifactError, match="an engine is code that TensorRT runs") as error:
        timmx.open(path)
    assert "--trust" in error.value.hint
    assert loads == []


def test_description_of_an_engine_does_not_make_it_trusted(engine):
    """Whoever sends an engine also sends its JSON."""
    path, loads = engine
    facts = {"plan_sha256": hashlib.sha256(PLAN).hexdigest(), "version_compatible": True}
    sidecar_path(path).write_text(json.dumps({"engine": facts}))
    with pytest.raises(ArtifactError, match="--trust"):
        timmx.open(path)
    assert loads == []


def test_trusted_engine_is_loaded_after_a_warning(engine):
    path, loads = engine
    warnings = []

    class Recorder(Reporter):
        def warn(self, text):
            warnings.append(text)

    with reporting(Recorder()), pytest.raises(ArtifactError, match="is not an engine for this GPU"):
        timmx.open(path, trust=True)
    assert loads == [PLAN]
    assert "running it runs code that it contains" in warnings[0]


def test_own_engine_is_loaded(engine):
    path, loads = engine
    remember_own(hashlib.sha256(PLAN).hexdigest())
    with pytest.raises(ArtifactError, match="is not an engine for this GPU"):
        timmx.open(path)
    assert loads == [PLAN]


@pytest.mark.parametrize(
    "text", ["", "..", "0" * 63, "0" * 64, "/etc/passwd", "A" * 64, "../" * 20 + "ab" * 2]
)
def test_text_that_is_not_a_recorded_hash_is_not_own(text):
    remember_own("1" * 64)
    assert not is_own(text)


def test_cache_that_cannot_be_written_costs_only_trust(tmp_path):
    (tmp_path / "cache").write_text("a file")
    remember_own("1" * 64)
    assert not is_own("1" * 64)

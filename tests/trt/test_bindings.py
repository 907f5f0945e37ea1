"""The names that timmx uses of TensorRT, and the stand-in, are checked against NVIDIA's real Python bindings.

The bindings are downloaded and loaded with stubs of their libraries, which needs no GPU; see `bindings.py`. If that is
not possible, these tests are skipped and say why.
"""

from __future__ import annotations

import re
from pathlib import Path

import pytest
from trt import bindings
from trt.calls import calls_of
from trt.stand_in import VERSIONS, load
from trt.stand_in.surface import read_json, signature
from trt.usage import members, used_names

ENGINE = Path(__file__).resolve().parents[2] / "packages/timmx-tensorrt/src/timmx_tensorrt/engine.py"


@pytest.fixture(scope="session")
def installed(tmp_path_factory):
    """The real bindings of a version, installed once."""
    results = {}

    def get(version):
        if version not in results:
            try:
                results[version] = bindings.install(version, tmp_path_factory.mktemp("bindings"))
            except bindings.BindingsError as reason:
                results[version] = reason
        if isinstance(results[version], bindings.BindingsError):
            pytest.skip(f"TensorRT {version}'s bindings: {results[version]}")
        return results[version]

    return get


@pytest.fixture(scope="session", params=VERSIONS)
def version(request):
    return request.param


@pytest.fixture(scope="session")
def real(installed, version):
    return installed(version)


@pytest.fixture(scope="session")
def surface(real):
    """The surface that the real bindings print."""
    return real.run("surface")


def test_names_that_a_backend_needs_exist(process, surface):
    assert sorted(set(bindings.USED) - members(surface)) == []


def test_engine_module_uses_only_names_that_exist(process, surface):
    if not ENGINE.exists():
        pytest.skip(f"{ENGINE.name} is not written yet")
    used = used_names(ENGINE, surface)
    assert "Builder.create_network" in used
    assert sorted(used - members(surface)) == []


def test_arguments_have_the_expected_names(process, surface):
    for name, parameters in bindings.PARAMETERS.items():
        owner, method = name.split(".")
        overloads = surface["classes"][owner]["methods"][method]
        assert parameters.split() in [[one.name for one in signature(text).parameters] for text in overloads]


def test_committed_surface_equals_the_real_one(process, surface, version):
    assert surface == read_json(version)


@pytest.fixture(scope="session")
def outcomes(real, version):
    """The result of each expression on the real bindings."""
    return real.run("calls", list(calls_of(version)))


def test_real_bindings_give_the_expected_results(process, export, outcomes, version):
    assert outcomes == calls_of(version)


def test_stand_in_gives_the_results_of_the_real_bindings(export, outcomes, version):
    trt = load(version)
    assert {expression: bindings.outcome(trt, expression) for expression in outcomes} == outcomes


def test_used_names_are_read_from_source(tmp_path):
    source = tmp_path / "engine.py"
    source.write_text(
        """
class Logger(trt.ILogger):
    def log(self, severity, msg): ...
    def errors(self): ...

class Session:
    engine: trt.ICudaEngine | None
    def __init__(self, trt, logger):
        self.trt, self.flag = trt, self.trt.BuilderFlag.TF32
        self.builder = started(trt.Builder, logger)
    def network(self):
        return self.builder.create_network(1 << int(trt.NetworkDefinitionCreationFlag.EXPLICIT_BATCH))
    def errors(self, path):
        parser = trt.OnnxParser(self.network(), Logger())
        parser.parse_from_file(str(path).upper())
        if (cache := make_config(self.builder).get_timing_cache()) is not None:
            cache.combine(cache, True)
        return [parser.get_error(index).desc() for index in range(parser.num_errors)]

def make_config(builder):
    config = builder.create_builder_config()
    config.max_workspace_size = 1
    return config

def shapes(session: Session):
    return session.engine.get_tensor_shape("x")
"""
    )
    used = used_names(source, read_json("11.4"))
    assert sorted(used - members(read_json("11.4"))) == [
        "IBuilderConfig.max_workspace_size",
        "NetworkDefinitionCreationFlag.EXPLICIT_BATCH",
    ]
    assert {name for name in used if "." in name} >= {
        "BuilderFlag.TF32",
        "Builder.create_network",
        "IBuilderConfig.get_timing_cache",
        "ICudaEngine.get_tensor_shape",
        "ILogger.log",
        "ITimingCache.combine",
        "OnnxParser.parse_from_file",
        "ParserError.desc",
    }


def test_missing_compiler_is_reported(monkeypatch, tmp_path):
    monkeypatch.setenv("PATH", str(tmp_path))
    with pytest.raises(bindings.BindingsError, match=re.escape("Linux") + "|C compiler"):
        bindings.install("11.4", tmp_path)

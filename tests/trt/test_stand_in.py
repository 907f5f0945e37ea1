"""The stand-in for TensorRT refuses what the real one refuses, and builds, saves, opens and runs a network.

`test_command.py` uses its settings, timing caches and simulated failures through `timmx tensorrt`.
"""

from __future__ import annotations

import os
import signal
import threading

import numpy as np
import onnx
import pytest
from onnx import TensorProto, helper, numpy_helper
from trt import bindings
from trt.calls import calls_of
from trt.stand_in import VERSIONS, load

PROFILE = ((1, 3, 8, 8), (2, 3, 8, 8), (4, 3, 8, 8))


@pytest.fixture(params=VERSIONS)
def version(request):
    return request.param


@pytest.fixture
def trt(version):
    return load(version)


@pytest.fixture
def logger(trt):
    class Logger(trt.ILogger):
        def __init__(self):
            super().__init__()
            self.lines = []

        def log(self, severity, msg):
            self.lines.append((severity.name, msg))

        def errors(self):
            return [text for severity, text in self.lines if severity == "ERROR"]

    return Logger()


def network_bytes(batch="batch", conv="Conv", location=None):
    """A convolution, a mean and a linear layer: images (N, 3, 8, 8) to scores (N, 5)."""
    rng = np.random.default_rng(0)
    weights = {
        "kernel": rng.standard_normal((4, 3, 3, 3)),
        "matrix": rng.standard_normal((4, 5)),
    }
    nodes = [
        helper.make_node(conv, ["image", "kernel"], ["features"], name="stem"),
        helper.make_node("Relu", ["features"], ["positive"], name="act"),
        helper.make_node("GlobalAveragePool", ["positive"], ["pooled"], name="pool"),
        helper.make_node("Flatten", ["pooled"], ["flat"], name="flatten"),
        helper.make_node("MatMul", ["flat", "matrix"], ["scores"], name="head"),
    ]
    graph = helper.make_graph(
        nodes,
        "small",
        [helper.make_tensor_value_info("image", TensorProto.FLOAT, [batch, 3, 8, 8])],
        [helper.make_tensor_value_info("scores", TensorProto.FLOAT, [batch, 5])],
        [numpy_helper.from_array(value.astype(np.float32), name) for name, value in weights.items()],
    )
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 18)], ir_version=10)
    if location is not None:
        onnx.save_model(
            model, str(location), save_as_external_data=True, location="weights", size_threshold=0
        )
    return model.SerializeToString()


class Bench:
    """A builder with everything that a build needs."""

    def __init__(self, trt, logger, flags=None):
        self.trt, self.logger = trt, logger
        self.builder = trt.Builder(logger)
        if flags is None:
            flags = 1 << int(trt.NetworkDefinitionCreationFlag.STRONGLY_TYPED)
        self.network = self.builder.create_network(flags)
        self.config = self.builder.create_builder_config()

    def parse(self, model):
        self.parser = self.trt.OnnxParser(self.network, self.logger)
        return self.parser.parse(model)

    def profile(self, shapes=PROFILE, name="image"):
        profile = self.builder.create_optimization_profile()
        profile.set_shape(name, *shapes)
        return self.config.add_optimization_profile(profile)

    def build(self):
        return self.builder.build_serialized_network(self.network, self.config)


@pytest.fixture
def bench(trt, logger):
    bench = Bench(trt, logger)
    assert bench.parse(network_bytes())
    return bench


@pytest.fixture
def plan(bench):
    bench.profile()
    return bytes(bench.build())


def open_plan(trt, logger, plan, host_code=False):
    runtime = trt.Runtime(logger)
    runtime.engine_host_code_allowed = host_code
    return runtime.deserialize_cuda_engine(plan)


def run(engine, images):
    context = engine.create_execution_context()
    assert context.set_input_shape("image", images.shape)
    scores = np.full(tuple(context.get_tensor_shape("scores")), np.inf, np.float32)
    assert context.set_tensor_address("image", images.ctypes.data)
    assert context.set_tensor_address("scores", scores.ctypes.data)
    assert context.infer_shapes() == []
    assert context.execute_async_v3(0)
    return scores


@pytest.fixture
def images():
    return np.random.default_rng(1).standard_normal((3, 3, 8, 8)).astype(np.float32)


def reference(images):
    import onnxruntime

    session = onnxruntime.InferenceSession(network_bytes(), providers=["CPUExecutionProvider"])
    return session.run(None, {"image": images})[0]


def test_calls_give_the_results_of_the_real_bindings(trt, version):
    expected = calls_of(version)
    assert {expression: bindings.outcome(trt, expression) for expression in expected} == expected


def test_version_is_that_of_the_surface(trt, version):
    assert trt.__version__.startswith(version)


def test_unmodeled_name_raises_not_implemented_error(trt, bench):
    with pytest.raises(NotImplementedError, match="add_identity"):
        bench.network.add_identity(bench.network.get_input(0))


def test_a_plan_is_built_saved_opened_and_run(trt, logger, bench, images, tmp_path):
    bench.network.name = "a hash"
    bench.profile()
    plan = bench.build()
    path = tmp_path / "small.engine"
    path.write_bytes(plan)
    assert path.stat().st_size == plan.nbytes
    engine = open_plan(trt, logger, path.read_bytes())
    assert (engine.name, engine.num_io_tensors, engine.num_optimization_profiles) == ("a hash", 2, 1)
    assert [engine.get_tensor_name(index) for index in range(2)] == ["image", "scores"]
    assert engine.get_tensor_mode("image") == trt.TensorIOMode.INPUT
    assert engine.get_tensor_mode("scores") == trt.TensorIOMode.OUTPUT
    assert engine.get_tensor_shape("scores") == (-1, 5)
    assert engine.get_tensor_dtype("image") == trt.float32
    assert [tuple(shape) for shape in engine.get_tensor_profile_shape("image", 0)] == list(PROFILE)
    np.testing.assert_allclose(run(engine, images), reference(images), rtol=1e-5)
    assert logger.errors() == []


def test_shapes_outside_the_profile_are_refused(trt, logger, plan):
    context = open_plan(trt, logger, plan).create_execution_context()
    assert not context.set_input_shape("image", (5, 3, 8, 8))
    assert not context.set_input_shape("image", (2, 3, 8))
    assert not context.set_input_shape("scores", (2, 5))
    assert context.infer_shapes() == ["image"]
    assert len(logger.errors()) == 2


def test_an_engine_does_not_run_without_shapes_and_addresses(trt, logger, plan, images):
    context = open_plan(trt, logger, plan).create_execution_context()
    context.set_tensor_address("image", images.ctypes.data)
    assert not context.execute_async_v3(0)
    assert "Missing" in logger.errors()[0]
    assert not context.set_tensor_address("picture", images.ctypes.data)


def test_dynamic_network_is_not_built_without_a_matching_profile(bench, logger):
    assert bench.build() is None
    assert "no optimization profile" in logger.errors()[-1]
    bench.profile(name="picture")
    assert bench.build() is None
    assert "no shapes for the dynamic input image" in logger.errors()[-1]


def test_a_profile_of_other_fixed_sizes_is_refused(bench, logger):
    bench.profile([(1, 3, 9, 8)] * 3)
    assert bench.build() is None
    assert "does not fit image" in logger.errors()[-1]


def test_a_profile_that_is_out_of_order_or_empty_is_refused(bench):
    profile = bench.builder.create_optimization_profile()
    with pytest.raises(ValueError, match="min <= opt <= max"):
        profile.set_shape("image", (4, 3, 8, 8), (2, 3, 8, 8), (1, 3, 8, 8))
    assert not profile
    assert bench.config.add_optimization_profile(profile) == -1


def test_weak_typing_is_reported(trt, logger, version):
    bench = Bench(trt, logger, flags=0)
    bench.parse(network_bytes(batch=1))
    bench.build()
    flag = trt.NetworkDefinitionCreationFlag.STRONGLY_TYPED
    warned = any(severity == "WARNING" and "weakly typed" in text for severity, text in logger.lines)
    assert bench.network.get_flag(flag) is trt.builds[0].strongly_typed is (version == "11.4")
    assert warned is (version == "10.16")


def test_the_parser_refuses_types_that_do_not_match(trt, logger):
    model = onnx.ModelProto.FromString(network_bytes())
    half = numpy_helper.to_array(model.graph.initializer[1]).astype(np.float16)
    model.graph.initializer[1].CopyFrom(numpy_helper.from_array(half, "matrix"))
    bench = Bench(trt, logger)
    assert not bench.parse(model.SerializeToString())
    assert bench.parser.get_error(0).node_name() == "head"


def test_external_weights_are_read_from_the_folder_of_the_file(trt, logger, tmp_path, images):
    path = tmp_path / "model.onnx"
    network_bytes(location=path)
    bench = Bench(trt, logger)
    assert not bench.parse(path.read_bytes())
    parser = trt.OnnxParser(bench.network, logger)
    assert parser.parse(path.read_bytes(), path=str(path))
    bench = Bench(trt, logger)
    parser = trt.OnnxParser(bench.network, logger)
    assert not parser.parse_from_file(str(tmp_path / "none.onnx"))
    parser.clear_errors()
    assert parser.parse_from_file(str(path))
    bench.profile()
    np.testing.assert_allclose(
        run(open_plan(trt, logger, bench.build()), images), reference(images), rtol=1e-5
    )


class Steps:
    """Makes a monitor that records its calls."""

    def __new__(cls, trt):
        class Monitor(trt.IProgressMonitor):
            def __init__(self):
                super().__init__()
                self.open, self.deepest, self.steps, self.threads = [], 0, 0, set()

            def phase_start(self, phase_name, parent_phase, num_steps):
                assert parent_phase == (self.open[-1] if self.open else None)
                self.open.append(phase_name)
                self.deepest = max(self.deepest, len(self.open))
                self.threads.add(threading.get_ident())

            def step_complete(self, phase_name, step):
                self.steps += 1
                return True

            def phase_finish(self, phase_name):
                self.open.remove(phase_name)

        return Monitor()


def test_progress_comes_in_nested_phases_from_two_threads(trt, bench):
    bench.profile()
    monitor = bench.config.progress_monitor = Steps(trt)
    assert bench.build() is not None
    assert (monitor.open, monitor.deepest, len(monitor.threads)) == ([], 2, 2)
    assert monitor.steps == 8  # 3 of the build, and one for each of the 5 layers


@pytest.mark.parametrize("step", [1, 3])  # in the thread that called, and in the other
def test_ctrl_c_is_swallowed_by_the_next_callback(trt, bench, step):
    """As in pybind11: a signal handler runs in the main thread's next line of Python, which is in a callback."""
    bench.profile()
    monitor = bench.config.progress_monitor = Steps(trt)
    trt.trouble.during_build = lambda: monitor.steps == step and os.kill(os.getpid(), signal.SIGINT)
    assert bench.build() is None
    assert monitor.open == []


def test_garbage_collected_monitor_is_reported(trt, bench, logger):
    bench.profile()
    bench.config.progress_monitor = Steps(trt)
    assert bench.build() is None
    assert "collected" in logger.errors()[0]


def plan_of(version, *flags, hardware="NONE"):
    """A plan of another version, with builder flags."""
    trt = load(version)
    bench = Bench(trt, trt.Logger(trt.Logger.ERROR))
    bench.parse(network_bytes(batch=3))
    for flag in flags:
        bench.config.set_flag(getattr(trt.BuilderFlag, flag))
    bench.config.hardware_compatibility_level = getattr(trt.HardwareCompatibilityLevel, hardware)
    return bytes(bench.build())


def test_a_plan_of_another_version_is_refused(trt, logger, version):
    (other,) = set(VERSIONS) - {version}
    assert open_plan(trt, logger, plan_of(other), host_code=True) is None
    assert "was made with TensorRT" in logger.errors()[0]


def test_a_version_compatible_plan_opens_in_a_later_version(images):
    plan = plan_of("10.16", "VERSION_COMPATIBLE")
    later = load("11.4")
    quiet = later.Logger(later.Logger.INTERNAL_ERROR)
    assert open_plan(later, quiet, plan) is None
    np.testing.assert_allclose(run(open_plan(later, quiet, plan, True), images), reference(images), rtol=1e-5)
    earlier = load("10.16")
    quiet = earlier.Logger(earlier.Logger.INTERNAL_ERROR)
    assert open_plan(earlier, quiet, plan_of("11.4", "VERSION_COMPATIBLE"), True) is None


def test_hardware_compatible_plan_opens_on_another_device(trt, logger, version):
    plans = {name: plan_of(version, hardware=name) for name in ("NONE", "AMPERE_PLUS")}
    trt.trouble.device = "Another GPU"
    assert open_plan(trt, logger, plans["NONE"]) is None
    assert "Another GPU" in logger.errors()[0]
    assert open_plan(trt, logger, plans["AMPERE_PLUS"]) is not None


def test_types_without_onnx_runtime_kernels_run_in_the_onnx_evaluator(trt, logger, images):
    model = onnx.ModelProto.FromString(network_bytes())
    for one in model.graph.initializer:
        kernel = helper.make_tensor(
            one.name, TensorProto.BFLOAT16, one.dims, numpy_helper.to_array(one).flatten()
        )
        one.CopyFrom(kernel)
    nodes = model.graph.node
    nodes[0].input[0], nodes[4].output[0] = "image_bf16", "scores_bf16"
    nodes.insert(0, helper.make_node("Cast", ["image"], ["image_bf16"], to=TensorProto.BFLOAT16))
    nodes.append(helper.make_node("Cast", ["scores_bf16"], ["scores"], to=TensorProto.FLOAT))
    model.opset_import[0].version = 22
    bench = Bench(trt, logger)
    assert bench.parse(model.SerializeToString()), logger.errors()
    bench.profile()
    outputs = run(open_plan(trt, logger, bench.build()), images)
    assert 0 < np.abs(outputs - reference(images)).max() < 0.1

"""The runtime: engines from plans, and contexts that run them in ONNX Runtime on host pointers."""

from __future__ import annotations

import ctypes
import functools
import math

from .building import refuse_without_device
from .parsing import Network
from .plan import Plan
from .pybind import Inner
from .values import host_memory


class Runtime(Inner):
    shown = "Runtime"

    def __init__(self, trt, logger):
        super().__init__(trt)
        self.logger, self.engine_host_code_allowed = logger, False
        refuse_without_device(self)

    def deserialize_cuda_engine(self, serialized_engine):
        plan = Plan.from_bytes(bytes(serialized_engine))
        problem = self.trt.trouble.deserialize or self.problem_of(plan)
        if problem:
            self.log("ERROR", problem)
            return None
        return Engine(self.trt, self.logger, plan)

    def problem_of(self, plan: Plan | None) -> str:
        """Why this runtime does not take a plan; empty if it does."""
        if plan is None:
            return "The bytes are not a serialized engine: the magic tag does not match."
        compatible = "VERSION_COMPATIBLE" in plan.flags
        if plan.version != self.trt.__version__ and not compatible:
            return f"The engine was made with TensorRT {plan.version}, and this is {self.trt.__version__}."
        if major(plan.version) > major(self.trt.__version__):
            return f"The engine was made with TensorRT {plan.version}, newer than {self.trt.__version__}."
        if compatible and not self.engine_host_code_allowed:
            return "The engine holds host code, which engine_host_code_allowed does not allow."
        if plan.device != self.trt.trouble.device and plan.hardware_compatibility == "NONE":
            return f"The engine was made for {plan.device}, and this is {self.trt.trouble.device}."
        return ""


def major(version: str) -> int:
    return int(version.split(".")[0])


class Engine(Inner):
    shown = "ICudaEngine"

    def __init__(self, trt, logger, plan: Plan):
        import onnx

        super().__init__(trt)
        self.logger, self.plan, self.name = logger, plan, plan.network_name
        self.network = Network(trt, logger, 1 << int(trt.NetworkDefinitionCreationFlag.STRONGLY_TYPED))
        self.network.fill(onnx.load_model_from_string(plan.onnx))
        self.tensors = {one.name: one for one in (*self.network.inputs, *self.network.outputs)}
        self.profiling_verbosity = getattr(trt.ProfilingVerbosity, plan.profiling_verbosity)
        level = trt.HardwareCompatibilityLevel
        self.hardware_compatibility_level = getattr(level, plan.hardware_compatibility)
        self.engine_capability, self.refittable = trt.EngineCapability.STANDARD, False
        self.num_layers = self.network.num_layers
        self.num_io_tensors = len(self.tensors)
        self.num_optimization_profiles = max(1, len(plan.profiles))
        self.device_memory_size_v2 = 2**20

    def find(self, name: str):
        if name not in self.tensors:
            self.log("ERROR", f"The engine has no input or output named {name}.")
        return self.tensors.get(name)

    def get_tensor_name(self, index) -> str | None:
        names = list(self.tensors)
        return names[index] if 0 <= index < len(names) else None

    def get_tensor_mode(self, name):
        tensor = self.find(name)
        if tensor is None:
            return self.trt.TensorIOMode.NONE
        return self.trt.TensorIOMode.INPUT if tensor.is_network_input else self.trt.TensorIOMode.OUTPUT

    def get_tensor_shape(self, name):
        tensor = self.find(name)
        return self.trt.Dims() if tensor is None else tensor.shape

    def get_tensor_dtype(self, name):
        tensor = self.find(name)
        return self.trt.DataType.FLOAT if tensor is None else tensor.dtype

    def get_tensor_location(self, name):
        return self.trt.TensorLocation.DEVICE

    def get_tensor_profile_shape(self, name, profile_index):
        tensor = self.find(name)
        if tensor is None or not tensor.is_network_input or profile_index >= self.num_optimization_profiles:
            self.log("ERROR", f"No profile {profile_index} of an input named {name}.")
            return []
        return [self.trt.Dims(shape) for shape in self.profile_shapes(name, profile_index)]

    def profile_shapes(self, name: str, profile_index: int):
        profiles = self.plan.profiles
        whole = [list(self.tensors[name].shape)] * 3
        return profiles[profile_index].get(name, whole) if profiles else whole

    def create_execution_context(self, strategy=None, runtime_config=None):
        if self.trt.trouble.context:
            self.log("ERROR", self.trt.trouble.context)
            return None
        return Context(self.trt, self)

    def serialize(self):
        return host_memory(self.trt, self.plan.to_bytes())

    @functools.cached_property
    def evaluator(self):
        """Runs the network: `(names of outputs, inputs) -> outputs`; in ONNX's evaluator if ONNX Runtime cannot."""
        import onnxruntime

        options = onnxruntime.SessionOptions()
        options.log_severity_level = 4
        options.intra_op_num_threads = 1
        # At higher levels 1.32 removes a Relu before a float8 QuantizeLinear.
        options.graph_optimization_level = onnxruntime.GraphOptimizationLevel.ORT_ENABLE_BASIC
        try:
            return onnxruntime.InferenceSession(self.plan.onnx, options, ["CPUExecutionProvider"]).run
        except Exception:  # kernels that ONNX Runtime lacks, such as a convolution in bf16
            from onnx.reference import ReferenceEvaluator

            return ReferenceEvaluator(self.network.model).run


class Context(Inner):
    shown = "IExecutionContext"

    def __init__(self, trt, engine: Engine):
        super().__init__(trt)
        self.engine, self.logger, self.name = engine, engine.logger, ""
        self.active_optimization_profile, self.shapes, self.addresses = 0, {}, {}

    def set_optimization_profile_async(self, profile_index, stream_handle) -> bool:
        if not 0 <= profile_index < self.engine.num_optimization_profiles:
            self.log("ERROR", f"The engine has no optimization profile {profile_index}.")
            return False
        self.active_optimization_profile, self.shapes = int(profile_index), {}
        return True

    def set_input_shape(self, name, shape) -> bool:
        sizes = list(shape)
        tensor = self.engine.find(name)
        if tensor is None or not tensor.is_network_input:
            return False
        least, _, most = self.engine.profile_shapes(name, self.active_optimization_profile)
        if len(sizes) != len(least) or not all(
            low <= size <= high for low, size, high in zip(least, sizes, most, strict=True)
        ):
            self.log(
                "ERROR", f"{name}: {tuple(sizes)} is not in the profile's {tuple(least)} to {tuple(most)}."
            )
            return False
        self.shapes[name] = tuple(int(size) for size in sizes)
        return True

    @property
    def all_binding_shapes_specified(self) -> bool:
        return all(-1 not in self.input_shape(tensor) for tensor in self.engine.network.inputs)

    def input_shape(self, tensor) -> tuple[int, ...]:
        return self.shapes.get(tensor.name, tuple(tensor.shape))

    def get_tensor_shape(self, name):
        tensor = self.engine.find(name)
        if tensor is None:
            return self.trt.Dims()
        if tensor.is_network_input:
            return self.trt.Dims(self.input_shape(tensor))
        if not self.all_binding_shapes_specified:
            return tensor.shape
        return self.trt.Dims(self.output_shape(tensor))

    def output_shape(self, tensor) -> tuple[int, ...]:
        """Sizes with a name follow the inputs; others are inferred by ONNX."""
        sizes = {}
        for one in self.engine.network.inputs:
            sizes |= dict(zip(one.symbols, self.input_shape(one), strict=True))
        shape = [
            sizes.get(symbol, size) if symbol else size
            for symbol, size in zip(tensor.symbols, tensor.shape, strict=True)
        ]
        return self.inferred_shapes()[tensor.name] if -1 in shape else tuple(shape)

    def inferred_shapes(self) -> dict[str, tuple[int, ...]]:
        import onnx

        model = onnx.ModelProto.FromString(self.engine.plan.onnx)
        del model.graph.value_info[:]
        input_shapes = {one.name: self.input_shape(one) for one in self.engine.network.inputs}
        for one in model.graph.input:
            for size, place in zip(
                input_shapes.get(one.name, ()), one.type.tensor_type.shape.dim, strict=False
            ):
                place.dim_value = size
        for one in model.graph.output:
            one.type.tensor_type.ClearField("shape")
        model = onnx.shape_inference.infer_shapes(model, data_prop=True)
        return {
            one.name: tuple(
                size.dim_value if size.HasField("dim_value") else -1
                for size in one.type.tensor_type.shape.dim
            )
            for one in model.graph.output
        }

    def infer_shapes(self) -> list[str]:
        """The names of the inputs without a shape."""
        return [one.name for one in self.engine.network.inputs if -1 in self.input_shape(one)]

    def set_tensor_address(self, name, memory) -> bool:
        if self.engine.find(name) is None:
            return False
        self.addresses[name] = int(memory)
        return True

    def get_tensor_address(self, name) -> int:
        return self.addresses.get(name, 0)

    def execute_async_v3(self, stream_handle) -> bool:
        network, trouble = self.engine.network, self.trt.trouble
        missing = [name for name in self.engine.tensors if not self.addresses.get(name)]
        problem = trouble.execute
        if missing or self.infer_shapes():
            problem = f"Missing addresses {missing} or shapes {self.infer_shapes()}."
        if problem:
            self.log("ERROR", problem)
            return False
        inputs = {one.name: self.memory(one).copy() for one in network.inputs}
        outputs = self.engine.evaluator([one.name for one in network.outputs], inputs)
        for tensor, value in zip(network.outputs, outputs, strict=True):
            self.memory(tensor)[...] = corrupt(value, trouble)
        return True

    def memory(self, tensor):
        """The memory of an input or output as an array."""
        import numpy as np

        kind = np.dtype(self.trt.nptype(tensor.dtype))
        shape = tuple(self.get_tensor_shape(tensor.name))
        content = (ctypes.c_char * (math.prod(shape) * kind.itemsize)).from_address(
            self.addresses[tensor.name]
        )
        return np.frombuffer(content, kind).reshape(shape)


def corrupt(value, trouble):
    """The output of a faulty engine."""
    import numpy as np

    if not np.issubdtype(value.dtype, np.floating):
        return value
    value = -value if trouble.wrong_numbers else value.copy()
    if trouble.corrupt_rows and value.ndim:
        value[1::2] += np.asarray(0.01 * np.abs(value).max() + 1e-3, value.dtype)
    if trouble.not_finite and value.size:
        value.flat[0] = np.nan
    return value


class PluginRegistry(Inner):
    shown = "IPluginRegistry"

    def __init__(self, trt):
        super().__init__(trt)
        self.all_creators, self.all_creators_recursive, self.plugin_creator_list = [], [], []


BEHAVIOURS = (Runtime, Engine, Context, PluginRegistry)

"""All MIL operations, in the groups of MIL's documentation. Importing this package fills the registry."""

from timmx_coreml.mil.operations import (
    activation,
    classification,
    compression,
    convolution,
    elementwise,
    linear,
    normalization,
    pooling,
    quantization,
    recurrent,
    reduction,
    resizing,
    sampling,
    scatter_gather,
    slicing,
    tensor_operation,
    tensor_transformation,
)
from timmx_coreml.mil.operations.registry import KERNELS, Kernel

__all__ = [
    "KERNELS",
    "Kernel",
    "activation",
    "classification",
    "compression",
    "convolution",
    "elementwise",
    "linear",
    "normalization",
    "pooling",
    "quantization",
    "recurrent",
    "reduction",
    "resizing",
    "sampling",
    "scatter_gather",
    "slicing",
    "tensor_operation",
    "tensor_transformation",
]

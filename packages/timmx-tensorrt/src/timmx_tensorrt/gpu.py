"""Access to the GPU: through the driver, and through PyTorch, which is imported only when needed."""

from __future__ import annotations

import ctypes
import platform
import sys
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    import torch


def is_available() -> bool:
    """Whether the driver finds a device; calls the driver directly, which takes milliseconds."""
    driver = _driver()
    count = ctypes.c_int()
    return (
        driver is not None
        and driver.cuInit(0) == 0
        and driver.cuDeviceGetCount(ctypes.byref(count)) == 0
        and count.value > 0
    )


def device() -> torch.device:
    """The device of the arrays that an engine reads and writes."""
    import torch

    return torch.device("cuda", torch.cuda.current_device())


class Stream:
    """A CUDA stream that is not the default one, on which TensorRT would synchronize more than necessary."""

    def __init__(self) -> None:
        import torch

        self._stream = torch.cuda.Stream()
        # Work that PyTorch has already queued, such as copies of inputs, comes first.
        self._stream.wait_stream(torch.cuda.current_stream())

    @property
    def handle(self) -> int:
        """The stream as CUDA's functions take it."""
        return int(self._stream.cuda_stream)

    def synchronize(self) -> None:
        """Wait for all queued work."""
        self._stream.synchronize()


def facts() -> dict[str, Any]:
    """What an engine depends on in addition to TensorRT; JSON values."""
    import torch

    properties = torch.cuda.get_device_properties(torch.cuda.current_device())
    return {
        "gpu": properties.name,
        "compute_capability": f"{properties.major}.{properties.minor}",
        "cuda": torch.version.cuda,
        "driver": _driver_version(),
        "platform": f"{platform.system()} {platform.machine()}",
    }


def _driver() -> ctypes.CDLL | None:
    try:
        return ctypes.CDLL("nvcuda.dll" if sys.platform == "win32" else "libcuda.so.1")
    except OSError:
        return None


def _driver_version() -> str | None:
    """The version of NVIDIA's driver, such as `580.159.04`."""
    try:
        library = ctypes.CDLL("nvml.dll" if sys.platform == "win32" else "libnvidia-ml.so.1")
    except OSError:
        return None
    text = ctypes.create_string_buffer(96)
    if library.nvmlInit_v2() != 0 or library.nvmlSystemGetDriverVersion(text, len(text)) != 0:
        return None
    return text.value.decode()

"""Loads a network into ncnn, with the arithmetic that its file states."""

from __future__ import annotations

from typing import TYPE_CHECKING

import ncnn
import numpy as np
from timmx.plugin import ArtifactError, RuntimeUnavailable

if TYPE_CHECKING:
    from collections.abc import Iterable, Sequence
    from pathlib import Path

    from timmx_ncnn.layers import Layer


def new_net(*, half: bool, threads: int | None = None, vulkan: bool = False) -> ncnn.Net:
    """An empty network whose storage and arithmetic are set; ncnn's default is half precision where the device has it.

    Args:
        half: half precision where the device has it: ARM CPUs with the extension, GPUs. Never bfloat16.
        threads: of the CPU; None for ncnn's default.
        vulkan: compute on the GPU.
    """
    net = ncnn.Net()
    for name in ("use_fp16_packed", "use_fp16_storage", "use_fp16_arithmetic"):
        setattr(net.opt, name, half)
    for name in ("use_bf16_packed", "use_bf16_storage"):
        setattr(net.opt, name, False)
    net.opt.use_vulkan_compute = vulkan
    if threads is not None:
        net.opt.num_threads = threads
    return net


def load(net: ncnn.Net, param: Path, weights: Path) -> None:
    """Load both files.

    Raises:
        ArtifactError: ncnn refuses one of them.
    """
    for path, function in ((param, net.load_param), (weights, net.load_model)):
        if function(str(path)) != 0:
            raise ArtifactError(
                f"ncnn cannot load {path}", hint="copy both files again, or export them again"
            )


def check_kinds(path: Path, layers: Iterable[Layer]) -> None:
    """Check that this ncnn has all layers.

    Raises:
        RuntimeUnavailable: it does not.
    """
    unknown = sorted({layer.kind for layer in layers if ncnn.layer_to_index(layer.kind) < 0})
    if unknown:
        raise RuntimeUnavailable(
            f"ncnn {ncnn.__version__} does not have layers of {path}: {', '.join(unknown)[:200]}",
            hint="uv pip install --upgrade ncnn",
        )


def require_gpu(path: Path) -> None:
    """Check that there is a device for Vulkan.

    Raises:
        RuntimeUnavailable: there is none.
    """
    if ncnn.get_gpu_count() < 1:
        raise RuntimeUnavailable(
            f"ncnn finds no GPU with Vulkan on this machine to run {path}",
            hint="use --runtime-device cpu, or install the GPU's Vulkan driver",
        )


def to_mat(array: np.ndarray) -> ncnn.Mat:
    """An array as a `Mat` of its own memory, whose channels ncnn aligns."""
    return ncnn.Mat(np.ascontiguousarray(array, dtype=np.float32)).clone()


def compute(net: ncnn.Net, feeds: dict[str, np.ndarray], names: Sequence[str]) -> list[np.ndarray]:
    """Values of the network, in the shapes of their `Mat`.

    Args:
        feeds: an array for each input, in the shape of its `Mat`.
        names: of the values.

    Raises:
        RuntimeError: ncnn cannot compute one.
    """
    extractor = net.create_extractor()
    extractor.set_light_mode(len(names) == 1)  # which discards values once they are used
    for name, array in feeds.items():
        if extractor.input(name, to_mat(array)) != 0:
            raise RuntimeError(f"there is no input {name}")
    results = []
    for name in names:
        code, mat = extractor.extract(name)
        if code != 0:
            raise RuntimeError(f"{name} cannot be computed (code {code})")
        results.append(np.array(mat))
    return results

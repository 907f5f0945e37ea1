"""An artifact opened in its own runtime: its inputs and outputs, and how to run it."""

from __future__ import annotations

from abc import ABC, abstractmethod
from dataclasses import dataclass
from functools import cached_property
from typing import TYPE_CHECKING, Protocol

from timmx.errors import ConfigurationError, UnsupportedError

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence
    from pathlib import Path

    import numpy as np

    from timmx.contract.options import Device, RuntimeDevice


@dataclass(frozen=True)
class OpenSettings:
    """How to open an artifact.

    Attributes:
        trust: the user trusts the file. A backend whose runtime can run code from a file refuses such files without it.
        device: where to run; None for the device that the artifact was exported for.
        threads: number of CPU threads that the runtime may use, 1 or more; None lets the runtime choose.
        runtime_device: where the runtime computes, one of the backend's `runtime_devices`; None for its default.

    Raises:
        ConfigurationError: fewer than 1 thread.
    """

    trust: bool = False
    device: Device | None = None
    threads: int | None = None
    runtime_device: RuntimeDevice | None = None

    def __post_init__(self) -> None:
        if self.threads is not None and self.threads < 1:
            raise ConfigurationError(
                f"threads is {self.threads}, but must be 1 or more",
                hint="use 1 or more, or None for all cores",
            )

    def require_device(self, device: Device, path: Path) -> None:
        """Raise an error if another device is requested than the one that the runtime uses.

        Args:
            device: the device that the runtime uses for this artifact.
            path: the artifact, for the message.

        Raises:
            ConfigurationError: `self.device` is another device.
        """
        if self.device not in (None, device):
            raise ConfigurationError(
                f"{path} runs on the device {device} here, not on {self.device}", hint="leave device out"
            )


@dataclass(frozen=True)
class Quantization:
    """The real values of a tensor of integers: real = scale * (stored - zero_point)."""

    scale: float
    zero_point: int

    def __post_init__(self) -> None:
        if not 0 < self.scale < float("inf"):
            raise ValueError(f"a scale is a number above 0, not {self.scale}")


@dataclass(frozen=True, kw_only=True)
class TensorSpec:
    """One input or output of an artifact, as its runtime reports it.

    Attributes:
        name: the name to feed or fetch it by.
        shape: sizes, in the order of `layout`; a symbolic size is its name, such as `batch`.
        dtype: numpy's name of the element type, such as `float32`.
        layout: one letter per axis, such as `NCHW`, `NHWC` or `NC`; empty if it is unknown.
        quantization: scale and zero point of integers. None for float tensors, and for a `uint8` input that takes
            pixel values from 0 to 255.
    """

    name: str
    shape: tuple[int | str, ...]
    dtype: str
    layout: str = ""
    quantization: Quantization | None = None


@dataclass(frozen=True)
class Operation:
    """One operation of an artifact, which `Runner.run_operation` runs separately.

    Attributes:
        name: unique in the artifact.
        kind: its type in the format's terms, such as `Conv`.
        inputs: names of the values that it takes: inputs of the artifact, and outputs of operations before it. Weights
            and other constants are not among them.
        outputs: names of the values that it computes.
    """

    name: str
    kind: str
    inputs: tuple[str, ...]
    outputs: tuple[str, ...]


class SeparateOperations(Protocol):
    """Runs the operations of an artifact separately.

    Attributes:
        operations: all operations in order of execution. The artifact's inputs and outputs are among their inputs and
            outputs, by the names of `Runner.inputs` and `Runner.outputs`.
    """

    operations: tuple[Operation, ...]

    def run(self, name: str, inputs: Mapping[str, np.ndarray]) -> dict[str, np.ndarray]:
        """Run one operation; see `Runner.run_operation`."""


class Runner(ABC):
    """An artifact opened in its own runtime: arrays in, arrays out. Usable in `with`."""

    inputs: tuple[TensorSpec, ...]
    outputs: tuple[TensorSpec, ...]
    batch_sizes: tuple[int, ...] = (1, 2, 3)
    """Batch sizes to verify with if the batch size is dynamic, the smallest and largest accepted ones among them."""
    engine: str = ""
    """What runs the artifact if it is not the format's own runtime, such as `timmx's evaluator`; shown with results."""

    intermediates: tuple[str, ...] = ()
    """Names of intermediate tensors in order of execution; empty if the runtime does not expose them."""

    @cached_property
    def separate(self) -> SeparateOperations | None:
        """What runs the operations separately, made when it is first needed; None if the runtime cannot."""
        return None

    @property
    def operations(self) -> tuple[Operation, ...]:
        """All operations in order of execution; empty if the runtime cannot run one separately."""
        return () if self.separate is None else self.separate.operations

    @property
    def notes(self) -> tuple[str, ...]:
        """Findings of the runs so far that the user should know, one line each; read after verification."""
        return ()

    @abstractmethod
    def run(self, feeds: Mapping[str, np.ndarray]) -> dict[str, np.ndarray]:
        """Run once, from an array per input name to an array per output name, each of the stated shape and dtype."""

    def run_intermediates(
        self, feeds: Mapping[str, np.ndarray], names: Sequence[str]
    ) -> dict[str, np.ndarray]:
        """Run once and return intermediate tensors, to locate an operation that computes wrong values.

        Args:
            feeds: see `run`.
            names: some of `intermediates`.

        Returns:
            Arrays by name, in the element type of the runtime.

        Raises:
            UnsupportedError: the runtime does not expose intermediate tensors.
        """
        raise UnsupportedError(
            f"{type(self).__name__} returns only outputs, no intermediate values", hint="use run"
        )

    def run_operation(self, name: str, inputs: Mapping[str, np.ndarray]) -> dict[str, np.ndarray]:
        """Run one operation by itself, to compare it with the model's for the same inputs.

        Args:
            name: of one of `operations`.
            inputs: an array for each of its inputs, in the element type of the runtime.

        Returns:
            An array for each of its outputs.

        Raises:
            UnsupportedError: the runtime runs only whole artifacts.
        """
        if self.separate is None:
            raise UnsupportedError(f"{type(self).__name__} runs only whole artifacts", hint="use run")
        return self.separate.run(name, inputs)

    def close(self) -> None:
        """Release the runtime's resources; does nothing by default."""

    def __enter__(self) -> Runner:
        return self

    def __exit__(self, *exc_info: object) -> None:
        self.close()

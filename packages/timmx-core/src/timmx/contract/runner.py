"""An artifact opened in its own runtime: what it takes, what it gives, and how to run it."""

from __future__ import annotations

from abc import ABC, abstractmethod
from dataclasses import dataclass
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Mapping

    import numpy as np


@dataclass(frozen=True)
class Quantization:
    """What the whole numbers of a tensor stand for: real = scale * (stored - zero_point)."""

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
        layout: one letter an axis, such as `NCHW`, `NHWC` or `NC`; empty where unknown.
        quantization: what whole numbers stand for. None for float tensors, and for an input of `uint8` that takes
            pixel values from 0 to 255.
    """

    name: str
    shape: tuple[int | str, ...]
    dtype: str
    layout: str = ""
    quantization: Quantization | None = None


class Runner(ABC):
    """An artifact opened in its own runtime: arrays in, arrays out. Usable in `with`."""

    inputs: tuple[TensorSpec, ...]
    outputs: tuple[TensorSpec, ...]
    batch_sizes: tuple[int, ...] = (1, 2, 3)
    """Where the batch is symbolic: the sizes to verify at, the smallest and largest accepted among them."""
    engine: str = ""
    """What computes where it is not the format's own runtime, such as `timmx's evaluator`; said beside the figures."""

    @property
    def notes(self) -> tuple[str, ...]:
        """What the runs so far have shown that the user should know, one line each; read after verification."""
        return ()

    @abstractmethod
    def run(self, feeds: Mapping[str, np.ndarray]) -> dict[str, np.ndarray]:
        """Run once. `feeds` maps every input's name to an array of its shape and dtype; outputs likewise."""

    def close(self) -> None:
        """Give back what the runtime holds; the default has nothing to give back."""

    def __enter__(self) -> Runner:
        return self

    def __exit__(self, *exc_info: object) -> None:
        self.close()

"""What the core and a backend agree on about layers in integers; see `QuantizationPlanner`."""

from __future__ import annotations

from dataclasses import dataclass
from enum import StrEnum
from typing import TYPE_CHECKING, Any, Protocol, TypeVar

from timmx.contract.options import CalibrationMethod

if TYPE_CHECKING:
    from collections.abc import Callable, Collection, Mapping, Sequence

    import numpy as np

Built = TypeVar("Built")

HARDSWISH_ZERO = -3.0
"""HardSwish is zero from here down, so integers below it are wasted."""


class LayerKind(StrEnum):
    """The arithmetic of a layer with a weight."""

    CONVOLUTION = "convolution"
    LINEAR = "linear"


@dataclass(frozen=True)
class WeightKey:
    """Recognizes a weight in a format's graph, whatever the order of its axes there."""

    size: int
    checksum: int

    @classmethod
    def of(cls, weight: np.ndarray) -> WeightKey:
        """The key of float32 numbers in any order."""
        import numpy as np

        bits = (np.ascontiguousarray(weight, np.float32) + np.float32(0)).view(np.uint32).astype(np.uint64)
        bits = (bits + np.uint64(0x9E3779B9)) * np.uint64(0xBF58476D1CE4E5B9)  # the mix of SplitMix64
        bits ^= bits >> np.uint64(31)
        return cls(weight.size, int(bits.sum(dtype=np.uint64)))


@dataclass(frozen=True)
class QuantizableLayer:
    """A convolution or linear layer with a constant weight.

    Attributes:
        name: of its weight in the capture, such as `model.blocks.0.attn.qkv.weight`; unique.
        kind: convolution or linear.
        weight: recognizes the layer in a format's graph.
        multiply_adds: of one image.
    """

    name: str
    kind: LayerKind
    weight: WeightKey
    multiply_adds: int


@dataclass(frozen=True, kw_only=True)
class IntegerScheme:
    """How a format computes a layer in integers; the weight is symmetric, in int8.

    Attributes:
        bits: bits per activation, 8 or 16.
        symmetric: activations have no zero point.
        per_channel: one scale per output channel, otherwise one per weight.
        weight_limit: the largest magnitude of an integer weight: 127, or 64 for 7 bits.
        rounded_results: the kinds of layers whose result is an integer too.
        method: how the ranges of activations are chosen.
        clips_hardswish: the range of a result that only HardSwish reads begins at `HARDSWISH_ZERO` if it is wider.
    """

    bits: int = 8
    symmetric: bool = False
    per_channel: bool = True
    weight_limit: int = 127
    rounded_results: frozenset[LayerKind] = frozenset(LayerKind)
    method: CalibrationMethod = CalibrationMethod.MINMAX
    clips_hardswish: bool = False


class LayerState(StrEnum):
    """How a layer of a quantized file computes."""

    INTEGER = "integer"
    STORED = "stored"
    FLOAT = "float"


@dataclass(frozen=True)
class Figures:
    """How far a model in integers is from the model in float.

    Attributes:
        snr_db: the signal-to-noise ratio in dB, of the worst output.
        drop: in points: how many fewer inputs are classified correctly, or if their classes are unknown, how many get
            another class; None if it was not measured.
    """

    snr_db: float
    drop: float | None = None


@dataclass(frozen=True, kw_only=True)
class Wish:
    """What a quantized file should reach.

    Attributes:
        floor_db: the smallest ratio with which the file is published.
        target_db: the ratio to reach if a third of the layers in float is enough for it; below 20 dB more than one
            answer in ten changes.
        preferred_db: the ratio to reach if it takes no more than a tenth of the multiply-adds in float; trained models
            lose about 0.1 points with it.
        max_drop: the largest drop in points, in place of all ratios.
    """

    floor_db: float
    target_db: float = 20.0
    preferred_db: float = 24.0
    max_drop: float | None = None

    def met_by(self, figures: Figures) -> bool:
        """Whether a file with these figures is what is wished for, as far as it must be."""
        if self.max_drop is not None:
            return figures.drop is not None and figures.drop <= self.max_drop
        return figures.snr_db >= self.floor_db


@dataclass(frozen=True, kw_only=True)
class QuantizationPlan:
    """The choice for one file.

    Attributes:
        candidates: names of the layers that the format can compute in integers, in order of execution.
        kept: those of them that do not, for their accuracy: their weights are float too.
        predicted: figures of the layers in integers, simulated.
        wish: what it was chosen for.
    """

    candidates: tuple[str, ...]
    kept: frozenset[str]
    predicted: Figures
    wish: Wish


def plan_notes(facts: Mapping[str, Any]) -> tuple[str, ...]:
    """What a user should know of a plan.

    Args:
        facts: from `QuantizationPlanner.facts`.
    """
    counts, kept = facts["layers"], len(facts["kept_for_accuracy"])
    notes = [
        f"{counts['integer']} of {sum(counts.values())} layers compute in integers, "
        f"{100 * facts['integer_share']:.0f} % of the multiply-adds."
    ]
    if kept:
        notes.append(f"{kept} layer{'s stay' if kept > 1 else ' stays'} in float for accuracy.")
    if facts.get("drop_of") == "agreement":
        notes.append(
            "The drop is of agreement with the model in float: the calibration data has no known classes."
        )
    return tuple(notes)


class QuantizationPlanner(Protocol):
    """Chooses the layers that compute in integers, by what each of them costs at the model's output.

    The layers' noise is simulated on calibration inputs, in PyTorch. A backend finds its layers by their weights
    (`match`), and builds its file by the plan (`choose`).
    """

    @property
    def layers(self) -> tuple[QuantizableLayer, ...]:
        """All layers that can be chosen, in order of execution."""

    def match(self, weights: Sequence[WeightKey]) -> list[str | None]:
        """The layer of each weight in a format's graph; None for what the capture does not have.

        First by equal numbers, then by size and order: converters multiply weights by constants that follow them.

        Args:
            weights: in order of execution.
        """

    def choose(
        self,
        candidates: Collection[str],
        wish: Wish,
        build: Callable[[QuantizationPlan], tuple[Built, Callable[[np.ndarray], Sequence[np.ndarray]]]],
    ) -> tuple[QuantizationPlan, Built, Figures]:
        """The plan with the fewest layers in float that meets a wish, what was built by it, and its figures.

        What is built is measured. If it misses the wish, up to two stricter plans are tried, and if the wish is a drop,
        plans with more and more layers in float; the best is returned.

        Args:
            candidates: names of the layers that the format can compute in integers.
            wish: what to reach.
            build: returns a file by a plan, and a function that runs it: outputs in the order of the model's, for a
                batch of inputs, (N, C, H, W) float32.

        Raises:
            ConfigurationError: the wish is a drop, which cannot be measured with this model and these inputs.
            UnsupportedError: the file loses more than the largest drop; it says what can be reached. A ratio that is
                missed is left to verification.
        """

    def facts(
        self, plan: QuantizationPlan, measured: Figures, states: Mapping[str, LayerState]
    ) -> dict[str, Any]:
        """A plan as the entry `quantization_plan` of a file's metadata (docs/metadata.md).

        Args:
            states: how each layer computes in the file; what is missing is float.
        """

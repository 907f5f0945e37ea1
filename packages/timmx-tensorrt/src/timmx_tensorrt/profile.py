"""The batch sizes that an engine takes, and the one for which it is tuned."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

from timmx.plugin import ArtifactError, ConfigurationError

if TYPE_CHECKING:
    from pathlib import Path

    from timmx.plugin import Metadata

    from timmx_tensorrt.options import TensorRTOptions


@dataclass(frozen=True)
class Profile:
    """Batch sizes, all equal if the batch size is fixed.

    Attributes:
        smallest: of the engine.
        optimal: the one for which the engine is tuned.
        largest: of the engine.
    """

    smallest: int
    optimal: int
    largest: int

    def __post_init__(self) -> None:
        if not 1 <= self.smallest <= self.optimal <= self.largest:
            raise ConfigurationError(
                f"--batch-min {self.smallest}, --batch-size {self.optimal} and --batch-max {self.largest} are not in "
                "ascending order",
                hint="use --batch-min <= --batch-size <= --batch-max",
            )

    @property
    def sizes(self) -> tuple[int, ...]:
        """The distinct batch sizes, ascending."""
        return tuple(sorted({self.smallest, self.optimal, self.largest}))

    def facts(self) -> dict[str, int]:
        """The metadata's `format.profile`."""
        return {"min": self.smallest, "opt": self.optimal, "max": self.largest}


def choose_profile(
    options: TensorRTOptions, dynamic: bool, batch_size: int | None, source: Profile | None = None
) -> Profile:
    """The profile that the options request.

    Args:
        dynamic: whether the batch size is dynamic.
        batch_size: the optimal or fixed batch size; None if the user did not set it.
        source: the profile of the typed ONNX from which the engine is built.

    Raises:
        ConfigurationError: the batch sizes contradict each other, or the optimal one is missing.
    """
    if not dynamic:
        for flag, value in (("--batch-min", options.batch_min), ("--batch-max", options.batch_max)):
            if value is not None:
                raise ConfigurationError(
                    f"{flag} requires a dynamic batch size, but it is fixed",
                    hint=f"leave {flag} out, or export with --dynamic-batch",
                )
        return Profile(*[batch_size or 1] * 3)
    optimal = batch_size or (source.optimal if source else None)
    if source and optimal == 1:
        raise ConfigurationError(
            "an engine with a dynamic batch size cannot be tuned for --batch-size 1",
            hint="use --batch-size 2 or more; --batch-min 1, the default, lets the engine take single images too",
        )
    if optimal is None or optimal < 2:
        raise ConfigurationError(
            "--dynamic-batch needs --batch-size N with N of 2 or more, the batch size that the engine is tuned for",
            hint="add --batch-size N; the engine takes batch sizes from --batch-min (1) to --batch-max (N)",
        )
    smallest = options.batch_min or min(source.smallest if source else 1, optimal)
    largest = options.batch_max or max(source.largest if source else optimal, optimal)
    return Profile(smallest, optimal, largest)


def read_profile(path: Path, metadata: Metadata) -> Profile | None:
    """The profile in a file's metadata, None if it has none.

    Raises:
        ArtifactError: the profile is invalid.
    """
    entry = metadata.format.get("profile")
    if entry is None:
        return None
    try:
        return Profile(int(entry["min"]), int(entry["opt"]), int(entry["max"]))
    except (LookupError, TypeError, ValueError, ConfigurationError) as exc:
        raise ArtifactError(f"{path} is damaged: its profile is {entry!r}", hint="export it again") from exc

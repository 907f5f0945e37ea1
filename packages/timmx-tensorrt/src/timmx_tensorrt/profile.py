"""Which batches an engine takes, and which one it is tuned for."""

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
    """Batch sizes; all equal where the batch is fixed."""

    smallest: int
    tuned_for: int
    largest: int

    def __post_init__(self) -> None:
        if not 1 <= self.smallest <= self.tuned_for <= self.largest:
            raise ConfigurationError(
                f"--batch-min {self.smallest}, --batch-size {self.tuned_for} and --batch-max {self.largest} are not in "
                "ascending order",
                hint="use --batch-min <= --batch-size <= --batch-max: the engine is tuned for a batch that it takes",
            )

    @property
    def sizes(self) -> tuple[int, ...]:
        """The different ones, ascending."""
        return tuple(sorted({self.smallest, self.tuned_for, self.largest}))

    def facts(self) -> dict[str, int]:
        """As the metadata has it, under `format.profile`."""
        return {"min": self.smallest, "opt": self.tuned_for, "max": self.largest}


def choose_profile(
    options: TensorRTOptions, dynamic: bool, batch_size: int | None, stated: Profile | None = None
) -> Profile:
    """What the options ask for.

    Args:
        dynamic: the batch is open.
        batch_size: the one to tune for, or the fixed one; None where it was not given.
        stated: that of the file that is built from.

    Raises:
        ConfigurationError: sizes that exclude each other, or none to tune for.
    """
    if not dynamic:
        for flag, given in (("--batch-min", options.batch_min), ("--batch-max", options.batch_max)):
            if given is not None:
                raise ConfigurationError(
                    f"{flag} is for a dynamic batch size, and here it is fixed",
                    hint=f"leave {flag} out, or export with --dynamic-batch",
                )
        return Profile(*[batch_size or 1] * 3)
    tuned_for = batch_size or (stated.tuned_for if stated else None)
    if stated and tuned_for == 1:
        raise ConfigurationError(
            "an engine with a dynamic batch size cannot be tuned for --batch-size 1",
            hint="use --batch-size 2 or more; --batch-min 1, the default, lets the engine take single images too",
        )
    if tuned_for is None or tuned_for < 2:
        raise ConfigurationError(
            "--dynamic-batch needs --batch-size N with N of 2 or more, the batch size that the engine is tuned for",
            hint="add --batch-size N; the engine takes batch sizes from --batch-min (1) to --batch-max (N)",
        )
    smallest = options.batch_min or min(stated.smallest if stated else 1, tuned_for)
    largest = options.batch_max or max(stated.largest if stated else tuned_for, tuned_for)
    return Profile(smallest, tuned_for, largest)


def stated_profile(path: Path, metadata: Metadata) -> Profile | None:
    """The profile that a file's metadata names; None where it names none.

    Raises:
        ArtifactError: what stands there is no profile.
    """
    stated = metadata.format.get("profile")
    if stated is None:
        return None
    try:
        return Profile(int(stated["min"]), int(stated["opt"]), int(stated["max"]))
    except (LookupError, TypeError, ValueError, ConfigurationError) as exc:
        raise ArtifactError(f"{path} is damaged: its profile is {stated!r}", hint="export it again") from exc

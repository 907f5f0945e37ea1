"""What a user can mend: every failure that is theirs or their environment's, one class a kind."""

from __future__ import annotations

from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from timmx.verify import VerificationReport


class TimmxError(Exception):
    """A failure with its mend in the message; the command line prints it alone and exits with 2."""

    exit_code = 2


class ConfigurationError(TimmxError):
    """An option, a combination of options or an input file that cannot be what was meant."""


class ModelError(TimmxError):
    """The model cannot be found, reached, built or filled with the weights that were named."""


class BackendError(TimmxError):
    """A backend that was named is not installed, or is installed and cannot be used.

    Attributes:
        state: what kind of trouble it is, a `timmx.registry.State`; empty where it is not installed.
        reason: the trouble.
        mend: what to do about it.
    """

    def __init__(self, message: str, *, state: str = "", reason: str = "", mend: str = "") -> None:
        super().__init__(message)
        self.state, self.reason, self.mend = state, reason, mend


class MissingRequirementError(TimmxError):
    """The backend works in principle, but this machine lacks a library or a device that it needs."""


class UnsupportedError(TimmxError):
    """The format, or its converter, cannot hold this model."""


class VerificationError(TimmxError):
    """The artifact does not compute what the model computes; nothing was published.

    Attributes:
        report: the figures, a `timmx.verify.VerificationReport`.
    """

    def __init__(self, message: str, report: VerificationReport | None = None) -> None:
        super().__init__(message)
        self.report = report


class ArtifactError(TimmxError):
    """A file that cannot be written where it was asked for, or is not what its name says."""


class RuntimeUnavailable(TimmxError):  # noqa: N818 - the contract's published name
    """An artifact cannot be run here, with the reason; raised by a backend's `open`."""

"""Errors that a user can fix: one class for each kind of failure, with a message and a hint."""

from __future__ import annotations

import errno
from typing import Any, Protocol


class TimmxError(Exception):
    """A failure that the user can fix; the command line prints it without a traceback and exits with 2.

    Args:
        message: what was asked for and what was found.
        hint: the command or option that fixes it; empty where there is none.
    """

    exit_code = 2

    def __init__(self, message: str, *, hint: str = "") -> None:
        super().__init__(message)
        self.message, self.hint = message, hint

    def __str__(self) -> str:
        return f"{self.message}\nhint: {self.hint}" if self.hint else self.message

    def to_dict(self) -> dict[str, Any]:
        """JSON-ready."""
        return {"type": type(self).__name__, "message": self.message, "hint": self.hint}


class ConfigurationError(TimmxError):
    """An option, a combination of options or an input file that is not valid."""


class ModelError(TimmxError):
    """The model cannot be found, reached, built or filled with the requested weights."""


class BackendError(TimmxError):
    """The requested backend is not installed, or is installed and cannot be used.

    Attributes:
        state: a value of `timmx.registry.State`; empty where the backend is not installed.
        reason: why the backend cannot be used, without its name.
    """

    def __init__(self, message: str, *, hint: str = "", state: str = "", reason: str = "") -> None:
        super().__init__(message, hint=hint)
        self.state, self.reason = state, reason


class MissingRequirementError(TimmxError):
    """The backend works in principle, but this machine lacks a library or a device that it needs."""


class UnsupportedError(TimmxError):
    """The format, or its converter, cannot hold this model."""


class Report(Protocol):
    """The figures of a verification; `timmx.verification.VerificationReport` is one."""

    def to_dict(self) -> dict[str, Any]:
        """JSON-ready."""


class VerificationError(TimmxError):
    """The artifact does not compute what the model computes; nothing was published.

    Attributes:
        report: the figures.
    """

    def __init__(self, message: str, report: Report | None = None, *, hint: str = "") -> None:
        super().__init__(message, hint=hint)
        self.report = report

    def to_dict(self) -> dict[str, Any]:
        verification = {"verification": self.report.to_dict()} if self.report else {}
        return super().to_dict() | verification


class ArtifactError(TimmxError):
    """A file that cannot be written to its destination, or that is not what its name says."""


class RuntimeUnavailable(TimmxError):  # noqa: N818 - the contract's published name
    """An artifact cannot be run here, with the reason; raised by a backend's `open`."""


class PluginError(Exception):
    """A backend did what the contract does not allow: an internal error of that backend, exit code 1.

    Args:
        plugin: the backend's name, and its distribution and version.
        fault: the method, and what it did.
    """

    hint = "report it to the backend's authors"

    def __init__(self, plugin: str, fault: str) -> None:
        super().__init__(f"internal error in the backend {plugin}: {fault}")


class Terminated(SystemExit):
    """SIGTERM ends the program; not a plugin that exits."""


def error_dict(exc: Exception) -> dict[str, Any]:
    """An error for `--json`: `type`, `message` and `hint`, and a verification's figures where there are any."""
    if isinstance(exc, TimmxError):
        return exc.to_dict()
    if isinstance(exc, PluginError):
        return {"type": "PluginError", "message": str(exc), "hint": exc.hint}
    return {"type": type(exc).__name__, "message": internal_error(exc), "hint": ""}


_OF_THE_SYSTEM = {
    errno.ENAMETOOLONG: "use a shorter name",
    errno.ENOSPC: "free some space, or write to another disk",
    errno.EDQUOT: "free some space, or write to another disk",
    errno.EROFS: "write to another folder",
    errno.EACCES: "check the permissions of the path",
    errno.EPERM: "check the permissions of the path",
    errno.ELOOP: "check the links of the path",
    errno.ENOTDIR: "check the path",
    errno.EMFILE: "close other files, or raise the limit with ulimit -n",
    errno.ENFILE: "close other programs",
}


def system_error(exc: Exception) -> Exception:
    """A failure of the file system or of memory as an error that the user can fix; otherwise the exception itself."""
    if isinstance(exc, OSError) and exc.errno in _OF_THE_SYSTEM:
        name = f"{exc.filename}: " if exc.filename else ""
        error: TimmxError = ArtifactError(f"{name}{exc.strerror}", hint=_OF_THE_SYSTEM[exc.errno])
    elif isinstance(exc, MemoryError):
        error = ConfigurationError(
            "there is not enough memory", hint="use a smaller model, input size or batch size"
        )
    else:
        return exc
    error.__cause__ = exc
    return error


def internal_error(exc: Exception) -> str:
    """One line about an exception that is not the user's to fix."""
    return f"internal error in timmx or a dependency: {one_line(exc)}"


def one_line(exc: BaseException) -> str:
    """The type and text of a library's exception in one line."""
    return " ".join(f"{type(exc).__name__}: {exc}".split())[:500]

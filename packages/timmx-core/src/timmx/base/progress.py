"""Progress and warnings, reported by any room and shown by the command line."""

from __future__ import annotations

from contextlib import contextmanager
from contextvars import ContextVar
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence


class Reporter:
    """Receives progress and discards it; the command line installs a subclass that shows it.

    Attributes:
        shows_output: whether it also shows what libraries print.
    """

    shows_output = False

    verbose = False
    """Whether details are shown, so that figures nobody asked for may be measured."""

    def step(self, text: str) -> None:
        """Start a step."""

    def advance(self, text: str, share: float) -> None:
        """Report the progress of the step, `share` from 0 to 1, and what is being done."""

    def rows(self, names: Sequence[str]) -> None:
        """Announce several tasks, each with a row of its own."""

    def row(self, name: str) -> None:
        """Start one of the tasks: the next steps belong to it."""

    def select_row(self, name: str) -> None:
        """Continue a task that has started: the next calls belong to it; "" if they belong to none."""

    def row_done(self, text: str, *, failed: bool = False) -> None:
        """End the task with this result."""

    def detail(self, text: str) -> None:
        """Report a detail for `--verbose`."""

    def warn(self, text: str) -> None:
        """Report a warning."""


_current: ContextVar[Reporter] = ContextVar("timmx_reporter", default=Reporter())  # noqa: B039 - it has no state


def reporter() -> Reporter:
    """The reporter of the running command."""
    return _current.get()


@contextmanager
def reporting(to: Reporter) -> Iterator[None]:
    """Report to `to` inside the block."""
    token = _current.set(to)
    try:
        yield
    finally:
        _current.reset(token)

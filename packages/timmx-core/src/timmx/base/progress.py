"""How the layers below tell a person what is going on, without knowing about terminals."""

from __future__ import annotations

from contextlib import contextmanager
from contextvars import ContextVar
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence


class Reporter:
    """Says nothing; the command line puts one in place that does."""

    def step(self, text: str) -> None:
        """A stage has begun."""

    def advance(self, text: str, share: float) -> None:
        """How far the stage has come, 0 to 1, and what it is at."""

    def rows(self, names: Sequence[str]) -> None:
        """Several things will be done, each with a row of its own."""

    def row(self, name: str) -> None:
        """One of them has begun: the next steps are its."""

    def row_done(self, text: str, *, failed: bool = False) -> None:
        """It has ended, with this result."""

    def detail(self, text: str) -> None:
        """A fact for `--verbose`."""

    def warn(self, text: str) -> None:
        """Something that the user should see even if all ends well."""


_current: ContextVar[Reporter] = ContextVar("timmx_reporter", default=Reporter())  # noqa: B039 - it has no state


def reporter() -> Reporter:
    """The reporter of the command that runs now."""
    return _current.get()


@contextmanager
def reporting(to: Reporter) -> Iterator[None]:
    """Report to `to` inside the block."""
    token = _current.set(to)
    try:
        yield
    finally:
        _current.reset(token)

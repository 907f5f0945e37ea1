"""Where output goes: results to stdout, progress and warnings to stderr, output of libraries to a log."""

from __future__ import annotations

import contextlib
import os
import sys
import tempfile
from typing import IO, TYPE_CHECKING

from timmx.base import Reporter, reporting, shown
from timmx.cli.interrupts import stop_if_pressed

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator, Sequence

    from rich.console import RenderableType
    from rich.progress import Progress, TaskID

_NOT_YET = 0.999
"""The largest progress of a step that is still running: a step ends when the next one begins."""


class ClosingReporter(Reporter):
    """A reporter that ends what it shows."""

    def close(self) -> None:
        """End what it shows."""


class TerminalReporter(ClosingReporter):
    """Shows progress if stderr is a terminal, and always warnings."""

    def __init__(self, stream: IO[str], verbose: bool) -> None:
        self._stream = stream
        self._verbose = self.verbose = verbose
        self._warnings: set[str] = set()
        self._stages: dict[str, str] = {}
        self._in_parallel = False
        self.shows_output = verbose
        self._progress: Progress | None = None
        self._rows: dict[str, TaskID] = {}
        self._waiting: list[str] = []
        self._row = ""
        if stream.isatty() and not verbose:
            self._progress = _progress(stream)
            self._progress.start()

    def step(self, text: str) -> None:
        stop_if_pressed()
        if self._progress is not None and self._row:
            self._stages[self._row] = f"{self._row}: {text}"
            self._progress.update(
                self._rows[self._row], description=_plain(self._stages[self._row]), completed=0
            )
        elif self._progress is not None:
            for task in self._progress.tasks:
                if not task.finished:
                    self._progress.update(task.id, completed=1)
            self._progress.add_task(_plain(text), total=1)
            self._stages[""] = text
        elif self._verbose:
            print(shown(f"[{self._row_prefix}{text}]"), file=self._stream, flush=True)

    def advance(self, text: str, share: float) -> None:
        if self._progress is not None and self._progress.tasks:
            last = self._rows.get(self._row, self._progress.tasks[-1].id)
            self._progress.update(
                last,
                description=_plain(f"{self._stages.get(self._row, '')}: {text}"),
                completed=min(share, _NOT_YET),
            )

    def rows(self, names: Sequence[str]) -> None:
        self._waiting = list(names)

    def row(self, name: str) -> None:
        stop_if_pressed()
        self._row = name
        if self._progress is not None:
            if not self._rows:  # below the rows of the steps that all share
                for task in self._progress.tasks:
                    self._progress.update(task.id, completed=1)
                for waiting in self._waiting:
                    self._rows[waiting] = self._progress.add_task(
                        _plain(f"{waiting}: waiting"), total=1, start=False
                    )
            self._progress.start_task(self._rows[name])
        elif self._verbose:
            print(shown(f"[{name}]"), file=self._stream, flush=True)

    def select_row(self, name: str) -> None:
        stop_if_pressed()
        self._row, self._in_parallel = name, True

    def row_done(self, text: str, *, failed: bool = False) -> None:
        name, self._row = self._row, ""
        if self._progress is not None:
            result = _plain(f"{name}: {text}")
            result = f"[red]{result}[/red]" if failed else result
            self._progress.update(self._rows[name], description=result, completed=1)
        elif self._verbose:
            print(shown(f"[{name}: {text}]"), file=self._stream, flush=True)

    def detail(self, text: str) -> None:
        if self._verbose:
            print(f"  {self._row_prefix}{shown(text)}", file=self._stream, flush=True)

    @property
    def _row_prefix(self) -> str:
        """The row's name for lines of rows that run at the same time."""
        return f"{self._row}: " if self._row and self._in_parallel else ""

    def warn(self, text: str) -> None:
        text = shown(f"{self._row}: {text}" if self._row else text)
        if text in self._warnings:  # some checks run both before and after torch is imported
            return
        self._warnings.add(text)
        if self._progress is not None:
            self._progress.console.print(f"warning: {text}", markup=False, highlight=False)
        else:
            print(f"warning: {text}", file=self._stream, flush=True)

    def close(self) -> None:
        if self._progress is not None:
            self._progress.stop()


def _progress(stream: IO[str]) -> Progress:
    """One line per step, with a bar and the remaining time if the step reports its progress."""
    from rich.console import Console
    from rich.progress import (
        BarColumn,
        Progress,
        ProgressColumn,
        SpinnerColumn,
        Task,
        TaskProgressColumn,
        TextColumn,
        TimeElapsedColumn,
        TimeRemainingColumn,
    )
    from rich.text import Text

    class WhileCounted(ProgressColumn):
        def __init__(self, column: ProgressColumn) -> None:
            super().__init__()
            self._column = column

        def render(self, task: Task) -> RenderableType:
            return self._column(task) if 0 < task.completed < 1 else Text()

    return Progress(
        SpinnerColumn(),
        TextColumn("{task.description}"),
        WhileCounted(BarColumn(bar_width=16)),
        WhileCounted(TaskProgressColumn()),
        TimeElapsedColumn(),
        WhileCounted(TimeRemainingColumn(compact=True)),
        WhileCounted(TextColumn("left")),
        console=Console(file=stream),
        transient=True,
    )


def _plain(text: str) -> str:
    """Escape control characters, and brackets, as in a file name, which rich would take for markup."""
    from rich.markup import escape

    return escape(shown(text))


@contextlib.contextmanager
def working(verbose: bool) -> Iterator[None]:
    """Report on stderr, and keep the output of libraries off the screen; see `reporting_by`."""
    with reporting_by(TerminalReporter, verbose):
        yield


@contextlib.contextmanager
def reporting_by(make: Callable[[IO[str], bool], ClosingReporter], verbose: bool) -> Iterator[None]:
    """Report on stderr by a reporter, and keep the output of libraries off the screen.

    Converters print to both streams, some of them from native code, so the file descriptors are redirected too:
    to a log that is discarded, or to stderr with `verbose`.

    Args:
        make: returns the reporter for a stream and `verbose`; it is closed at the end.
        verbose: show the output of libraries.
    """
    sys.stdout.flush()
    sys.stderr.flush()
    with contextlib.ExitStack() as stack:
        stream = stack.enter_context(own_stream(sys.stderr, 2))
        reporter = make(stream, verbose)
        stack.callback(reporter.close)
        stack.enter_context(_library_output_to(stream if verbose else None))
        stack.enter_context(reporting(reporter))
        yield


@contextlib.contextmanager
def own_stream(stream: IO[str], number: int) -> Iterator[IO[str]]:
    """A handle of stdout (1) or stderr (2) that stays valid while the descriptor is redirected."""
    if not _is_descriptor(stream, number):  # captured by a test or an embedding program
        yield stream
        return
    with os.fdopen(
        os.dup(number), "w", encoding=getattr(stream, "encoding", None), errors="backslashreplace"
    ) as own:
        yield own


@contextlib.contextmanager
def _library_output_to(stream: IO[str] | None) -> Iterator[None]:
    with contextlib.ExitStack() as stack:
        log = stream or stack.enter_context(
            tempfile.TemporaryFile("w", encoding="utf-8", errors="backslashreplace")
        )
        for number, own in ((1, sys.stdout), (2, sys.stderr)):
            if _is_descriptor(own, number):
                saved = os.dup(number)
                os.dup2(log.fileno(), number)
                stack.callback(os.close, saved)
                stack.callback(os.dup2, saved, number)
        stack.enter_context(contextlib.redirect_stdout(log))
        stack.enter_context(contextlib.redirect_stderr(log))
        yield


def _is_descriptor(stream: IO[str], number: int) -> bool:
    try:
        return stream.fileno() == number
    except (OSError, AttributeError, ValueError):
        return False

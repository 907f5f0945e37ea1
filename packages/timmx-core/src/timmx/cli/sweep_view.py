"""Shows a running sweep: a live table on a terminal, lines with --verbose or --json, otherwise nothing."""

from __future__ import annotations

import contextlib
import time
from typing import IO, TYPE_CHECKING

from timmx.base import counted, shown, size_text
from timmx.cli.interrupts import stop_if_pressed
from timmx.cli.output import write_json
from timmx.cli.terminal import ClosingReporter
from timmx.sweep import Cell, Watcher

if TYPE_CHECKING:
    from collections.abc import Sequence

    from rich.live import Live
    from rich.table import Table

    from timmx.sweep import Running

_REDRAW_S = 0.1
_MOST_ROWS = 16
"""Maximum number of running models in the table: a cluster may have more than a terminal has lines."""


class SweepView(ClosingReporter, Watcher):
    """Shows progress if stderr is a terminal, and always warnings.

    Args:
        stream: stderr.
        verbose: print a line per cell instead of a table.
        lines_to: stdout, for a JSON object per cell; None for no such lines.
    """

    def __init__(self, stream: IO[str], verbose: bool, lines_to: IO[str] | None = None) -> None:
        self._stream, self._verbose, self._lines_to = stream, verbose, lines_to
        self._total = self._kept = self._ended = self._failed = 0
        self._start = time.monotonic()
        self._live: Live | None = None
        self._drawn = 0.0

    def started(self, total: int, kept: int) -> None:
        self._total, self._kept, self._start = total, kept, time.monotonic()
        if self._verbose:
            self._line(f"{counted(total, 'cell')}, {kept:,} in the journal")
        elif self._stream.isatty():
            from rich.console import Console
            from rich.live import Live

            self._live = Live(console=Console(file=self._stream), transient=True, auto_refresh=False)
            self._live.start()

    def running(self, models: Sequence[Running]) -> None:
        stop_if_pressed()
        now = time.monotonic()
        if self._live is not None and now - self._drawn >= _REDRAW_S:
            self._drawn = now
            self._live.update(self._table(models), refresh=True)

    def ended(self, cell: Cell) -> None:
        self._ended += 1
        self._failed += not cell.status.passed
        if self._lines_to is not None:
            with contextlib.redirect_stdout(self._lines_to):
                write_json({"cell": cell.to_json()}, indent=None)
            self._lines_to.flush()
        if self._verbose:
            text = f"{cell.model} {cell.target}: {cell.status.words}, {cell.seconds:.1f} s"
            self._line(text if cell.status.passed else f"{text}: {cell.message}")

    def warn(self, text: str) -> None:
        if self._live is not None:
            self._live.console.print(f"warning: {shown(text)}", markup=False, highlight=False)
        else:
            self._line(f"warning: {text}")

    def close(self) -> None:
        if self._live is not None:
            self._live.stop()
        remaining = self._total - self._kept - self._ended
        if remaining > 0:
            done = self._kept + self._ended
            self._line(
                f"warning: {done:,} of {self._total:,} cells are recorded: run the same command with --resume to "
                "continue"
            )

    def _table(self, models: Sequence[Running]) -> Table:
        from rich.table import Table
        from rich.text import Text

        table = Table(box=None, pad_edge=False, show_header=False)
        for justify in ("left", "left", "left", "right", "right"):
            table.add_column(justify=justify, no_wrap=True)
        for item in models[:_MOST_ROWS]:
            memory = "" if item.memory_bytes is None else size_text(item.memory_bytes)
            cells = (item.model, item.target, item.step, _time_text(item.seconds), memory)
            table.add_row(*(Text(shown(cell)) for cell in cells))
        outer = Table.grid()
        outer.add_row(Text(self._state()))
        outer.add_row(table)
        if len(models) > _MOST_ROWS:
            outer.add_row(Text(f"and {counted(len(models) - _MOST_ROWS, 'more model')}"))
        return outer

    def _state(self) -> str:
        done = self._kept + self._ended
        parts = [f"{done:,} of {counted(self._total, 'cell')}"]
        if self._failed:
            parts.append(f"{self._failed:,} failed")
        elapsed = time.monotonic() - self._start
        parts.append(_time_text(elapsed))
        if self._ended:
            left = elapsed / self._ended * (self._total - done)
            parts.append(f"about {_time_text(left)} left")
        return ", ".join(parts)

    def _line(self, text: str) -> None:
        self._stream.write(shown(text) + "\n")
        self._stream.flush()


def _time_text(seconds: float) -> str:
    minutes, rest = divmod(int(seconds), 60)
    hours, minutes = divmod(minutes, 60)
    return f"{hours}:{minutes:02}:{rest:02}" if hours else f"{minutes}:{rest:02}"

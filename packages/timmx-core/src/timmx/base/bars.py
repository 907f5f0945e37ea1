"""Progress bars of libraries, kept off the screen of a Python program."""

from __future__ import annotations

import sys
import threading
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any

from timmx.base.progress import Reporter, reporter

if TYPE_CHECKING:
    from collections.abc import Iterator


@contextmanager
def without_progress_bars() -> Iterator[None]:
    """Draw no tqdm bars from this thread inside the block, unless a command line reports progress.

    The command line keeps all output of libraries off the screen, or shows it with `--verbose`. Converters and
    quantizers offer no common switch, and tqdm reads `TQDM_DISABLE` only when it is imported: timm imports it first.
    """
    tqdm: Any = getattr(sys.modules.get("tqdm.std"), "tqdm", None)
    if tqdm is None or type(reporter()) is not Reporter:
        yield
        return
    start, thread = tqdm.__init__, threading.get_ident()

    def silent(self: Any, *arguments: Any, **options: Any) -> None:
        if threading.get_ident() == thread:
            options["disable"] = True
        start(self, *arguments, **options)

    tqdm.__init__ = silent
    try:
        yield
    finally:
        tqdm.__init__ = start

"""Keeps Ctrl-C from getting lost: libraries, and Python where nothing can be raised, swallow it."""

from __future__ import annotations

import _thread
import signal
import sys
import threading
import time
from typing import Any

_pressed = threading.Event()
_last = -1.0
_AT_ONCE_S = 0.2


def keep_interrupts() -> None:
    """Remember each Ctrl-C, and repeat one that was raised in a callback of the garbage collector.

    Some libraries swallow it while they import optional packages (coremltools 9): `stop_if_pressed` raises it at
    the next step. In callbacks such as jax's, Python reports the exception and continues: it is repeated a moment
    later.
    """
    if signal.getsignal(signal.SIGINT) is signal.default_int_handler:
        signal.signal(signal.SIGINT, _on_interrupt)
    sys.unraisablehook = _again


def stop_if_pressed() -> None:
    """Raise a Ctrl-C that was swallowed.

    Raises:
        KeyboardInterrupt: Ctrl-C was pressed.
    """
    if _pressed.is_set():
        raise KeyboardInterrupt


def _on_interrupt(signum: int, frame: object) -> None:
    global _last
    now = time.monotonic()
    twice, _last = now - _last < _AT_ONCE_S, now
    if not twice:  # the parent of a watched command repeats the signal that the terminal has sent to both
        _pressed.set()
        raise KeyboardInterrupt


def _again(unraisable: Any) -> None:
    if issubclass(unraisable.exc_type, KeyboardInterrupt):
        threading.Timer(0.05, _press).start()
    else:
        sys.__unraisablehook__(unraisable)


def _press() -> None:
    main_thread = threading.main_thread().ident
    if main_thread is not None and hasattr(signal, "pthread_kill"):
        signal.pthread_kill(main_thread, signal.SIGINT)  # wakes the thread if it sleeps
    else:
        _thread.interrupt_main()

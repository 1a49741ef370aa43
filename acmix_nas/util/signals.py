"""Signals that end a program, as exceptions: whatever was started is ended first, and what is kept is said."""

from __future__ import annotations

import signal
import threading
from collections.abc import Iterator
from contextlib import contextmanager

__all__ = ["signals_raise"]


@contextmanager
def signals_raise() -> Iterator[None]:
    """Make a closed terminal and a scheduler's SIGTERM raise, as Ctrl-C does: SystemExit with 128 + the signal."""

    def leave(number: int, _frame: object) -> None:
        raise SystemExit(128 + number)

    names = ("SIGTERM", "SIGHUP") if threading.current_thread() is threading.main_thread() else ()
    numbers = [getattr(signal, name) for name in names if hasattr(signal, name)]
    changed = [number for number in numbers if signal.getsignal(number) is signal.SIG_DFL]  # nohup's choice is kept
    for number in changed:
        signal.signal(number, leave)
    try:
        yield
    finally:
        for number in changed:
            signal.signal(number, signal.SIG_DFL)

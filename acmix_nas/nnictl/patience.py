"""Waiting for as long as something moves: machines differ by more than any limit on the whole allows for."""

from __future__ import annotations

import subprocess
import time
from collections.abc import Callable, Iterable
from contextlib import suppress
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    import psutil

__all__ = ["Still", "computed", "ended"]

SHARE = 0.005
"""A process that uses less than this share of a core does nothing: threads that ask for news every second stay below it."""


class Still:
    """Tell for how long a state has been the same.

    Args:
        clock: tells seconds.
    """

    def __init__(self, clock: Callable[[], float] = time.monotonic) -> None:
        self.clock, self.state, self.since = clock, object(), clock()

    def seconds(self, state: object) -> float:
        """Note the state, and return the seconds since it last changed."""
        if state != self.state:
            self.state, self.since = state, self.clock()
        return self.clock() - self.since


def computed(processes: Iterable[psutil.Process]) -> float:
    """Return the seconds of CPU time that processes, and those of their children that have ended, have used."""
    import psutil

    seconds = 0.0
    for process in processes:
        with suppress(psutil.Error):  # ended meanwhile
            seconds += sum(process.cpu_times()[:4])  # user, system, and both of the children
    return seconds


def ended(process: subprocess.Popen[bytes], seconds: float) -> bool:
    """Wait for a process to end. Return False once it, and all that it has started, have not computed for some seconds."""
    import psutil

    still = Still()
    while True:
        with suppress(subprocess.TimeoutExpired):
            process.wait(min(1.0, seconds / 10))
            return True
        with suppress(psutil.Error):
            whole = psutil.Process(process.pid)
            steps = computed([whole, *whole.children(recursive=True)]) // (SHARE * seconds)
            if still.seconds(steps) > seconds:
                return False

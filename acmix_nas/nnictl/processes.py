"""The processes of an experiment, found whoever their parent is by now, and ended for certain."""

from __future__ import annotations

import time
from collections.abc import Iterable
from contextlib import suppress
from itertools import pairwise

import psutil

__all__ = ["end", "left_behind", "servers", "started"]


def servers(experiment: str) -> list[psutil.Process]:
    """Return the servers of an experiment, NNI's and what it has replaced itself by."""
    found = []
    for process in psutil.process_iter():
        with suppress(psutil.Error):  # ended meanwhile, or another user's
            if ("--experiment-id", experiment) in pairwise(process.cmdline()) and _alive(process):
                found.append(process)
    return found


def left_behind(experiment: str) -> list[psutil.Process]:
    """Return the processes that the trials of an experiment have started, whoever their parent is by now."""
    found = []
    for process in psutil.process_iter():
        with suppress(psutil.Error):
            if process.environ().get("NNI_EXP_ID") == experiment:
                found.append(process)
    return found


def started(experiment: str) -> list[psutil.Process]:
    """Return the tuner and the trials of an experiment, and the processes that they have started."""
    found = set(left_behind(experiment))
    for server in servers(experiment):
        with suppress(psutil.Error):
            found.update(server.children(recursive=True))
    return list(found)


def _alive(process: psutil.Process) -> bool:
    with suppress(psutil.Error):
        return bool(process.is_running() and process.status() != psutil.STATUS_ZOMBIE)
    return False


def end(processes: Iterable[psutil.Process], seconds: float = 5.0) -> list[psutil.Process]:
    """Ask processes to end, and after some seconds make them. Return the processes that still run."""
    left = list(filter(_alive, processes))
    for stop in (psutil.Process.terminate, psutil.Process.kill):
        for process in left:
            with suppress(psutil.Error):
                stop(process)
        deadline = time.monotonic() + seconds
        while (left := list(filter(_alive, left))) and time.monotonic() < deadline:
            time.sleep(0.05)
    return left

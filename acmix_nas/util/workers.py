"""Work for several processes of one thread each, which is what small networks use best on the CPU."""

from __future__ import annotations

import signal
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ProcessPoolExecutor, as_completed
from concurrent.futures.process import BrokenProcessPool
from contextlib import contextmanager
from multiprocessing import active_children, get_context
from typing import Any, TypeVar

import torch

from acmix_nas.util.terminal import BrokenRun

__all__ = ["each", "workers"]

R = TypeVar("R")


@contextmanager
def workers(number: int) -> Iterator[ProcessPoolExecutor]:
    """Start so many processes, which end with the block, whatever they are doing then.

    They are spawned: a fork would copy the threads of PyTorch's pool in whatever state they are.

    Raises:
        BrokenRun: where one was killed.
    """
    others = active_children()
    pool = ProcessPoolExecutor(number, get_context("spawn"), _start)
    try:
        yield pool
    except BrokenProcessPool as error:
        raise BrokenRun("a worker was killed, as the system does where memory runs out: try fewer workers") from error
    finally:
        pool.shutdown(wait=False, cancel_futures=True)
        for process in active_children():
            if process not in others:
                process.kill()  # Lightning takes SIGTERM for the end of one training, and the pool would begin the next
                process.join()


def each(function: Callable[..., R], jobs: Sequence[tuple[Any, ...]], number: int) -> Iterator[R]:
    """Yield what a function gives for the arguments of every job, as they come from so many processes.

    With one process, or one job, everything runs in this one.

    Raises:
        BrokenRun: as `workers` does, and what the function raises.
    """
    if min(number, len(jobs)) < 2:
        for job in jobs:
            with _one_thread():
                result = function(*job)
            yield result
        return
    with workers(min(number, len(jobs))) as pool:
        for future in as_completed([pool.submit(function, *job) for job in jobs]):
            yield future.result()


def _start() -> None:
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # the terminal's Ctrl-C reaches all; the parent ends the others
    torch.set_num_threads(1)


@contextmanager
def _one_thread() -> Iterator[None]:
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    try:
        yield
    finally:
        torch.set_num_threads(threads)

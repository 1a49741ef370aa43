"""Processes that share work: one thread each, gone with the block, and a killed one is noticed."""

from __future__ import annotations

import os
import signal
import sys
import time
from multiprocessing import active_children
from pathlib import Path

import pytest
import torch

from acmix_nas.util.terminal import BrokenRun
from acmix_nas.util.workers import each, workers
from tests.small import PATIENCE


def threads_and_process(number: int) -> tuple[int, int, int]:
    return number, torch.get_num_threads(), os.getpid()


def killed(_: int) -> None:
    os.kill(os.getpid(), signal.SIGKILL)


def wrong(_: int) -> None:
    raise ValueError("wrong")


@pytest.mark.parametrize("number", [1, 2])
def test_every_job_is_done_in_one_thread(number: int) -> None:
    before = torch.get_num_threads()
    torch.set_num_threads(before + 1)
    try:
        found = list(each(threads_and_process, [(job,) for job in range(3)], number))
        assert torch.get_num_threads() == before + 1
    finally:
        torch.set_num_threads(before)
    assert sorted(job for job, _, _ in found) == [0, 1, 2]
    assert {threads for _, threads, _ in found} == {1}
    assert (os.getpid() in {process for _, _, process in found}) == (number == 1)


def test_no_job_is_no_work() -> None:
    assert list(each(threads_and_process, [], 2)) == []


def test_a_killed_worker_ends_the_work() -> None:
    with pytest.raises(BrokenRun, match="a worker was killed"):
        list(each(killed, [(job,) for job in range(4)], 2))


def test_what_a_job_raises_is_raised_here() -> None:
    with pytest.raises(ValueError, match="wrong"):
        list(each(wrong, [(job,) for job in range(4)], 2))


def stubborn(file: Path) -> None:
    """Treat the signal as Lightning does: it ends this training, and the next begins."""
    signal.signal(signal.SIGTERM, lambda *_: sys.exit("no more"))
    with file.open("a") as log:
        log.write("began\n")
    time.sleep(600)


def test_nothing_begins_when_the_block_is_left(tmp_path: Path) -> None:
    file = tmp_path / "log"
    with workers(1) as pool:
        for _ in range(3):
            pool.submit(stubborn, file)
        while not file.exists():
            time.sleep(0.1)
    assert file.read_text() == "began\n"


def test_what_runs_ends_with_the_block() -> None:
    others = set(active_children())
    began = time.monotonic()
    with workers(1) as pool:
        pool.submit(time.sleep, PATIENCE)
        assert set(active_children()) - others
    assert not set(active_children()) - others
    assert time.monotonic() - began < PATIENCE / 2

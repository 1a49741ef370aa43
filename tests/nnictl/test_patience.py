"""Something is waited for as long as it moves, however long that is."""

from __future__ import annotations

import subprocess
import sys
import time

import psutil

from acmix_nas.nnictl.patience import Still, computed, ended
from tests.small import PATIENCE

COMPUTE = "import time\nwhile time.process_time() < {}: pass"


def test_the_seconds_run_from_the_last_change() -> None:
    now = [100.0]
    still = Still(lambda: now[0])
    assert still.seconds("a") == 0
    now[0] = 107.0
    assert still.seconds("a") == 7
    assert still.seconds("b") == 0
    now[0] = 108.0
    assert still.seconds("b") == 1
    assert still.seconds("a") == 0


def test_nothing_is_a_state_too() -> None:
    now = [0.0]
    still = Still(lambda: now[0])
    now[0] = 5.0
    assert still.seconds(None) == 0
    now[0] = 6.0
    assert still.seconds(None) == 1


def test_what_computes_is_waited_for_beyond_the_limit() -> None:
    with subprocess.Popen([sys.executable, "-c", COMPUTE.format(3)]) as process:
        assert ended(process, 1)
        assert process.returncode == 0


def test_what_its_children_compute_counts() -> None:
    child = f"import subprocess, sys; subprocess.run([sys.executable, '-c', {COMPUTE.format(3)!r}])"
    with subprocess.Popen([sys.executable, "-c", child]) as process:
        assert ended(process, 1)
        assert process.returncode == 0


def test_what_does_nothing_is_given_up() -> None:
    start = time.monotonic()
    with subprocess.Popen(["sleep", str(PATIENCE)]) as process:
        assert not ended(process, 0.5)
        assert process.poll() is None
        process.kill()
    assert time.monotonic() - start < PATIENCE / 2


def test_cpu_time_is_that_of_a_process_and_its_ended_children() -> None:
    this = psutil.Process()
    before = computed([this])
    subprocess.run([sys.executable, "-c", COMPUTE.format(0.5)], check=True)
    assert computed([this]) - before >= 0.4
    with subprocess.Popen(["true"]) as process:
        gone = psutil.Process(process.pid)
    assert computed([gone]) == 0

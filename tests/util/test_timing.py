"""Times, and the order in which they are taken."""

from __future__ import annotations

import time

import pytest
import torch

from acmix_nas.util.errors import UserError
from acmix_nas.util.timing import device_of, interleaved, milliseconds, rotated

CPU = torch.device("cpu")


def test_one_thread_takes_as_long_as_it_computes_and_several_what_the_clock_says() -> None:
    threads = torch.get_num_threads()
    try:
        torch.set_num_threads(1)
        assert milliseconds(lambda: time.sleep(0.05), CPU) < 25
        assert milliseconds(lambda: time.sleep(0.05), CPU, time.perf_counter) >= 50
        torch.set_num_threads(2)
        assert milliseconds(lambda: time.sleep(0.05), CPU) >= 50
    finally:
        torch.set_num_threads(threads)


@pytest.mark.parametrize("number", [1, 2, 3, 5])
def test_every_call_is_at_every_place_equally_often(number: int) -> None:
    rounds = [rotated(range(number), i) for i in range(3 * number)]
    assert rounds[0] == [*range(number)]
    for place in range(number):
        assert sorted([*range(number)] * 3) == sorted(order[place] for order in rounds)


@pytest.mark.parametrize(("rotate", "expected"), [(False, "aAbBcC" * 4), (True, "bBcCaA" + "cCaAbB" + "aAbBcC" + "bBcCaA")])
def test_calls_take_turns(rotate: bool, expected: str) -> None:
    log: list[str] = []
    ticks = iter(range(100))
    calls = [lambda name=name: log.append(name) for name in "ABC"]
    before = [lambda name=name: log.append(name) for name in "abc"]
    times = interleaved(calls, CPU, 2, discard=2, before=before, rotate=rotate, clock=lambda: next(ticks) ** 2 / 1e3)
    assert "".join(log) == expected
    # The clock stands at 4i² and (2i + 1)² around call i, which is so known by its time, 4i + 1.
    order = expected[1::2]
    assert times.tolist() == [pytest.approx([4 * i + 1 for i in range(6, 12) if order[i] == name]) for name in "ABC"]


def test_calls_need_nothing_before_them() -> None:
    log: list[int] = []
    assert interleaved([lambda: log.append(1)], CPU, 3).shape == (1, 3)
    assert len(log) == 3


@pytest.mark.parametrize("device", ["abacus", "meta", "cuda:99"])
def test_a_device_that_is_not_there_is_named(device: str) -> None:
    with pytest.raises(UserError, match=f"device .*{device}"):
        device_of(device)

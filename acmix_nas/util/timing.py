"""How long something takes, on the CPU or on CUDA, and what it allocates there; which device that is."""

from __future__ import annotations

import platform
import time
from collections.abc import Callable, Sequence
from pathlib import Path

import numpy as np
import torch

from acmix_nas.util.errors import UserError

__all__ = ["allocated_peak", "device_name", "device_of", "interleaved", "milliseconds", "rotated"]

Call = Callable[[], object]


def device_of(device: str | torch.device | None) -> torch.device:
    """Return the device of this name; CUDA where there is one by default.

    Raises:
        UserError: for anything but the CPU and a CUDA device that is there.
    """
    if device is None:
        return torch.device("cuda" if torch.cuda.is_available() else "cpu")
    try:
        place = torch.device(device)
    except RuntimeError:
        raise UserError(f"device must be cpu or cuda; got {str(device)!r}") from None
    if place.type not in ("cpu", "cuda"):
        raise UserError(f"device must be cpu or cuda; got {str(device)!r}")
    if place.type == "cuda" and not (place.index or 0) < torch.cuda.device_count():
        raise UserError(f"device {str(device)!r} is not there; PyTorch sees {torch.cuda.device_count()} CUDA devices")
    return place


def device_name(device: torch.device) -> str:
    """Return the GPU's model, or the CPU's."""
    if device.type == "cuda":
        return torch.cuda.get_device_name(device)
    cpuinfo = Path("/proc/cpuinfo")  # on Linux, where `platform` does not know the model
    lines = cpuinfo.read_text().splitlines() if cpuinfo.exists() else []
    model = next((line.partition(":")[2].strip() for line in lines if line.startswith("model name")), "")
    return model or platform.processor() or platform.machine()


def milliseconds(call: Call, device: torch.device, clock: Callable[[], float] | None = None) -> float:
    """Return how long one call takes.

    On CUDA it starts on an idle device and is timed by events, so launching counts. With one thread on the CPU, the time
    counts for which it computed, so without that in which another program had its core: with three programs on two cores a
    forward of 21 ms took 21 to 41 ms by the clock, and 21 to 27 ms so.

    Args:
        call: what is timed.
        device: where it computes.
        clock: another clock for the CPU, in seconds.
    """
    if device.type != "cuda":
        clock = clock or (time.thread_time if torch.get_num_threads() == 1 else time.perf_counter)
        began = clock()
        call()
        return (clock() - began) * 1e3
    start, end = torch.cuda.Event(enable_timing=True), torch.cuda.Event(enable_timing=True)
    stream = torch.cuda.current_stream(device)
    stream.synchronize()  # behind a busy device the launches would hide
    start.record(stream)
    call()
    end.record(stream)
    end.synchronize()
    elapsed: float = start.elapsed_time(end)
    return elapsed


def interleaved(
    calls: Sequence[Call], device: torch.device, turns: int, *, discard: int = 0, before: Sequence[Call] = (),
    rotate: bool = False, clock: Callable[[], float] | None = None,
) -> np.ndarray:  # fmt: skip
    """Return the milliseconds of calls that take turns, (calls, turns), so that a drift of the machine hits all alike.

    Args:
        calls: what is timed.
        device: where they compute.
        turns: those that are kept.
        discard: turns before them, which warm up.
        before: one for each call, untimed, right before it; the call itself brings its weights near.
        rotate: whether each turn starts one call later, so that every one is first, and last, equally often.
        clock: as `milliseconds` takes it.
    """
    times = np.empty((len(calls), discard + turns))
    for turn in range(-discard, turns):
        for number in rotated(range(len(calls)), turn if rotate else 0):
            if before:
                before[number]()
            times[number, turn + discard] = milliseconds(calls[number], device, clock)
    return times[:, discard:]


def rotated(numbers: Sequence[int], first: int) -> list[int]:
    """Return the order of a turn that starts so many calls later."""
    start = first % len(numbers) if numbers else 0
    return [*numbers[start:], *numbers[:start]]


def allocated_peak(call: Call, device: torch.device) -> int:
    """Return the bytes that a call takes of CUDA's allocator at its peak, above what was there before."""
    torch.cuda.synchronize(device)
    torch.cuda.reset_peak_memory_stats(device)
    before = torch.cuda.memory_allocated(device)
    call()
    torch.cuda.synchronize(device)
    return torch.cuda.max_memory_allocated(device) - before

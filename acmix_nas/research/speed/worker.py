"""The process that measures: `python -m acmix_nas.research.speed.worker` reads a request as JSON and answers with JSON.

Allocator and number of threads are set by the environment, before PyTorch is loaded, so every measurement has a process of its
own; the peak of memory has no other way to be one subject's alone.
"""

from __future__ import annotations

import gc
import json
import re
import sys
from collections.abc import Callable, Mapping
from contextlib import redirect_stdout, suppress
from dataclasses import replace
from pathlib import Path
from time import perf_counter
from typing import Any

import torch

from acmix_nas.research.speed.cases import Spec
from acmix_nas.research.speed.subjects import Subject, build
from acmix_nas.util.timing import allocated_peak, interleaved

__all__ = ["WARMUP", "answer", "interleave", "peak_memory"]

WARMUP = 5
"""Rounds before any is kept: libraries load, and the allocator that keeps memory grows (the naive ACmix at 64 channels, 56×56,
still had page faults in its fourth round)."""


def answer(request: Mapping[str, Any]) -> dict[str, Any]:
    """Measure what is asked for.

    Args:
        request: "device", "dtype", "threads", "subjects" (name → the fields of a `Spec`); and "repeats" for times, or none for
            memory, of the one subject there is.

    Returns:
        {"milliseconds": name → the time of each round} or {"bytes": the peak}.
    """
    torch.set_num_threads(request["threads"])
    device, dtype = torch.device(request["device"]), getattr(torch, request["dtype"])
    specs = {name: Spec(**fields) for name, fields in request["subjects"].items()}
    if "repeats" in request:
        subjects = {name: build(spec, device, dtype) for name, spec in specs.items()}
        return {"milliseconds": interleave(subjects, request["repeats"], device)}
    (spec,) = specs.values()
    build(replace(spec, arguments={**spec.arguments, **spec.small}, batch=min(spec.batch, 2)), device, dtype)()
    subject = build(spec, device, dtype)
    subject.clear()
    return {"bytes": peak_memory(subject, device)}


def interleave(
    subjects: Mapping[str, Subject], repeats: int, device: torch.device, warmup: int = WARMUP
) -> dict[str, list[float]]:
    """Return the time of every subject in every round, by the clock.

    A round calls each once. The first rounds are not kept.
    """
    calls = list(subjects.values())
    clears = [subject.clear for subject in calls]
    gc.collect()
    gc.disable()
    try:
        times = interleaved(calls, device, repeats, discard=warmup, before=clears, rotate=True, clock=perf_counter)
    finally:
        gc.enable()
    return dict(zip(subjects, times.tolist(), strict=True))


def peak_memory(call: Callable[[], object], device: torch.device) -> int:
    """Measure the bytes that a call takes at its peak above what was there before.

    On CUDA it is PyTorch's allocator that counts. On the CPU it is the resident memory, which the allocator takes in pages. Its
    peak comes from Linux's VmHWM and not from `ru_maxrss`, which a process inherits from the one that started it.
    """
    if device.type == "cuda":
        return allocated_peak(call, device)
    gc.collect()
    with suppress(OSError):  # where it is not allowed, the growth is that above the peak so far
        Path("/proc/self/clear_refs").write_text("5")
    before = resident_peak()
    call()
    return resident_peak() - before


def resident_peak() -> int:
    """Return the bytes of the largest resident memory of this process so far, or since it was reset."""
    kib = re.search(r"VmHWM:\s+(\d+) kB", Path("/proc/self/status").read_text())
    assert kib is not None
    return int(kib[1]) * 1024


def main() -> None:
    request = json.load(sys.stdin)
    with redirect_stdout(sys.stderr):  # libraries may talk; the answer is alone on standard output
        found = answer(request)
    json.dump(found, sys.stdout)


if __name__ == "__main__":
    main()

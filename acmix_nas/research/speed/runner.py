"""A benchmark from its name to its files."""

from __future__ import annotations

import json
import os
import platform
import subprocess
import sys
from collections.abc import Iterator, Mapping
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import torch
from rich.console import Console
from rich.progress import track

from acmix_nas.research.speed.cases import COMPARISONS, DEFAULT, FAULT_FREE, MEMORY, WHAT, Comparison, Spec
from acmix_nas.research.speed.report import Measured, Report, files, rows
from acmix_nas.util.errors import UserError, one_of
from acmix_nas.util.files import provenance, unused
from acmix_nas.util.terminal import BrokenRun
from acmix_nas.util.timing import device_name

__all__ = ["Settings", "measure", "run"]

DEVICES = ("cpu", "cuda")
DTYPES = ("float32", "bfloat16", "float64")
REPEATS = 20

KEPT = {"MALLOC_TOP_PAD_": "67108864", "MALLOC_MMAP_MAX_": "0", "MALLOC_TRIM_THRESHOLD_": "2147483647"}
"""glibc keeps what is freed. Otherwise large tensors are mapped anew in every call, and most of the time of an operator that
unfolds is spent on page faults, which flatters whatever does not."""
RETURNED = {"MALLOC_MMAP_THRESHOLD_": "65536", "MALLOC_TRIM_THRESHOLD_": "65536"}
"""glibc gives back what is freed, at once, so that resident memory is what tensors hold."""
ALLOCATOR: dict[str, dict[str, str]] = {FAULT_FREE: KEPT, DEFAULT: {}, MEMORY: RETURNED}


@dataclass(frozen=True)
class Settings:
    """How to measure. `threads` are those of PyTorch on the CPU."""

    device: str
    dtype: str
    threads: int
    repeats: int


def run(
    what: str,
    *,
    output: Path,
    device: str = "cpu",
    dtype: str = "float32",
    threads: int = 2,
    repeats: int = REPEATS,
) -> Report:
    """Measure, print the ratios with their targets, and write bench-<what>.json and bench-<what>.md.

    Every comparison runs in a process of its own, its subjects in turn. On the CPU, times against the naive operators are taken
    twice: with glibc's default allocator, and with one that keeps freed memory. All others are taken only with the keeping one.

    Args:
        what: "operators", "supernet", "search" or "deploy".
        output: the folder, which is made where there is none.
        device: "cpu" or "cuda".
        dtype: of weights and inputs.

    Raises:
        UserError: for an unknown word, a number out of range, a device that is not there, or files that are there already.
        BrokenRun: where a process that measures fails; the message has its last lines.
    """
    settings = Settings(device, dtype, threads, repeats)
    check(what, settings, output)
    comparisons = COMPARISONS[what]()
    measured = list(measure(comparisons, settings))
    found = [row for comparison in comparisons for row in rows(comparison, measured)]
    report = Report(what, {**provenance(), "machine": machine(device), **asdict(settings)}, found, measured)
    Console(markup=False).print(*report.tables(), sep="\n")
    report.write(output)
    return report


def check(what: str, settings: Settings, output: Path) -> None:
    """Find the mistakes before anything is measured.

    Raises:
        UserError: as `run` does.
        ModuleNotFoundError: where NNI is not installed, and a search is to be measured.
    """
    cores = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else 0
    if platform.libc_ver()[0] != "glibc" or not cores:
        raise UserError(f"bench needs Linux with glibc, whose allocator and memory it measures; this is {platform.platform()}")
    for name, value, allowed in (
        ("what", what, WHAT), ("device", settings.device, DEVICES), ("dtype", settings.dtype, DTYPES)
    ):  # fmt: skip
        if value not in allowed:
            raise one_of(name, value, allowed)
    if settings.device == "cuda" and not torch.cuda.is_available():
        raise UserError("device 'cuda' is not there: PyTorch sees no CUDA device; take device 'cpu'")
    if not 1 <= settings.threads <= cores:
        raise UserError(f"threads must be from 1 to {cores}, the cores of this process; got {settings.threads}")
    if settings.repeats < 2:
        raise UserError(f"repeats must be at least 2, for an interval; got {settings.repeats}")
    if output.exists() and not output.is_dir():
        raise UserError(f"output must be a folder; {str(output)!r} is a file")
    unused(*files(output, what))
    if what == "search":
        import nni  # noqa: F401  the processes that measure need it; here its absence is said in one line


def machine(device: str) -> dict[str, Any]:
    """Return the CPU's model, or the GPU's, and the cores that this process may use."""
    cores = len(os.sched_getaffinity(0))
    return {"device": device_name(torch.device(device)), "cpu": device_name(torch.device("cpu")), "cores": cores}


@dataclass(frozen=True)
class Job:
    """What one process measures."""

    comparison: str
    point: str
    measure: str
    subjects: Mapping[str, Spec]


def jobs(comparisons: list[Comparison], device: str) -> Iterator[Job]:
    """Yield jobs: times of all subjects of a point together, memory of each alone.

    The allocator of the CPU is of no matter on CUDA.
    """
    for comparison in comparisons:
        for point in comparison.points:
            for measure in comparison.measures:
                if measure == MEMORY:
                    for name in comparison.weighed:
                        yield Job(comparison.title, point.label, measure, {name: point.subjects[name]})
                elif measure == FAULT_FREE or device == "cpu":
                    yield Job(comparison.title, point.label, measure, point.subjects)


def measure(comparisons: list[Comparison], settings: Settings) -> Iterator[Measured]:
    """Measure everything that the comparisons need, one process after the other."""
    todo = list(jobs(comparisons, settings.device))
    for job in track(todo, "measuring", console=Console(stderr=True), transient=True):
        request = {
            "device": settings.device, "dtype": settings.dtype, "threads": settings.threads,
            "subjects": {name: asdict(spec) for name, spec in job.subjects.items()},
        }  # fmt: skip
        if job.measure != MEMORY:
            request["repeats"] = settings.repeats
        answer = ask(request, environment(job.measure, settings.threads))
        values = answer["milliseconds"] if job.measure != MEMORY else {name: [answer["bytes"]] for name in job.subjects}
        for name, spec in job.subjects.items():
            yield Measured(job.comparison, job.point, name, job.measure, spec.batch, values[name])


def environment(measure: str, threads: int) -> dict[str, str]:
    """Return the variables of the process that measures, without any that was set for another allocator."""
    foreign = ("MALLOC_", "LD_PRELOAD", "GLIBC_TUNABLES")
    inherited = {name: value for name, value in os.environ.items() if not name.startswith(foreign)}
    return {**inherited, **ALLOCATOR[measure], "OMP_NUM_THREADS": str(threads)}


def ask(request: Mapping[str, Any], variables: Mapping[str, str]) -> dict[str, Any]:
    """Return the worker's answer.

    Raises:
        BrokenRun: where it fails.
    """
    command = [sys.executable, "-m", "acmix_nas.research.speed.worker"]
    done = subprocess.run(command, input=json.dumps(request), env=dict(variables), capture_output=True, text=True, check=False)
    if done.returncode:
        last = "\n".join(done.stderr.strip().splitlines()[-3:])
        raise BrokenRun(f"{', '.join(request['subjects'])}: the process ended with status {done.returncode}\n{last}")
    found: dict[str, Any] = json.loads(done.stdout)
    return found

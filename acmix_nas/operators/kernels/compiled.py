"""The C beside this file, compiled on the machine that runs it.

A compiler is all it needs; where there is none, or `ACMIX_NAS_NATIVE=0` says so, PyTorch's forms of the same functions run.
"""

from __future__ import annotations

import ctypes
import hashlib
import logging
import os
import platform
import shutil
import subprocess
import tempfile
from functools import cache
from pathlib import Path
from typing import Any

import torch
from torch import Tensor
from torch._guards import detect_fake_mode

__all__ = ["LANES", "at", "build", "call", "library", "runs_on"]

LANES = 16
"""Queries in a vector."""
FOLDER = Path(__file__).parent
COMPILERS = ("cc", "gcc", "clang")
"""The first that succeeds."""
FLAGS = ("-O3", "-march=native", "-std=gnu11", "-fopenmp", "-fPIC", "-shared")
SWITCH = "ACMIX_NAS_NATIVE"

logger = logging.getLogger(__name__)


@cache
def library() -> ctypes.CDLL | None:
    """Return the compiled kernels, from the user's cache where this machine has compiled them before. None where it cannot."""
    if os.environ.get(SWITCH) == "0":
        return None
    failures = []
    for compiler in filter(None, map(shutil.which, COMPILERS)):
        try:
            return ctypes.CDLL(str(_compiled(compiler)))
        except (OSError, subprocess.CalledProcessError) as error:
            said = getattr(error, "stderr", None) or str(error)
            failures.append(f"{compiler}: {said.strip().splitlines()[0]}")
    if failures:
        logger.warning("attention runs in PyTorch's form, since its form in C could not be compiled: %s", "; ".join(failures))
    return None


def _compiled(compiler: str) -> Path:
    sources = sorted(FOLDER.glob("*.[ch]"))
    version = subprocess.run([compiler, "--version"], capture_output=True, text=True, check=True).stdout
    processor = Path("/proc/cpuinfo")
    lines = processor.read_text().splitlines() if processor.exists() else []
    flags = [line for line in lines if line.startswith(("flags", "Features"))][:1]
    key = "\n".join(
        [*(file.read_text() for file in sources), version, *FLAGS, platform.machine(), platform.processor(), *flags]
    )
    folder = Path(os.environ.get("XDG_CACHE_HOME", "~/.cache")).expanduser() / "acmix-nas"
    made = folder / f"native-{hashlib.sha256(key.encode()).hexdigest()[:16]}.so"
    if not made.exists():
        folder.mkdir(parents=True, exist_ok=True)
        with tempfile.TemporaryDirectory(dir=folder) as place:  # several processes may compile at once: the last rename stays
            target = Path(place) / made.name
            files = [str(file) for file in sources if file.suffix == ".c"]
            command = [compiler, *FLAGS, *files, "-o", str(target), "-lm"]
            subprocess.run(command, capture_output=True, text=True, check=True)
            target.replace(made)
    return made


def runs_on(maps: Tensor) -> bool:
    """Return whether the kernels take these maps: on the CPU, float32 or under autocast, and outside of any graph's making."""
    if maps.device.type != "cpu" or torch.compiler.is_compiling() or torch.jit.is_tracing() or detect_fake_mode() is not None:
        return False
    lower = maps.dtype in (torch.bfloat16, torch.float16) and torch.is_autocast_enabled("cpu")
    return (maps.dtype == torch.float32 or lower) and library() is not None


def at(tensor: Tensor | None, skip: int = 0) -> ctypes.c_void_p:
    """Return a pointer to the data of a tensor, or to so many elements later. It is NULL for None."""
    return ctypes.c_void_p(None if tensor is None else tensor.data_ptr() + skip * tensor.element_size())


def call(name: str, *arguments: Any) -> None:
    """Call a kernel with PyTorch's number of threads.

    Raises:
        MemoryError: where it could not get the memory that it works in.
    """
    if getattr(library(), name)(*arguments, torch.get_num_threads()):
        raise MemoryError(f"{name} could not get the memory that it works in")


def build() -> str:
    """Return which kernels run: the name of the compiled file, or "none"."""
    found = library()
    return "none" if found is None else Path(found._name).stem

"""Trainings from scratch in the background, while something else runs."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from concurrent.futures import Future
from pathlib import Path
from statistics import mean
from typing import Any

import torch
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeElapsedColumn
from typing_extensions import Self

from acmix_nas.architecture import Architecture
from acmix_nas.research.benchmark.spaces import Space
from acmix_nas.research.pace import step_seconds
from acmix_nas.training.images import ImageData
from acmix_nas.training.retrain import train_architecture
from acmix_nas.util.errors import first_line
from acmix_nas.util.terminal import BrokenRun, console
from acmix_nas.util.workers import workers

__all__ = ["Trainings", "trained"]


class Trainings:
    """Trainings from scratch, each architecture with every seed, in the background, and gone when the block is left.

    On the CPU there is a process per core, since so small networks use one thread best.

    Args:
        folder: of the demo; see `trained`.
    """

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.processes = 1 if torch.cuda.is_available() else torch.get_num_threads()
        self.block = workers(self.processes)
        self.running: dict[tuple[str, int], Future[dict[str, Any]]] = {}

    def __enter__(self) -> Self:
        self.pool = self.block.__enter__()
        return self

    def __exit__(self, *error: Any) -> None:
        self.block.__exit__(*error)

    def step_seconds(self, space: Space, architectures: Sequence[Architecture]) -> float:
        """Return the seconds of a training step, with as many processes at it as train; see `pace.step_seconds`."""
        asked = [self.pool.submit(step_seconds, space, architectures) for _ in range(self.processes)]
        return mean(future.result() for future in asked)

    def start(self, space: Space, architectures: Mapping[str, Architecture], seeds: int) -> None:
        """Begin to train these, with seeds from 0, by the recipe of the space."""
        for seed in range(seeds):
            for name, architecture in architectures.items():
                job = (space, architecture, seed, trained(self.folder, name, seed))
                self.running[name, seed] = self.pool.submit(train_one, *job)

    def wait(self) -> None:
        """Wait until all have ended.

        Raises:
            BrokenRun: where one did not finish.
        """
        failed: dict[str, BaseException] = {}
        with Progress(TextColumn("trainings"), BarColumn(), MofNCompleteColumn(), TimeElapsedColumn(), console=console) as bar:
            task = bar.add_task("", total=len(self.running))
            for (name, seed), future in sorted(self.running.items(), key=lambda one: one[0][1]):
                error = future.exception()
                if error is not None:
                    failed[f"{name}, seed {seed}"] = error
                bar.advance(task)
        for which, error in failed.items():
            many = f"{len(failed)} of {len(self.running)} trainings"
            raise BrokenRun(f"{many} did not finish; the first is {which}: {first_line(error)}") from error

    def finished(self) -> dict[str, list[dict[str, Any]]]:
        """Return what `retrain` said of each architecture, by seed, of the trainings that have finished."""
        results: dict[str, list[dict[str, Any]]] = {}
        for (name, _), future in sorted(self.running.items(), key=lambda one: one[0][1]):
            if _finished(future):
                results.setdefault(name, []).append(future.result())
        return results

    def unfinished(self) -> list[tuple[str, int]]:
        """Return the names and seeds of the others."""
        return [which for which, future in self.running.items() if not _finished(future)]


def _finished(future: Future[Any]) -> bool:
    return future.done() and not future.cancelled() and future.exception() is None


def trained(folder: Path, name: str, seed: int) -> Path:
    """Return the folder in which the demo trains a network."""
    return folder / "networks" / name.replace(" ", "-") / f"seed-{seed}"


def train_one(space: Space, architecture: Architecture, seed: int, folder: Path) -> dict[str, Any]:
    """Train one network, in a process of its own. Return what its result.json says."""
    images = ImageData(space.images(seed), seed)
    return {**train_architecture(architecture, images, space.alone(seed), folder, progress=False).content, "seed": seed}

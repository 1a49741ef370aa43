"""Training every architecture of a space alone, or a sample, several seeds each: the table that searches are measured by."""

from __future__ import annotations

import os
from dataclasses import replace
from functools import lru_cache
from pathlib import Path
from time import perf_counter, process_time
from typing import Any

import pytorch_lightning as pl
import torch
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeElapsedColumn, TimeRemainingColumn, track
from torch import nn

from acmix_nas.architecture import build
from acmix_nas.research.benchmark.spaces import Choice, Space
from acmix_nas.research.benchmark.table import Latencies, Run, Table
from acmix_nas.training.config import DataConfig
from acmix_nas.training.images import ImageData
from acmix_nas.training.loop import EpochSeed, make_trainer, measure, quiet, seed_all
from acmix_nas.training.module import Retraining
from acmix_nas.training.task import Classification
from acmix_nas.util.errors import UserError
from acmix_nas.util.files import provenance
from acmix_nas.util.terminal import console
from acmix_nas.util.timing import device_name
from acmix_nas.util.workers import each

__all__ = ["spent", "tabulate", "train_alone"]


class Curve(pl.Callback):
    """Accuracy on both held-out parts after every epoch."""

    def __init__(self, data: ImageData) -> None:
        self.data = data
        self.validation: list[float] = []
        self.test: list[float] = []

    def on_train_epoch_end(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:  # noqa: ARG002
        for part, curve in (("validation", self.validation), ("test", self.test)):
            curve.append(round(measure(network_of(pl_module), self.data, part).score, 5))


def network_of(module: pl.LightningModule) -> nn.Module:
    """Return the network that a training trains."""
    network = module.network
    assert isinstance(network, nn.Module)
    return network


@lru_cache(maxsize=1)
def _images(config: DataConfig, seed: int) -> ImageData:
    return ImageData(config, seed)


def spent() -> float:
    """Return seconds, of which differences count.

    They are what this process has computed, where it computes on the CPU with one thread: the time in which other programs had
    its core is left out. Elsewhere they are the clock's.
    """
    alone = torch.get_num_threads() == 1 and not torch.cuda.is_available()
    return process_time() if alone else perf_counter()


def train_alone(space: Space, choice: Choice, seed: int) -> Run:
    """Train one architecture by the space's recipe, as `retrain` does under the seed, and keep only its curves."""
    recipe, data = space.alone(seed), _images(space.images(seed), seed)
    architecture = space.architecture(choice)
    start = spent()
    seed_all(seed)  # after whatever may draw numbers on the way
    module = Retraining(build(architecture), recipe, Classification().prepare(recipe, data))
    curve = Curve(data)
    options = {
        "accelerator": "auto", "devices": 1, "max_epochs": recipe.epochs, "precision": recipe.precision,
        "gradient_clip_val": recipe.clip_grad, "callbacks": [EpochSeed(seed), curve], "logger": False,
        "enable_checkpointing": False, "enable_progress_bar": False, "enable_model_summary": False,
        "num_sanity_val_steps": 0, "limit_val_batches": 0,
    }  # fmt: skip
    with quiet():
        make_trainer(pl.Trainer, options).fit(module, datamodule=data)
    return Run(choice, seed, tuple(curve.validation), tuple(curve.test), round(spent() - start, 1))


def tabulate(
    space: Space, path: Path, seeds: int = 3, sample: int | None = None, workers: int = 2, progress: bool = True,
    latency: bool = False, seconds: bool = False,
) -> Table:  # fmt: skip
    """Train, and write the table anew after every training.

    It may be interrupted at any time; the same call goes on with what is missing. All architectures are trained under one
    seed before the next, so that the table is of use as soon as the first seed is through.

    Args:
        path: the file; what it holds already is kept, and not trained again.
        seeds: 0 to seeds − 1; each draws weights, the order of images and, where they are drawn, the images.
        sample: so many random architectures instead of all.
        workers: processes, of one thread each.
        seconds: whether the seconds of what is there are measured anew, as after a change that makes trainings faster.
        latency: whether the table is to have latencies too; where it has none yet, they are measured before anything trains.

    Raises:
        UserError: where the file is no table, or one of another space.
        BrokenRun: where a worker was killed.
    """
    for name, value in (("seeds", seeds), ("workers", workers)):
        if value < 1:
            raise UserError(f"{name} must be at least 1; got {name}={value}")
    choices = space.choices(sample)
    table = Table.load(path) if path.exists() else None
    if table is not None and (table.space.name, table.space.settings) != (space.name, space.settings):
        raise UserError(f"table {str(path)!r} is of another space, or of other settings; take another file")
    runs, made = (table.runs, table.made) if table is not None else ((), ())
    known = {(run.choice, run.seed) for run in runs}
    missing = [(choice, seed) for seed in range(seeds) for choice in choices if (choice, seed) not in known]
    here = _here(workers)
    latencies = table.latencies if table is not None else None
    if latency and latencies is None:
        latencies = Latencies.measured(space)
        if table is not None:  # which may be whole but for them
            table = replace(table, latencies=latencies)
            table.save(path)
    if seconds and table is not None:
        table = retime(table, workers, progress)
        table.save(path)
        runs, made = table.runs, table.made
    with Progress(
        TextColumn("training alone"), BarColumn(), MofNCompleteColumn(), TimeElapsedColumn(), TimeRemainingColumn(),
        console=console, disable=not progress,
    ) as bar:  # fmt: skip
        total = len(choices) * seeds
        task = bar.add_task("", total=total, completed=total - len(missing))
        for number, run in enumerate(each(train_alone, [(space, *one) for one in missing], workers), start=1):
            runs = (*runs, run)
            table = Table(space, runs, (*made, {**here, "runs": number}), latencies)
            table.save(path)
            bar.advance(task)
    assert table is not None
    return table.of(space)


def retime(table: Table, workers: int = 2, progress: bool = True) -> Table:
    """Return the same accuracies with the seconds that trainings take now: the lesser of two epochs, times their number."""
    short = replace(table.space.config, race_epochs=1, recipe=replace(table.space.config.recipe, warmup_epochs=0))
    space = replace(table.space, config=short)
    asked = [(space, choice, 0) for choice in table.choices for _ in range(2)]
    timed: dict[Choice, float] = {}
    for run in track(each(train_alone, asked, workers), "measuring seconds", len(asked), console=console, disable=not progress):
        timed[run.choice] = min(run.seconds, timed.get(run.choice, run.seconds))
    epochs = table.space.alone(0).epochs
    runs = tuple(replace(run, seconds=round(epochs * timed[run.choice], 1)) for run in table.runs)
    return replace(table, runs=runs, made=(*table.made, {**_here(workers), "seconds": len(runs)}))


def _here(workers: int) -> dict[str, Any]:
    machine = f"{device_name(torch.device('cpu'))}, {os.cpu_count()} cores, {workers} trainings at a time"
    return {**provenance(), "machine": machine}

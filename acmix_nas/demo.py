"""The whole road in one command: experiment, export, retraining beside three references, profile, pictures."""

from __future__ import annotations

import shutil
import statistics
from collections.abc import Mapping
from concurrent.futures import ProcessPoolExecutor, as_completed
from dataclasses import replace
from multiprocessing import get_context
from pathlib import Path
from typing import Any

import torch
from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeElapsedColumn

from acmix_nas import profile as profiling
from acmix_nas.architecture import Architecture, build
from acmix_nas.bias import report as draw_bias
from acmix_nas.classification import Recipe
from acmix_nas.data import DataConfig
from acmix_nas.errors import UserError
from acmix_nas.experiment import launch
from acmix_nas.results import read_results
from acmix_nas.retrain import data_of, retrain
from acmix_nas.slot import OperatorName, check_candidates
from acmix_nas.terminal import console

__all__ = ["demo", "references"]

FOUND = "found"


def references(architecture: Architecture) -> dict[str, Architecture]:
    """The same backbone with one operator everywhere: convolution, attention, and ACmix on that attention."""
    attentions = [OperatorName.parse(operator).attention for operator in check_candidates(architecture.candidates)]
    attention = next((name for name in attentions if name is not None), "local")
    return {f"all {operator}": architecture.uniform(operator) for operator in ("conv", attention, f"acmix_{attention}")}


def demo(config: Path, folder: Path, seeds: int, timeout: float) -> None:
    """Run an experiment of searches, and see what the best of them is worth.

    Writes into the folder: experiment/ (NNI's), networks/search (the best trial), networks/<name>/seed-<n> (the trainings),
    profile/ and bias/. Every network is trained `seeds` times by one recipe; the test part is seen once by each, at the
    end of its training.

    Raises:
        UserError: for a folder in use, or a config that cannot run.
        ExperimentError: where a trial fails, or the time is up.
    """
    if folder.exists() and any(folder.iterdir()):
        raise UserError(f"output {str(folder)!r} is not empty; choose a new folder")
    if seeds < 1:
        raise UserError(f"seeds must be at least 1; got seeds={seeds}")
    out = Console()
    console.rule("1 of 4: the experiment, one search a trial")
    experiment = launch(config, timeout=timeout, working_directory=(folder / "experiment").resolve())
    best = read_results(experiment)[0]
    found = Architecture.load(best.architecture)
    searched = folder / "networks" / "search"
    shutil.copytree(best.folder, searched, ignore=shutil.ignore_patterns("checkpoints", "supernet.pt", "trial.*"))

    console.rule("2 of 4: retraining, each network by the same recipe")
    architectures = {FOUND: found, **references(found)}
    data = data_of(found)
    results = train_all(architectures, data, Recipe(), folder, seeds)

    console.rule("3 of 4: profile")
    networks = {name: build(architecture) for name, architecture in architectures.items()}
    counts = {name: profiling.count(architecture, data.image_size) for name, architecture in architectures.items()}
    profiles = profiling.profile(networks, data.image_size, counts=counts)
    extra = {
        "test accuracy": {name: spread([100 * r["test_accuracy"] for r in rows], "%") for name, rows in results.items()},
        "training": {name: spread([r["train_seconds"] for r in rows], "s") for name, rows in results.items()},
    }
    profiling.report(profiles, folder / "profile", extra)

    console.rule("4 of 4: pictures")
    draw_bias({"search": searched}, folder / "bias" / "search")
    mixed = [name for name, a in architectures.items() if any(OperatorName.parse(op).mixed for op in a.slots.values())]
    runs = {f"{name}, seed {seed}": trained(folder, name, seed) for name in mixed for seed in range(seeds)}
    draw_bias(runs, folder / "bias" / "retrained")

    out.print(profiling.table(profiles, extra))
    out.print(
        f"test accuracy: mean ± standard deviation of {seeds} seeds; the search was trial {best.sequence} of the experiment, "
        f"{', '.join(f'{k}={v}' for k, v in best.parameters.items())}\n"
        f"architecture: {searched / 'architecture.json'}\n"
        f"tables:       {folder / 'profile' / 'profile.md'}\n"
        f"pictures:     {folder / 'bias'}\n"
        f"TensorBoard:  tensorboard --logdir {folder / 'networks'}"
    )


def train_all(
    architectures: Mapping[str, Architecture], data: DataConfig, recipe: Recipe, folder: Path, seeds: int
) -> dict[str, list[dict[str, Any]]]:
    """Train every architecture with every seed: on the CPU a process per core, since so small networks use one thread best."""
    threads = torch.get_num_threads()
    workers = 1 if torch.cuda.is_available() else min(threads, seeds * len(architectures))
    jobs = [(name, seed) for seed in range(seeds) for name in architectures]
    results: dict[tuple[str, int], dict[str, Any]] = {}
    pool = ProcessPoolExecutor(
        workers, get_context("spawn"), initializer=torch.set_num_threads, initargs=(max(1, threads // workers),)
    )  # fmt: skip
    columns = (TextColumn("retraining"), BarColumn(), MofNCompleteColumn(), TextColumn("{task.description}"))
    with pool, Progress(*columns, TimeElapsedColumn(), console=console) as progress:
        task = progress.add_task("", total=len(jobs))
        futures = {}
        for name, seed in jobs:
            target = trained(folder, name, seed)
            futures[pool.submit(train_one, architectures[name], data, replace(recipe, seed=seed), target)] = (name, seed)
        try:
            for future in as_completed(futures):
                results[futures[future]] = future.result()
                progress.update(task, advance=1, description=f"last: {futures[future][0]}, seed {futures[future][1]}")
        except BaseException:
            pool.shutdown(wait=False, cancel_futures=True)
            raise
    return {name: [results[name, seed] for seed in range(seeds)] for name in architectures}


def trained(folder: Path, name: str, seed: int) -> Path:
    """Where the demo trains a network."""
    return folder / "networks" / name.replace(" ", "-") / f"seed-{seed}"


def train_one(architecture: Architecture, data: DataConfig, recipe: Recipe, folder: Path) -> dict[str, Any]:
    """One training, in a process of its own."""
    return retrain(architecture, data, recipe, folder, progress=False)


def spread(values: list[float], unit: str) -> str:
    """Mean ± standard deviation."""
    deviation = f" ± {statistics.stdev(values):.1f}" if len(values) > 1 else ""
    return f"{statistics.mean(values):.1f}{deviation} {unit}"

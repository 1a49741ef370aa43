"""The whole road in one command, on a task where it matters what stands where: `cued-digits`, whose every answer is known."""

from __future__ import annotations

import shutil
import statistics
from collections.abc import Mapping
from concurrent.futures import Future
from pathlib import Path
from typing import Any

import torch
from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeElapsedColumn
from typing_extensions import Self

from acmix_nas.architecture import Architecture, build
from acmix_nas.bias import report as draw_bias
from acmix_nas.deploy import profile as profiling
from acmix_nas.nnictl.experiment import launch
from acmix_nas.nnictl.results import read_results
from acmix_nas.research.benchmark import CUED, shipped
from acmix_nas.research.benchmark.spaces import Space
from acmix_nas.slots.names import OperatorName
from acmix_nas.training.images import ImageData
from acmix_nas.training.loop import measure
from acmix_nas.training.retrain import data_of, train_architecture
from acmix_nas.util.errors import UserError
from acmix_nas.util.terminal import console, mean_and_deviation
from acmix_nas.util.workers import workers

__all__ = ["EXPERIMENT", "demo", "references"]

EXPERIMENT = Path("experiments/cued.yml")
FOUND = "found"


def references(space: Space) -> dict[str, Architecture]:
    """The space's network with one operator everywhere, for each of them."""
    return {f"all {operator}": space.architecture((operator,) * len(space.slots)) for operator in space.config.candidates}


def demo(folder: Path, seeds: int, timeout: float) -> None:
    """Search `cued` in an NNI experiment, train the references meanwhile, and see what was found beside them.

    Writes into the folder: experiment/ (NNI's), networks/search (the best trial, whose network goes on from the supernet's
    weights), networks/<name>/seed-<n> (trainings from scratch, by the recipe of the `cued` table), profile/ and bias/. No test
    part decides anything.

    Raises:
        UserError: for a folder in use.
        ExperimentError: where a trial fails, or the time is up.
    """
    if folder.exists() and any(folder.iterdir()):
        raise UserError(f"output {str(folder)!r} is not empty; choose a new folder")
    if seeds < 1:
        raise UserError(f"seeds must be at least 1; got seeds={seeds}")
    out, architectures = Console(), references(CUED)
    with Trainings(CUED, folder, seeds) as trainings:
        console.rule("1 of 4: the experiment, a search; meanwhile three references are trained")
        trainings.start(architectures)
        experiment = launch(EXPERIMENT, timeout=timeout, working_directory=(folder / "experiment").resolve())
        best = read_results(experiment)[0]
        found = Architecture.load(best.architecture)
        searched = folder / "networks" / "search"
        shutil.copytree(best.folder, searched, ignore=shutil.ignore_patterns("checkpoints", "supernet.pt", "trial.*"))

        console.rule("2 of 4: what was found, trained from scratch by the same recipe")
        architectures = {FOUND: found, **architectures}
        trainings.start({FOUND: found})
        results = trainings.results()

    console.rule("3 of 4: profile")
    data = ImageData(data_of(found))
    handed = measure(build(found, weights=searched / "network.pt"), data).score
    networks = {name: build(architecture) for name, architecture in architectures.items()}
    counts = {name: profiling.count(architecture, data.input_size[-1]) for name, architecture in architectures.items()}
    profiles = profiling.profile(networks, data.input_size[-1], counts=counts)
    accuracies = {name: [100 * row["test_accuracy"] for row in results[name]] for name in architectures}
    extra = {
        "test accuracy, from scratch": {name: mean_and_deviation(values, " %") for name, values in accuracies.items()},
        "with the search's weights": {FOUND: f"{100 * handed:.1f} %"},
    }
    profiling.report(profiles, folder / "profile", extra)

    console.rule("4 of 4: pictures")
    draw_bias({"search": searched}, folder / "bias" / "search")
    mixed = [name for name, a in architectures.items() if any(OperatorName.parse(op).mixed for op in a.slots.values())]
    runs = {f"{name}, seed {seed}": trained(folder, name, seed) for name in mixed for seed in range(seeds)}
    draw_bias(runs, folder / "bias" / "retrained")

    out.print(profiling.table(profiles, extra))
    means = {name: statistics.mean(values) for name, values in accuracies.items()}
    rival = max((name for name in means if name != FOUND), key=means.__getitem__)
    error = 100 * shipped("cued").noise() * (2 / seeds) ** 0.5
    epochs = f"{CUED.config.recipe.epochs} epochs in the supernet, {CUED.config.warm_epochs} alone"
    out.print(
        f"found: {' '.join(found.slots.values())}; mean ± standard deviation of {seeds} seeds\n"
        f"from scratch it is {means[FOUND] - means[rival]:.1f} ± {error:.1f} points above {rival}, the best reference "
        f"(standard error, by the noise of the cued table);\nwith the search's weights it has {100 * handed:.1f} % ({epochs})\n"
        f"architecture: {searched / 'architecture.json'}\n"
        f"tables:       {folder / 'profile' / 'profile.md'}\n"
        f"pictures:     {folder / 'bias'}\n"
        f"TensorBoard:  tensorboard --logdir {folder / 'networks'}"
    )


class Trainings:
    """Trainings from scratch, each architecture with every seed, in the background, and gone when the block is left.

    On the CPU there is a process per core, since so small networks use one thread best.

    Args:
        space: whose recipe and images they are.
        folder: of the demo; see `trained`.
    """

    def __init__(self, space: Space, folder: Path, seeds: int) -> None:
        self.space, self.folder, self.seeds = space, folder, seeds
        self.block = workers(1 if torch.cuda.is_available() else torch.get_num_threads())
        self.running: dict[tuple[str, int], Future[dict[str, Any]]] = {}

    def __enter__(self) -> Self:
        self.pool = self.block.__enter__()
        return self

    def __exit__(self, *error: Any) -> None:
        self.block.__exit__(*error)

    def start(self, architectures: Mapping[str, Architecture]) -> None:
        """Begin to train these."""
        for seed in range(self.seeds):
            for name, architecture in architectures.items():
                job = (self.space, architecture, seed, trained(self.folder, name, seed))
                self.running[name, seed] = self.pool.submit(train_one, *job)

    def results(self) -> dict[str, list[dict[str, Any]]]:
        """What `retrain` returned of each architecture, by seed, once all have ended."""
        results: dict[str, list[dict[str, Any]]] = {}
        with Progress(TextColumn("trainings"), BarColumn(), MofNCompleteColumn(), TimeElapsedColumn(), console=console) as bar:
            task = bar.add_task("", total=len(self.running))
            for (name, _), result in sorted(self.running.items(), key=lambda one: one[0][1]):
                results.setdefault(name, []).append(result.result())
                bar.advance(task)
        return results


def trained(folder: Path, name: str, seed: int) -> Path:
    """Where the demo trains a network."""
    return folder / "networks" / name.replace(" ", "-") / f"seed-{seed}"


def train_one(space: Space, architecture: Architecture, seed: int, folder: Path) -> dict[str, Any]:
    """One training, in a process of its own."""
    return train_architecture(architecture, space.images(seed), space.alone(seed), folder, progress=False)

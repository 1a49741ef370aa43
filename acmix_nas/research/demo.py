"""The whole road in one command, on a task where it matters what stands where: `cued-digits`, whose every answer is known."""

from __future__ import annotations

import shutil
import time
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field, replace
from datetime import datetime
from pathlib import Path
from statistics import mean
from typing import Any

from rich.console import Console
from rich.table import Table

from acmix_nas.architecture import Architecture, build
from acmix_nas.bias import report as draw_bias
from acmix_nas.bias.history import HISTORY
from acmix_nas.deploy import profile as profiling
from acmix_nas.nnictl.experiment import launch
from acmix_nas.nnictl.results import read_results
from acmix_nas.research.benchmark import CUED, shipped
from acmix_nas.research.benchmark.spaces import Space
from acmix_nas.research.pace import FULL, Plan, Times, announcement, choose, expected
from acmix_nas.research.trainings import Trainings, trained
from acmix_nas.slots.names import OperatorName
from acmix_nas.training.images import ImageData
from acmix_nas.training.loop import measure
from acmix_nas.training.retrain import data_of
from acmix_nas.util.errors import UserError, first_line
from acmix_nas.util.signals import signals_raise
from acmix_nas.util.terminal import console, mean_and_deviation

__all__ = ["EXPERIMENT", "demo", "references"]

EXPERIMENT = Path("experiments/cued.yml")
FOUND = "found"
SEARCH = "search"


def references(space: Space) -> dict[str, Architecture]:
    """Return the space's network with one operator everywhere, for each of them."""
    return {f"all {operator}": space.architecture((operator,) * len(space.slots)) for operator in space.config.candidates}


def demo(folder: Path, minutes: float, seeds: int | None = None) -> None:
    """Search `cued` in an NNI experiment, train the references meanwhile, and compare the found network with them.

    A machine that is too slow for all of it gets fewer epochs and one seed, and the demo says so. Where it fails or is
    interrupted, what has finished is shown before the error goes on.

    Writes into the folder: experiment/ (NNI's), networks/search (the best trial, whose network goes on from the supernet's
    weights), networks/<name>/seed-<n> (trainings from scratch, by the recipe of the `cued` table), profile/ and bias/. No test
    part decides anything.

    Args:
        minutes: how long it may take.
        seeds: how often each network is trained; by default twice, or once where time is short.

    Raises:
        UserError: for a folder in use, or an argument out of range.
        ExperimentError: where a trial fails.
        BrokenRun: where a training does not finish.
    """
    if folder.exists() and any(folder.iterdir()):
        raise UserError(f"output {str(folder)!r} is not empty; choose a new folder")
    if seeds is not None and seeds < 1:
        raise UserError(f"seeds must be at least 1; got seeds={seeds}")
    if not minutes > 0:
        raise UserError(f"minutes must be positive; got minutes={minutes}")
    run = Run(folder, Trainings(folder))
    with signals_raise(), _shown(run), run.trainings:
        console.print("measuring this machine")
        networks = references(CUED)
        step, processes = run.trainings.step_seconds(CUED, list(networks.values())), run.trainings.processes
        full = FULL if seeds is None else replace(FULL, seeds=seeds)
        run.plan = choose(step, processes, minutes, seeds)
        times = Times.of(run.plan, step, processes)
        console.print(announcement(run.plan, times, Times.of(full, step, processes), minutes, datetime.now()), soft_wrap=True)

        console.rule("1 of 4: the experiment, a search; meanwhile three references are trained")
        start = time.monotonic()
        experiment = launch(
            EXPERIMENT, working_directory=run.experiment, trial_options=f"--epochs {run.plan.supernet}",
            begun=lambda: run.train(networks),
        )  # fmt: skip
        best = read_results(experiment)[0]
        shutil.copytree(best.folder, run.searched, ignore=shutil.ignore_patterns("checkpoints", "supernet.pt", "trial.*"))

        console.rule("2 of 4: what was found, trained from scratch by the same recipe")
        slower = (time.monotonic() - start) / times.search  # than expected
        console.print(expected(slower * (times.found + times.rest), datetime.now()))
        run.train({FOUND: Architecture.load(best.architecture)})
        run.trainings.wait()


@dataclass
class Run:
    """A demo as it goes.

    Attributes:
        plan: with how much it is run.
        architectures: what is trained, or was; name → architecture.
    """

    folder: Path
    trainings: Trainings
    plan: Plan = FULL
    architectures: dict[str, Architecture] = field(default_factory=dict)

    @property
    def experiment(self) -> Path:
        """Return NNI's folder."""
        return (self.folder / "experiment").resolve()

    @property
    def searched(self) -> Path:
        """Return the folder of the best trial's copy."""
        return self.folder / "networks" / SEARCH

    def train(self, architectures: Mapping[str, Architecture]) -> None:
        """Begin to train these, each with every seed, for as many epochs as the plan says."""
        self.architectures |= architectures
        space = replace(CUED, config=replace(CUED.config, race_epochs=self.plan.alone))
        self.trainings.start(space, architectures, self.plan.seeds)

    @property
    def missing(self) -> list[str]:
        """Return what has not finished."""
        search = [] if FOUND in self.architectures else ["the search"]
        return search + [f"{name}, seed {seed}" for name, seed in self.trainings.unfinished()]


@contextmanager
def _shown(run: Run) -> Iterator[None]:
    """Show what has finished, at the end of the block, whatever that is."""
    try:
        yield
    except (Exception, KeyboardInterrupt) as error:
        if run.architectures:
            why = "interrupted" if isinstance(error, KeyboardInterrupt) else f"failed: {first_line(error)}"
            console.print(f"{why}\nwhat has finished is shown; Ctrl-C leaves that out", markup=False, soft_wrap=True)
            show(run)
        raise
    show(run)


def show(run: Run) -> None:
    """Write and print the table and the pictures of what has finished, and say what is missing."""
    out, results, missing = Console(markup=False), run.trainings.finished(), run.missing
    names = [name for name in (FOUND, *references(CUED)) if name in results or (name == FOUND and name in run.architectures)]
    lines = [f"missing: {', '.join(missing)}"] if missing else []
    if names:
        console.rule("3 of 4: profile")
        table, compared = profiled(run, names, results)
        out.print(table)
        lines = [*compared, *lines, f"tables:       {run.folder / 'profile' / 'profile.md'}"]
    console.rule("4 of 4: pictures")
    if drawn(run, results):
        lines.append(f"pictures:     {run.folder / 'bias'}")
    lines.append(f"TensorBoard:  tensorboard --logdir {run.folder / 'networks'}")
    out.print("\n".join(lines), markup=False, soft_wrap=True)


Results = Mapping[str, Sequence[Mapping[str, Any]]]
"""Name → what `retrain` said with each seed."""


def profiled(run: Run, names: Sequence[str], results: Results) -> tuple[Table, list[str]]:
    """Return the table of these networks, which is written too, and lines on the found network."""
    architectures = {name: run.architectures[name] for name in names}
    networks = {name: build(architecture) for name, architecture in architectures.items()}
    size = CUED.input_size
    counts = {name: profiling.count(architecture, size) for name, architecture in architectures.items()}
    profiles = profiling.profile(networks, size, counts=counts)
    accuracies = {name: [100 * row["test_accuracy"] for row in results[name]] for name in names if name in results}
    alone = {name: mean_and_deviation(values, " %") for name, values in accuracies.items()}
    extra = {f"test accuracy, {run.plan.alone} epochs from scratch": alone}
    lines = [f"run with {run.plan}"]
    if FOUND in architectures:
        found = architectures[FOUND]
        handed = 100 * measure(build(found, weights=run.searched / "network.pt"), ImageData(data_of(found))).score
        extra["with the search's weights"] = {FOUND: f"{handed:.1f} %"}
        warm = f"{run.plan.supernet} epochs in the supernet, {CUED.config.warm_epochs} alone"
        lines = [
            f"found: {' '.join(found.slots.values())}",
            *lines,
            *lead(accuracies, run.plan),
            f"with the search's weights it has {handed:.1f} % ({warm})",
            f"architecture: {run.searched / 'architecture.json'}",
        ]
    profiling.report(profiles, run.folder / "profile", extra)
    return profiling.table(profiles, extra), lines


def lead(accuracies: Mapping[str, Sequence[float]], plan: Plan) -> list[str]:
    """Say how far the found network is above or below the best reference, where both were trained."""
    means = {name: mean(values) for name, values in accuracies.items()}
    rivals = means.keys() - {FOUND}
    if FOUND not in means or not rivals:
        return []
    rival = max(rivals, key=means.__getitem__)
    error, note = "", "after so few epochs this may change"
    if plan.alone == FULL.alone:
        trained = 1 / len(accuracies[FOUND]) + 1 / len(accuracies[rival])
        error, note = f" ± {100 * shipped('cued').noise() * trained**0.5:.1f}", "standard error, by the noise of the cued table"
    points = means[FOUND] - means[rival]
    side = "above" if points >= 0 else "below"
    return [f"from scratch it is {abs(points):.1f}{error} points {side} {rival}, the best reference ({note})"]


def drawn(run: Run, results: Results) -> bool:
    """Draw the search, as far as it has come, and the trained networks that mix. Return False where there is neither."""
    begun = [run.searched, *sorted(run.experiment.glob("*/environments/*/trials/*"))]
    searches = [trial for trial in begun if (trial / HISTORY).exists()]
    if searches:
        draw_bias({SEARCH: searches[0]}, run.folder / "bias" / SEARCH)
    mixed = {
        f"{name}, seed {row['seed']}": trained(run.folder, name, row["seed"])
        for name, rows in results.items()
        if any(OperatorName.parse(operator).mixed for operator in run.architectures[name].slots.values())
        for row in rows
    }
    if mixed:
        draw_bias(mixed, run.folder / "bias" / "retrained")
    return bool(searches or mixed)

"""How long the demo takes on this machine, and with how many epochs it fits the time that there is."""

from __future__ import annotations

import math
import statistics
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, fields, replace
from datetime import datetime, timedelta

import torch
from torch.nn import functional as F

from acmix_nas.architecture import Architecture, build
from acmix_nas.research.benchmark.spaces import Space

__all__ = ["FULL", "PLANS", "Plan", "Times", "announcement", "choose", "expected", "step_seconds"]

BATCH = 64
EPOCH = 125
"""Steps of an epoch: 8,000 images by 64."""

# Work in steps of `step_seconds`, by CPU time of the same code as a search and three trainings of few epochs (AMD EPYC, one
# thread, 2026-11-25). A step took 0.10 s there; the parts that are not steps weigh somewhat more on a faster machine.
MIXTURE, PATH = 1.6 * EPOCH, 1.15 * EPOCH  # an epoch of the supernet: of its first third, and of the others
FINALISTS = 20 * EPOCH  # 81 architectures are ranked; four race, for 14 epochs in all
ALONE, IMAGES = 1.1 * EPOCH, 1.0 * EPOCH  # an epoch of a training; its images, figures and files
START, END = 5 * EPOCH, 4 * EPOCH  # imports, checks and NNI's server; profile and pictures


@dataclass(frozen=True)
class Plan:
    """With how much the demo is run.

    Attributes:
        supernet: its epochs.
        alone: epochs of each training from scratch.
        seeds: trainings of each network.
    """

    supernet: int
    alone: int
    seeds: int

    def __str__(self) -> str:
        """Say every number that is not that of the full plan as a part of it."""
        said = {"supernet": "epochs of the supernet", "alone": "epochs of each training from scratch", "seeds": "seeds"}
        numbers = ((field.name, getattr(self, field.name), getattr(FULL, field.name)) for field in fields(self))
        return ", ".join(
            f"{number} of {whole} {said[name]}" if number < whole else f"{number} {said[name]}"
            for name, number, whole in numbers
        )


FULL = Plan(supernet=40, alone=12, seeds=2)
PLANS = (FULL, Plan(40, 12, 1), Plan(30, 9, 1), Plan(24, 6, 1), Plan(16, 6, 1))
"""From all of it to the least that still tells one architecture from another."""


@dataclass(frozen=True)
class Times:
    """Seconds that the demo is expected to take: for the search and the references, for the found network, then the rest."""

    search: float
    found: float
    rest: float

    @classmethod
    def of(cls, plan: Plan, step: float, processes: int) -> Times:
        """Expect them of a plan.

        Args:
            step: seconds, see `step_seconds`.
            processes: trainings at a time; the search is one more process on the same cores.
        """
        first = plan.supernet // 3
        search = START + first * MIXTURE + (plan.supernet - first) * PATH + FINALISTS
        training = plan.alone * ALONE + IMAGES
        references = 3 * plan.seeds * training
        found = math.ceil(plan.seeds / processes) * training
        return cls(step * max(search, (search + references) / processes), step * found, step * END)

    @property
    def all(self) -> float:
        """Return the seconds of the whole demo."""
        return self.search + self.found + self.rest


def choose(step: float, processes: int, minutes: float, seeds: int | None = None) -> Plan:
    """Return the largest plan that takes at most so many minutes; where none does, the least.

    Args:
        step, processes: see `Times.of`.
        seeds: the number of seeds that every plan has; by default the plans say it.
    """
    plans = [plan if seeds is None else replace(plan, seeds=seeds) for plan in PLANS]
    return next((plan for plan in plans if Times.of(plan, step, processes).all <= 60 * minutes), plans[-1])


def announcement(plan: Plan, times: Times, full: Times, minutes: float, now: datetime) -> str:
    """Say when the demo is expected to end, and with how much less than all of it where that would take too long."""
    said = expected(times.all, now)
    if times.all < full.all:
        said += f", with {plan}: all of it would take about {math.ceil(full.all / 60)} min (--minutes {minutes:g})"
    if times.all > 60 * minutes:
        said += f"; that is more than --minutes {minutes:g}, but less would not tell one architecture from another"
    return said


def expected(seconds: float, now: datetime) -> str:
    """Say for how long something goes on, and until when."""
    return f"about {math.ceil(seconds / 60)} min, until {now + timedelta(seconds=seconds):%H:%M}"


def step_seconds(
    space: Space,
    architectures: Sequence[Architecture],
    seconds: float = 3.0,
    clock: Callable[[], float] = time.perf_counter,
) -> float:
    """Return the seconds of one training step, the mean over architectures, by the clock: what else runs here slows it down.

    Args:
        seconds: for how long to measure, at least; three rounds in any case.
    """
    device = torch.device("cuda" if torch.cuda.is_available() else "cpu")
    networks = [build(architecture).to(device).train() for architecture in architectures]
    optimizers = [torch.optim.AdamW(network.parameters(), lr=1e-4) for network in networks]
    images = torch.randn(BATCH, *space.input_size, device=device)
    labels = torch.randint(space.num_classes, (BATCH,), device=device)
    rounds: list[float] = []
    begun = clock()
    while len(rounds) < 4 or clock() - begun < seconds:
        start = clock()
        for network, optimizer in zip(networks, optimizers, strict=True):
            optimizer.zero_grad()
            F.cross_entropy(network(images), labels).backward()
            optimizer.step()
        if device.type == "cuda":
            torch.cuda.synchronize()
        rounds.append((clock() - start) / len(networks))
    return statistics.mean(rounds[1:])  # libraries load in the first

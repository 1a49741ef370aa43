"""What every architecture of a space reaches when it is trained alone: queries, the best under a budget, the noise."""

from __future__ import annotations

import json
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import asdict, dataclass, replace
from functools import cached_property
from importlib import resources
from itertools import combinations
from pathlib import Path
from typing import Any

import numpy as np
import torch
from scipy.stats import kendalltau

from acmix_nas.costs.budget import within
from acmix_nas.costs.registry import Entries
from acmix_nas.costs.table import CostTable
from acmix_nas.research.benchmark.spaces import NAMED, Choice, Space
from acmix_nas.searching.config import SearchConfig
from acmix_nas.strategies.sampled import SinglePathSearch
from acmix_nas.training.config import DataConfig
from acmix_nas.training.recipe import Recipe
from acmix_nas.util.errors import UserError, one_of
from acmix_nas.util.files import document, provenance, read_document, write_text
from acmix_nas.util.intervals import Interval, bootstrap
from acmix_nas.util.timing import device_name

__all__ = ["Latencies", "Run", "Table", "kendall", "shipped"]

PARTS = ("validation", "test")


def kendall(first: Sequence[float], second: Sequence[float]) -> float:
    """Compute Kendall's τ-b of two rankings. NaN where one of them is constant."""
    return float(kendalltau(first, second).statistic)


@dataclass(frozen=True)
class Run:
    """One training of one architecture alone.

    Attributes:
        choice: the operators, in the order of the slots.
        seed: of the weights, the order and, where they are drawn, the images.
        validation: accuracy on the search-validation part after every epoch, from 0 to 1.
        test: the same on the test part.
        seconds: of training and looking, on the table's machine, as `tabulate.spent` counts them.
    """

    choice: Choice
    seed: int
    validation: tuple[float, ...]
    test: tuple[float, ...]
    seconds: float

    def as_json(self) -> dict[str, Any]:
        """Return the run as a line of a file holds it."""
        return {**asdict(self), "choice": " ".join(self.choice)}

    @classmethod
    def of_json(cls, content: Mapping[str, Any]) -> Run:
        """Read what `as_json` gave."""
        lists = {part: tuple(content[part]) for part in PARTS}
        return cls(tuple(content["choice"].split()), content["seed"], lists["validation"], lists["test"], content["seconds"])


@dataclass(frozen=True)
class Latencies:
    """What a forward of one image takes on one machine, fused, in milliseconds; an architecture's is the sum of its entries.

    Attributes:
        operators: slot → operator → milliseconds.
        rest: of everything that is no slot.
        made: which command measured them, when, with which versions, on which machine and with how many threads.
    """

    operators: Mapping[str, Mapping[str, float]]
    rest: float
    made: Mapping[str, Any]

    @classmethod
    def measured(cls, space: Space) -> Latencies:
        """Measure the latencies of a space, on this machine's CPU."""
        table = space.latencies("cpu")
        operators = {slot: {name: costs["latency"] for name, costs in row.items()} for slot, row in table.costs.items()}
        made = {**provenance(), "machine": device_name(torch.device("cpu")), "threads": torch.get_num_threads()}
        return cls(operators, table.rest["latency"], made)


@dataclass(frozen=True)
class Table:
    """The runs of a space. Accuracies are those after the last epoch unless another is named, means over seeds.

    Attributes:
        space: what was trained.
        runs: in any order.
        made: which commands made them, when, where, with which versions, and how many runs each.
        latencies: of the machine that measured them; None where none did.
    """

    space: Space
    runs: tuple[Run, ...]
    made: tuple[Mapping[str, Any], ...] = ()
    latencies: Latencies | None = None

    def __post_init__(self) -> None:
        if not self.runs:
            raise UserError("runs must hold at least one training; train first")

    def of(self, space: Space) -> Table:
        """Return the same runs, read as those of a space that also says how it is searched.

        Raises:
            UserError: where they are of another one.
        """
        if self.space.settings != space.settings:
            raise UserError(f"table is of {self.space.name!r}, or of other settings than {space.name!r}; tabulate that")
        return replace(self, space=space)

    @cached_property
    def by_choice(self) -> dict[Choice, list[Run]]:
        """Return architecture → its runs, by seed."""
        found: dict[Choice, list[Run]] = {}
        for run in sorted(self.runs, key=lambda run: run.seed):
            found.setdefault(run.choice, []).append(run)
        return found

    @cached_property
    def choices(self) -> list[Choice]:
        """Return the architectures that were trained, in the order of the space."""
        order = {choice: i for i, choice in enumerate(self.space.choices())} if self.space.size < 10**6 else {}
        return sorted(self.by_choice, key=lambda choice: order.get(choice, 0))

    def seconds(self, choice: Sequence[str]) -> float:
        """Return the seconds of one training: the least over seeds, since whatever else the machine does only adds to it."""
        return min(run.seconds for run in self.by_choice[tuple(choice)])

    @property
    def seeds(self) -> list[int]:
        """Return the seeds under which every architecture was trained."""
        return sorted(set.intersection(*({run.seed for run in runs} for runs in self.by_choice.values())))

    def accuracy(self, choice: Sequence[str], part: str = "test", seed: int | None = None, epoch: int = -1) -> float:
        """Return the accuracy of an architecture, from 0 to 1. Without a seed it is the mean over seeds.

        Args:
            epoch: an index into the epochs; −1 is the last.

        Raises:
            UserError: for another part, or an architecture, a seed or an epoch that the table has not.
        """
        if part not in PARTS:
            raise one_of("part", part, PARTS)
        runs = self.by_choice.get(tuple(choice))
        if runs is None:
            known = len(self.by_choice)
            raise UserError(f"choice must be one of the {known} architectures in the table; got {' '.join(choice)!r}")
        runs = [run for run in runs if seed in (None, run.seed)]
        if not runs:
            raise UserError(f"seed must be one of {self.seeds}; got seed={seed}")
        if not -len(runs[0].test) <= epoch < len(runs[0].test):
            raise UserError(f"epoch must be below {len(runs[0].test)}; got epoch={epoch}")
        return float(np.mean([getattr(run, part)[epoch] for run in runs]))

    def accuracies(self, part: str = "test", seed: int | None = None, epoch: int = -1) -> dict[Choice, float]:
        """Return architecture → accuracy."""
        return {choice: self.accuracy(choice, part, seed, epoch) for choice in self.choices}

    @cached_property
    def costs(self) -> CostTable:
        """Return the costs of the space, and latencies where they were measured."""
        costs, latencies = self.space.costs, self.latencies
        return costs if latencies is None else costs.added("latency", Entries(latencies.operators, latencies.rest))

    def cost(self, choice: Sequence[str]) -> dict[str, float]:
        """Return cost → its value, of the whole network: multiply-adds, parameters and, where it was measured, latency."""
        return self.costs.of_architecture(self.space.by_slot(choice))

    def fits(self, choice: Sequence[str], budget: Mapping[str, float]) -> bool:
        """Return whether an architecture keeps within every limit.

        Raises:
            UserError: for a limit on something that the table does not know.
        """
        for name in budget:
            if name == "latency" and self.latencies is None:
                raise UserError(
                    "budget on latency needs a table that has latencies; make one with acmix-nas tabulate --latency"
                )
            if name not in self.costs.measures:
                raise one_of("budget", name, self.costs.measures)
        return within(self.costs, budget, self.space.by_slot(choice))

    def within(self, budget: Mapping[str, float] | None) -> list[Choice]:
        """Return the architectures that meet every limit.

        Raises:
            UserError: where none does; the message names the cheapest.
        """
        limits = dict(budget or {})
        met = [choice for choice in self.choices if self.fits(choice, limits)]
        if not met:
            cheapest = {name: min(self.cost(choice)[name] for choice in self.choices) for name in limits}
            raise UserError(f"no architecture meets {limits}; the cheapest of each are {cheapest}")
        return met

    def best(self, budget: Mapping[str, float] | None = None, part: str = "test") -> Choice:
        """Return the architecture of the highest accuracy under a budget."""
        return max(self.within(budget), key=lambda choice: self.accuracy(choice, part))

    def regret(self, choice: Sequence[str], budget: Mapping[str, float] | None = None) -> float:
        """Return how much test accuracy is lost against the best under the budget, by means over seeds.

        Raises:
            UserError: where the architecture does not meet the budget.
        """
        if not self.fits(choice, dict(budget or {})):
            raise UserError(f"choice must keep within {dict(budget or {})}; {' '.join(choice)!r} costs {self.cost(choice)}")
        return self.accuracy(self.best(budget)) - self.accuracy(choice)

    def ceiling(self, part: str = "test", among: Iterable[Choice] | None = None) -> Interval:
        """Compute Kendall's τ between the rankings of two seeds, mean over pairs.

        No method can be expected to exceed it by much.

        The interval is a bootstrap's over architectures. NaN with one seed.
        """
        chosen = self.choices if among is None else list(among)
        rows = [[self.accuracy(choice, part, seed) for seed in self.seeds] for choice in chosen]
        if len(self.seeds) < 2:
            return Interval(float("nan"), float("nan"), float("nan"))
        return bootstrap(_mean_tau, rows)

    def noise(self, part: str = "test") -> float:
        """Compute the standard deviation of one training's accuracy about its architecture's mean, over all architectures."""
        rows = [[self.accuracy(choice, part, seed) for seed in self.seeds] for choice in self.choices]
        return float(np.sqrt(np.var(rows, axis=1, ddof=1).mean())) if len(self.seeds) > 1 else float("nan")

    def top(self, share: float = 1 / 3, part: str = "test") -> list[Choice]:
        """Return the best share of the architectures, best first."""
        ranked = sorted(self.choices, key=lambda choice: -self.accuracy(choice, part))
        return ranked[: max(1, round(len(ranked) * share))]

    def stability(self, part: str = "test") -> list[float]:
        """Compute Kendall's τ of the ranking after every epoch with the last one's, by means over seeds."""
        epochs = len(self.runs[0].test)
        last = list(self.accuracies(part).values())
        return [kendall(list(self.accuracies(part, epoch=epoch).values()), last) for epoch in range(epochs)]

    def save(self, path: Path) -> Path:
        """Write the table: JSON with a run on each line, so that differences are readable."""
        space = self.space
        config = {
            "name": space.name,
            "settings": space.settings,
            "num_classes": space.num_classes,
            "budget": dict(space.budget),
        }
        head = document("table", {
            "made": list(self.made), "space": config,
            "slots": [slot.name for slot in space.slots],
            "costs": {" ".join(choice): self.cost(choice) for choice in self.choices},
        })  # fmt: skip
        if self.latencies is not None:
            head["latencies"] = asdict(self.latencies)
        lines = [f"  {json.dumps(key)}: {json.dumps(value)}" for key, value in head.items()]
        runs = ",\n".join(f"    {json.dumps(run.as_json())}" for choice in self.choices for run in self.by_choice[choice])
        return write_text(path, "{\n" + ",\n".join([*lines, f'  "runs": [\n{runs}\n  ]']) + "\n}\n")

    @classmethod
    def load(cls, path: Path) -> Table:
        """Read a table.

        Raises:
            UserError: where there is none, or it is of another format or version.
        """
        content = read_document(path, "table")
        try:
            said = content["space"]
            settings = said["settings"]
            data, recipe = DataConfig(**settings.pop("data")), Recipe(**settings.pop("recipe"))
            alone: dict[str, Any] = {"data": data, "recipe": recipe, "race_epochs": recipe.epochs}
            config = SearchConfig(**settings, **alone, method=SinglePathSearch(arc_warmup=0))
            space = Space(said["name"], config, said["num_classes"], said["budget"])
            runs = tuple(Run.of_json(run) for run in content["runs"])
            latencies = Latencies(**content["latencies"]) if "latencies" in content else None
        except (KeyError, TypeError) as error:
            raise UserError(f"table {str(path)!r} was written by another version ({error}); tabulate again") from None
        return cls(space, runs, tuple(content.get("made", ())), latencies)


def _mean_tau(rows: Any) -> float:
    pairs = combinations(range(rows.shape[1]), 2)
    return float(np.mean([kendall(rows[:, a], rows[:, b]) for a, b in pairs]))


def shipped(name: str = "cued") -> Table:
    """Load a table that comes with the package.

    Raises:
        UserError: where there is none of this name.
    """
    if name not in NAMED:
        raise one_of("table", name, NAMED)
    with resources.as_file(resources.files("acmix_nas.research.benchmark") / f"{name}.json") as path:
        if not path.exists():
            raise UserError(
                f"table: none of {name} comes with the package; make one with acmix-nas tabulate --space {name} "
                "--output table.json, and give it with --table table.json"
            )
        return Table.load(path).of(NAMED[name])

"""What a finished search knows of its architectures, to choose among them again."""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, replace
from pathlib import Path

from acmix_nas.architecture import Architecture, skeleton
from acmix_nas.costs.program import Scores, derive, log_probabilities
from acmix_nas.costs.table import CostTable
from acmix_nas.deploy.latency import timed
from acmix_nas.searching.front import Point, front, front_of
from acmix_nas.util.errors import UserError
from acmix_nas.util.files import provenance, read_json

__all__ = ["RANKING", "FinishedSearch"]

RANKING = "ranking.json"


@dataclass(frozen=True)
class FinishedSearch:
    """The architectures of a search: judged one by one (a single-path search), or by what their operators add up to.

    Attributes:
        found: what the search itself found.
        table: the costs.
        judged: (slot → operator, inherited accuracy), where the search judged one by one.
    """

    found: Architecture
    table: CostTable
    judged: tuple[tuple[dict[str, str], float], ...] = ()

    @classmethod
    def load(cls, saved: Path, measures: Iterable[str] = ()) -> FinishedSearch:
        """Read the folder of a search, or its architecture.json, and measure latencies where they are among the measures.

        Raises:
            UserError: where there is no finished search, or one that ranks nothing.
        """
        file = saved / "architecture.json" if saved.is_dir() else saved
        found, folder = Architecture.load(file), file.parent
        judged: tuple[tuple[dict[str, str], float], ...] = ()
        if (folder / RANKING).exists():
            rows = read_json(folder / RANKING, "ranking")["ranking"]
            judged = tuple((row["slots"], row["accuracy"]) for row in rows)
        if not judged and not found.probabilities:
            raise UserError(f"search {str(saved)!r} ranks no architectures; search by single_path, darts, gumbel or proxyless")
        backbone, slots = skeleton(found)
        size = (3, found.data["image_size"], found.data["image_size"])
        table = CostTable.of(backbone, slots, size)
        return cls(found, timed(table, backbone, slots, size) if "latency" in measures else table, judged)

    @property
    def scores(self) -> Scores:
        """What adds up to the worth of an architecture: its likelihood, where the search did not choose otherwise."""
        return self.found.scores or log_probabilities(self.found.probabilities)

    def within(self, limits: Mapping[str, float]) -> list[tuple[dict[str, str], float]]:
        """What was judged and meets the budget.

        Raises:
            UserError: where nothing does; the message names the cheapest of all architectures, or of those judged.
        """
        met = [one for one in self.judged if all(self.table.total(one[0], name) <= limit for name, limit in limits.items())]
        if not met:
            derive({slot: dict.fromkeys(row, 0.0) for slot, row in self.table.costs.items()}, self.table, limits)
            raise UserError(f"budget is met by none of the {len(self.judged)} architectures that were judged; search under it")
        return met

    def best(self, limits: Mapping[str, float]) -> Point:
        """The best within the budget."""
        if self.judged:
            choice, score = max(self.within(limits), key=lambda one: one[1])
        else:
            scores = self.scores
            choice = derive(scores, self.table, limits)
            score = sum(scores[slot][name] for slot, name in choice.items())
        return Point(choice, math.nan, score)

    def front(self, measure: str, limits: Mapping[str, float]) -> list[Point]:
        """The best for every budget on one cost, within the other limits."""
        self.table.check(measure)
        if self.judged:
            return front_of(self.within(limits), self.table, measure)
        return front(self.scores, self.table, measure, limits)

    def architecture(self, choice: Mapping[str, str], limits: Mapping[str, float]) -> Architecture:
        """A choice as a file holds it."""
        costs = self.table.of_architecture(choice)
        return replace(self.found, slots=choice, budget=dict(limits), metric=costs, made=provenance())

"""What a finished search knows of its architectures, to choose among them again."""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import asdict, dataclass, replace
from pathlib import Path

from torch import nn

from acmix_nas.architecture import Architecture, skeleton
from acmix_nas.costs.budget import within
from acmix_nas.costs.choose import Scores, any_within, best_within, log_probabilities
from acmix_nas.costs.table import COUNTED, CostTable
from acmix_nas.searching.front import Point, front, front_of
from acmix_nas.util.errors import UserError
from acmix_nas.util.files import provenance, read_document, write_document

__all__ = ["RANKING", "FinishedSearch", "Ranked", "write_ranking"]

RANKING = "ranking.json"


@dataclass(frozen=True)
class Ranked:
    """An architecture that a search has judged: slot → operator, the score it inherits, and its costs."""

    slots: Mapping[str, str]
    score: float
    costs: Mapping[str, float]


def write_ranking(path: Path, ranking: Sequence[Ranked]) -> Path:
    """Write what was judged, best first."""
    return write_document(path, "ranking", {"ranking": [asdict(one) for one in ranking]})


def read_ranking(path: Path) -> list[Ranked]:
    """Read what `write_ranking` wrote.

    Raises:
        UserError: where there is no such file, or it is no ranking.
    """
    return [Ranked(**row) for row in read_document(path, "ranking")["ranking"]]


@dataclass(frozen=True)
class FinishedSearch:
    """The architectures of a search: judged one by one (a single-path search), or by what their operators add up to.

    Attributes:
        found: the architecture that the search chose.
        table: the costs.
        ranking: what was judged one by one, where the search did so.
    """

    found: Architecture
    table: CostTable
    ranking: Sequence[Ranked] = ()

    @classmethod
    def load(cls, saved: Path, measures: Iterable[str] = (), backbone: nn.Module | None = None) -> FinishedSearch:
        """Read the folder of a search, or its architecture.json, and measure these costs beside those that are counted.

        Args:
            backbone: the user's module, where the search ran on one; it is changed in place.

        Raises:
            UserError: where there is no finished search, or one that ranks nothing.
        """
        file = saved / "architecture.json" if saved.is_dir() else saved
        found, folder = Architecture.load(file), file.parent
        ranking = read_ranking(folder / RANKING) if (folder / RANKING).exists() else []
        if not ranking and not found.probabilities:
            raise UserError(
                f"{str(saved)!r} ranks no architectures, as a training or a random search; "
                "give a search by single_path, darts, gumbel or proxyless"
            )
        network, slots = skeleton(found, backbone=backbone)
        table = CostTable.of(network, slots, found.input_size, dict.fromkeys((*COUNTED, *measures)))
        return cls(found, table, ranking)

    @property
    def scores(self) -> Scores:
        """Return what adds up to the worth of an architecture: its likelihood, where the search did not choose otherwise."""
        return self.found.scores or log_probabilities(self.found.probabilities)

    def within(self, limits: Mapping[str, float]) -> list[Ranked]:
        """Return what was judged and meets the budget.

        Raises:
            UserError: where nothing does; the message names the cheapest of all architectures, or of those judged.
        """
        met = [one for one in self.ranking if within(self.table, limits, one.slots)]
        if not met:
            any_within(self.table, limits)
            raise UserError(f"budget is met by none of the {len(self.ranking)} architectures that were judged; search under it")
        return met

    def best(self, limits: Mapping[str, float]) -> Point:
        """Return the best architecture within the budget."""
        if self.ranking:
            best = max(self.within(limits), key=lambda one: one.score)
            return Point(dict(best.slots), math.nan, best.score)
        scores = self.scores
        choice = best_within(scores, self.table, limits)
        return Point(choice, math.nan, sum(scores[slot][name] for slot, name in choice.items()))

    def front(self, measure: str, limits: Mapping[str, float]) -> list[Point]:
        """Return the best architecture for every budget on one cost, within the other limits."""
        self.table.check(measure)
        if self.ranking:
            return front_of([(dict(one.slots), one.score) for one in self.within(limits)], self.table, measure)
        return front(self.scores, self.table, measure, limits)

    def architecture(self, choice: Mapping[str, str], limits: Mapping[str, float]) -> Architecture:
        """Return a choice as a file holds it."""
        costs = self.table.of_architecture(choice)
        return replace(self.found, slots=choice, budget=dict(limits), metric=costs, made=provenance())

"""Local search: climb from random architectures to better neighbours, one slot at a time, by inherited weights."""

from __future__ import annotations

import random
from dataclasses import dataclass
from typing import Any

from acmix_nas import SearchStrategy, UserError, register_strategy
from acmix_nas.strategies.base import Choice, Shortlist, Supernet


@register_strategy("local_search")
@dataclass(frozen=True, kw_only=True)
class LocalSearch(SearchStrategy):
    """Train uniformly sampled paths, then climb.

    Args:
        climbs: how often it starts anew, from a random architecture.
    """

    climbs: int = 2

    def __post_init__(self) -> None:
        if self.climbs < 1:
            raise UserError(f"climbs must be at least 1; got climbs={self.climbs}")

    def one_shot(self, recipe: Any, table: Any) -> Any:  # noqa: ARG002
        from acmix_nas.strategies import SinglePath

        return SinglePath()

    def shortlist(self, supernet: Supernet, count: int, apart: int) -> Shortlist:
        from acmix_nas.costs.budget import within
        from acmix_nas.costs.choose import any_within, finalists_of
        from acmix_nas.supernet.ranking import Ranker

        ranker = Ranker.of(supernet.space.backbone, supernet.space.slots, supernet.data, supernet.task)
        judged: dict[tuple[str, ...], float] = {}

        def score(choice: Choice) -> float:
            names = tuple(choice.values())
            if names not in judged and within(supernet.table, supernet.budget, choice):
                judged[names] = ranker.score(choice)
            return judged.get(names, -1.0)

        draw = random.Random(supernet.seed)
        for _ in range(self.climbs):
            here = {slot: draw.choice(names) for slot, names in supernet.candidates.items()}
            here = here if score(here) >= 0 else any_within(supernet.table, supernet.budget)
            found: Choice = {}
            while here != found:
                found = here
                neighbours = [{**found, slot: name} for slot, names in supernet.candidates.items() for name in names]
                here = max([found, *neighbours], key=score)
        ranking = [(dict(zip(supernet.candidates, names, strict=True)), worth) for names, worth in judged.items()]
        ranking.sort(key=lambda pair: -pair[1])
        return Shortlist(finalists_of((choice for choice, _ in ranking), count, apart), ranking=ranking)

"""Strategies that score architectures one by one: single paths of a supernet, and random search without any."""

from __future__ import annotations

import itertools
import math
import random
from collections.abc import Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING

from acmix_nas.strategies.base import Choice, SearchStrategy, Shortlist, Supernet, check_warmup, register_strategy
from acmix_nas.util.errors import UserError

if TYPE_CHECKING:
    from nni.nas.oneshot.pytorch.strategy import OneShotStrategy

    from acmix_nas.costs.table import CostTable
    from acmix_nas.training.recipe import Recipe

__all__ = ["RandomSearch", "SinglePathSearch"]

DRAWS = 10_000


@register_strategy("single_path")
@dataclass(frozen=True, kw_only=True)
class SinglePathSearch(SearchStrategy):
    """Train uniformly sampled paths (Guo et al. 2020), then rank architectures by the weights they inherit. The default.

    Args:
        arc_warmup: epochs that train the mean of all candidates, by default a third.
        samples: architectures that are judged: all, where there are no more, or else by evolution.

    Example:
        >>> SinglePathSearch().warmup(epochs=12)
        4
    """

    warm_race = True

    arc_warmup: int | None = None
    samples: int = 100

    def __post_init__(self) -> None:
        if self.samples < 1:
            raise UserError(f"samples must be at least 1; got samples={self.samples}")

    def check(self, recipe: Recipe, finalists: int) -> None:  # noqa: ARG002
        check_warmup(self.warmup(recipe.epochs), recipe, self.arc_warmup)

    def warmup(self, epochs: int) -> int:
        return epochs // 3 if self.arc_warmup is None else self.arc_warmup

    def one_shot(self, recipe: Recipe, table: CostTable | None) -> OneShotStrategy:  # noqa: ARG002
        from acmix_nas.strategies.oneshot.single_path import SinglePath

        return SinglePath(warmup_epochs=self.warmup(recipe.epochs))

    def shortlist(self, supernet: Supernet, count: int, apart: int) -> Shortlist:
        from acmix_nas.costs.choose import finalists_of

        ranking = self.rank(supernet)
        return Shortlist(finalists_of((choice for choice, _ in ranking), count, apart), ranking=ranking)

    def rank(self, supernet: Supernet) -> list[tuple[Choice, float]]:
        """Return architectures within the budget and the scores they inherit, best first: all, or those evolution asks for."""
        from rich.console import Console
        from rich.progress import track

        from acmix_nas.costs.budget import within
        from acmix_nas.costs.choose import any_within
        from acmix_nas.strategies.evolution import RegularizedEvolution
        from acmix_nas.supernet.ranking import Ranker

        ranker = Ranker.of(supernet.space.backbone, supernet.space.slots, supernet.data, supernet.task)
        candidates, console = supernet.candidates, Console(stderr=True)
        ranking: list[tuple[Choice, float]] = []

        def feasible(choice: Mapping[str, str]) -> bool:
            return within(supernet.table, supernet.budget, choice)

        if math.prod(map(len, candidates.values())) <= self.samples:
            choices = (dict(zip(candidates, one, strict=True)) for one in itertools.product(*candidates.values()))
            ordered = ranker.in_tree_order(filter(feasible, choices))
            for choice in track(ordered, "ranking", console=console, disable=not supernet.progress, transient=True):
                ranking.append((choice, ranker.score(choice)))
        else:
            evolution = RegularizedEvolution(candidates, feasible, seed=supernet.seed)
            samples = range(self.samples)
            for number in track(samples, "evolving", console=console, disable=not supernet.progress, transient=True):
                try:
                    choice = evolution.ask()
                except UserError:  # fewer are within the budget than samples, or so few that draws do not find them
                    if number:
                        break
                    choice = any_within(supernet.table, supernet.budget)
                score = ranker.score(choice)
                evolution.tell(choice, score)
                ranking.append((choice, score))
        return sorted(ranking, key=lambda pair: -pair[1])


@register_strategy("random")
@dataclass(frozen=True, kw_only=True)
class RandomSearch(SearchStrategy):
    """Train random architectures within the budget from scratch: the baseline of every search."""

    supernet = False

    def check(self, recipe: Recipe, finalists: int) -> None:  # noqa: ARG002
        if finalists < 2:
            raise UserError("finalists must be at least 2 with strategy random, which has nothing else to choose by; got 1")

    def shortlist(self, supernet: Supernet, count: int, apart: int) -> Shortlist:  # noqa: ARG002
        from acmix_nas.costs.budget import within

        generator = random.Random(supernet.seed)
        drawn: dict[tuple[str, ...], Choice] = {}
        for _ in range(DRAWS):
            choice = {name: generator.choice(names) for name, names in supernet.candidates.items()}
            if within(supernet.table, supernet.budget, choice):
                drawn.setdefault(tuple(choice.values()), choice)
            if len(drawn) == count:
                break
        if not drawn:
            raise UserError(f"budget leaves less than one in {DRAWS} architectures: random draws do not find them; widen it")
        return Shortlist(list(drawn.values()))

"""Evolution that asks for nothing twice and for nothing over the budget."""

from __future__ import annotations

import random
from collections import deque
from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import Any

from acmix_nas.util.errors import UserError

__all__ = ["RegularizedEvolution"]

Operators = tuple[str, ...]
TRIES = 2000


class RegularizedEvolution:
    """Aging evolution (Real et al. 2019): the best of a random few is mutated at one slot, and the oldest dies.

    It differs in three ways, since a search may be short. It never asks for what is over the budget. It never asks again for
    what it knows. Where every mutant of a parent is known a second slot mutates, and so on.

    Args:
        candidates: slot → its operators.
        feasible: whether an architecture is within the budget; all are by default.
        population: how many are alive; the first so many are drawn uniformly.
        tournament: of how many the best becomes a parent.
        seed: of all draws.

    Raises:
        UserError: where population or tournament are not positive.
    """

    def __init__(
        self,
        candidates: Mapping[str, Sequence[str]],
        feasible: Callable[[Mapping[str, str]], bool] | None = None,
        population: int = 8,
        tournament: int = 4,
        seed: int = 0,
    ) -> None:
        for name, value in (("population", population), ("tournament", tournament)):
            if value < 1:
                raise UserError(f"{name} must be at least 1; got {name}={value}")
        self.candidates = {slot: tuple(names) for slot, names in candidates.items()}
        self.feasible = feasible or (lambda _: True)
        self.population, self.tournament = population, tournament
        self.generator = random.Random(seed)
        self.alive: deque[tuple[Operators, float]] = deque(maxlen=population)
        self.asked: set[Operators] = set()

    def ask(self) -> dict[str, str]:
        """Return an architecture to try.

        Raises:
            UserError: where draws find none within the budget, or none that was not asked for.
        """
        for parent in self._parents():
            for tried in range(TRIES):
                slots = 1 + tried * len(self.candidates) // TRIES
                operators = self._uniform() if parent is None else self._mutant(parent, slots)
                choice = dict(zip(self.candidates, operators, strict=True))
                if operators not in self.asked and self.feasible(choice):
                    self.asked.add(operators)
                    return choice
        raise UserError(
            f"budget leaves nothing new: {TRIES} draws found no architecture within it besides {len(self.asked)} known"
        )

    def tell(self, choice: Mapping[str, str], score: float) -> None:
        """Record what an architecture is worth; the larger the better."""
        operators = tuple(choice[slot] for slot in self.candidates)
        self.asked.add(operators)
        self.alive.append((operators, score))

    def _parents(self) -> Iterator[Operators | None]:
        """Yield the parents to ask for a mutant.

        None stands for a uniform draw, while the population grows and as long as draws find any.
        """
        if len(self.alive) < self.population:
            yield None
        if self.alive:
            drawn = self.generator.sample(list(self.alive), min(self.tournament, len(self.alive)))
            yield max(drawn, key=lambda pair: pair[1])[0]

    def _uniform(self) -> Operators:
        return tuple(self.generator.choice(names) for names in self.candidates.values())

    def _mutant(self, parent: Operators, slots: int) -> Operators:
        mutant = list(parent)
        for i in self.generator.sample(range(len(parent)), slots):
            others = [name for name in list(self.candidates.values())[i] if name != parent[i]]
            mutant[i] = self.generator.choice(others) if others else parent[i]
        return tuple(mutant)

    def state_dict(self) -> dict[str, Any]:
        """Return everything that the next `ask` depends on, as JSON holds it."""
        version, numbers, gauss = self.generator.getstate()
        return {
            "alive": [[list(operators), score] for operators, score in self.alive],
            "asked": sorted(map(list, self.asked)),
            "generator": [version, list(numbers), gauss],
        }

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """Go on where `state_dict` was taken."""
        self.alive = deque(((tuple(operators), score) for operators, score in state["alive"]), maxlen=self.population)
        self.asked = {tuple(operators) for operators in state["asked"]}
        version, numbers, gauss = state["generator"]
        self.generator.setstate((version, tuple(numbers), gauss))

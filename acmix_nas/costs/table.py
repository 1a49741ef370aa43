"""What every operator costs at every slot, and what an architecture costs in all."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor, nn

from acmix_nas.costs.registry import COSTS, Cost, Entries
from acmix_nas.costs.survey import survey
from acmix_nas.slots.finding import Slot
from acmix_nas.util.errors import one_of

__all__ = ["COUNTED", "CostTable"]

COUNTED = ("macs", "parameters")
"""The costs that a table holds where no others are asked for."""


@dataclass(frozen=True)
class CostTable:
    """Costs by slot and operator. The cost of an architecture is the sum of its entries and of the rest of the backbone.

    Attributes:
        costs: slot → operator → measure → value.
        rest: measure → value of everything that is no slot.
    """

    costs: Mapping[str, Mapping[str, Mapping[str, float]]]
    rest: Mapping[str, float]

    @classmethod
    def of(
        cls, network: nn.Module, slots: Sequence[Slot], input_size: Sequence[int], measures: Iterable[str | Cost] = COUNTED
    ) -> CostTable:
        """Count and measure a backbone.

        Args:
            network: the backbone, whatever stands at its slots.
            slots: its slots.
            input_size: (channels, height, width) of one image.
            measures: names of costs, or costs with settings, as in `Latency(device="cpu")`; what is named twice is taken once.

        Raises:
            UserError: for an unknown cost, or a slot that takes no part in the forward or runs more than once.
        """
        asked = [COSTS.get(measure)() if isinstance(measure, str) else measure for measure in measures]
        found = survey(network, slots, input_size)
        table = cls({slot.name: {name: {} for name in slot.candidates} for slot in slots}, {})
        for measure in asked:
            if measure.name not in table.rest:
                table = table.added(measure.name, measure.table(found))
        return table

    def added(self, measure: str, entries: Entries) -> CostTable:
        """Return the table with one more cost."""
        costs = {
            slot: {operator: {**values, measure: entries.operators[slot][operator]} for operator, values in row.items()}
            for slot, row in self.costs.items()
        }
        return CostTable(costs, {**self.rest, measure: entries.rest})

    @property
    def measures(self) -> tuple[str, ...]:
        """Return the costs that the table knows."""
        return tuple(self.rest)

    def check(self, measure: str) -> None:
        """Check that the table knows a cost.

        Raises:
            UserError: where it does not.
        """
        if measure not in self.rest:
            raise one_of("cost", measure, self.measures)

    def values(self, measure: str) -> dict[str, list[float]]:
        """Return slot → cost of each candidate, in the candidates' order."""
        self.check(measure)
        return {slot: [values[measure] for values in row.values()] for slot, row in self.costs.items()}

    def expected(self, probabilities: Mapping[str, Tensor], measure: str = "macs") -> Tensor:
        """Return the expected cost of the slots over its mean over the space; differentiable in the probabilities.

        1 is the mean of the space (all candidates equally likely). Args: slot → (candidates,) probabilities.
        """
        values = self.values(measure)
        mean = sum(sum(row) / len(row) for row in values.values())
        terms = [p @ p.new_tensor(values[slot]) for slot, p in probabilities.items()]
        return torch.stack(terms).sum() / mean

    def of_architecture(self, choice: Mapping[str, str]) -> dict[str, float]:
        """Return every cost of a whole architecture."""
        return {measure: self.total(choice, measure) for measure in self.measures}

    def total(self, choice: Mapping[str, str], measure: str = "macs") -> float:
        """Return the cost of a whole architecture."""
        self.check(measure)
        return self.rest[measure] + sum(self.costs[slot][operator][measure] for slot, operator in choice.items())

    def least(self, measure: str) -> float:
        """Return what the cheapest architecture costs."""
        return self.rest[measure] + sum(map(min, self.values(measure).values()))

    def most(self, measure: str) -> float:
        """Return what the dearest architecture costs."""
        return self.rest[measure] + sum(map(max, self.values(measure).values()))

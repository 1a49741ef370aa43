"""How decided a distribution over architectures is. Nothing here needs NNI."""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Mapping
from dataclasses import asdict, dataclass
from typing import Any

from acmix_nas.bias.observation import entropy

__all__ = ["COIN_FLIP", "Decision"]

COIN_FLIP = 0.05
"""A lead in probability below which a slot's first operator is no better than its second: another seed turns it over."""


@dataclass(frozen=True)
class Decision:
    """What a distribution says, before anything is derived from it.

    A search that ends undecided has chosen by noise. One that ends with the same operator everywhere may have followed what
    learns fastest rather than what is best. That is the known collapse of DARTS (Zela et al. 2020, Chu et al. 2020). Neither
    shows in an accuracy.

    Attributes:
        entropy: mean over the slots, in units of the largest possible one: 1 is undecided, 0 decided.
        operator: the one that is first at most slots.
        dominance: share of the slots where it is first.
        leads: slot → probability of the first operator minus that of the second; 1 where there is but one.
    """

    entropy: float
    operator: str
    dominance: float
    leads: Mapping[str, float]

    @classmethod
    def of(cls, probabilities: Mapping[str, Mapping[str, float]]) -> Decision:
        """Compute the decision from slot → operator → probability."""
        largest = sum(math.log(len(row)) for row in probabilities.values())
        spread = sum(entropy(row.values()) for row in probabilities.values())
        first = Counter(max(row, key=lambda name: row[name]) for row in probabilities.values())
        operator, slots = first.most_common(1)[0]
        leads = {}
        for slot, row in probabilities.items():
            best, *others = sorted(row.values(), reverse=True)
            leads[slot] = best - others[0] if others else 1.0
        return cls(spread / largest if largest else 0.0, operator, slots / len(probabilities), leads)

    @property
    def coin_flips(self) -> list[str]:
        """Return the slots that are not decided."""
        return [slot for slot, lead in self.leads.items() if lead < COIN_FLIP]

    def as_json(self) -> dict[str, Any]:
        """Return the content that result.json holds."""
        return {"said": str(self), **asdict(self), "coin_flips": self.coin_flips}

    def __str__(self) -> str:
        """Return the decision in one line."""
        flips = f"coin flips (a lead below {COIN_FLIP:g}): {', '.join(self.coin_flips)}" if self.coin_flips else "no coin flip"
        count, slots = round(self.dominance * len(self.leads)), len(self.leads)
        return f"entropy {self.entropy:.2f} of 1; {self.operator} is first at {count} of {slots} slots; {flips}"

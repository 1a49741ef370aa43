"""Limits on costs: as a person types them ("macs=1.2M", "latency=3ms"), and whether an architecture is within them."""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping

from acmix_nas.costs.registry import COSTS, cost_named
from acmix_nas.costs.table import CostTable
from acmix_nas.util.errors import UserError

__all__ = ["Budget", "infeasible", "parse_budget", "show", "texts_of", "within"]

Budget = Mapping[str, float | str] | Iterable[str] | str
"""Limits: {"macs": 60e6, "latency": "3ms"}, or texts such as "macs=1.2M,latency=3ms"."""
ROUNDING = 1e-12
"""An architecture that costs as much as allowed is within the budget, whichever way its sum was rounded."""


def parse_budget(budget: Budget) -> dict[str, float]:
    """Return cost → the largest allowed, in the unit of the cost: latencies in milliseconds.

    Raises:
        UserError: for an unknown cost, one named twice, or what is no positive number with a unit that fits.

    Example:
        >>> parse_budget("macs=1.2M,params=300k")
        {'macs': 1200000.0, 'parameters': 300000.0}
        >>> parse_budget({"macs": 60e6, "latency": "300us"})
        {'macs': 60000000.0, 'latency': 0.3}
    """
    limits: dict[str, float] = {}
    for said, value, text in _parts(budget):
        cost = cost_named(said, "budget")
        number = cost.parse(value) if isinstance(value, str) else float(value) if isinstance(value, int | float) else math.nan
        if not 0 < number < math.inf:
            raise UserError(f"budget {cost.name} must be a positive number, as in {cost.name}={cost.example}; got {text!r}")
        if cost.name in limits:
            raise UserError(f"budget must name {cost.name} once; got it twice")
        limits[cost.name] = number
    return limits


def _parts(budget: Budget) -> Iterable[tuple[str, float | str, str]]:
    """Return name, value, and both as they were given."""
    if isinstance(budget, Mapping):
        return [(name, value, f"{name}={value}") for name, value in budget.items()]
    texts = [budget] if isinstance(budget, str) else budget
    parts = (part for text in texts for part in text.split(","))
    return ((name.strip(), value, part) for part in parts for name, _, value in [part.partition("=")])


def texts_of(budget: Budget) -> list[str]:
    """Return limits as texts, which files and the command line hold: "macs=60M"."""
    return [text.strip() for _, _, text in _parts(budget)]


def show(measure: str, value: float) -> str:
    """Return a cost with its unit: 1.20 M, 26.1 k, 3.21 ms."""
    return COSTS.get(measure).show(value)


def within(table: CostTable, limits: Mapping[str, float], choice: Mapping[str, str]) -> bool:
    """Return whether an architecture meets every limit.

    Raises:
        UserError: for a limit on a cost that the table does not know.
    """
    return all(table.total(choice, measure) <= limit * (1 + ROUNDING) for measure, limit in limits.items())


def infeasible(table: CostTable, limits: Mapping[str, float]) -> UserError:
    """Return the error for limits that no architecture meets; it says what the cheapest ones cost, of each cost alone."""
    shown = ", ".join(f"{measure} ≤ {show(measure, limit)}" for measure, limit in limits.items())
    least = {measure: table.least(measure) for measure in limits}
    words = ", ".join(f"{show(measure, value)} of {measure}" for measure, value in least.items())
    if all(least[measure] <= limit for measure, limit in limits.items()):
        said = f"each limit alone can be met (the cheapest has {words}), all together not: widen one"
    else:
        said = f"the cheapest has {words}"
    return UserError(f"budget {shown} is met by no architecture; {said}")

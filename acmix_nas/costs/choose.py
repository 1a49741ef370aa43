"""From scores to architectures: the best within a budget by an integer program, and finalists that differ."""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping

import numpy as np
from scipy.optimize import Bounds, LinearConstraint, milp

from acmix_nas.costs.budget import infeasible, within
from acmix_nas.costs.table import CostTable

__all__ = ["Scores", "any_within", "best_within", "finalists_of", "finalists_within", "log_probabilities"]

Scores = Mapping[str, Mapping[str, float]]
"""Slot → operator → what it adds to the score of an architecture, such as its log-probability."""
TINY = 1e-30
SLACK = 1e-6
"""Given to the solver's constraints, since HiGHS cuts off what meets one exactly; what exceeds a budget is sorted out after."""


def best_within(scores: Scores, table: CostTable, budget: Mapping[str, float] | None = None) -> dict[str, str]:
    """Choose the architecture of the largest sum of scores, one candidate per slot, within every limit: an integer program.

    Args:
        scores: of every candidate; −∞ is never chosen.
        table: costs of the same candidates.
        budget: cost → the largest allowed of the whole network.

    Raises:
        UserError: where no architecture meets the budget; the message names the cheapest there is.
    """
    return finalists_within(scores, table, budget, 1)[0]


def any_within(table: CostTable, budget: Mapping[str, float]) -> dict[str, str]:
    """Choose an architecture within the budget, however bad.

    Raises:
        UserError: where there is none; the message names the cheapest.
    """
    return best_within({slot: dict.fromkeys(row, 0.0) for slot, row in table.costs.items()}, table, budget)


def finalists_within(
    scores: Scores, table: CostTable, budget: Mapping[str, float] | None = None, count: int = 1, apart: int = 1
) -> list[dict[str, str]]:
    """Choose the best architectures within every limit, best first; fewer where there are no more.

    Arguments and errors are those of `best_within`, and:

    Args:
        count: how many to choose.
        apart: slots in which those of the second half differ from all before them, at least.
    """
    limits = dict(budget or {})
    columns = [(slot, operator) for slot, row in scores.items() for operator in row]
    values = np.array([scores[slot][operator] for slot, operator in columns], dtype=float)
    one_each = np.array([[float(slot == of) for slot, _ in columns] for of in scores])
    constraints = [LinearConstraint(one_each, 1, 1)]
    for measure, limit in limits.items():
        rest = table.total({}, measure)
        row = np.array([table.costs[slot][operator][measure] for slot, operator in columns])
        room = limit - rest
        scale = max(np.abs(row).max(), abs(room)) or 1.0  # the solver's tolerances are absolute
        constraints.append(LinearConstraint(row[None] / scale, -np.inf, room / scale + SLACK))
    bounds = Bounds(0, np.isfinite(values).astype(float))
    gain = np.where(np.isfinite(values), values, 0.0)
    gain = gain / max(np.abs(gain).max(), 1e-12)
    found: list[dict[str, str]] = []
    taken, refused = list[np.ndarray](), list[np.ndarray]()
    while len(found) < count:
        least = 1 if len(found) < best_half(count) else apart
        cuts = [LinearConstraint(one[None], -np.inf, len(scores) - least) for one in taken]
        cuts += [LinearConstraint(one[None], -np.inf, len(scores) - 1) for one in refused]
        all_of_them = [*constraints, *cuts]
        solved = milp(-gain, constraints=all_of_them, bounds=bounds, integrality=1, options={"mip_rel_gap": 0.0})
        if solved.x is None:
            break
        chosen = np.round(solved.x)
        choice = {slot: operator for (slot, operator), is_in in zip(columns, chosen, strict=True) if is_in}
        if within(table, limits, choice):
            found.append(choice)
            taken.append(chosen)
        else:
            refused.append(chosen)  # what the solver's tolerance let through
    if not found:
        raise infeasible(table, limits)
    return found


def best_half(count: int) -> int:
    """Return how many of so many finalists are simply the best ones."""
    return (count + 1) // 2


def finalists_of(best_first: Iterable[Mapping[str, str]], count: int, apart: int) -> list[dict[str, str]]:
    """Pick finalists of a ranking: the best half, then the next-best that differ from every earlier pick in `apart` slots."""
    ranking = list(map(dict, best_first))
    half = best_half(count)
    found = ranking[:half]
    for choice in ranking[half:]:
        if len(found) < count and all(sum(choice[slot] != other[slot] for slot in choice) >= apart for other in found):
            found.append(choice)
    return found


def log_probabilities(probabilities: Mapping[str, Mapping[str, float]]) -> dict[str, dict[str, float]]:
    """Return scores that add up to the log-likelihood of an architecture."""
    return {slot: {name: math.log(max(p, TINY)) for name, p in row.items()} for slot, row in probabilities.items()}

"""From a supernet to a network: which operator at each slot, under which budget, and with which weights."""

from __future__ import annotations

import copy
import math
from collections.abc import Iterable, Mapping
from typing import Any

import numpy as np
from scipy.optimize import Bounds, LinearConstraint, milp
from torch import nn

from acmix_nas.costs.budget import show
from acmix_nas.costs.table import CostTable
from acmix_nas.util.errors import UserError

__all__ = ["Scores", "derive", "inherit", "log_probabilities", "ranked"]

Scores = Mapping[str, Mapping[str, float]]
"""Slot → operator → what it adds to the score of an architecture, such as its log-probability."""
TINY = 1e-30
SLACK = 1e-6
"""Given to the solver's constraints, since HiGHS cuts off what meets one exactly; what exceeds a budget is sorted out after."""
ROUNDING = 1e-12
"""An architecture that costs as much as allowed is within the budget, whichever way its sum was rounded."""


def derive(scores: Scores, table: CostTable, budget: Mapping[str, float] | None = None) -> dict[str, str]:
    """The architecture of the largest sum of scores, one candidate per slot, within every limit: an integer program.

    Args:
        scores: of every candidate; −∞ is never chosen.
        table: costs of the same candidates.
        budget: cost → the largest allowed of the whole network.

    Raises:
        UserError: where no architecture meets the budget; the message names the cheapest there is.
    """
    return ranked(scores, table, budget, 1)[0]


def ranked(
    scores: Scores, table: CostTable, budget: Mapping[str, float] | None = None, count: int = 1, apart: int = 1
) -> list[dict[str, str]]:
    """The best architectures within every limit, best first; fewer where there are no more. Otherwise as `derive`.

    Args:
        apart: slots in which those of the second half differ from all before them, at least.
    """
    limits = dict(budget or {})
    columns = [(slot, operator) for slot, row in scores.items() for operator in row]
    values = np.array([scores[slot][operator] for slot, operator in columns], dtype=float)
    one_each = np.array([[float(slot == of) for slot, _ in columns] for of in scores])
    constraints = [LinearConstraint(one_each, 1, 1)]
    for measure, limit in limits.items():
        rest = table.total({}, measure)
        costs = {slot: dict(zip(table.costs[slot], row, strict=True)) for slot, row in table.values(measure).items()}
        row = np.array([costs[slot][operator] for slot, operator in columns])
        room = limit - rest
        scale = max(np.abs(row).max(), abs(room)) or 1.0  # the solver's tolerances are absolute
        constraints.append(LinearConstraint(row[None] / scale, -np.inf, room / scale + SLACK))
    bounds = Bounds(0, np.isfinite(values).astype(float))
    gain = np.where(np.isfinite(values), values, 0.0)
    gain = gain / max(np.abs(gain).max(), 1e-12)
    found: list[dict[str, str]] = []
    taken, refused = list[np.ndarray](), list[np.ndarray]()
    while len(found) < count:
        least = 1 if len(found) < near(count) else apart
        cuts = [LinearConstraint(one[None], -np.inf, len(scores) - least) for one in taken]
        cuts += [LinearConstraint(one[None], -np.inf, len(scores) - 1) for one in refused]
        all_of_them = [*constraints, *cuts]
        solved = milp(-gain, constraints=all_of_them, bounds=bounds, integrality=1, options={"mip_rel_gap": 0.0})
        if solved.x is None:
            break
        chosen = np.round(solved.x)
        choice = {slot: operator for (slot, operator), is_in in zip(columns, chosen, strict=True) if is_in}
        if all(table.total(choice, measure) <= limit * (1 + ROUNDING) for measure, limit in limits.items()):
            found.append(choice)
            taken.append(chosen)
        else:
            refused.append(chosen)  # what the solver's tolerance let through
    if not found:
        raise UserError(f"budget {_shown(limits)} is met by no architecture; {_cheapest(table, limits)}")
    return found


def near(count: int) -> int:
    """How many of so many finalists are simply the best ones."""
    return (count + 1) // 2


def spread(best_first: Iterable[Mapping[str, str]], count: int, apart: int) -> list[dict[str, str]]:
    """So many of a ranking: the best ones, and from the second half on those that differ from all before in so many slots."""
    ranking = list(map(dict, best_first))
    found = ranking[: near(count)]
    for choice in ranking[near(count) :]:
        if len(found) < count and all(sum(choice[slot] != other[slot] for slot in choice) >= apart for other in found):
            found.append(choice)
    return found


def log_probabilities(probabilities: Mapping[str, Mapping[str, float]]) -> dict[str, dict[str, float]]:
    """What adds up to the likelihood of an architecture: scores for `derive`."""
    return {slot: {name: math.log(max(p, TINY)) for name, p in row.items()} for slot, row in probabilities.items()}


def _shown(limits: Mapping[str, float]) -> str:
    return ", ".join(f"{measure} ≤ {show(measure, limit)}" for measure, limit in limits.items())


def _cheapest(table: CostTable, limits: Mapping[str, float]) -> str:
    """What the cheapest architectures cost, of each cost alone."""
    least = {measure: table.total({}, measure) + sum(map(min, table.values(measure).values())) for measure in limits}
    words = ", ".join(f"{show(measure, value)} of {measure}" for measure, value in least.items())
    if all(least[measure] <= limit for measure, limit in limits.items()):
        return f"each limit alone can be met (the cheapest has {words}), all together not: widen one"
    return f"the cheapest has {words}"


def inherit(space: Any, choice: Mapping[str, str]) -> nn.Module:
    """The network of a choice with the weights of the supernet, sharing none of them with it.

    It equals the supernet with that choice made, to rounding, and needs no NNI.

    Args:
        space: a `HybridSpace`, as it stands or turned into a supernet by a one-shot strategy.

    Raises:
        nni.mutable.SampleValidationError: where the choice misses a slot or names no candidate.
    """
    space.validate(dict(choice))
    return copy.deepcopy(space.freeze(dict(choice)).backbone)

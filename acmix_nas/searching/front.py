"""The front of a search: for every budget, the architecture that it likes best."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import NamedTuple

from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure
from rich.table import Table

from acmix_nas.costs.budget import show
from acmix_nas.costs.choose import Scores, best_within
from acmix_nas.costs.registry import COSTS
from acmix_nas.costs.table import CostTable
from acmix_nas.util.errors import UserError
from acmix_nas.util.files import unused, write_csv

__all__ = ["Point", "front", "front_of", "table_of", "write"]

STEP = 1e-6
"""By what share the next architecture must be cheaper."""


class Point(NamedTuple):
    """An architecture of the front, its cost, and its score: the sum of log-probabilities, or an accuracy."""

    choice: dict[str, str]
    cost: float
    score: float


def front(scores: Scores, table: CostTable, measure: str, budget: Mapping[str, float] | None = None) -> list[Point]:
    """Return the front, from the best to the cheapest: each point is the best of all that cost less than the one before.

    Args:
        scores: slot → operator → what it adds.
        measure: the cost that is swept.
        budget: limits on this cost and on others, which all points meet.

    Raises:
        UserError: where no architecture meets the budget.
    """
    limits = dict(budget or {})
    table.check(measure)
    points: list[Point] = []
    while True:
        try:
            choice = best_within(scores, table, limits)
        except UserError:
            if points:
                return points
            raise
        cost = table.total(choice, measure)
        points.append(Point(choice, cost, sum(scores[slot][name] for slot, name in choice.items())))
        limits[measure] = cost * (1 - STEP)


def front_of(judged: Iterable[tuple[dict[str, str], float]], table: CostTable, measure: str) -> list[Point]:
    """Return the front of architectures that were scored one by one, from the best to the cheapest that nothing beats."""
    points = [Point(choice, table.total(choice, measure), score) for choice, score in judged]
    points.sort(key=lambda point: (-point.score, point.cost))
    kept: list[Point] = []
    for point in points:
        if not kept or point.cost < kept[-1].cost * (1 - STEP):
            kept.append(point)
    return kept


def table_of(points: Iterable[Point], measure: str) -> Table:
    """Show the points in a table for the terminal."""
    table = Table("point", measure, "score", "operators")
    for number, point in enumerate(points, start=1):
        table.add_row(str(number), show(measure, point.cost), f"{point.score:.4g}", " ".join(point.choice.values()))
    return table


def write(points: list[Point], measure: str, folder: Path) -> list[Path]:
    """Write front.csv and front.png.

    Raises:
        UserError: where there is one already.
    """
    files = [folder / "front.csv", folder / "front.png"]
    unused(*files)
    rows: list[list[str | float | None]] = [
        [number, point.cost, point.score, *point.choice.values()] for number, point in enumerate(points, start=1)
    ]
    write_csv(files[0], "front", ["point", measure, "score", *points[0].choice], rows)
    figure = Figure(figsize=(6, 4), layout="constrained")
    FigureCanvasAgg(figure)
    axes = figure.add_subplot()
    costs, scores = [point.cost for point in points[::-1]], [point.score for point in points[::-1]]
    axes.step(costs, scores, where="post", color="#9aa5b1")
    axes.plot(costs, scores, "o", color="#1f5fa8")
    axes.set_xlabel(COSTS.get(measure).axis())
    axes.set_ylabel("score")
    figure.savefig(files[1], dpi=150)
    return files

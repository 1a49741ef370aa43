"""The front, against trying all architectures."""

from __future__ import annotations

from pathlib import Path

import pytest
from hypothesis import given, settings

from acmix_nas.costs.choose import Scores
from acmix_nas.costs.table import CostTable
from acmix_nas.searching.front import front, front_of, table_of, write
from acmix_nas.util.errors import UserError
from tests.costs.test_choose import SCORES, TABLE, all_of, problems, score_of


def brute(scores: Scores, table: CostTable) -> list[tuple[float, float]]:
    """Return (cost, score) of all architectures that no other one beats."""
    points = {(table.total(choice, "macs"), score_of(scores, choice)) for choice in all_of(scores)}
    return sorted(p for p in points if not any(q[0] <= p[0] * (1 - 2e-6) and q[1] >= p[1] - 1e-9 for q in points))


@settings(deadline=None, max_examples=30)
@given(problems())
def test_every_point_is_the_best_of_what_costs_no_more(problem: tuple[Scores, CostTable, dict[str, float]]) -> None:
    scores, table, _ = problem
    points = front(scores, table, "macs")
    costs = [point.cost for point in points]
    assert costs == sorted(costs, reverse=True)
    for point in points:
        cheaper = [score_of(scores, c) for c in all_of(scores) if table.total(c, "macs") <= point.cost * (1 + 1e-12)]
        assert point.score == pytest.approx(max(cheaper), abs=1e-5)
    assert points[0].score == pytest.approx(max(score_of(scores, choice) for choice in all_of(scores)), abs=1e-5)
    assert points[-1].cost == pytest.approx(min(table.total(choice, "macs") for choice in all_of(scores)), rel=1e-5)


@settings(deadline=None, max_examples=30)
@given(problems())
def test_of_judged_architectures_it_keeps_what_nothing_beats(problem: tuple[Scores, CostTable, dict[str, float]]) -> None:
    scores, table, _ = problem
    # Rounded: sums of the same sevenths differ in their last digit by the order, which makes ties that are none.
    points = front_of([(choice, round(score_of(scores, choice), 9)) for choice in all_of(scores)], table, "macs")
    best = {(cost, round(score, 9)) for cost, score in brute(scores, table)}
    assert {(point.cost, point.score) for point in points} <= best
    assert [point.score for point in points] == sorted((point.score for point in points), reverse=True)


def test_other_budgets_hold_along_the_front() -> None:
    points = front(SCORES, TABLE, "macs", {"parameters": 10.0})
    assert [point.cost for point in points] == [18.0, 15.0]
    assert all(TABLE.total(point.choice, "parameters") <= 10 for point in points)
    with pytest.raises(UserError, match="met by no architecture"):
        front(SCORES, TABLE, "macs", {"parameters": 1.0})


def test_it_is_written_once(tmp_path: Path) -> None:
    points = front(SCORES, TABLE, "macs")
    assert table_of(points, "macs").row_count == len(points) == 3
    files = write(points, "macs", tmp_path)
    assert files[0].read_text().splitlines()[1:3] == ["point,macs,score,s0,s1", "1,18.0,0.0,o0,o0"]
    assert files[1].stat().st_size > 5000
    with pytest.raises(UserError, match="exists already"):
        write(points, "macs", tmp_path)

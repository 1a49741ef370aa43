"""The best architecture within a budget, against trying all of them."""

from __future__ import annotations

import itertools
import math

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from acmix_nas.costs.budget import within
from acmix_nas.costs.choose import Scores, best_within, finalists_of, finalists_within
from acmix_nas.costs.table import CostTable
from acmix_nas.util.errors import UserError


def table_of(costs: list[list[tuple[float, float]]], rest: tuple[float, float] = (10.0, 5.0)) -> CostTable:
    """Make a table in which slot i has the operators o0, o1, …, of these (macs, parameters)."""
    rows = {f"s{i}": {f"o{j}": {"macs": macs, "parameters": parameters} for j, (macs, parameters) in enumerate(row)}
            for i, row in enumerate(costs)}  # fmt: skip
    return CostTable(rows, {"macs": rest[0], "parameters": rest[1]})


def all_of(scores: Scores) -> list[dict[str, str]]:
    return [dict(zip(scores, choice, strict=True)) for choice in itertools.product(*(list(row) for row in scores.values()))]


def score_of(scores: Scores, choice: dict[str, str]) -> float:
    return sum(scores[slot][operator] for slot, operator in choice.items())


@st.composite
def problems(draw: st.DrawFn) -> tuple[Scores, CostTable, dict[str, float]]:
    shape = draw(st.lists(st.integers(1, 4), min_size=1, max_size=5))
    number = st.one_of(st.integers(0, 5).map(float), st.floats(1, 1e9))
    costs = [[(draw(number), draw(number)) for _ in range(n)] for n in shape]
    scores = {f"s{i}": {f"o{j}": draw(st.integers(-50, 0)) / 7 for j in range(n)} for i, n in enumerate(shape)}
    table = table_of(costs)
    choice = draw(st.sampled_from(all_of(scores)))
    measures = draw(st.sets(st.sampled_from(["macs", "parameters"])))
    return (
        scores,
        table,
        {measure: table.total(choice, measure) * draw(st.sampled_from([0.7, 1.0, 1.3])) for measure in measures},
    )


@settings(deadline=None, max_examples=100)
@given(problems())
def test_it_is_the_best_of_all_within_the_budget(problem: tuple[Scores, CostTable, dict[str, float]]) -> None:
    scores, table, budget = problem
    met = [c for c in all_of(scores) if all(table.total(c, m) <= limit * (1 + 1e-12) for m, limit in budget.items())]
    assert met == [choice for choice in all_of(scores) if within(table, budget, choice)]
    if not met:
        with pytest.raises(UserError, match="is met by no architecture"):
            best_within(scores, table, budget)
        return
    found = best_within(scores, table, budget)
    assert found in met
    assert score_of(scores, found) == pytest.approx(max(score_of(scores, choice) for choice in met), abs=1e-5)


@settings(deadline=None, max_examples=40)
@given(problems(), st.integers(1, 6))
def test_ranked_are_the_best_in_order(problem: tuple[Scores, CostTable, dict[str, float]], count: int) -> None:
    scores, table, _ = problem
    found = finalists_within(scores, table, {}, count)
    best = sorted((score_of(scores, choice) for choice in all_of(scores)), reverse=True)[:count]
    assert [score_of(scores, choice) for choice in found] == pytest.approx(best, abs=1e-5)
    assert len({tuple(choice.values()) for choice in found}) == len(found)


SCORES = {"s0": {"o0": 0.0, "o1": -1.0}, "s1": {"o0": 0.0, "o1": -1.0}}
TABLE = table_of([[(4, 1), (1, 4)], [(4, 1), (1, 4)]])


def test_no_budget_gives_the_most_likely() -> None:
    assert best_within(SCORES, TABLE) == {"s0": "o0", "s1": "o0"}


def test_what_costs_just_as_much_as_allowed_is_within() -> None:
    assert best_within(SCORES, TABLE, {"macs": 18.0}) == {"s0": "o0", "s1": "o0"}


def test_an_impossible_budget_names_the_cheapest() -> None:
    with pytest.raises(UserError, match=r"macs ≤ 11 is met by no architecture; the cheapest has 12 of macs"):
        best_within(SCORES, TABLE, {"macs": 11.0})


def test_budgets_that_only_together_are_impossible_say_so() -> None:
    with pytest.raises(UserError, match="each limit alone can be met"):
        best_within(SCORES, TABLE, {"macs": 14.0, "parameters": 9.0})


def test_what_is_impossible_is_never_chosen() -> None:
    scores = {"s0": {"o0": -math.inf, "o1": -9.0}, "s1": {"o0": 0.0, "o1": -1.0}}
    assert finalists_within(scores, TABLE, {}, 10) == [{"s0": "o1", "s1": "o0"}, {"s0": "o1", "s1": "o1"}]


@settings(deadline=None, max_examples=40)
@given(problems(), st.integers(1, 5), st.integers(1, 3))
def test_the_integer_program_spreads_as_going_down_the_ranking_does(
    problem: tuple[Scores, CostTable, dict[str, float]], count: int, apart: int
) -> None:
    scores, table, _ = problem
    # Powers of two make every sum different, so that there is one ranking.
    unequal = {
        slot: {operator: 0.5 ** (4 * i + j) for j, operator in enumerate(row)} for i, (slot, row) in enumerate(scores.items())
    }
    ranking = sorted(all_of(unequal), key=lambda choice: -score_of(unequal, choice))
    assert finalists_within(unequal, table, {}, count, apart) == finalists_of(ranking, count, apart)


def test_the_second_half_differs() -> None:
    ranking = [{"a": a, "b": b} for a in "xyz" for b in "xyz"]
    assert finalists_of(ranking, 9, 1) == ranking
    assert finalists_of(ranking, 4, 2) == [{"a": "x", "b": "x"}, {"a": "x", "b": "y"}, {"a": "y", "b": "z"}]
    assert finalists_of(ranking, 2, 2) == [{"a": "x", "b": "x"}, {"a": "y", "b": "y"}]
    assert finalists_of(ranking, 1, 2) == ranking[:1]

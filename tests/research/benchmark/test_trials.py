"""Multi-trial strategies on a table, stock ones and ours."""

from __future__ import annotations

from pathlib import Path

import pytest
from nni.nas.execution import SequentialExecutionEngine
from nni.nas.space import SimplifiedModelSpace
from nni.nas.strategy import GridSearch

from acmix_nas.research.benchmark.table import Table, shipped
from acmix_nas.research.benchmark.trials import STRATEGIES, TableEvaluator, _space, queries, queries_of, report


@pytest.fixture(scope="module")
def table() -> Table:
    return shipped("cued")


def test_a_stock_strategy_reads_every_architecture_from_the_table(table: Table) -> None:
    evaluator = TableEvaluator(table)
    engine = SequentialExecutionEngine(len(table.choices))
    GridSearch()(SimplifiedModelSpace.from_model(_space(table), evaluator), engine)
    assert evaluator.trained == table.accuracies("validation")
    reported = {table.space.in_order(model.sample): model.metric for model in engine.list_models()}
    assert reported == evaluator.trained


def test_what_is_over_the_budget_is_worth_nothing_and_costs_no_training(table: Table) -> None:
    evaluator = TableEvaluator(table, table.space.budget)
    worth = {choice: evaluator.accuracy(table.space.by_slot(choice)) for choice in table.choices}
    assert set(evaluator.trained) == set(table.within(table.space.budget))
    assert all((accuracy > 0) == table.fits(choice, table.space.budget) for choice, accuracy in worth.items())


@pytest.mark.parametrize("name", STRATEGIES)
def test_a_strategy_stops_at_the_best(table: Table, name: str) -> None:
    budget = table.space.budget
    number = queries(table, STRATEGIES[name](table, budget, 3), budget)
    assert number is None or 1 <= number <= len(table.within(budget))
    assert number == queries(table, STRATEGIES[name](table, budget, 3), budget)


def test_medians_have_intervals(table: Table) -> None:
    interval, never = queries_of(table, "EvolutionTuner", {}, runs=10)
    assert interval.low <= interval.value <= interval.high <= len(table.choices)
    assert never == 0


def test_the_report_has_a_row_for_every_strategy_and_budget(table: Table, tmp_path: Path) -> None:
    screen = report(table, 1, tmp_path / "queries.md")
    written = (tmp_path / "queries.md").read_text()
    assert screen.row_count == 2 * len(STRATEGIES)
    assert all(written.count(f"| {name} |") == 2 for name in STRATEGIES)

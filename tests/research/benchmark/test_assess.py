"""What an assessment says of searches whose worth is known: perfect ones, blind ones, and those between."""

from __future__ import annotations

import math
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from acmix_nas.research.benchmark.assess import (
    RANDOM,
    Handed,
    Outcome,
    agreement,
    assess,
    best_of,
    check_budget,
    check_strategies,
    dearest,
    interval_of,
    outcome_of,
    race_from_table,
    random_searches,
    ranks,
    report,
    rows,
)
from acmix_nas.research.benchmark.spaces import CUED
from acmix_nas.research.benchmark.table import Run, Table
from acmix_nas.util.errors import UserError
from tests.research.benchmark.test_table import made_up
from tests.research.benchmark.test_tabulate import SMALL


def perfect(table: Table, strategy: str = "perfect", seed: int = 0, seconds: float = 2.0) -> Outcome:
    scores = tuple(table.accuracy(choice) for choice in table.choices)
    return Outcome(strategy, seed, scores, scores, {"inherited": 0.3, "recalibrated": 0.6}, seconds)


def blind(table: Table, seed: int) -> Outcome:
    scores = tuple(np.random.default_rng(seed).permutation(len(table.choices)).tolist())
    return Outcome("blind", seed, scores, scores, {"inherited": 0.1, "recalibrated": 0.2}, 2.0)


def test_a_perfect_ranking_has_no_regret_under_any_budget_and_a_blind_one_has() -> None:
    table = made_up()
    outcomes = [perfect(table), *(blind(table, seed) for seed in range(8))]
    found = {(row.method, row.budget): row for row in rows(table, outcomes, finalists=3) if row.method != RANDOM}
    assert len(found) == 2 * 2 * 2
    for (method, _), row in found.items():
        if method.startswith("perfect"):
            assert tuple(row.regret) == (0, 0, 0)
        else:
            assert row.regret.low > 0.02


def test_a_race_costs_its_trainings_and_repairs_a_bad_order() -> None:
    table = made_up()
    found = {row.method: row for row in rows(table, [blind(table, seed) for seed in range(8)], finalists=5)}
    assert found["blind + race"].trainings == found["blind"].trainings + 5 / 2 + 3 / 2 == 6
    assert found["blind + race"].regret.value < found["blind"].regret.value


def test_random_search_stands_above_every_strategy_with_the_same_time_and_budget() -> None:
    table = made_up()
    found = rows(table, [perfect(table, seconds=20), *(blind(table, seed) for seed in range(8))], finalists=3)
    assert [row.method == RANDOM for row in found] == [True, False] * 8
    for chance, strategy in zip(found[::2], found[1::2], strict=True):
        assert (chance.budget, chance.trainings) == (strategy.budget, strategy.trainings)
        assert sum(chance.found.values()) == pytest.approx(1)
    assert found[0].regret.value < found[2].regret.value  # 20 trainings and 2
    assert found[0].agreement > found[2].agreement > 1 / 3


def test_a_warm_race_is_worth_what_its_network_is_worth_and_costs_its_seconds() -> None:
    table = made_up()
    best, other = table.best(), table.choices[0]
    handed = {"none": Handed(best, 0.9, 0.5, 3.0), "macs ≤ 1,200,000": Handed(other, 0.9, table.accuracy(best) + 0.02, 5.0)}
    outcomes = [replace(perfect(table), handed=handed), replace(perfect(table, seed=1), handed=handed)]
    free, within = (row for row in rows(table, [*outcomes, blind(table, 0)]) if row.method == "perfect + warm race")
    assert (tuple(free.accuracy), free.trainings, free.found) == ((0.5, 0.5, 0.5), 5.0, {" ".join(best): 1})
    assert within.regret.value == pytest.approx(table.accuracy(table.best(CUED.budget)) - table.accuracy(best) - 0.02)
    assert (within.trainings, within.found) == (7.0, {" ".join(other): 1})


def test_a_race_is_decided_by_validation_accuracy_not_by_the_test_part() -> None:
    choices = CUED.choices()[:2]
    runs = (Run(choices[0], 0, (0.9,), (0.1,), 1.0), Run(choices[1], 0, (0.8,), (0.9,), 1.0))
    assert race_from_table(Table(CUED, runs), choices, seed=5) == (choices[0], 2.0)


def test_a_race_is_cut_at_half_time_and_pays_for_what_ran() -> None:
    choices = CUED.choices()[:5]
    late = 0.99  # the last one would win, had it not been last after six epochs
    curves = [(0.1 * i,) * 11 + (0.5 + 0.01 * i,) for i in (5, 4, 3, 2)] + [(0.0,) * 11 + (late,)]
    runs = tuple(Run(choice, 0, curve, curve, 12.0) for choice, curve in zip(choices, curves, strict=True))
    assert race_from_table(Table(CUED, runs), choices, seed=0) == (choices[0], 5 * 6 + 3 * 6)
    uncut = replace(CUED, config=replace(CUED.config, race_cut=0))
    assert race_from_table(Table(uncut, runs), choices, seed=0) == (choices[4], 5 * 12)


def test_the_shortlist_keeps_within_the_budget() -> None:
    table = made_up()
    shortlist = best_of(table, perfect(table).scores, CUED.budget, 5)
    assert shortlist[0] == table.best(CUED.budget)
    assert all(table.cost(choice)["macs"] <= 1.2e6 for choice in shortlist)


def test_a_shortlist_may_be_spread_out() -> None:
    table = made_up()
    first, *others = best_of(table, perfect(table).scores, {}, 5, apart=2)
    assert first == table.best()
    assert len(others) == 4
    assert others[:2] == best_of(table, perfect(table).scores, {}, 3)[1:]
    for number, one in enumerate(others[2:], start=2):
        assert all(sum(a != b for a, b in zip(one, two, strict=True)) >= 2 for two in (first, *others[:number]))


def test_random_search_regrets_less_with_more_time_and_nothing_when_it_trains_all() -> None:
    table = made_up()
    best = table.accuracy(table.best())
    short, longer, all_of_it = (
        interval_of([best - table.accuracy(choice) for choice, _ in random_searches(table, {}, seconds)], 8)
        for seconds in (1.5, 10.5, 81.5)
    )
    assert short.value == pytest.approx(0.4, abs=0.03)  # one architecture: the mean of the space
    # The best of n = 10 of 81 ranks is on average the 82 / 11 th.
    assert longer.value == pytest.approx(0.01 * (82 / 11 - 1), rel=0.15)
    assert all_of_it.value == 0
    assert short.low < short.value < short.high


def test_agreement_is_the_share_of_equal_slots() -> None:
    a, b = ("conv",) * 4, ("conv", "conv", "conv", "global")
    assert agreement([a, a]) == 1
    assert agreement([a, b]) == 0.75
    assert agreement([a, a, b]) == pytest.approx((1 + 0.75 + 0.75) / 3)
    assert math.isnan(agreement([a]))


def test_ranks_of_a_perfect_and_of_a_reversed_order() -> None:
    table = made_up()
    right = perfect(table)
    wrong = Outcome("wrong", 0, tuple(-score for score in right.scores), right.inherited, right.gap, 1.0)
    first, second = ranks(table, [right, wrong])
    assert (first.scores.value, first.top.value) == pytest.approx((1, 1))
    assert (second.scores.value, second.inherited.value) == pytest.approx((-1, 1))
    assert first.gap == {"inherited": 0.3, "recalibrated": 0.6, "alone": pytest.approx(table.accuracy(table.best()))}


def test_what_is_trained_on_from_inherited_weights_may_agree_with_a_ranking_where_the_table_does_not() -> None:
    right = perfect(made_up())
    wrong = replace(right, scores=tuple(-score for score in right.scores), warm={0: 0.9, 40: 0.5, 80: 0.1})
    assert [right.scores[i] for i in (0, 40, 80)] == sorted(right.scores[i] for i in (0, 40, 80))
    one, other = ranks(made_up(), [right, replace(wrong, strategy="wrong")])
    assert one.warm is None
    assert (other.scores.value, other.warm and other.warm.value) == pytest.approx((-1, 1))


def test_the_dearest_training_is_the_longest_undisturbed_one() -> None:
    choices = CUED.choices()[:2]
    runs = [(0, 0, 5.0), (0, 1, 3.0), (1, 0, 4.0), (1, 1, 9.0)]
    table = Table(CUED, tuple(Run(choices[i], seed, (0.5,), (0.5,), seconds) for i, seed, seconds in runs))
    assert dearest(table) == 4


def search(table: Table, strategy: str, seed: int, warm: int) -> Outcome:
    handed = {"none": Handed(table.best(), 0.9, 0.8, 1.0)}
    return replace(perfect(table, strategy, seed), handed=handed, warm=dict.fromkeys(range(warm), 0.5))


def test_an_assessment_goes_on_where_it_was_interrupted(tmp_path: Path) -> None:
    table, path = made_up(), tmp_path / "assessment.json"
    first = assess(table, ["darts"], 2, path, 1, search=search)

    def must_not(*_: object) -> Outcome:
        raise AssertionError("searched again")

    assert assess(table, ["darts"], 2, path, 1, search=must_not) == first
    assert len(assess(table, ["darts", "gumbel"], 3, path, 1, search=search)) == 6
    with pytest.raises(AssertionError, match="searched again"):
        assess(table, ["darts"], 2, path, 1, warm=2, search=must_not)
    assert len(assess(table, ["darts", "gumbel"], 3, path, 1, search=must_not)) == 6  # nothing was lost
    assert [len(one.warm) for one in assess(table, ["darts"], 2, path, 1, warm=2, search=search)] == [2, 2]


def test_an_assessment_of_another_space_is_refused(tmp_path: Path) -> None:
    assess(made_up(), ["darts"], 1, tmp_path / "a.json", 1, search=search)
    runs = tuple(Run(choice, 0, (0.5,), (0.5,), 1.0) for choice in SMALL.choices())
    with pytest.raises(UserError, match="another space"):
        assess(Table(SMALL, runs), ["darts"], 1, tmp_path / "a.json", 1, search=search)


def test_an_assessment_of_other_races_is_refused(tmp_path: Path) -> None:
    table = made_up()
    assess(table, ["single_path"], 1, tmp_path / "a.json", 1, search=search)
    longer = replace(table, space=replace(CUED, config=replace(CUED.config, warm_epochs=5)))
    with pytest.raises(UserError, match="of other settings"):
        assess(longer, ["single_path"], 1, tmp_path / "a.json", 1, search=search)
    assess(longer, ["darts"], 1, tmp_path / "a.json", 1, search=search)  # whose races are from scratch


def test_random_search_beside_a_warm_race_has_what_its_own_training_reached() -> None:
    """One architecture, three seeds: the network that random search has trained is that of its seed, not their mean."""
    choice, curves = CUED.choices()[0], {0: 0.2, 1: 0.5, 2: 0.8}
    table = Table(CUED, tuple(Run(choice, seed, (0.9,), (value,), 1.0) for seed, value in curves.items()))
    outcome = replace(perfect(table), handed={"none": Handed(choice, 0.9, 0.7, 1.0)})
    found = {(row.method, row.trainings): row for row in rows(table, [outcome]) if row.budget == "none"}
    alone, beside_warm = found[RANDOM, 2.0], found[RANDOM, 3.0]
    assert tuple(alone.accuracy) == pytest.approx((0.5, 0.5, 0.5))
    assert beside_warm.accuracy.value == pytest.approx(0.5, abs=0.02)
    assert (beside_warm.accuracy.low, beside_warm.accuracy.high) == pytest.approx((0.2, 0.8))


def test_the_report_has_both_tables(tmp_path: Path) -> None:
    table = made_up(noise=0.05)
    screens = report(table, [perfect(table), blind(table, 1)], tmp_path / "assessment.md")
    text = (tmp_path / "assessment.md").read_text()
    assert [screen.row_count for screen in screens] == [16, 2]
    assert text.count("\n| perfect") == 5
    assert text.count(f"\n| {RANDOM}") == 8
    assert "Noise ceiling of τ" in text


@pytest.mark.parametrize("name", ["random", "best"])
def test_what_cannot_be_assessed_is_refused(name: str) -> None:
    with pytest.raises(UserError, match="strategy must be one of single_path, darts"):
        check_strategies(["darts", name], CUED)


def test_a_budget_that_nothing_to_be_trained_meets_is_refused() -> None:
    check_budget(CUED, CUED.choices(5))
    with pytest.raises(UserError, match="is met by none of 5 architectures: take a larger sample"):
        check_budget(replace(CUED, budget={"macs": 1.0}), CUED.choices(5))


def test_what_cannot_be_searched_is_refused_before_anything_is_trained() -> None:
    low = replace(CUED, config=replace(CUED.config, recipe=replace(CUED.config.recipe, precision="bf16-mixed")))
    check_strategies(["darts", "gumbel"], low)
    with pytest.raises(UserError, match="darts_order 2 needs precision 32-true"):
        check_strategies(["darts_second_order"], low)


@pytest.mark.parametrize("strategy", ["single_path", "darts"])
def test_a_search_scores_every_architecture(strategy: str) -> None:
    runs = tuple(Run(choice, 0, (0.5,), (0.5,), 1.0) for choice in SMALL.choices())
    outcome = outcome_of(Table(SMALL, runs), strategy, 0, warm=5)
    again = outcome_of(Table(SMALL, runs), strategy, 0)
    assert len(outcome.scores) == len(outcome.inherited) == 2
    assert max(outcome.inherited) > 0.15
    assert (outcome.scores, outcome.inherited) == (again.scores, again.inherited)
    assert ("mixture" in outcome.gap) == (strategy == "darts")
    assert sorted(outcome.warm) == [0, 1]
    assert min(outcome.warm.values()) > 0.15
    assert list(outcome.handed) == ([] if strategy == "darts" else ["none"])
    for handed, likewise in zip(outcome.handed.values(), again.handed.values(), strict=True):
        assert handed.choice in SMALL.choices()
        assert (handed.choice, handed.validation, handed.test) == (likewise.choice, likewise.validation, likewise.test)
        assert handed.validation > 0.15

"""What a table answers. Its runs are made up here, so that every answer is known."""

from __future__ import annotations

import math
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from acmix_nas.research.benchmark.spaces import CUED
from acmix_nas.research.benchmark.table import Latencies, Run, Table, kendall, shipped
from acmix_nas.util.errors import UserError


def made_up(noise: float = 0.0, seeds: int = 3) -> Table:
    """Make a table whose accuracy rises by 0.01 an architecture, in the space's order. Epochs: half of it, then all."""
    generator = np.random.default_rng(0)
    runs = []
    for i, choice in enumerate(CUED.choices()):
        for seed in range(seeds):
            accuracy = 0.1 + 0.01 * i + noise * float(generator.normal())
            runs.append(Run(choice, seed, (accuracy / 2, accuracy), (accuracy / 2, accuracy), 1.0))
    return Table(CUED, tuple(runs))


def test_accuracy_is_the_mean_over_seeds_after_the_last_epoch() -> None:
    choice = CUED.choices()[0]
    runs = tuple(Run(choice, seed, (0.0, 0.2), (0.0, accuracy), 1.0) for seed, accuracy in enumerate((0.3, 0.5)))
    table = Table(CUED, runs)
    assert table.accuracy(choice) == pytest.approx(0.4)
    assert table.accuracy(choice, "validation") == pytest.approx(0.2)
    assert table.accuracy(choice, seed=1) == pytest.approx(0.5)
    assert table.accuracy(choice, epoch=0) == 0


def test_the_best_under_a_budget_meets_it_and_nothing_within_is_better() -> None:
    table = made_up()
    best = table.best(CUED.budget)
    assert table.cost(best)["macs"] <= CUED.budget["macs"]
    assert table.accuracy(best) == max(table.accuracy(choice) for choice in table.within(CUED.budget))
    assert table.accuracy(table.best()) > table.accuracy(best)


def test_regret_is_against_the_best_within_the_budget() -> None:
    table = made_up()
    met = table.within(CUED.budget)
    assert table.regret(table.best(CUED.budget), CUED.budget) == 0
    assert table.regret(met[0], CUED.budget) == pytest.approx(table.accuracy(table.best(CUED.budget)) - table.accuracy(met[0]))
    with pytest.raises(UserError, match="choice must keep within"):
        table.regret(table.best(), CUED.budget)


def test_without_noise_the_ceiling_is_one_and_noise_lowers_it() -> None:
    assert tuple(made_up().ceiling()) == pytest.approx((1, 1, 1))
    value, low, high = made_up(noise=0.2).ceiling()
    assert low < value < high < 0.9


def test_noise_is_the_deviation_of_one_training() -> None:
    assert made_up(noise=0.05).noise() == pytest.approx(0.05, rel=0.15)


def test_one_seed_has_no_ceiling() -> None:
    table = made_up(seeds=1)
    assert math.isnan(table.ceiling().value)
    assert math.isnan(table.noise())


def test_ranks_that_do_not_change_are_stable() -> None:
    assert made_up().stability() == pytest.approx([1, 1])


def test_the_top_third_is_27_of_81_best_first() -> None:
    top = made_up().top()
    assert len(top) == 27
    assert top[0] == CUED.choices()[-1]


def test_a_table_reads_what_it_wrote(tmp_path: Path) -> None:
    table = made_up(noise=0.1)
    again = Table.load(table.save(tmp_path / "table.json"))
    assert again.runs == table.runs
    assert again.space.settings == table.space.settings
    assert again.space.budget == table.space.budget


def with_latencies() -> Table:
    """Make a table in which attention takes a millisecond a slot, and convolution none."""
    operators = {slot.name: {name: float(name != "conv") for name in slot.candidates} for slot in CUED.slots}
    return replace(made_up(), latencies=Latencies(operators, 0.25, {"machine": "a made-up one"}))


def test_latency_is_a_cost_like_the_others_where_the_table_has_it(tmp_path: Path) -> None:
    table = with_latencies()
    choice = ("conv", "global", "conv", "acmix_global")
    assert table.cost(choice) == {**CUED.cost(choice), "latency": 2.25}
    best = table.best({"latency": 1.5})
    assert sum(name != "conv" for name in best) == 1
    assert table.accuracy(best) == max(table.accuracy(one) for one in table.choices if table.cost(one)["latency"] <= 1.5)
    both = set(table.within({"latency": 1.5, "macs": 1.2e6}))
    assert both == set(table.within({"latency": 1.5})) & set(table.within({"macs": 1.2e6}))
    again = Table.load(table.save(tmp_path / "table.json"))
    assert again.latencies == table.latencies
    assert "latencies" not in made_up().save(tmp_path / "without.json").read_text()


@pytest.mark.parametrize(("call", "said"), [
    (lambda t: t.best({"latency": 1.0}), "budget on latency needs a table that has latencies.*tabulate --latency"),
    (lambda t: t.accuracy(("conv",) * 3), "choice must be"),
    (lambda t: t.accuracy(("conv",) * 4, "train"), "part must be"),
    (lambda t: t.accuracy(("conv",) * 4, seed=9), "seed must be"),
    (lambda t: t.accuracy(("conv",) * 4, epoch=2), "epoch must be"),
    (lambda t: t.best({"macs": 1.0}), "cheapest"),
    (lambda t: t.best({"watts": 1.0}), "budget"),
    (lambda t: replace(t, runs=()), "runs must hold"),
])  # fmt: skip
def test_a_question_it_cannot_answer_is_refused(call: object, said: str) -> None:
    with pytest.raises(UserError, match=said):
        call(made_up())  # type: ignore[operator]


def test_a_table_is_read_only_as_that_of_its_own_space() -> None:
    assert made_up().of(replace(CUED, epochs={})).space.epochs == {}
    with pytest.raises(UserError, match="of other settings"):
        made_up().of(replace(CUED, config=replace(CUED.config, race_epochs=1)))


def test_another_file_is_no_table(tmp_path: Path) -> None:
    (tmp_path / "x.json").write_text("{}")
    with pytest.raises(UserError, match="it is no table file: give one that this package wrote"):
        Table.load(tmp_path / "x.json")


@settings(deadline=None)
@given(st.lists(st.floats(0, 1), min_size=3, max_size=20, unique=True))
def test_kendall_is_one_with_itself_and_minus_one_with_its_reverse(values: list[float]) -> None:
    assert kendall(values, values) == pytest.approx(1)
    assert kendall(values, [-value for value in values]) == pytest.approx(-1)


def test_the_shipped_table_has_every_architecture_of_the_space_as_it_is_now() -> None:
    table = shipped()
    assert table.choices == CUED.choices()
    assert table.space is CUED  # what it was trained by is what the space says
    assert all(len(run.test) == len(run.validation) == 12 for run in table.runs)


def test_in_the_shipped_table_placement_matters() -> None:
    table = shipped()
    accuracies = table.accuracies()
    everywhere = [accuracies[(name,) * 4] for name in ("conv", "global", "acmix_global")]
    assert accuracies[table.best()] > max(everywhere) + 0.05
    assert table.cost(table.best(CUED.budget))["macs"] <= 1.2e6


def test_there_is_no_other_table() -> None:
    with pytest.raises(UserError, match="table must be one of cued"):
        shipped("imagenet")
    with pytest.raises(UserError, match=r"tabulate --space cued-shapes .* --table"):
        shipped("cued-shapes")

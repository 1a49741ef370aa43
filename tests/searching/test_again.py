"""A finished search asked again: by what it judged one by one, or by probabilities."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import pytest

from acmix_nas.architecture import Architecture
from acmix_nas.research.benchmark.spaces import CUED
from acmix_nas.searching.again import FinishedSearch, Ranked, write_ranking
from acmix_nas.util.errors import UserError

BEST = ("global", "conv", "conv", "global")


def found(probabilities: dict[str, dict[str, float]]) -> Architecture:
    return replace(CUED.architecture(BEST), probabilities=probabilities)


@pytest.fixture
def likely(tmp_path: Path) -> Path:
    """Write a differentiable search that prefers ACmix, then convolution."""
    row = {"conv": 0.3, "global": 0.1, "acmix_global": 0.6}
    found({slot.name: row for slot in CUED.slots}).save(tmp_path / "architecture.json")
    return tmp_path


@pytest.fixture
def judged(tmp_path: Path) -> Path:
    """Write a single-path search that judged three architectures."""
    found({}).save(tmp_path / "architecture.json")
    accuracies = {("acmix_global",) * 4: 0.9, BEST: 0.8, ("conv",) * 4: 0.7, ("acmix_global", *BEST[1:]): 0.6}
    ranking = [Ranked(CUED.by_slot(choice), accuracy, {}) for choice, accuracy in accuracies.items()]
    write_ranking(tmp_path / "ranking.json", ranking)
    return tmp_path


def chosen(folder: Path, limits: dict[str, float]) -> tuple[str, ...]:
    return CUED.in_order(FinishedSearch.load(folder).best(limits).choice)


def test_probabilities_are_maximised_within_the_budget(likely: Path) -> None:
    assert chosen(likely, {}) == ("acmix_global",) * 4
    limits = {"macs": 1.2e6}
    best = chosen(likely, limits)
    assert best[0] != "acmix_global"
    assert CUED.cost(best)["macs"] <= 1.2e6


def test_where_a_search_chose_by_scores_they_stand_over_probabilities(likely: Path) -> None:
    architecture = Architecture.load(likely / "architecture.json")
    scores = {slot: {"conv": 0.5, "global": 0.7, "acmix_global": 0.6} for slot in architecture.slots}
    replace(architecture, scores=scores).save(likely / "architecture.json")
    assert chosen(likely, {}) == ("global",) * 4
    best = FinishedSearch.load(likely).best({"macs": 1e6})
    assert best.score == pytest.approx(sum(scores[slot][name] for slot, name in best.choice.items()))


def test_what_was_judged_is_chosen_within_the_budget(judged: Path) -> None:
    assert chosen(judged, {}) == ("acmix_global",) * 4
    assert chosen(judged, {"macs": 1.2e6}) == BEST


def test_the_front_of_what_was_judged_leaves_out_what_is_beaten(judged: Path) -> None:
    points = FinishedSearch.load(judged).front("macs", {})
    assert [CUED.in_order(point.choice) for point in points] == [("acmix_global",) * 4, BEST, ("conv",) * 4]


def test_the_front_of_probabilities_goes_down_to_the_cheapest(likely: Path) -> None:
    points = FinishedSearch.load(likely).front("macs", {})
    assert points[0].cost == pytest.approx(CUED.cost(("acmix_global",) * 4)["macs"])
    assert points[-1].cost == pytest.approx(CUED.ends()["macs"][0])


def test_a_budget_that_nothing_meets_names_the_cheapest_and_one_that_nothing_judged_meets_says_so(judged: Path) -> None:
    with pytest.raises(UserError, match=r"the cheapest has 778\.96 k"):
        FinishedSearch.load(judged).best({"macs": 1e5})
    with pytest.raises(UserError, match="met by none of the 4 architectures"):
        FinishedSearch.load(judged).best({"macs": 8e5})


def test_what_it_writes_is_an_architecture_with_its_budget_and_costs(judged: Path) -> None:
    ranked = FinishedSearch.load(judged)
    architecture = ranked.architecture(CUED.by_slot(BEST), {"macs": 1.2e6})
    again = Architecture.load(architecture.save(judged / "again.json"))
    assert again.budget == {"macs": 1.2e6}
    assert again.metric == CUED.cost(BEST)


def test_a_search_that_ranks_nothing_is_refused(tmp_path: Path) -> None:
    found({}).save(tmp_path / "architecture.json")
    with pytest.raises(UserError, match="ranks no architectures"):
        FinishedSearch.load(tmp_path)

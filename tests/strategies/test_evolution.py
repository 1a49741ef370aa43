"""What evolution asks for, and that it finds the best sooner than draws do."""

from __future__ import annotations

import json
import random
from collections.abc import Mapping
from statistics import median
from typing import Any

import pytest

from acmix_nas.strategies.evolution import RegularizedEvolution
from acmix_nas.util.errors import UserError

CANDIDATES = {f"s{i}": ("a", "b", "c") for i in range(5)}


def score(choice: Mapping[str, str]) -> float:
    """Score additively, with one interaction."""
    return sum(("abc".index(name) + 1) * (i + 1) for i, name in enumerate(choice.values())) - 9 * (choice["s4"] == choice["s3"])


def queries(seed: int, evolve: bool) -> int:
    best = max(map(score, everything()))
    evolution, generator = RegularizedEvolution(CANDIDATES, seed=seed), random.Random(seed)
    shuffled = everything()
    generator.shuffle(shuffled)
    for number in range(1, 244):
        choice = evolution.ask() if evolve else shuffled[number - 1]
        evolution.tell(choice, score(choice))
        if score(choice) == best:
            return number
    raise AssertionError("the best was never asked for")


def everything() -> list[dict[str, str]]:
    return [dict(zip(CANDIDATES, digits(number), strict=True)) for number in range(243)]


def digits(number: int) -> list[str]:
    return ["abc"[number // 3**i % 3] for i in range(5)]


def test_it_finds_the_best_sooner_than_random_draws() -> None:
    ours, drawn = (median(queries(seed, evolve) for seed in range(40)) for evolve in (True, False))
    assert ours < drawn / 2


def test_nothing_is_asked_twice_until_all_is_known() -> None:
    small = {"s0": ("a", "b"), "s1": ("a", "b", "c")}
    evolution = RegularizedEvolution(small, population=2, tournament=2)
    seen = []
    for _ in range(6):
        choice = evolution.ask()
        evolution.tell(choice, 0.0)
        seen.append(tuple(choice.values()))
    assert len(set(seen)) == 6
    with pytest.raises(UserError, match="nothing new"):
        evolution.ask()


def test_nothing_over_the_budget_is_asked_for() -> None:
    evolution = RegularizedEvolution(CANDIDATES, lambda choice: list(choice.values()).count("c") <= 1, population=4)
    for _ in range(50):
        choice = evolution.ask()
        assert list(choice.values()).count("c") <= 1
        evolution.tell(choice, score(choice))


def test_an_impossible_budget_is_refused() -> None:
    with pytest.raises(UserError, match="budget leaves nothing new"):
        RegularizedEvolution(CANDIDATES, lambda _: False).ask()


def test_a_mutant_differs_from_a_parent_at_one_slot() -> None:
    evolution = RegularizedEvolution(CANDIDATES, population=1, tournament=1)
    parent = evolution.ask()
    evolution.tell(parent, 1.0)
    child = evolution.ask()
    assert sum(parent[slot] != child[slot] for slot in CANDIDATES) == 1


def test_the_oldest_dies_even_if_it_is_the_best() -> None:
    evolution = RegularizedEvolution(CANDIDATES, population=2)
    for number in (9.0, 1.0, 2.0):
        evolution.tell(evolution.ask(), number)
    assert [value for _, value in evolution.alive] == [1.0, 2.0]


def test_it_goes_on_where_its_state_was_taken() -> None:
    evolution = RegularizedEvolution(CANDIDATES, seed=3)
    for _ in range(12):
        choice = evolution.ask()
        evolution.tell(choice, score(choice))
    other = RegularizedEvolution(CANDIDATES, seed=0)
    other.load_state_dict(json.loads(json.dumps(evolution.state_dict())))
    for _ in range(5):
        first, second = evolution.ask(), other.ask()
        assert first == second
        evolution.tell(first, score(first))
        other.tell(second, score(second))


@pytest.mark.parametrize("name", ["population", "tournament"])
def test_an_empty_population_is_refused(name: str) -> None:
    arguments: dict[str, Any] = {name: 0}
    with pytest.raises(UserError, match=f"{name} must be at least 1"):
        RegularizedEvolution(CANDIDATES, **arguments)

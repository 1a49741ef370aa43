"""How decided a distribution is, where the answer is known."""

from __future__ import annotations

import math

import pytest

from acmix_nas.bias.decision import Decision


def test_a_decided_distribution() -> None:
    decision = Decision.of(
        {"a": {"conv": 1.0, "local": 0.0}, "b": {"conv": 0.0, "local": 1.0}, "c": {"conv": 1.0, "local": 0.0}}
    )
    assert (decision.entropy, decision.operator, decision.coin_flips) == (0.0, "conv", [])
    assert decision.dominance == pytest.approx(2 / 3)
    assert str(decision) == "entropy 0.00 of 1; conv is first at 2 of 3 slots; no coin flip"


def test_an_undecided_one_is_reported_as_coin_flips() -> None:
    decision = Decision.of({"a": {"conv": 0.5, "local": 0.5}, "b": {"conv": 0.34, "local": 0.33, "global": 0.33}})
    assert decision.entropy == pytest.approx(1.0, abs=1e-3)
    assert decision.coin_flips == ["a", "b"]
    assert "coin flips (a lead below 0.05): a, b" in str(decision)


def test_entropy_is_the_mean_in_units_of_the_largest() -> None:
    row = {"conv": 0.7, "local": 0.2, "global": 0.1}
    nats = -sum(p * math.log(p) for p in row.values())
    decision = Decision.of({"a": row, "b": {"conv": 0.5, "local": 0.5}})
    assert decision.entropy == pytest.approx((nats + math.log(2)) / (math.log(3) + math.log(2)))
    assert decision.leads == {"a": pytest.approx(0.5), "b": 0.0}


def test_a_slot_without_a_choice_is_decided() -> None:
    decision = Decision.of({"a": {"conv": 1.0}})
    assert (decision.entropy, decision.dominance, decision.leads) == (0.0, 1.0, {"a": 1.0})
    assert decision.as_json()["said"] == str(decision)

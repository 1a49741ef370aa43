"""Limits as they are typed."""

from __future__ import annotations

from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from acmix_nas.costs.budget import parse_budget, show
from acmix_nas.util.errors import UserError


@pytest.mark.parametrize(("text", "expected"), [
    ("macs=1.2M", {"macs": 1.2e6}), ("macs=1200000", {"macs": 1.2e6}), ("params=300k", {"parameters": 3e5}),
    ("parameters = 2 G", {"parameters": 2e9}), ("latency=3ms", {"latency": 3.0}), ("latency=0.003s", {"latency": 3.0}),
    ("latency=300us", {"latency": 0.3}), ("macs=1.2e6", {"macs": 1.2e6}),
    ("macs=1M,latency=3ms", {"macs": 1e6, "latency": 3.0}),
])  # fmt: skip
def test_a_limit_is_read_with_its_unit(text: str, expected: dict[str, float]) -> None:
    assert parse_budget([text]) == pytest.approx(expected)


@pytest.mark.parametrize("texts", [
    ["watts=3"], ["macs"], ["macs="], ["macs=-1"], ["macs=0"], ["macs=3ms"], ["latency=3M"], ["macs=1.2.3"],
    ["macs=1M", "macs=2M"], ["params=1k", "parameters=1k"], ["macs=nan"],
])  # fmt: skip
def test_what_is_no_limit_is_refused(texts: list[str]) -> None:
    with pytest.raises(UserError, match="budget"):
        parse_budget(texts)


def test_limits_may_be_a_mapping_of_numbers_and_texts() -> None:
    assert parse_budget({"macs": 60e6, "params": "300K", "latency": "3000us"}) == pytest.approx(
        {"macs": 6e7, "parameters": 3e5, "latency": 3.0}
    )
    assert parse_budget("macs=1K, params=2") == {"macs": 1e3, "parameters": 2.0}
    assert parse_budget({}) == parse_budget([]) == {}


@pytest.mark.parametrize(("budget", "words"), [
    ({"watts": 3}, "budget must be one of .*macs.*; got 'watts'"),
    ({"macs": -1}, "budget macs must be a positive number, as in macs=1.2M; got 'macs=-1'"),
    ({"latency": "3M"}, "budget latency must be a positive number, as in latency=3ms; got 'latency=3M'"),
    ({"macs": None}, "budget macs must be a positive number"), ({"macs": 1, "macs ": 1}, "budget must be one of"),
    ({"params": 1, "parameters": 1}, "budget must name parameters once; got it twice"),
])  # fmt: skip
def test_a_mapping_that_is_no_budget_is_refused(budget: Any, words: str) -> None:
    with pytest.raises(UserError, match=words):
        parse_budget(budget)


@given(st.floats(1, 1e12))
def test_what_is_shown_reads_back_to_two_digits(value: float) -> None:
    shown = show("macs", value).replace(" ", "")
    assert parse_budget([f"macs={shown}"])["macs"] == pytest.approx(value, rel=0.51)
    assert parse_budget([f"latency={show('latency', value)}"])["latency"] == pytest.approx(value, rel=0.01)

"""A cost of another package is asked for by its name, like one of ours."""

from __future__ import annotations

import sys

import pytest

from acmix_nas.costs.budget import parse_budget, show, within
from acmix_nas.costs.choose import best_within
from acmix_nas.costs.registry import COSTS, Cost, cost_named, register_cost
from acmix_nas.costs.table import COUNTED, CostTable
from acmix_nas.research.benchmark.spaces import CUED
from acmix_nas.strategies import DARTSSearch
from acmix_nas.util.errors import UserError


@pytest.mark.usefixtures("outside")
def test_a_cost_from_outside_is_a_budget_like_ours() -> None:
    assert "activations" in COSTS
    assert "acmix_outside.activations" not in sys.modules
    limits = parse_budget("maps=0.02MiB,macs=2M")
    assert limits == {"activations": 20.48, "macs": 2e6}
    assert COSTS.origin("activations") == "acmix-outside 0.1"
    table = CostTable.of(CUED.backbone, CUED.slots, CUED.input_size, [*COUNTED, *limits])
    scores = {slot: {name: float(name.startswith("acmix")) for name in row} for slot, row in table.costs.items()}
    free, chosen = best_within(scores, table, {"activations": 1e9}), best_within(scores, table, limits)
    assert within(table, limits, chosen)
    assert not within(table, limits, free)
    assert list(free.values()) == ["acmix_global"] * 4
    assert list(chosen.values()).count("acmix_global") == 1  # 3.1 KiB more than the 15.6 KiB of one path everywhere
    assert show("activations", table.total(free, "activations")) == "31.2 KiB"
    assert COSTS.get("activations").axis() == "activations [KiB]"
    assert DARTSSearch(penalty=0.1, cost="activations").measures == ("activations",)


def test_ours_are_found_by_their_names_and_aliases() -> None:
    assert {"macs", "parameters", "latency"} <= set(COSTS.names())
    assert cost_named("params") is COSTS.get("parameters")
    assert [COSTS.get(name).measured for name in ("macs", "latency")] == [False, True]
    assert [COSTS.get(name).axis() for name in ("macs", "latency")] == ["macs", "latency [ms]"]
    with pytest.raises(UserError, match=r"limit must be one of .*; got 'watts'"):
        cost_named("watts", "limit")


def test_a_name_belongs_to_one_cost() -> None:
    class Other(Cost):
        table = COSTS.get("macs").table

    with pytest.raises(UserError, match=r"cost 'macs' is registered already, by acmix_nas.costs.counted"):
        register_cost("macs")(Other)
    assert COSTS.get("macs") is not Other


def test_a_cost_that_is_named_twice_is_taken_once() -> None:
    table = CostTable.of(CUED.backbone, CUED.slots, CUED.input_size, ["parameters", "macs", "parameters"])
    assert table.measures == ("parameters", "macs")
    assert table.values("macs") == CUED.costs.values("macs")

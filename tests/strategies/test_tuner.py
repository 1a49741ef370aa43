"""Our evolution as a tuner of NNI."""

from __future__ import annotations

import subprocess
import sys
from typing import Any

import nni
import pytest

from acmix_nas.research.benchmark.spaces import CUED
from acmix_nas.strategies import EvolutionTuner
from acmix_nas.util.errors import UserError

SPACE = {name: {"_type": "choice", "_value": ["conv", "local", "acmix_local"]} for name in "abcd"}


def worth(slots: dict[str, str]) -> float:
    return sum(operator == "local" for operator in slots.values())


def best_of(tuner: EvolutionTuner, trials: int) -> float:
    best = 0.0
    for number in range(trials):
        slots = tuner.generate_parameters(number)
        best = max(best, worth(slots))
        tuner.receive_trial_result(number, slots, {"default": worth(slots), "other": 0})
    return best


def test_it_climbs_and_asks_for_nothing_twice() -> None:
    tuner = EvolutionTuner(seed=1)
    tuner.update_search_space(SPACE)
    assert best_of(tuner, 40) == 4
    assert tuner.evolution is not None
    assert len(tuner.evolution.asked) == 40


def test_it_asks_only_for_what_is_feasible() -> None:
    tuner = EvolutionTuner(feasible=lambda slots: slots["a"] == "conv")
    tuner.update_search_space(SPACE)
    assert best_of(tuner, 25) <= 3


def test_results_may_come_out_of_order() -> None:
    tuner = EvolutionTuner()
    tuner.update_search_space(SPACE)
    asked = [tuner.generate_parameters(number) for number in range(3)]
    for number in (2, 0, 1):
        tuner.receive_trial_result(number, {}, worth(asked[number]))
    assert tuner.evolution is not None
    assert [dict(zip(SPACE, operators, strict=True)) for operators, _ in tuner.evolution.alive] == [asked[i] for i in (2, 0, 1)]


@pytest.mark.parametrize(("arguments", "words"), [({"population": 0}, "population"), ({"tournament": 0}, "tournament")])
def test_mistakes_show_where_they_are_made(arguments: dict[str, Any], words: str) -> None:
    with pytest.raises(UserError, match=f"{words} must be at least 1; got {words}=0"):
        EvolutionTuner(**arguments)


def test_a_space_of_numbers_is_refused() -> None:
    with pytest.raises(UserError, match="search space: 'lr' must be a choice; got 'uniform'"):
        EvolutionTuner().update_search_space({"lr": {"_type": "uniform", "_value": [0, 1]}})


def test_it_ends_where_nothing_is_left_to_ask_for() -> None:
    tuner = EvolutionTuner(seed=2)
    tuner.update_search_space({"a": SPACE["a"]})
    with pytest.raises(nni.NoMoreTrialError, match="nothing new"):
        best_of(tuner, 4)


SLOTS = {slot.name: {"_type": "choice", "_value": list(slot.candidates)} for slot in CUED.slots}
HEADS: Any = CUED.config.heads
NETWORK: dict[str, Any] = {"network": {"backbone": "cued_net"}, "image_size": 20, "heads": dict(HEADS)}


@pytest.mark.parametrize("budget", [["macs=1.2M"], {"macs": "1.2M"}, {"macs": 1.2e6}])
def test_a_budget_is_met_by_all_that_is_asked_for_and_leaves_nothing_out(budget: Any) -> None:
    tuner = EvolutionTuner(budget=budget, **NETWORK)
    tuner.update_search_space(SLOTS)
    met = {choice for choice in CUED.choices() if CUED.cost(choice)["macs"] <= 1.2e6}
    asked = [tuner.generate_parameters(number) for number in range(len(met))]
    assert {CUED.in_order(slots) for slots in asked} == met
    with pytest.raises(nni.NoMoreTrialError):
        tuner.generate_parameters(len(met))


@pytest.mark.parametrize(("arguments", "space", "words"), [
    ({"budget": ["macs=1.2M"]}, SLOTS, "budget needs network"),
    ({"budget": ["macs=1.2M"], "network": {"num_classes": 5}}, SLOTS, "budget needs network"),
    ({"budget": ["macs=1.2M"], "feasible": bool, **NETWORK}, SLOTS, "no feasible"),
    ({"budget": ["watts=1"], **NETWORK}, SLOTS, "budget must be one of .*macs"),
    ({"budget": ["macs=1k"], **NETWORK}, SLOTS, "met by no architecture; the cheapest has"),
    ({"budget": ["macs=1.2M"], **NETWORK}, {**SLOTS, "blocks.4.slot": SPACE["a"]}, "'blocks.4.slot' is no slot of cued_net"),
    ({"budget": ["macs=1.2M"], **NETWORK}, {"blocks.0.slot": {"_type": "choice", "_value": ["conf"]}}, "conf"),
])  # fmt: skip
def test_a_budget_that_cannot_be_kept_is_refused(arguments: dict[str, Any], space: dict[str, Any], words: str) -> None:
    with pytest.raises(UserError, match=words) as caught:
        EvolutionTuner(**arguments).update_search_space(space)
    assert "\n" not in str(caught.value)


def test_it_is_there_before_torch_is() -> None:
    """NNI's server waits ten seconds for a tuner to be built; PyTorch and timm take most of them on a busy machine."""
    code = "import sys; from acmix_nas.strategies import EvolutionTuner as T; T(budget=['macs=1M'], network={'backbone': 'x'})"
    subprocess.run([sys.executable, "-c", f"{code}; assert not {{'torch', 'timm'}} & set(sys.modules)"], check=True)

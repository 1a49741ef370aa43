"""Which architectures a space has, what they cost, and what a seed changes."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import pytest

from acmix_nas.architecture import build
from acmix_nas.deploy.profile import count
from acmix_nas.research.benchmark.spaces import CUED, space_of
from acmix_nas.strategies import DARTSSearch
from acmix_nas.util.errors import UserError


def test_cued_has_81_architectures() -> None:
    assert CUED.size == len(set(CUED.choices())) == 81


def test_cued_attends_with_heads_of_8_channels() -> None:
    assert [(slot.name, slot.head_dim) for slot in CUED.slots] == [(f"blocks.{i}.slot", 8) for i in range(4)]


@pytest.mark.parametrize("choice", [("conv",) * 4, ("global",) * 4, ("acmix_global", "conv", "global", "conv")])
def test_costs_are_those_of_the_network(choice: tuple[str, ...]) -> None:
    network = build(CUED.architecture(choice))
    assert CUED.cost(choice)["parameters"] == sum(parameter.numel() for parameter in network.parameters())
    assert CUED.cost(choice)["macs"] == pytest.approx(count(CUED.architecture(choice), (3, 20, 20)).macs, rel=1e-9)


def test_the_budget_divides_the_space() -> None:
    met = [choice for choice in CUED.choices() if CUED.cost(choice)["macs"] <= CUED.budget["macs"]]
    assert 20 < len(met) < 70


def test_ends_are_those_of_all_architectures() -> None:
    values = sorted(CUED.cost(choice)["macs"] for choice in CUED.choices())
    assert CUED.ends()["macs"] == pytest.approx((values[0], values[40], values[-1]))


def test_a_sample_is_of_different_architectures_and_repeats_itself() -> None:
    drawn = CUED.choices(sample=20)
    assert len(set(drawn)) == 20
    assert drawn == CUED.choices(sample=20)
    assert drawn != CUED.choices(sample=20, seed=1)


@pytest.mark.parametrize("sample", [0, 82])
def test_a_sample_that_is_no_part_of_the_space_is_refused(sample: int) -> None:
    with pytest.raises(UserError, match="sample must be from 1 to 81"):
        CUED.choices(sample)


def test_a_seed_draws_weights_and_images() -> None:
    config = CUED.search("darts", 3)
    assert (config.recipe.seed, config.data.data_seed) == (3, 3)
    assert (CUED.alone(3).seed, CUED.images(3).data_seed) == (3, 3)


def test_a_strategy_has_epochs_of_its_own_and_a_training_alone_those_of_the_race() -> None:
    assert CUED.search("darts", 0).recipe.epochs == CUED.epochs["darts"]
    assert CUED.search("single_path", 0).recipe.epochs == CUED.config.recipe.epochs
    assert CUED.alone(0).epochs == CUED.settings["recipe"]["epochs"] == 12


def test_what_only_darts_can_do_the_others_do_without() -> None:
    method = DARTSSearch(penalty=0.1, darts_order=2, selection="perturbation")
    space = replace(CUED, config=replace(CUED.config, strategy="darts", method=method))
    assert space.search("darts", 0).method == replace(method, arc_learning_rate=CUED.arc_learning_rate)
    for strategy in ("gumbel", "proxyless", "single_path"):
        assert space.search(strategy, 0).strategy == strategy


def test_choices_and_slots_are_each_others_inverse() -> None:
    choice = ("conv", "global", "acmix_global", "conv")
    assert CUED.in_order(dict(reversed(CUED.by_slot(choice).items()))) == choice


def test_a_search_is_a_space(tmp_path: Path) -> None:
    config = replace(CUED.config, backbone="resnet26", slots=("layer4.*",), data=replace(CUED.config.data, name="digits"))
    config = replace(config, budget=("params=3M", "latency=9ms"))
    config.save(tmp_path)
    space = space_of(str(tmp_path))
    assert (space.config, space.num_classes, space.size, space.budget) == (config, 10, 9, {"parameters": 3e6})


def test_what_is_no_space_is_refused() -> None:
    with pytest.raises(UserError, match="space must be cued"):
        space_of("nothing")

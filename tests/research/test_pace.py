"""What a measured speed means: how long the demo takes, and with how much it is run."""

from __future__ import annotations

from datetime import datetime
from itertools import pairwise

import pytest
import torch

from acmix_nas.research.benchmark import CUED
from acmix_nas.research.cued import PARTS
from acmix_nas.research.demo import references
from acmix_nas.research.pace import BATCH, EPOCH, FULL, PLANS, Plan, Times, announcement, choose, step_seconds

ORDINARY = 0.031  # seconds of a step, AMD EPYC, 2 cores: the machine on which the whole demo took 7 min 51 s, installed anew
NOW = datetime(2026, 11, 25, 14, 20)


def test_the_full_plan_is_that_of_the_table() -> None:
    assert (FULL.supernet, FULL.alone) == (CUED.config.recipe.epochs, CUED.config.race_epochs)
    assert PLANS[0] == FULL
    assert PARTS["train"] // BATCH == EPOCH
    assert CUED.config.data.batch_size == BATCH


def test_two_ordinary_cores_keep_the_full_plan() -> None:
    assert choose(ORDINARY, 2, minutes=15) == FULL
    assert 5 < Times.of(FULL, ORDINARY, 2).all / 60 < 8


def test_a_slow_machine_gets_less_and_never_less_than_the_least() -> None:
    plans = [choose(slower * ORDINARY, 2, minutes=15) for slower in (1, 2, 3, 3.5, 5, 100)]
    assert plans[0] == FULL
    assert plans[3] != FULL
    assert Times.of(plans[3], 3.5 * ORDINARY, 2).all <= 15 * 60
    assert [PLANS.index(plan) for plan in plans] == sorted(PLANS.index(plan) for plan in plans)
    assert plans[-1] == PLANS[-1]
    assert min(plan.supernet for plan in PLANS) == PLANS[-1].supernet >= 16
    assert min(plan.alone for plan in PLANS) == PLANS[-1].alone >= 6


def test_the_largest_plan_that_fits_is_taken() -> None:
    for larger, smaller in pairwise(PLANS):
        for processes in (1, 2, 8):
            assert Times.of(smaller, 0.1, processes).all <= Times.of(larger, 0.1, processes).all, (smaller, processes)
    for plan in PLANS:
        assert choose(0.1, 1, minutes=Times.of(plan, 0.1, 1).all / 60) == plan


def test_seeds_that_were_asked_for_are_kept() -> None:
    assert choose(ORDINARY, 2, 15, seeds=3) == Plan(40, 12, 3)
    assert choose(100 * ORDINARY, 2, 15, seeds=3) == Plan(16, 6, 3)


def test_one_core_takes_longer_and_a_slower_step_in_proportion() -> None:
    one, two, many = (Times.of(FULL, 0.1, processes).all for processes in (1, 2, 16))
    assert one > 1.5 * two > 1.5 * many > 0
    assert Times.of(FULL, 0.2, 2).all == pytest.approx(2 * two)


def test_the_end_is_announced_and_what_was_left_out_too() -> None:
    full = Times(400, 60, 20)
    assert announcement(FULL, full, full, 15, NOW) == "about 8 min, until 14:28"
    said = announcement(Plan(24, 6, 1), Times(700, 90, 50), Times(1400, 180, 50), 15, NOW)
    assert said == (
        "about 14 min, until 14:34, with 24 of 40 epochs of the supernet, 6 of 12 epochs of each training from scratch, "
        "1 of 2 seeds: all of it would take about 28 min (--minutes 15)"
    )
    least = announcement(PLANS[-1], Times(1000, 90, 50), Times(3000, 180, 50), 15, NOW)
    assert least.endswith("; that is more than --minutes 15, but less would not tell one architecture from another")


def test_a_plan_says_what_is_less_than_all() -> None:
    assert str(FULL) == "40 epochs of the supernet, 12 epochs of each training from scratch, 2 seeds"
    assert str(Plan(40, 6, 3)) == "40 epochs of the supernet, 6 of 12 epochs of each training from scratch, 3 seeds"


def test_a_step_is_measured_by_the_clock_over_all_networks() -> None:
    ticks = iter(float(tick) for tick in range(1000))
    networks = list(references(CUED).values())
    assert step_seconds(CUED, networks, clock=lambda: next(ticks)) == pytest.approx(1 / 3)
    assert step_seconds(CUED, networks[:1], seconds=0) > 0
    assert torch.is_grad_enabled()

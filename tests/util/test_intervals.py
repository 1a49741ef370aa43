"""Intervals say how far an estimate may be trusted."""

from __future__ import annotations

import numpy as np
import pytest

from acmix_nas.util.intervals import Interval, bootstrap, draws, quartiles


def test_quartiles_ignore_an_outlier() -> None:
    assert quartiles([4, 1, 2, 3, 1000]) == (3, 2, 4)


def test_a_bootstrap_interval_narrows_with_more_rows() -> None:
    few, many = (bootstrap(np.mean, np.random.default_rng(0).normal(size=n)) for n in (10, 1000))
    assert many.high - many.low < (few.high - few.low) / 3
    assert few.low < few.value < few.high
    assert bootstrap(np.mean, [1.0, 2.0, 4.0]) == bootstrap(np.mean, [1.0, 2.0, 4.0])


def test_95_of_100_draws_lie_within_an_interval() -> None:
    interval = Interval.of(7, np.arange(101.0))
    assert interval == pytest.approx((7, 2.5, 97.5))
    assert str(interval) == "7.000 [2.500, 97.500]"


def test_draws_are_rows_with_replacement() -> None:
    taken = draws(np.random.default_rng(0), 4, 1000)
    assert taken.shape == (1000, 4)
    assert set(taken.ravel().tolist()) == {0, 1, 2, 3}
    assert any(len(set(row)) < 4 for row in taken.tolist())

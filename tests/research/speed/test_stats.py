"""Medians, ratios and their intervals, on numbers whose answer is known."""

from __future__ import annotations

import math

import numpy as np
import pytest

from acmix_nas.research.speed.stats import ratio, ratio_of_numbers
from tests.small import known


def test_a_ratio_is_of_medians_and_a_geometric_mean_over_points() -> None:
    points = [{"a": [2, 2, 90], "b": [1, 1, 1]}, {"a": [8, 8, 1], "b": [1, 1, 1]}]
    estimate = ratio(points, "a", ("b",))
    assert estimate.points == (2, 8)
    assert estimate.value == pytest.approx(4)


def test_the_worst_ratio_is_the_smallest() -> None:
    points = [{"a": [2.0] * 3, "b": [1.0] * 3}, {"a": [1.0] * 3, "b": [2.0] * 3}]
    assert ratio(points, "a", ("b",), worst=True)[:3] == (0.5, 0.5, 0.5)


def test_of_several_the_slowest_at_each_point_is_below_the_line() -> None:
    points = [{"a": [6.0], "b": [1.0], "c": [3.0]}, {"a": [6.0], "b": [6.0], "c": [2.0]}]
    assert ratio(points, "a", ("b", "c")).points == (2, 1)


def test_equal_rounds_leave_no_doubt() -> None:
    estimate = ratio([{"a": [3.0] * 9, "b": [2.0] * 9}], "a", ("b",))
    assert estimate[:3] == (1.5, 1.5, 1.5)


def test_rounds_are_drawn_together() -> None:
    """A disturbance that hits all subjects of a round alike leaves their ratio alone."""
    disturbed = np.random.default_rng(1).lognormal(0, 1, 15)
    estimate = ratio([{"a": list(3 * disturbed), "b": list(disturbed)}], "a", ("b",))
    assert estimate[:3] == pytest.approx((3, 3, 3))


def test_the_interval_covers_the_truth_as_often_as_it_says() -> None:
    generator, true, covered, runs = np.random.default_rng(2), 2.0, 0, 60
    for _ in range(runs):
        a, b = generator.lognormal(math.log(true), 0.2, 25), generator.lognormal(0, 0.2, 25)
        estimate = ratio([{"a": a.tolist(), "b": b.tolist()}], "a", ("b",))
        assert estimate.low is not None
        assert estimate.high is not None
        covered += estimate.low <= true <= estimate.high
    assert 0.85 * runs <= covered < runs


def test_more_rounds_narrow_the_interval() -> None:
    times = np.random.default_rng(3).lognormal(0, 0.3, (2, 400))
    few, many = (ratio([{"a": list(times[0, :n]), "b": list(times[1, :n])}], "a", ("b",)) for n in (10, 400))
    assert known(few.high) - known(few.low) > 2 * (known(many.high) - known(many.low))


def test_what_is_measured_once_has_no_interval() -> None:
    assert ratio_of_numbers([{"a": 1, "b": 2}, {"a": 2, "b": 1}], "a", ("b",)) == (1, None, None, (0.5, 2))

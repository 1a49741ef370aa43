"""From rounds of times to ratios with an interval."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from acmix_nas.util.intervals import Interval, draws

__all__ = ["Estimate", "ratio", "ratio_of_numbers"]

RESAMPLES = 2000
SEED = 0

Times = Mapping[str, Sequence[float]]
"""Subject → the time of each round, in any unit, the rounds in one order."""


class Estimate(NamedTuple):
    """A ratio over several points, and the ends of its 95 % interval, where it has one."""

    value: float
    low: float | None
    high: float | None
    points: tuple[float, ...]


def ratio(points: Sequence[Times], over: str, under: Sequence[str], worst: bool = False) -> Estimate:
    """Compute the median of one subject over that of another, as a geometric mean over the points.

    The interval is a bootstrap's (percentiles): rounds are drawn with replacement, the same ones for all subjects of a point,
    since what disturbs the machine disturbs a whole round. Its draws are the same in every call.

    Args:
        points: times at each point.
        over: the numerator.
        under: the denominator; of several, the slowest at each point, in each draw anew.
        worst: the smallest ratio of all points in place of the mean.
    """
    generator = np.random.default_rng(SEED)
    combine = _smallest if worst else _geometric_mean
    measured, drawn = [], []
    for times in points:
        rows = {name: np.asarray(times[name], dtype=float) for name in (over, *under)}
        rounds = len(rows[over])
        measured.append(_of_medians(rows, over, under, np.arange(rounds)[None]))
        drawn.append(_of_medians(rows, over, under, draws(generator, rounds, RESAMPLES)))
    at_points = np.stack(measured)  # (points, 1)
    return Estimate(*Interval.of(combine(at_points).item(), combine(np.stack(drawn))), tuple(at_points[:, 0].tolist()))


def ratio_of_numbers(points: Sequence[Mapping[str, float]], over: str, under: Sequence[str], worst: bool = False) -> Estimate:
    """Compute the ratio, as `ratio` does, of what is measured once, such as memory. It has no interval."""
    estimate = ratio([{name: [value] for name, value in point.items()} for point in points], over, under, worst)
    return estimate._replace(low=None, high=None)


Matrix = NDArray[np.float64]


def _of_medians(rows: Mapping[str, Matrix], over: str, under: Sequence[str], taken: NDArray[np.integer]) -> Matrix:
    """Compute the ratios of medians, (draws,)."""
    slowest = np.max([np.median(rows[name][taken], axis=1) for name in under], axis=0)
    return np.asarray(np.median(rows[over][taken], axis=1) / slowest)


def _geometric_mean(ratios: Matrix) -> Matrix:
    return np.asarray(np.exp(np.log(ratios).mean(axis=0)))


def _smallest(ratios: Matrix) -> Matrix:
    return np.asarray(ratios.min(axis=0))

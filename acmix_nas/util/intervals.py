"""Quartiles, and bootstrap intervals: statistics of rows that are drawn again with replacement."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

__all__ = ["LEVEL", "Interval", "Quartiles", "bootstrap", "draws", "quartiles"]

RESAMPLES = 1000
LEVEL = 95
"""Percent of the draws that lie within an interval."""


class Quartiles(NamedTuple):
    """The median and the quartiles around it."""

    median: float
    low: float
    high: float


def quartiles(values: Sequence[float]) -> Quartiles:
    """Return median and quartiles."""
    return Quartiles(*np.percentile(values, (50, 25, 75)).tolist())


class Interval(NamedTuple):
    """An estimate and the ends of its 95 % interval."""

    value: float
    low: float
    high: float

    def __str__(self) -> str:
        return f"{self.value:.3f} [{self.low:.3f}, {self.high:.3f}]"

    @classmethod
    def of(cls, value: float, drawn: Sequence[float] | NDArray[np.floating]) -> Interval:
        """Return an estimate with the percentiles of what was drawn; NaN among these are left out."""
        low, high = np.nanpercentile(np.asarray(drawn), (50 - LEVEL / 2, 50 + LEVEL / 2)).tolist()
        return cls(float(value), low, high)


def draws(generator: np.random.Generator, rows: int, number: int) -> NDArray[np.integer]:
    """Return which of so many rows each draw takes, with replacement: (number, rows)."""
    return generator.integers(rows, size=(number, rows))


def bootstrap(statistic: Callable[[Any], float], rows: Sequence[Any] | NDArray[Any], seed: int = 0) -> Interval:
    """Return a statistic of rows with its bootstrap interval (percentiles); the draws are the same in every call."""
    array = np.asarray(rows)
    taken = draws(np.random.default_rng(seed), len(array), RESAMPLES)
    return Interval.of(statistic(array), [statistic(array[row]) for row in taken])

"""Where commands talk to a person, and how a run that broke is told from a mistake of the user's."""

from __future__ import annotations

from collections.abc import Sequence
from statistics import mean, stdev

from rich.console import Console

__all__ = ["BrokenRun", "console", "mean_and_deviation"]

console = Console(stderr=True, highlight=False, markup=False)
"""Where commands talk to a person; results that another program reads go to standard output."""


class BrokenRun(RuntimeError):  # noqa: N818  it is no mistake of the program's
    """Something that was started went wrong outside this program; its message may have several lines."""


def mean_and_deviation(values: Sequence[float], unit: str = "") -> str:
    """Format mean ± standard deviation, to one digit. One value alone has no deviation."""
    return f"{mean(values):.1f}" + (f" ± {stdev(values):.1f}" if len(values) > 1 else "") + unit

"""Limits on costs, as a person types them: "macs=1.2M", "params=300k", "latency=3ms"."""

from __future__ import annotations

import math
import re
from collections.abc import Iterable

from acmix_nas.costs.table import MEASURES
from acmix_nas.util.errors import UserError, one_of

__all__ = ["parse_budget", "show"]

ALIASES = {"params": "parameters"}
COUNTS = {"": 1.0, "k": 1e3, "M": 1e6, "G": 1e9}
TIMES = {"": 1.0, "ms": 1.0, "us": 1e-3, "s": 1e3}


def parse_budget(texts: Iterable[str]) -> dict[str, float]:
    """Cost → the largest allowed; latencies in milliseconds. A text may hold several, "macs=1.2M,latency=3ms".

    Raises:
        UserError: for an unknown cost, one named twice, or what is no positive number with a unit that fits.
    """
    limits: dict[str, float] = {}
    for text in (part for several in texts for part in several.split(",")):
        name, _, value = text.partition("=")
        name = ALIASES.get(name.strip(), name.strip())
        if name not in MEASURES:
            raise one_of("budget", name, [*MEASURES, *ALIASES])
        units = TIMES if name == "latency" else COUNTS
        match = re.fullmatch(r"([\d.]+(?:[eE][+-]?\d+)?)\s*([a-zA-Z]*)", value.strip())
        try:
            number = float(match[1]) * units[match[2]] if match else math.nan
        except (KeyError, ValueError):
            number = math.nan
        if not 0 < number < math.inf:
            example = "3ms" if name == "latency" else "1.2M"
            raise UserError(f"budget {name} must be a positive number, as in {name}={example}; got {text!r}")
        if name in limits:
            raise UserError(f"budget must name {name} once; got it twice")
        limits[name] = number
    return limits


def show(measure: str, value: float) -> str:
    """A cost with its unit: 1.20 M, 26.1 k, 3.21 ms."""
    if measure == "latency":
        return f"{value:.3g} ms"
    for unit, size in (("G", 1e9), ("M", 1e6), ("k", 1e3)):
        if value >= size:
            return f"{value / size:.2f} {unit}"
    return f"{value:.0f}"

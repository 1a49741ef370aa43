"""From a supernet to a network: which operator at each slot, and with which weights."""

from __future__ import annotations

import copy
from collections.abc import Mapping
from typing import Any

from torch import nn

__all__ = ["inherit", "most_likely"]


def most_likely(probabilities: Mapping[str, Mapping[str, float]]) -> dict[str, str]:
    """The most likely operator of every slot: Σ log p is largest, without a budget."""
    return {slot: max(row, key=lambda operator: row[operator]) for slot, row in probabilities.items()}


def inherit(space: Any, choice: Mapping[str, str]) -> nn.Module:
    """The network of a choice with the weights of the supernet, sharing none of them with it.

    It equals the supernet with that choice made, to rounding, and needs no NNI.

    Args:
        space: a `HybridSpace`, as it stands or turned into a supernet by a one-shot strategy.

    Raises:
        nni.mutable.SampleValidationError: where the choice misses a slot or names no candidate.
    """
    space.validate(dict(choice))
    return copy.deepcopy(space.freeze(dict(choice)).backbone)

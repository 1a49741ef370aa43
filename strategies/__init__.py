"""Strategies for NNI that know the shared supernet."""

from acmix_nas.strategies.darts import DARTS, in_order

__all__ = ["DARTS", "in_order"]

"""Strategies for NNI that know the shared supernet."""

from acmix_nas.strategies.darts import DARTS

__all__ = ["DARTS"]

"""Strategies for NNI that know the shared supernet."""

from acmix_nas.strategies.darts import DARTS, in_order
from acmix_nas.strategies.evolution import RegularizedEvolution
from acmix_nas.strategies.single_path import SinglePath
from acmix_nas.strategies.tuner import EvolutionTuner

__all__ = ["DARTS", "EvolutionTuner", "RegularizedEvolution", "SinglePath", "in_order"]

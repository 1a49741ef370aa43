"""Strategies: what a search asks of them (`SearchStrategy`), and the one-shot strategies and the tuner for NNI behind them.

Names are imported when they are asked for: NNI's server waits ten seconds for a tuner, and the one-shot strategies alone
take longer to import than that on a busy machine.
"""

from typing import TYPE_CHECKING

from acmix_nas.util.lazy import lazy_names

if TYPE_CHECKING:
    from acmix_nas.strategies.base import STRATEGIES, SearchStrategy, Shortlist, Supernet, register_strategy
    from acmix_nas.strategies.differentiable import DARTSSearch, DifferentiableSearch, GumbelSearch, ProxylessSearch
    from acmix_nas.strategies.evolution import RegularizedEvolution
    from acmix_nas.strategies.oneshot.darts import DARTS
    from acmix_nas.strategies.oneshot.guard import Guard
    from acmix_nas.strategies.oneshot.gumbel import Gumbel
    from acmix_nas.strategies.oneshot.proxyless import Proxyless
    from acmix_nas.strategies.oneshot.single_path import SinglePath
    from acmix_nas.strategies.sampled import RandomSearch, SinglePathSearch
    from acmix_nas.strategies.tuner import EvolutionTuner

__all__ = [
    "DARTS", "STRATEGIES", "DARTSSearch", "DifferentiableSearch", "EvolutionTuner", "Guard", "Gumbel", "GumbelSearch",
    "Proxyless", "ProxylessSearch", "RandomSearch", "RegularizedEvolution", "SearchStrategy", "Shortlist", "SinglePath",
    "SinglePathSearch", "Supernet", "register_strategy",
]  # fmt: skip

__getattr__, __dir__ = lazy_names(
    __name__,
    {
        "base": ["STRATEGIES", "SearchStrategy", "Shortlist", "Supernet", "register_strategy"],
        "differentiable": ["DARTSSearch", "DifferentiableSearch", "GumbelSearch", "ProxylessSearch"],
        "evolution": ["RegularizedEvolution"],
        "oneshot.darts": ["DARTS"],
        "oneshot.guard": ["Guard"],
        "oneshot.gumbel": ["Gumbel"],
        "oneshot.proxyless": ["Proxyless"],
        "oneshot.single_path": ["SinglePath"],
        "sampled": ["RandomSearch", "SinglePathSearch"],
        "tuner": ["EvolutionTuner"],
    },
)

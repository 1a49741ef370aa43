"""Strategies for NNI that know the shared supernet.

Names are imported when they are asked for: NNI's server waits ten seconds for a tuner, and the one-shot strategies alone
take longer to import than that on a busy machine.
"""

from importlib import import_module
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from acmix_nas.strategies.darts import DARTS
    from acmix_nas.strategies.evolution import RegularizedEvolution
    from acmix_nas.strategies.guard import Guard
    from acmix_nas.strategies.gumbel import Gumbel
    from acmix_nas.strategies.proxyless import Proxyless
    from acmix_nas.strategies.single_path import SinglePath
    from acmix_nas.strategies.tuner import EvolutionTuner

__all__ = ["DARTS", "EvolutionTuner", "Guard", "Gumbel", "Proxyless", "RegularizedEvolution", "SinglePath"]

MODULES = {
    "DARTS": "darts",
    "EvolutionTuner": "tuner",
    "Guard": "guard",
    "Gumbel": "gumbel",
    "Proxyless": "proxyless",
    "RegularizedEvolution": "evolution",
    "SinglePath": "single_path",
}


def __getattr__(name: str) -> Any:
    if name not in MODULES:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    return getattr(import_module(f"{__name__}.{MODULES[name]}"), name)

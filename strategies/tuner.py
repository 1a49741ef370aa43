"""Our evolution where NNI wants a tuner: under nnictl, or as a multi-trial strategy."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

from nni import NoMoreTrialError
from nni.tuner import Tuner
from nni.utils import MetricType, extract_scalar_reward

from acmix_nas.errors import UserError
from acmix_nas.strategies.evolution import RegularizedEvolution

__all__ = ["EvolutionTuner"]


class EvolutionTuner(Tuner):
    """`RegularizedEvolution` over the choices of a search space; the larger the metric, the better.

    For nnictl: `tuner: {className: acmix_nas.strategies.EvolutionTuner, codeDirectory: ., classArgs: {seed: 0}}`. As a
    strategy: `nni.nas.strategy.hpo.HPOTunerStrategy(EvolutionTuner())`.

    Args:
        feasible: whether an architecture may be asked for; from Python only.
        population, tournament, seed: as of `RegularizedEvolution`.

    Raises:
        UserError: where the space has anything but choices.
        nni.NoMoreTrialError: where nothing new is left to ask for, which ends NNI's experiment.
    """

    def __init__(
        self,
        population: int = 8,
        tournament: int = 4,
        seed: int = 0,
        feasible: Callable[[Mapping[str, str]], bool] | None = None,
    ) -> None:
        super().__init__()
        self.make = lambda candidates: RegularizedEvolution(candidates, feasible, population, tournament, seed)
        self.make({})  # mistakes show where they are made
        self.evolution: RegularizedEvolution | None = None
        self.asked: dict[int, dict[str, str]] = {}

    def update_search_space(self, search_space: Mapping[str, Any]) -> None:
        """NNI's search space: every entry a choice."""
        for name, entry in search_space.items():
            if entry["_type"] != "choice":
                raise UserError(f"search space: {name!r} must be a choice; got {entry['_type']!r}")
        self.evolution = self.make({name: entry["_value"] for name, entry in search_space.items()})

    def generate_parameters(self, parameter_id: int, **others: Any) -> dict[str, str]:  # noqa: ARG002
        """What the next trial tries."""
        if self.evolution is None:
            raise UserError("search space must come first; call update_search_space")
        try:
            self.asked[parameter_id] = self.evolution.ask()
        except UserError as error:
            raise NoMoreTrialError(str(error)) from None
        return self.asked[parameter_id]

    def receive_trial_result(self, parameter_id: int, parameters: Any, value: MetricType, **others: Any) -> None:  # noqa: ARG002
        """What a trial was worth."""
        assert self.evolution is not None
        self.evolution.tell(self.asked.pop(parameter_id, parameters), float(extract_scalar_reward(value)))

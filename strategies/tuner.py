"""Our evolution where NNI wants a tuner: under nnictl, or as a multi-trial strategy."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from functools import partial
from typing import TYPE_CHECKING, Any

from nni import NoMoreTrialError
from nni.tuner import Tuner
from nni.utils import MetricType, extract_scalar_reward

from acmix_nas.strategies.evolution import RegularizedEvolution
from acmix_nas.util.errors import UserError

if TYPE_CHECKING:
    from acmix_nas.costs.budget import Budget

__all__ = ["EvolutionTuner"]

Feasible = Callable[[Mapping[str, str]], bool]
Make = Callable[[Mapping[str, Sequence[str]], Feasible | None], RegularizedEvolution]


class EvolutionTuner(Tuner):
    """`RegularizedEvolution` over the choices of a search space; the larger the metric, the better.

    For nnictl: `tuner: {className: acmix_nas.strategies.EvolutionTuner, codeDirectory: ., classArgs: {seed: 0}}`; with a
    budget, experiments/digits-budget.yml. As a strategy: `nni.nas.strategy.hpo.HPOTunerStrategy(EvolutionTuner())`.

    NNI's search space says which operators may stand at which slot, and not what they cost, so a budget needs the network.
    It is built when the search space comes: NNI's server waits 10 s for a tuner, but not for what it answers then.

    Args:
        population, tournament, seed: see `RegularizedEvolution`.
        feasible: whether an architecture may be asked for; from Python only.
        budget: limits that every architecture meets, as in {macs: 1.2M} or ["macs=1.2M"]; what is measured, such as latency,
            is measured on the tuner's machine.
        network: the backbone whose slots are searched, a name that timm knows, with its arguments:
            {"backbone": "resnet26", "num_classes": 10}.
        image_size: side of its images, or height and width, in pixels; their channels are the network's in_chans, 3 by default.
        heads: of every slot, or globs of slots with numbers, as in a search.

    Raises:
        UserError: where the space has anything but choices, or under a budget anything but slots and operators; where no
            architecture meets the budget.
        nni.NoMoreTrialError: where nothing new is left to ask for, which ends NNI's experiment.
    """

    def __init__(
        self,
        population: int = 8,
        tournament: int = 4,
        seed: int = 0,
        feasible: Feasible | None = None,
        budget: Budget = (),
        network: Mapping[str, Any] | None = None,
        image_size: int | tuple[int, int] = 32,
        heads: int | Mapping[str, int] | None = None,
    ) -> None:
        super().__init__()
        if budget and (feasible is not None or not isinstance((network or {}).get("backbone"), str)):
            raise UserError(f"budget needs network, such as {{backbone: resnet26}}, and no feasible; got network={network!r}")
        self.make: Make = lambda candidates, allowed: RegularizedEvolution(candidates, allowed, population, tournament, seed)
        self.make({}, feasible)  # mistakes show where they are made
        self.allowed: Callable[[Mapping[str, Sequence[str]]], Feasible | None] = lambda candidates: (
            feasible_under(budget, candidates, network or {}, image_size, heads) if budget else feasible
        )
        self.evolution: RegularizedEvolution | None = None
        self.asked: dict[int, dict[str, str]] = {}

    def update_search_space(self, search_space: Mapping[str, Any]) -> None:
        """Take NNI's search space: every entry a choice."""
        for name, entry in search_space.items():
            if entry["_type"] != "choice":
                raise UserError(f"search space: {name!r} must be a choice; got {entry['_type']!r}")
        candidates = {name: entry["_value"] for name, entry in search_space.items()}
        self.evolution = self.make(candidates, self.allowed(candidates))

    def generate_parameters(self, parameter_id: int, **others: Any) -> dict[str, str]:  # noqa: ARG002
        """Return what the next trial tries."""
        if self.evolution is None:
            raise UserError("search space must come first; call update_search_space")
        try:
            self.asked[parameter_id] = self.evolution.ask()
        except UserError as error:
            raise NoMoreTrialError(str(error)) from None
        return self.asked[parameter_id]

    def receive_trial_result(self, parameter_id: int, parameters: Any, value: MetricType, **others: Any) -> None:  # noqa: ARG002
        """Record what a trial was worth."""
        assert self.evolution is not None
        self.evolution.tell(self.asked.pop(parameter_id, parameters), float(extract_scalar_reward(value)))


def feasible_under(
    budget: Budget,
    candidates: Mapping[str, Sequence[str]],
    network: Mapping[str, Any],
    image_size: int | tuple[int, int],
    heads: int | Mapping[str, int] | None,
) -> Feasible:
    """Return a function that tells whether an architecture meets a budget, by the table of costs.

    Arguments and errors are those of `EvolutionTuner`.
    """
    # PyTorch and timm, which take seconds to import.
    from timm.layers import to_2tuple

    from acmix_nas.costs.budget import parse_budget, within
    from acmix_nas.costs.choose import any_within
    from acmix_nas.costs.table import CostTable
    from acmix_nas.slots.backbones import open_backbone
    from acmix_nas.slots.names import check_candidates

    limits, arguments = parse_budget(budget), dict(network)
    backbone, slots = open_backbone(arguments.pop("backbone"), arguments, list(candidates), heads)
    for name in candidates.keys() - {slot.name for slot in slots}:
        raise UserError(f"search space: {name!r} is no slot of {network['backbone']}; name its 3×3 convolutions or attentions")
    slots = [replace(slot, candidates=check_candidates(candidates[slot.name])) for slot in slots]
    size = (dict(network).get("in_chans", 3), *to_2tuple(image_size))
    table = CostTable.of(backbone, slots, size, limits)
    any_within(table, limits)  # raises where none meets it
    return partial(within, table, limits)

"""What an operator costs at a slot, and what an architecture costs in all."""

from __future__ import annotations

import copy
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import NamedTuple

import torch
from torch import Tensor, nn
from torch.utils.flop_counter import FlopCounterMode

from acmix_nas.operators import ACmix, Operator, strided
from acmix_nas.slots.finding import Slot
from acmix_nas.slots.making import make_operator, put
from acmix_nas.util.errors import UserError, one_of

__all__ = ["MEASURES", "Cost", "CostTable", "module_cost", "operator_cost", "survey"]

MEASURES = ("macs", "parameters", "latency")
COUNTED = ("macs", "parameters")


class Cost(NamedTuple):
    """What one operator at one slot costs, per image; its latency in milliseconds, where it was measured."""

    stage1: float
    stage2: float
    parameters: float
    latency: float | None = None

    @property
    def macs(self) -> float:
        return self.stage1 + self.stage2


def operator_cost(slot: Slot, operator: str, height: int, width: int) -> Cost:
    """The cost of an operator of the derived network, on an input map of this size.

    Every product of an attention counts, with K² keys for each query at the border too, as in the paper; a dense convolution
    counts as Stage I (Table 1).
    """
    return module_cost(make_operator(slot, operator, device="meta"), height, width)


def module_cost(module: nn.Module, height: int, width: int) -> Cost:
    """The cost of what stands at a slot: a convolution, an operator, or one with its normalisation."""
    parameters = float(sum(parameter.numel() for parameter in module.parameters()))
    if isinstance(module, nn.Conv2d):
        area = strided(height, module.stride[0]) * strided(width, module.stride[1])
        return Cost(float(module.weight.numel()) * area, 0.0, parameters)
    operator = module.get_submodule("operator") if isinstance(module, nn.Sequential) else module
    assert isinstance(operator, Operator | ACmix)
    macs = operator.macs(height, width)
    return Cost(macs.stage1, macs.stage2, parameters)


class Hole(nn.Module):
    """Stands for a slot while the rest of a network is surveyed."""

    def __init__(self, slot: Slot) -> None:
        super().__init__()
        self.slot = slot
        self.size: tuple[int, int] | None = None

    def forward(self, x: Tensor) -> Tensor:
        if self.size is not None:
            raise UserError(f"slot {self.slot.name!r} runs more than once in a forward; leave it out with another glob")
        batch, _, height, width = x.shape
        self.size = (height, width)
        shape = (batch, self.slot.out_channels, strided(height, self.slot.stride), strided(width, self.slot.stride))
        return x.new_empty(shape)


class Survey(NamedTuple):
    """The size of every slot's input map, and the multiply-adds and parameters of everything that is no slot."""

    sizes: dict[str, tuple[int, int]]
    rest_macs: float
    rest_parameters: float


def survey(network: nn.Module, slots: Sequence[Slot], input_size: Sequence[int]) -> Survey:
    """Run a network without its slots, on the meta device: nothing is computed.

    Args:
        network: a backbone, whatever stands at its slots.
        input_size: (channels, height, width) of one image.

    Raises:
        UserError: where a slot takes no part in the forward, or runs more than once.
    """
    meta = copy.deepcopy(network).to("meta").eval()
    holes = {slot.name: Hole(slot) for slot in slots}
    for name, hole in holes.items():
        put(meta, name, hole)
    with torch.no_grad(), FlopCounterMode(display=False) as counter:
        meta(torch.empty(1, *input_size, device="meta"))
    sizes = {}
    for name, hole in holes.items():
        if hole.size is None:
            raise UserError(f"slot {name!r} takes no part in the forward of the backbone; leave it out with another glob")
        sizes[name] = hole.size
    parameters = float(sum(parameter.numel() for parameter in meta.parameters()))
    return Survey(sizes, counter.get_total_flops() / 2, parameters)


@dataclass(frozen=True)
class CostTable:
    """Slot × operator → cost. The cost of an architecture is the sum of its entries and of the rest of the backbone."""

    costs: Mapping[str, Mapping[str, Cost]]
    rest_macs: float
    rest_parameters: float
    rest_latency: float | None = None

    @property
    def measures(self) -> tuple[str, ...]:
        """What the table knows: counts, and latency where it was measured."""
        return MEASURES if self.rest_latency is not None else COUNTED

    def check(self, measure: str) -> None:
        """Whether the table knows this cost.

        Raises:
            UserError: where it does not.
        """
        if measure not in self.measures:
            raise one_of("cost", measure, self.measures)

    @classmethod
    def of(cls, network: nn.Module, slots: Sequence[Slot], input_size: Sequence[int]) -> CostTable:
        """The table of a backbone, for images of `input_size` (channels, height, width)."""
        found = survey(network, slots, input_size)
        costs = {
            slot.name: {name: operator_cost(slot, name, *found.sizes[slot.name]) for name in slot.candidates} for slot in slots
        }
        return cls(costs, found.rest_macs, found.rest_parameters)

    def values(self, measure: str) -> dict[str, list[float]]:
        """Slot → cost of each candidate, in the candidates' order."""
        self.check(measure)
        return {slot: [getattr(cost, measure) for cost in row.values()] for slot, row in self.costs.items()}

    def expected(self, probabilities: Mapping[str, Tensor], measure: str = "macs") -> Tensor:
        """The expected cost of the slots over its mean over the space; differentiable in the probabilities.

        1 is the mean of the space (all candidates equally likely). Args: slot → (candidates,) probabilities.
        """
        values = self.values(measure)
        mean = sum(sum(row) / len(row) for row in values.values())
        terms = [p @ p.new_tensor(values[slot]) for slot, p in probabilities.items()]
        return torch.stack(terms).sum() / mean

    def of_architecture(self, choice: Mapping[str, str]) -> dict[str, float]:
        """Every measure of a whole architecture."""
        return {measure: self.total(choice, measure) for measure in self.measures}

    def total(self, choice: Mapping[str, str], measure: str = "macs") -> float:
        """The cost of a whole architecture."""
        self.check(measure)
        rest: float = getattr(self, f"rest_{measure}")
        return rest + sum(getattr(self.costs[slot][operator], measure) for slot, operator in choice.items())

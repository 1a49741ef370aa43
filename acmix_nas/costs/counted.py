"""Costs that are counted: multiply-adds, as in the paper, and parameters."""

from __future__ import annotations

from collections.abc import Callable
from typing import NamedTuple

from torch import nn

from acmix_nas.costs.registry import Cost, Entries, register_cost
from acmix_nas.costs.survey import Survey
from acmix_nas.operators import ACmix, Operator, strided
from acmix_nas.slots.finding import Slot
from acmix_nas.slots.making import make_operator

__all__ = ["Macs", "OperatorCounts", "Parameters", "module_counts", "operator_counts"]


class OperatorCounts(NamedTuple):
    """What one operator at one slot costs on paper, per image: MACs of both stages, and parameters."""

    stage1: float
    stage2: float
    parameters: float

    @property
    def macs(self) -> float:
        return self.stage1 + self.stage2


def operator_counts(slot: Slot, operator: str, height: int, width: int) -> OperatorCounts:
    """Count an operator of the derived network, on an input map of this size.

    Every product of an attention counts, with K² keys for each query at the border too, as in the paper; a dense convolution
    counts as Stage I (Table 1).
    """
    return module_counts(make_operator(slot, operator, device="meta"), height, width)


def module_counts(module: nn.Module, height: int, width: int) -> OperatorCounts:
    """Count what stands at a slot: a convolution, an operator, or one with its normalisation."""
    parameters = float(sum(parameter.numel() for parameter in module.parameters()))
    if isinstance(module, nn.Conv2d):
        area = strided(height, module.stride[0]) * strided(width, module.stride[1])
        return OperatorCounts(float(module.weight.numel()) * area, 0.0, parameters)
    operator = module.get_submodule("operator") if isinstance(module, nn.Sequential) else module
    assert isinstance(operator, Operator | ACmix)
    macs = operator.macs(height, width)
    return OperatorCounts(macs.stage1, macs.stage2, parameters)


@register_cost("macs")
class Macs(Cost):
    """Multiply-adds of one image."""

    def table(self, of: Survey) -> Entries:
        return Entries(_at_slots(of, lambda counts: counts.macs), of.rest_macs)


@register_cost("parameters")
class Parameters(Cost):
    """Parameters, those of the classifier included."""

    aliases = ("params",)

    def table(self, of: Survey) -> Entries:
        return Entries(_at_slots(of, lambda counts: counts.parameters), of.rest_parameters)


def _at_slots(of: Survey, value: Callable[[OperatorCounts], float]) -> dict[str, dict[str, float]]:
    return {
        slot.name: {
            name: value(module_counts(of.operator(slot, name), *of.sizes[slot.name])) for name in slot.candidates
        }
        for slot in of.slots
    }  # fmt: skip

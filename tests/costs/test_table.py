"""Costs: the paper's counts, additivity, and a gradient."""

from __future__ import annotations

import pytest
import timm
import torch
from torch.utils.flop_counter import FlopCounterMode

from acmix_nas.architecture import Architecture, build
from acmix_nas.costs.counted import operator_counts
from acmix_nas.costs.survey import survey
from acmix_nas.costs.table import CostTable
from acmix_nas.slots.finding import Slot, find_slots
from acmix_nas.util.errors import UserError
from tests.small import SEVEN

INPUT = (3, 48, 48)


@pytest.fixture(scope="module")
def table() -> CostTable:
    backbone = timm.create_model("resnet26")
    return CostTable.of(backbone, find_slots(backbone, candidates=SEVEN), INPUT)


def test_a_convolution_costs_what_a_counter_says(table: CostTable) -> None:
    backbone = timm.create_model("resnet26", device="meta").eval()
    with FlopCounterMode(display=False) as counter:
        backbone(torch.empty(1, *INPUT, device="meta"))
    choice = dict.fromkeys(table.costs, "conv")
    assert table.total(choice) == counter.get_total_flops() / 2


@pytest.mark.parametrize("operator", SEVEN)
def test_parameters_are_those_of_the_network(table: CostTable, operator: str) -> None:
    choice = dict.fromkeys(table.costs, operator)
    network = build(Architecture("resnet26", choice, SEVEN))
    assert table.total(choice, "parameters") == sum(p.numel() for p in network.parameters())


def test_products_of_attention_are_counted() -> None:
    slot = Slot("x", 32, 32, heads=4)
    area = 10 * 12
    encoding = 2 * 32 / 4 * area
    assert operator_counts(slot, "global", 10, 12).stage2 == 2 * area * 32 * area + encoding
    assert operator_counts(slot, "local", 10, 12).stage2 == 2 * 49 * 32 * area + encoding
    assert operator_counts(slot, "global_r2", 10, 12).stage2 == 2 * area / 4 * 32 * area + encoding
    mixed = operator_counts(slot, "acmix_local", 10, 12)
    assert mixed.stage2 == operator_counts(slot, "local", 10, 12).stage2 + (3 * 9 + 81) * 32 * area
    assert mixed.stage1 == 3 * 32 * 32 * area


def test_sizes_are_those_of_the_maps() -> None:
    backbone = timm.create_model("resnet26")
    sizes = survey(backbone, find_slots(backbone), INPUT).sizes
    assert [sizes[f"layer{i}.1.conv2"] for i in (1, 2, 3, 4)] == [(12, 12), (6, 6), (3, 3), (2, 2)]
    assert sizes["layer2.0.conv2"] == (12, 12)


def test_expected_cost_is_one_at_the_mean(table: CostTable) -> None:
    uniform = {slot: torch.full((len(SEVEN),), 1 / len(SEVEN)) for slot in table.costs}
    assert table.expected(uniform).item() == pytest.approx(1.0)


def test_gradient_of_the_expected_cost_agrees_with_finite_differences(table: CostTable) -> None:
    logits = torch.randn(len(table.costs), len(SEVEN), dtype=torch.float64, requires_grad=True)

    def expected(values: torch.Tensor) -> torch.Tensor:
        return table.expected(dict(zip(table.costs, values.softmax(dim=-1), strict=True)))

    assert torch.autograd.gradcheck(expected, logits)
    gradient = torch.autograd.grad(expected(logits), logits)[0]
    assert gradient.abs().max() > 1e-3


def test_unknown_measures_and_idle_slots_are_errors(table: CostTable) -> None:
    with pytest.raises(UserError, match="cost must be one of macs, parameters; got 'joules'"):
        table.total({}, "joules")

    class Idle(torch.nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.used = torch.nn.Conv2d(3, 4, 3, padding=1)
            self.idle = torch.nn.Conv2d(3, 4, 3, padding=1)

        def forward(self, x: torch.Tensor) -> torch.Tensor:
            out: torch.Tensor = self.used(x)
            return out

    with pytest.raises(UserError, match="slot 'idle' takes no part"):
        survey(Idle(), find_slots(Idle()), (3, 8, 8))


def test_a_slot_that_runs_twice_is_named() -> None:
    class Twice(torch.nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.conv = torch.nn.Conv2d(3, 3, 3, padding=1)

        def forward(self, x: torch.Tensor) -> torch.Tensor:
            out: torch.Tensor = self.conv(self.conv(x))
            return out

    with pytest.raises(UserError, match="slot 'conv' runs more than once"):
        survey(Twice(), find_slots(Twice()), (3, 8, 8))

"""Our DARTS: the penalty has a gradient and moves the search; NNI's arguments still work; mistakes are named."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import pytorch_lightning as pl
import torch
from torch import nn

from acmix_nas import hybridize
from acmix_nas.costs.table import CostTable
from acmix_nas.operators import Mixing
from acmix_nas.search_spaces import HybridSpace, MixedSlot
from acmix_nas.slots.finding import find_slots
from acmix_nas.strategies import DARTS
from acmix_nas.strategies.oneshot.darts import CostPenalty
from acmix_nas.util.errors import UserError
from tests.searching.test_run import config, trained
from tests.small import RESNET, SLOTS

CANDIDATES = ["conv", "local", "acmix_local"]


def supernet(**arguments: Any) -> tuple[HybridSpace, list[MixedSlot]]:
    space = hybridize(**RESNET, candidates=CANDIDATES)
    DARTS(**arguments).mutate_model(space)
    return space, [module for module in space.modules() if isinstance(module, MixedSlot)]


def table_of(space: HybridSpace) -> CostTable:
    return CostTable.of(space.backbone, space.slots, (3, 32, 32))


def penalty_of(weight: float, table: CostTable, slots: list[MixedSlot]) -> CostPenalty:
    penalty = CostPenalty(weight, "macs", table)
    penalty.slots = slots
    return penalty


def test_the_gradient_of_the_penalty_agrees_with_finite_differences() -> None:
    space, slots = supernet()
    penalty = penalty_of(0.7, table_of(space), slots)
    with torch.no_grad():
        for slot in slots:
            slot._arch_alpha.copy_(torch.randn(3))
    loss, _ = penalty(torch.zeros(()))
    loss.backward()
    largest = 0.0
    for slot in slots:
        gradient = slot._arch_alpha.grad
        assert gradient is not None
        for i in range(3):
            values = []
            for step in (1e-2, -1e-2):
                with torch.no_grad():
                    slot._arch_alpha[i] += step
                    values.append(penalty(torch.zeros(()))[0].item())
                    slot._arch_alpha[i] -= step
            assert gradient[i].item() == pytest.approx((values[0] - values[1]) / 2e-2, abs=2e-4)
        largest = max(largest, gradient.abs().max().item())
    assert largest > 1e-3


def test_without_a_task_the_search_moves_to_the_cheapest_operators() -> None:
    space, slots = supernet()
    table = table_of(space)
    penalty = penalty_of(1.0, table, slots)
    optimizer = torch.optim.Adam([slot._arch_alpha for slot in slots], lr=0.1, betas=(0.5, 0.999))
    for _ in range(60):
        optimizer.zero_grad()
        penalty(torch.zeros(()))[0].backward()
        optimizer.step()
    for slot in slots:
        costs = table.costs[slot.slot.name]
        cheapest = min(costs, key=lambda operator: costs[operator]["macs"])
        chosen = slot.export({})[slot.label]
        assert chosen == cheapest
        assert slot.probabilities().max() > 0.8


def test_a_penalty_of_zero_changes_no_loss() -> None:
    space, slots = supernet()
    loss, details = penalty_of(0.0, table_of(space), slots)(torch.tensor(2.0))
    assert loss.item() == 2.0
    assert details["expected_macs"] == pytest.approx(1.0, abs=0.01)


def test_alpha_and_beta_are_held_fixed_unless_asked() -> None:
    for learn in (False, True):
        space, _ = supernet(learn_mixing=learn)
        mixings = [module for module in space.modules() if isinstance(module, Mixing)]
        assert len(mixings) == len(SLOTS)
        assert all(parameter.requires_grad == learn for mixing in mixings for parameter in mixing.parameters())


def test_virtual_steps_leave_weights_statistics_and_logs_to_the_real_ones(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """With an architecture that does not move, a search of second order trains the weights on training images alone."""
    monkeypatch.setattr(torch.optim.Adam, "step", lambda *_, **__: None)
    states, logged = [], []
    for warmup in (0, 1):  # with virtual steps in the first epoch, and without any
        seen = Seen()
        settings = config(epochs=2, darts_order=2, arc_warmup=warmup, optimizer="momentum")
        states.append(trained(settings, tmp_path / str(warmup), [seen]).space.state_dict())
        logged.append(seen.accuracies)
    assert all(torch.equal(value, states[1][name]) for name, value in states[0].items())
    assert logged[0] == logged[1]


class Seen(pl.Callback):
    """The accuracy on training images, epoch by epoch."""

    def __init__(self) -> None:
        self.accuracies: list[float] = []

    def on_train_epoch_end(self, trainer: pl.Trainer, pl_module: Any) -> None:  # noqa: ARG002
        self.accuracies.append(float(trainer.callback_metrics["train_accuracy"]))


def test_takes_the_arguments_of_nnis() -> None:
    strategy = DARTS(arc_learning_rate=0.1, warmup_epochs=2, gradient_clip_val=5.0, log_prob_every_n_step=3)
    assert (strategy.arc_learning_rate, strategy.warmup_epochs) == (0.1, 2)
    assert (strategy.gradient_clip_val, strategy.log_prob_every_n_step) == (5.0, 3)


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"penalty": -0.1}, "penalty must be a number of 0 or more; got -0.1"),
        ({"penalty": float("nan")}, "penalty must be .* got nan"),
        ({"penalty": {"profiler": None}}, "penalty must be a number"),
        ({"order": 3}, "order must be one of 1, 2; got 3"),
        ({"cost": "joules"}, "cost must be one of .*macs.*; got 'joules'"),
    ],
)
def test_mistakes_are_named(arguments: dict[str, Any], message: str) -> None:
    with pytest.raises(UserError, match=message):
        DARTS(**arguments)


def test_a_table_can_be_given() -> None:
    backbone = nn.Sequential(nn.Conv2d(3, 8, 3, padding=1))
    table = CostTable.of(backbone, find_slots(backbone, candidates=CANDIDATES), (3, 8, 8))
    assert DARTS(table=table).table is table

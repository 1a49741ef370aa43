"""Recipes and steps: what decays, what is mixed, and what a wrong recipe is told."""

from __future__ import annotations

from typing import Any

import pytest
import torch

from acmix_nas.training.classification import Classification, Recipe, Retraining
from acmix_nas.util.errors import UserError
from tests.small import tiny


def test_scalars_biases_and_norms_do_not_decay() -> None:
    optimizer = Retraining(tiny(), Recipe(schedule="none"), 10).configure_optimizers()["optimizer"]
    decayed = [p.shape for group in optimizer.param_groups if group["weight_decay"] for p in group["params"]]
    assert decayed == [(8, 3, 3, 3), (10, 72)]
    assert sum(len(group["params"]) for group in optimizer.param_groups) == 7


def test_mixup_takes_an_odd_batch() -> None:
    module = Retraining(tiny(), Recipe(mixup=1.0, label_smoothing=0.0), 10)
    module.log = lambda *_, **__: None  # type: ignore[method-assign]
    loss = module.training_step((torch.randn(5, 3, 8, 8), torch.arange(5)), 0)
    assert loss.isfinite()


def test_the_base_owns_no_network() -> None:
    with pytest.raises(NotImplementedError):
        _ = Classification(Recipe(), 10).network


@pytest.mark.parametrize(
    ("wrong", "words"),
    [
        ({"epochs": 0}, "epochs must be at least 1; got epochs=0"),
        ({"lr": 0.0}, "lr must be positive"),
        ({"epochs": 2, "warmup_epochs": 3}, "warmup_epochs must be from 0 to epochs=2; got warmup_epochs=3"),
        ({"min_lr": 1.0}, "min_lr must be from 0 to lr"),
        ({"ema_decay": 1.0}, "ema_decay must be 0 or more and less than 1"),
        ({"schedule": "plateau"}, "schedule must be one of cosine, tanh, poly, none; got 'plateau'"),
        ({"precision": "8"}, "precision must be one of 32-true"),
    ],
)
def test_a_wrong_recipe_is_one_line(wrong: dict[str, Any], words: str) -> None:
    with pytest.raises(UserError, match=words):
        Recipe(**wrong)

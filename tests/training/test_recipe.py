"""What a wrong recipe is told."""

from __future__ import annotations

from typing import Any

import pytest

from acmix_nas.training.recipe import Recipe
from acmix_nas.util.errors import UserError


@pytest.mark.parametrize(
    ("wrong", "words"),
    [
        ({"epochs": 0}, "epochs must be at least 1; got epochs=0"),
        ({"lr": 0.0}, "lr must be positive"),
        ({"lr": 1e308}, "lr must be positive and at most 1000; got lr=1e\\+308"),
        ({"weight_decay": float("inf")}, "weight_decay must be from 0 to 1000"),
        ({"seed": 2**32}, "seed must be from 0 to below 2\\*\\*32; got seed=4294967296"),
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

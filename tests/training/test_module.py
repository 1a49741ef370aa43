"""The steps of a training: what decays, and who owns the network."""

from __future__ import annotations

import pytest

from acmix_nas.training.module import Retraining, TrainingModule
from acmix_nas.training.recipe import Recipe
from acmix_nas.training.task import Classification
from tests.small import tiny


def test_scalars_biases_and_norms_do_not_decay() -> None:
    optimizer = Retraining(tiny(), Recipe(schedule="none"), Classification()).configure_optimizers()["optimizer"]
    decayed = [p.shape for group in optimizer.param_groups if group["weight_decay"] for p in group["params"]]
    assert decayed == [(8, 3, 3, 3), (10, 72)]
    assert sum(len(group["params"]) for group in optimizer.param_groups) == 7


def test_the_base_owns_no_network() -> None:
    with pytest.raises(NotImplementedError):
        _ = TrainingModule(Recipe(), Classification()).network

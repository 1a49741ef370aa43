"""Tasks: how a batch becomes a loss and a score, and what a recipe asks of them."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from torch import Tensor, nn
from torch.utils.data import TensorDataset

from acmix_nas.training.config import TASKS
from acmix_nas.training.data import Data
from acmix_nas.training.recipe import Recipe
from acmix_nas.training.task import Classification, Task
from acmix_nas.util.errors import UserError
from tests.small import tiny


class Closeness(Task):
    """A regression of one number."""

    metric = "closeness"

    def loss(self, outputs: Tensor, batch: Any) -> Tensor:
        found: Tensor = (outputs[:, 0] - batch[1]).square().mean()
        return found

    def scores(self, outputs: Tensor, batch: Any) -> Tensor:
        found: Tensor = 1 / (1 + (outputs[:, 0] - batch[1]).abs())
        return found


def data(classes: int = 10) -> Data:
    part = TensorDataset(torch.randn(6, 3, 8, 8), torch.arange(6) % classes)
    return Data(part, part, num_classes=classes, batch_size=4)


def test_classification_is_registered() -> None:
    assert TASKS.get("classification") is Classification


@pytest.mark.parametrize(
    ("outputs", "said"),
    [
        (torch.empty(1, 7), r"it returns \(1, 7\)"),
        (torch.empty(1, 10, 4, 4), r"it returns \(1, 10, 4, 4\)"),
        ([torch.empty(1, 10)], "it returns list"),
    ],
)
def test_outputs_that_do_not_suit_the_classes_are_refused(outputs: Any, said: str) -> None:
    with pytest.raises(UserError, match=rf"backbone must return \(batch, 10\), a number for each class of the data; {said}"):
        Classification().check_outputs(outputs, data())


def test_outputs_that_suit_are_taken() -> None:
    Classification().check_outputs(torch.empty(1, 10), data())
    Closeness().check_outputs([torch.empty(1, 3)], data())


def test_mixup_takes_an_odd_batch() -> None:
    task = Classification().prepare(Recipe(mixup=1.0, label_smoothing=0.0), data())
    step = task.training_step(tiny(), (torch.randn(5, 3, 8, 8), torch.arange(5)))
    assert step.loss.isfinite()
    assert step.scores.shape == (4,)


def test_preparing_leaves_the_task_as_it_was() -> None:
    task = Classification()
    prepared = task.prepare(Recipe(mixup=1.0), data())
    assert prepared.mixup is not None
    assert task.mixup is None


@pytest.mark.parametrize("size", [2, 4, 5])
def test_an_evaluation_is_the_mean_over_samples_however_they_are_batched(size: int) -> None:
    torch.manual_seed(0)
    network, x, y = nn.Flatten(), torch.randn(5, 4), torch.tensor([0, 1, 2, 3, 0])
    batches = zip(x.split(size), y.split(size), strict=True)
    found = Classification().evaluate(network, batches, torch.device("cpu"))
    assert found.score == int((x.argmax(1) == y).sum()) / 5
    assert found.loss == pytest.approx(float(nn.functional.cross_entropy(x, y)))
    assert found.samples == 5


def test_a_task_of_ones_own_needs_a_loss_and_scores() -> None:
    batch = (torch.randn(3, 3, 8, 8), torch.tensor([1.0, 2.0, 3.0]))
    network = nn.Sequential(nn.Flatten(), nn.Linear(192, 1))
    step = Closeness().prepare(Recipe(), data()).training_step(network, batch)
    assert step.loss.requires_grad
    assert step.scores.shape == (3,)
    found = Closeness().evaluate(network, [batch], torch.device("cpu"))
    assert found[:2] == pytest.approx((float(step.scores.mean()), step.loss.item()))
    assert found.samples == 3


def test_what_mixes_labels_is_refused_by_a_task_without_any() -> None:
    with pytest.raises(UserError, match=r"mixup must be 0 with this task, .* got 0\.2"):
        Closeness().prepare(Recipe(mixup=0.2), data())


def test_predictions_are_shown_by_the_names_of_the_classes() -> None:
    part = TensorDataset(torch.randn(2, 3, 8, 8), torch.tensor([0, 1]))
    named = Data(part, part, class_names=["cat", "dog"])
    assert Classification().show(torch.tensor([[0.0, 9.0]]), named) == ["dog (100%)"]


def test_networks_are_told_the_channels_of_the_inputs() -> None:
    part = TensorDataset(torch.randn(2, 12, 8, 8), torch.tensor([0, 1]))
    assert Classification().network_args(Data(part, part, num_classes=2)) == {"num_classes": 2, "in_chans": 12}
    assert Classification().network_args(data()) == {"num_classes": 10}

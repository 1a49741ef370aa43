"""A mistake in an operator shows before anything is trained, with its name and its slot."""

from __future__ import annotations

from collections.abc import Callable

import pytest
import torch
from torch import Tensor

from acmix_nas.costs.survey import survey
from acmix_nas.operators import OPERATORS, Path, register_operator
from acmix_nas.slots.backbones import open_backbone
from acmix_nas.util.errors import UserError

Forward = Callable[[Path, Tensor], Tensor]


@pytest.fixture(autouse=True)
def restored(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(OPERATORS, "_registered", dict(OPERATORS._registered))


def surveyed(forward: Forward) -> None:
    @register_operator("wrong")
    class Wrong(Path):
        def forward(self, maps: Tensor) -> Tensor:
            return forward(self, maps)

    network, slots = open_backbone("resnet14t", {"channels": (8, 8, 16, 16)}, "layer*", candidates=("conv", "wrong"))
    found = survey(network, slots, (3, 16, 16))
    found.operator(slots[0], "conv")
    assert found.operator(slots[0], "wrong") is found.operator(slots[0], "wrong")


def values(path: Path, maps: Tensor) -> Tensor:
    return maps[:, 2 * path.channels :, :: path.stride, :: path.stride]


@pytest.mark.parametrize(
    ("forward", "said"),
    [
        (lambda _, maps: maps, r"operator 'wrong' at slot '.*' must return shape \(1, 8, .*\) for .*; it returns \(1, 24, "),
        (lambda path, maps: values(path, maps)[..., 1:], "must return shape"),
        (lambda _, maps: maps.view(3), "operator 'wrong' at slot '.*' does not run on a map of shape .*: shape"),
        (lambda path, maps: values(path, maps) + torch.ones(4, 4), "does not run on a map of shape"),
        (lambda _, maps: maps.missing, "has no attribute 'missing'"),
    ],
    ids=["channels", "width", "error", "other device", "attribute"],
)
def test_an_operator_that_does_not_fit_is_refused(forward: Forward, said: str) -> None:
    with pytest.raises(UserError, match=said):
        surveyed(forward)


def test_images_of_other_channels_are_refused() -> None:
    network, slots = open_backbone("resnet14t", {"channels": (8, 8, 16, 16)}, "layer*")
    with pytest.raises(UserError, match=r"backbone does not take inputs of shape \(1, 12, 16, 16\): .*channel"):
        survey(network, slots, (12, 16, 16))


def test_the_outputs_of_the_backbone_are_known() -> None:
    network, slots = open_backbone("resnet14t", {"channels": (8, 8, 16, 16), "num_classes": 7}, "layer*")
    assert survey(network, slots, (3, 16, 16)).outputs.shape == (1, 7)


def test_an_operator_that_fits_is_made_once() -> None:
    surveyed(values)

"""The network of the `cued` space."""

from __future__ import annotations

from typing import Any

import pytest
import timm
import torch
from torch import nn

from acmix_nas.research.benchmark.spaces import CUED


@pytest.mark.parametrize(("batch", "side", "classes"), [(1, 20, 5), (2, 20, 10), (3, 12, 2), (2, 21, 5)])
def test_images_become_logits(batch: int, side: int, classes: int) -> None:
    network = timm.create_model("cued_net", num_classes=classes).eval()
    assert network(torch.randn(batch, 3, side, side)).shape == (batch, classes)


def test_slots_see_the_maps_that_the_space_says() -> None:
    network, sizes = timm.create_model("cued_net").eval(), []
    for slot in CUED.slots:
        module = network.get_submodule(slot.name)
        module.register_forward_pre_hook(lambda _, inputs: sizes.append(tuple(inputs[0].shape[1:])))
    network(torch.randn(1, 3, 20, 20))
    assert sizes == [(16, 10, 10), (32, 5, 5), (32, 5, 5), (32, 5, 5)]


def test_without_classes_it_gives_features() -> None:
    network: Any = timm.create_model("cued_net", num_classes=0).eval()
    assert isinstance(network.get_classifier(), nn.Identity)
    assert network(torch.randn(2, 3, 20, 20)).shape == (2, 32)


def test_a_block_adds_to_its_input() -> None:
    block = timm.create_model("cued_net").eval().get_submodule("blocks.1")
    nn.init.zeros_(block.get_parameter("norm2.weight"))
    x = torch.rand(1, 32, 5, 5)
    assert torch.equal(block(x), x)

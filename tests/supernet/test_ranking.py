"""Inherited accuracy: that it is the derived network's, that sharing changes nothing, and what it saves."""

from __future__ import annotations

import itertools
from dataclasses import replace

import pytest
import timm
import torch
from torch import nn

from acmix_nas.research.benchmark.spaces import CUED
from acmix_nas.slots.finding import Slot, find_slots
from acmix_nas.slots.making import put
from acmix_nas.supernet.candidates import Candidates
from acmix_nas.supernet.ranking import Ranker
from acmix_nas.training.config import DataConfig
from acmix_nas.training.images import ImageData

SLOTS = CUED.slots[:3]


class Mixture(nn.Module):
    """A slot as a strategy leaves it: something that has candidates."""

    def __init__(self, slot: Slot) -> None:
        super().__init__()
        self.candidates = Candidates(slot)


def supernet() -> nn.Module:
    torch.manual_seed(0)
    network = timm.create_model("cued_net", num_classes=10)
    for slot in SLOTS:
        put(network, slot.name, Mixture(slot))
    for norm in network.modules():
        if isinstance(norm, nn.BatchNorm2d) and norm.running_mean is not None:
            norm.running_mean.normal_()
    return network


def batches() -> list[tuple[torch.Tensor, torch.Tensor]]:
    generator = torch.Generator().manual_seed(1)
    return [
        (torch.randn(n, 3, 12, 12, generator=generator), torch.randint(10, (n,), generator=generator)) for n in (30, 30, 11)
    ]


def every() -> list[dict[str, str]]:
    return [
        dict(zip((slot.name for slot in SLOTS), operators, strict=True))
        for operators in itertools.product(*(slot.candidates for slot in SLOTS))
    ]


def derived(network: nn.Module, choice: dict[str, str]) -> nn.Module:
    """Derive network by network, without anything shared."""
    for slot in SLOTS:
        put(network, slot.name, network.get_submodule(slot.name).candidates.derive(choice[slot.name]))  # type: ignore[union-attr,operator]
    return network.eval()


@pytest.mark.parametrize("choice", every()[::5])
def test_without_new_statistics_it_is_the_derived_network(choice: dict[str, str]) -> None:
    ranker = Ranker(supernet(), SLOTS, None, batches())
    network = derived(supernet(), choice)
    with torch.no_grad():
        right = sum(int((network(x).argmax(1) == y).sum()) for x, y in batches())
    assert ranker.score(choice) == right / 71


@pytest.mark.parametrize("memory", [0, 20_000, 2**30])
def test_what_is_shared_changes_no_accuracy(memory: int) -> None:
    calibration = torch.randn(40, 3, 12, 12)
    shared = Ranker(supernet(), SLOTS, calibration, batches(), memory=memory)
    for choice in shared.in_tree_order(every()):
        alone = Ranker(supernet(), SLOTS, calibration, batches(), memory=0)
        assert shared.score(choice) == alone.score(choice)


def test_architectures_that_begin_alike_run_their_beginning_once() -> None:
    ranker = Ranker(supernet(), SLOTS, torch.randn(40, 3, 12, 12), batches()[:1])
    calls = dict.fromkeys(ranker.singles, 0)
    for name, single in ranker.singles.items():
        outputs = single.candidates.outputs

        def counted(*arguments: object, name: str = name, outputs: object = outputs) -> object:
            calls[name] += 1
            return outputs(*arguments)  # type: ignore[operator]

        single.candidates.outputs = counted  # type: ignore[method-assign, assignment]
    choices = ranker.in_tree_order(every())
    calls = dict.fromkeys(calls, 0)
    for choice in choices:
        ranker.score(choice)
    assert list(calls.values()) == [2 * 3, 2 * 9, 2 * 27]  # once for the statistics, once for the images


def test_new_statistics_are_those_of_the_training_images() -> None:
    calibration = torch.randn(64, 3, 12, 12)
    ranker = Ranker(supernet(), SLOTS, calibration, batches())
    ranker.score(every()[0])
    stem = ranker.network.get_submodule("stem")
    assert isinstance(stem, nn.Sequential)
    seen = stem[0](calibration)
    assert torch.allclose(stem.get_buffer("1.running_mean"), seen.mean(dim=(0, 2, 3)), atol=1e-5)


def test_the_supernet_stays_as_it_was() -> None:
    network = supernet()
    before = {key: value.clone() for key, value in network.state_dict().items()}
    Ranker(network, SLOTS, torch.randn(8, 3, 12, 12), batches()).score(every()[0])
    assert all(torch.equal(before[key], value) for key, value in network.state_dict().items())
    assert isinstance(network.get_submodule(SLOTS[0].name), Mixture)


def test_of_images_it_takes_the_validation_part_and_training_images() -> None:
    data = ImageData(DataConfig(image_size=8))
    ranker = Ranker.of(supernet(), SLOTS, data)
    again = Ranker.of(supernet(), SLOTS, data)
    assert sum(len(y) for _, y in ranker.batches) == 360
    assert ranker.calibration is not None
    assert ranker.calibration.shape == (640, 3, 8, 8)
    assert again.calibration is not None
    assert torch.equal(ranker.calibration, again.calibration)


def test_slots_are_ordered_as_they_run() -> None:
    network = timm.create_model("resnet14t", channels=[8, 8, 16, 16])
    slots = find_slots(network, ["layer*.conv2"], candidates=("conv", "global"))
    slots = [replace(slot) for slot in reversed(slots)]
    for slot in slots:
        put(network, slot.name, Mixture(slot))
    ranker = Ranker(network, slots, None, [(torch.randn(2, 3, 32, 32), torch.tensor([0, 1]))])
    ranker.in_tree_order([])
    assert ranker.order == [slot.name for slot in reversed(slots)]

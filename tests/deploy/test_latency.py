"""Latencies: what is measured, what is kept, and that their sum is that of a network."""

from __future__ import annotations

import json
from dataclasses import replace
from functools import partial
from pathlib import Path

import numpy as np
import pytest
import timm
import torch
from torch import nn

from acmix_nas.costs.registry import COSTS
from acmix_nas.costs.table import COUNTED, CostTable
from acmix_nas.deploy import latency
from acmix_nas.deploy.fusion import fuse
from acmix_nas.deploy.latency import Latency, cache_file, check
from acmix_nas.research.benchmark.spaces import CUED
from acmix_nas.search_spaces import HybridSpace
from acmix_nas.util.errors import UserError
from tests.small import known

SIZE = (3, 20, 20)


@pytest.fixture(autouse=True)
def own_cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
    # What is measured is not asked here, so little of it is.
    monkeypatch.setattr(latency, "WHOLE", 3)
    monkeypatch.setattr(latency, "fuse", partial(fuse, repeats=1))


@pytest.fixture(scope="module")
def backbone() -> nn.Module:
    return timm.create_model("cued_net")


def table_of(backbone: nn.Module) -> CostTable:
    return CostTable.of(backbone, CUED.slots, SIZE, [*COUNTED, Latency(device="cpu", repeats=2)])


def test_a_table_knows_latencies_beside_its_counts(backbone: nn.Module) -> None:
    table = table_of(backbone)
    choice = CUED.by_slot(("conv", "global", "conv", "acmix_global"))
    costs = table.of_architecture(choice)
    assert {name: costs[name] for name in ("macs", "parameters")} == CUED.cost(tuple(choice.values()))
    assert costs["latency"] > 0
    assert all(value > 0 for row in table.values("latency").values() for value in row)


def test_a_table_without_latencies_says_so() -> None:
    with pytest.raises(UserError, match="cost must be one of macs, parameters; got 'latency'"):
        CUED.costs.values("latency")
    with pytest.raises(UserError, match="latency"):
        check(CUED.costs, nn.Identity(), CUED.slots, SIZE)


def test_equal_slots_on_equal_maps_are_measured_once(backbone: nn.Module, monkeypatch: pytest.MonkeyPatch) -> None:
    measured: list[int] = []
    real = latency._interleaved

    def counted(modules: list[tuple[nn.Module, torch.Tensor]], repeats: int) -> np.ndarray:
        measured.append(len(modules))
        return real(modules, repeats)

    monkeypatch.setattr(latency, "_interleaved", counted)
    slots = [replace(slot, shift=False) for slot in CUED.slots]
    CostTable.of(backbone, slots, SIZE, [Latency(device="cpu", repeats=1)])
    assert measured[0] == 2 * 3  # two shapes, three candidates
    assert measured[1:] == [latency.WHOLE]


def test_what_was_measured_is_not_measured_again(backbone: nn.Module, monkeypatch: pytest.MonkeyPatch) -> None:
    first = table_of(backbone)
    monkeypatch.setattr(latency, "_interleaved", None)
    again = table_of(timm.create_model("cued_net"))
    assert again == first


def test_what_stands_at_the_slots_does_not_matter(backbone: nn.Module, monkeypatch: pytest.MonkeyPatch) -> None:
    """A supernet is measured as the plain backbone is."""
    first = table_of(backbone)
    monkeypatch.setattr(latency, "_interleaved", None)
    config = CUED.config
    space = HybridSpace(known(config.backbone), config.candidates, config.slots, config.heads)
    assert table_of(space.backbone) == first


def test_latencies_are_found_by_their_name(backbone: nn.Module) -> None:
    first = CostTable.of(backbone, CUED.slots, SIZE, [Latency(repeats=2)])
    assert CostTable.of(backbone, CUED.slots, SIZE, ["latency"]) == first
    assert COSTS.get("latency") is Latency


def test_the_rest_of_another_network_is_measured(backbone: nn.Module) -> None:
    table_of(backbone)
    before = len(json.loads(cache_file().read_text())["milliseconds"])
    table_of(timm.create_model("cued_net", num_classes=7))
    assert len(json.loads(cache_file().read_text())["milliseconds"]) == before + 1


def test_the_cache_tells_kernels_apart(backbone: nn.Module, monkeypatch: pytest.MonkeyPatch) -> None:
    table_of(backbone)
    before = len(json.loads(cache_file().read_text())["milliseconds"])
    monkeypatch.setattr("acmix_nas.operators.kernels.build", lambda: "none")
    table_of(backbone)
    assert len(json.loads(cache_file().read_text())["milliseconds"]) == 2 * before


def test_the_cache_tells_threads_apart(backbone: nn.Module) -> None:
    threads = torch.get_num_threads()
    table_of(backbone)
    before = len(json.loads(cache_file().read_text())["milliseconds"])
    torch.set_num_threads(threads + 1)
    try:
        table_of(backbone)
    finally:
        torch.set_num_threads(threads)
    assert len(json.loads(cache_file().read_text())["milliseconds"]) == 2 * before


@pytest.mark.parametrize("content", ["{", "[]", '{"milliseconds": 3}', '{"milliseconds": {"x": null}}'])
def test_a_broken_cache_is_measured_anew(backbone: nn.Module, content: str) -> None:
    cache_file().parent.mkdir(parents=True)
    cache_file().write_text(content)
    assert table_of(backbone).rest["latency"] is not None
    assert json.loads(cache_file().read_text())["milliseconds"]


def test_sums_are_compared_with_whole_networks(backbone: nn.Module) -> None:
    table = table_of(backbone)
    found = check(table, backbone, CUED.slots, SIZE, number=5, repeats=2, device="cpu")
    assert len(found.measured) == len(found.summed) == 5
    assert -1 <= found.spearman <= 1
    assert -1 <= found.ceiling <= 1
    assert [table.total(choice, "latency") for choice in found.choices] == list(found.summed)
    assert 0 <= found.error <= found.worst
    with pytest.raises(UserError, match="number must be at least 3"):
        check(table, backbone, CUED.slots, SIZE, number=2)


def test_the_cost_of_a_latency_has_a_gradient(backbone: nn.Module) -> None:
    table = table_of(backbone)
    logits = {slot.name: torch.zeros(3, requires_grad=True) for slot in CUED.slots}
    expected = table.expected({name: value.softmax(0) for name, value in logits.items()}, "latency")
    expected.backward()
    assert expected.item() == pytest.approx(1)
    assert all(value.grad is not None and value.grad.abs().sum() > 0 for value in logits.values())


def test_other_work_on_the_machine_does_not_change_what_a_network_takes() -> None:
    generator = np.random.default_rng(0)
    alone = np.array([1.0, 1.1, 1.2, 1.3, 1.4])
    slow = np.where(generator.random(40) < 0.3, 1.6, 1.0)  # turns in which all is slower
    hit = np.where(generator.random((5, 40)) < 0.3, 1.5, 1.0)  # forwards that were interrupted
    times = alone[:, None] * slow * hit * generator.normal(1, 0.01, (5, 40))
    assert latency._typical(times) == pytest.approx(alone, rel=0.03)

"""The four families of the paper as spaces: their slots, heads, windows, and that the mixture runs."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from nni.nas.strategy import DARTS

from acmix_nas import Architecture, build
from acmix_nas.search_spaces import HybridSpace, pvt, resnet, san, swin

SMALL: dict[str, tuple[Any, dict[str, Any]]] = {
    "resnet": (resnet, {"channels": (8, 8, 16, 16), "layers": (1, 1, 1, 1)}),
    "san": (san, {"layers": (1, 1, 1, 1, 1)}),
    "pvt": (pvt, {"embed_dims": (8, 16), "depths": (1, 1), "num_heads": (1, 2), "mlp_ratios": (2, 2), "reductions": (2, 1)}),
    "swin": (swin, {"embed_dim": 12, "depths": (2, 2), "num_heads": (2, 4), "img_size": 56}),
}


def small(family: str) -> HybridSpace:
    torch.manual_seed(0)
    make, arguments = SMALL[family]
    space: HybridSpace = make(num_classes=3, **arguments)
    return space


@pytest.mark.parametrize(
    ("make", "number", "heads", "candidates"),
    [
        (resnet, 8, {4}, {("conv", "local", "acmix_local")}),
        (
            san, 10, {4},
            {("conv", "patchwise_k3", "acmix_patchwise_k3"), ("conv", "patchwise", "acmix_patchwise")},
        ),
        (pvt, 8, {1, 2, 5, 8}, {("conv", "global", "acmix_global")}),
        (swin, 12, {3, 6, 12, 24}, {("conv", "window", "acmix_window")}),
    ],
    ids=list(SMALL),
)  # fmt: skip
def test_slots_of_the_paper(make: Any, number: int, heads: set[int], candidates: set[tuple[str, ...]]) -> None:
    slots = make().slots
    assert (len(slots), {slot.heads for slot in slots}, {slot.candidates for slot in slots}) == (number, heads, candidates)


def test_stage1_of_san_is_that_of_the_paper() -> None:
    assert {len(slot.reads) for slot in small("san").slots} == {1 + 1 + 4}


def test_reductions_of_pvt() -> None:
    assert [slot.reduction for slot in pvt().slots] == [8, 8, 4, 4, 2, 2, 1, 1]


def test_every_second_block_of_swin_is_shifted() -> None:
    assert [slot.shift for slot in swin().slots] == [False, True] * 6


@pytest.mark.parametrize("family", SMALL)
def test_the_mixture_trains(family: str) -> None:
    space = small(family)
    strategy = DARTS()
    strategy.mutate_model(space)
    space(torch.randn(2, 3, 56, 56)).square().mean().backward()
    assert all(p.grad is not None and p.grad.isfinite().all() for n, p in space.named_parameters() if "_arch_alpha" in n)


@pytest.mark.parametrize("family", SMALL)
@pytest.mark.parametrize("choice", [0, 1, 2])
def test_a_choice_is_built_with_the_weights_it_inherits(family: str, choice: int) -> None:
    space = small(family)
    slots = {slot.name: slot.candidates[choice] for slot in space.slots}
    frozen = space.freeze(dict(slots)).eval()
    _, arguments = SMALL[family]
    backbone = {"resnet": "resnet26_conv", "san": "san10_patchwise", "pvt": "pvt_tiny", "swin": "swin_tiny_patch4_window7_224"}
    architecture = Architecture(
        backbone[family], slots, ("conv", "home", "acmix_home"), {**arguments, "num_classes": 3},
        pattern=["layer*.conv2", "layers.*.attn", "stages.*.attn"], heads=4 if family == "resnet" else None,
    )  # fmt: skip
    network = build(architecture).eval()
    network.load_state_dict(frozen.backbone.state_dict())
    x = torch.randn(2, 3, 56, 56)
    torch.testing.assert_close(network(x), frozen(x))

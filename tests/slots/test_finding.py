"""Slots: what is found, and what is said about mistakes."""

from __future__ import annotations

from typing import Any

import pytest
import timm
from torch import nn

from acmix_nas.operators import (
    GlobalAttention,
    WindowAttention,
)
from acmix_nas.slots.blocks import open_blocks
from acmix_nas.slots.finding import Slot, find_slots
from acmix_nas.util.errors import UserError
from tests.slots.homes import HOMES, Host, block
from tests.small import part


@pytest.mark.parametrize(
    ("backbone", "number", "first"),
    [
        ("resnet18", 16, "layer1.0.conv1"),
        ("resnet26", 8, "layer1.0.conv2"),
        ("resnext50d_32x4d", 3, "conv1.0"),
        ("regnetx_002", 1, "stem.conv"),
        ("vgg11", 8, "features.0"),
        ("densenet121", 58, "features.denseblock1.denselayer1.conv2"),
        ("hrnet_w18_small", 65, "conv1"),
        ("dla34", 26, "level0.0"),
        ("efficientnetv2_rw_t", 11, "conv_stem"),
    ],
)
def test_every_dense_3x3_convolution_of_a_backbone_is_found(backbone: str, number: int, first: str) -> None:
    network = timm.create_model(backbone)
    slots = find_slots(network)
    assert slots[0].name == first
    assert len(slots) == number
    for slot in slots:
        conv = part(network, slot.name, nn.Conv2d)
        assert conv.kernel_size == (3, 3)
        assert (slot.in_channels, slot.out_channels, slot.stride) == (conv.in_channels, conv.out_channels, conv.stride[0])


def test_grouped_padded_otherwise_and_subclassed_convolutions_are_no_slots() -> None:
    class Own(nn.Conv2d):
        pass

    backbone = nn.Sequential(
        nn.Conv2d(4, 4, 3, padding=1, groups=2),
        nn.Conv2d(4, 4, 3),
        nn.Conv2d(4, 4, 1),
        nn.Conv2d(4, 4, 3, padding=1, padding_mode="reflect"),
        nn.Conv2d(4, 4, 3, padding=1, stride=(1, 2)),
        Own(4, 4, 3, padding=1),
        nn.Conv2d(4, 4, 3, padding=2, dilation=2),
        nn.Conv2d(4, 4, 3, padding="same"),
    )
    assert [slot.name for slot in find_slots(backbone)] == ["6", "7"]


def test_a_module_at_two_places_is_named() -> None:
    conv = nn.Conv2d(4, 4, 3, padding=1)
    with pytest.raises(UserError, match="slot '0' is the same module as '1'"):
        find_slots(nn.Sequential(conv, conv))


def test_a_slot_with_a_weight_of_two_modules_is_named() -> None:
    first, second = nn.Conv2d(4, 4, 3, padding=1), nn.Conv2d(4, 4, 3, padding=1, bias=False)
    second.weight = first.weight
    network = nn.Sequential(first, second)
    with pytest.raises(UserError, match=r"slot '0' shares a weight: 0\.weight and 1\.weight are one"):
        find_slots(network)
    with pytest.raises(UserError, match="slot '1' shares a weight"):
        find_slots(network, "1")


def test_heads_of_another_type_are_named() -> None:
    with pytest.raises(UserError, match="heads must be a number, globs with numbers, or None; got heads='4'"):
        find_slots(nn.Sequential(nn.Conv2d(4, 4, 3, padding=1)), heads="4")  # type: ignore[arg-type]


def test_globs_choose_slots() -> None:
    backbone = timm.create_model("resnet18")
    names = [slot.name for slot in find_slots(backbone, ["layer1.*", "*.1.conv2"])]
    assert names == ["layer1.0.conv1", "layer1.0.conv2", "layer1.1.conv1", "layer1.1.conv2",
                     "layer2.1.conv2", "layer3.1.conv2", "layer4.1.conv2"]  # fmt: skip


def test_heads_adapt_to_the_channels() -> None:
    backbone = nn.Sequential(*(nn.Conv2d(c, c, 3, padding=1) for c in (8, 6, 5, 9)))
    assert [slot.heads for slot in find_slots(backbone)] == [4, 3, 1, 3]


def test_heads_by_glob() -> None:
    backbone = timm.create_model("resnet26")
    heads = {slot.name: slot.heads for slot in find_slots(backbone, "*", {"layer1.*": 2, "layer[23].*": 8})}
    assert heads["layer1.0.conv2"] == 2
    assert heads["layer3.1.conv2"] == 8
    assert heads["layer4.0.conv2"] == 4


@pytest.mark.parametrize(
    ("backbone", "pattern", "heads", "parts"),
    [
        (nn.Conv2d(3, 3, 1), "*", None, ["Conv2d", "no dense 3×3 convolution"]),
        (nn.Sequential(nn.Conv2d(3, 8, 3, padding=1)), "layer*", None, ["'layer*'", "none of the 1", "(0, …)"]),
        (nn.Sequential(nn.Conv2d(3, 6, 3, padding=1)), "*", 4, ["slot '0'", "6 channels", "heads=4"]),
        (nn.Sequential(nn.Conv2d(3, 6, 3, padding=1)), "*", 0, ["slot '0'", "heads=0"]),
    ],
)
def test_what_cannot_be_a_space_says_why(backbone: nn.Module, pattern: str, heads: int | None, parts: list[str]) -> None:
    with pytest.raises(UserError) as error:
        find_slots(backbone, pattern, heads)
    assert all(part in str(error.value) for part in parts), str(error.value)
    assert "\n" not in str(error.value)


def test_every_second_slot_moves_its_windows() -> None:
    assert [slot.shift for slot in find_slots(timm.create_model("resnet26"))] == [False, True] * 4


@pytest.mark.parametrize("home", HOMES)
def test_operators_of_this_package_are_slots(home: str) -> None:
    make, attention, attributes = HOMES[home]
    slot, conv = find_slots(Host(make()))
    candidates = ("conv", attention, f"acmix_{attention}")
    assert slot == Slot("operator", **{"in_channels": 8, "out_channels": 8, **attributes}, candidates=candidates)
    assert conv == Slot("conv", 8, 8, heads=4, shift=True, candidates=("conv", "local", "acmix_local"))


def test_what_is_inside_an_operator_is_no_slot() -> None:
    host = Host(block())
    host.get_submodule("operator.path.path").add_module("behind", nn.Conv2d(8, 8, 3, padding=1))
    assert [slot.name for slot in find_slots(host)] == ["operator", "conv"]


def test_the_attention_at_home_is_named_by_slot() -> None:
    host = nn.Sequential(nn.Conv2d(8, 8, 3, padding=1), WindowAttention(8, 8, window=4), GlobalAttention(8, 8))
    named = [slot.candidates for slot in find_slots(host, candidates=["acmix_home", "local_k3", "home"])]
    assert named == [(f"acmix_{kind}", "local_k3", kind) for kind in ("local", "window_k4", "global")]


def test_a_candidate_that_home_comes_to_is_refused_twice() -> None:
    host = nn.Sequential(WindowAttention(8, 8))
    with pytest.raises(UserError, match="candidates must differ; got window twice"):
        find_slots(host, candidates=["home", "window"])


@pytest.mark.parametrize(("heads", "expected"), [(None, [2, 4]), (8, [8, 8]), ({"op*": 1}, [1, 4]), ({"conv": 2}, [2, 2])])
def test_heads_of_the_user_go_before_those_at_home(heads: Any, expected: list[int]) -> None:
    assert [slot.heads for slot in find_slots(Host(block()), heads=heads)] == expected


def test_heads_that_do_not_divide_an_attentions_channels_are_named() -> None:
    with pytest.raises(UserError, match="slot 'operator' has 8 channels, which heads=3 do not divide"):
        find_slots(Host(block()), heads={"operator": 3})


def test_swins_attentions_are_slots() -> None:
    swin = timm.create_model(
        "swin_tiny_patch4_window7_224", img_size=56, embed_dim=24, depths=(2, 1), num_heads=(2, 4), num_classes=3
    )
    with pytest.raises(UserError, match="no attention that works on a map"):
        find_slots(swin)
    open_blocks(swin)
    common: dict[str, Any] = {"block": True, "position": "table", "candidates": ("conv", "window", "acmix_window")}
    assert find_slots(swin) == [
        Slot("layers.0.blocks.0.attn", 24, 24, heads=2, **common),
        Slot("layers.0.blocks.1.attn", 24, 24, heads=2, shift=True, **common),
        Slot("layers.1.blocks.0.attn", 48, 48, heads=4, **common),
    ]


def test_vits_attentions_are_slots() -> None:
    vit = timm.create_model(
        "vit_tiny_patch16_224", img_size=32, embed_dim=24, depth=2, num_heads=2, class_token=False, global_pool="avg"
    )
    open_blocks(vit)
    common: dict[str, Any] = {"block": True, "position": "none", "candidates": ("conv", "global", "acmix_global")}
    assert find_slots(vit, "blocks.*") == [
        Slot("blocks.0.attn", 24, 24, heads=2, **common),
        Slot("blocks.1.attn", 24, 24, heads=2, shift=True, **common),
    ]

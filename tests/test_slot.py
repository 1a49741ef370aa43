"""Slots: what is found, what may stand there, and what is said about mistakes."""

from __future__ import annotations

import pytest
import timm
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch import nn

from acmix_nas.errors import UserError
from acmix_nas.slot import OperatorName, Slot, check_candidates, find_slots, make_operator, put
from tests.small import SEVEN


@pytest.mark.parametrize(
    ("name", "kind", "mixed", "settings"),
    [
        ("conv", None, False, {}),
        ("local", "local", False, {}),
        ("local_k3", "local", False, {"window": 3}),
        ("acmix_window_k4", "window", True, {"window": 4}),
        ("acmix_global", "global", True, {}),
        ("global_r2", "global", False, {"reduction": 2}),
    ],
)
def test_operator_names_are_taken_apart(name: str, kind: str | None, mixed: bool, settings: dict[str, int]) -> None:
    operator = OperatorName.parse(name)
    assert (operator.kind, operator.mixed, operator.settings) == (kind, mixed, settings)


@pytest.mark.parametrize("name", ["", "axial", "acmix", "acmix_conv", "local_r2", "global_k3", "local_k", "Local", "local "])
def test_no_operator_has_another_name(name: str) -> None:
    with pytest.raises(UserError, match="operator must be conv, local, window, global"):
        OperatorName.parse(name)


@given(st.text(max_size=20))
def test_any_text_is_an_operator_or_an_error(text: str) -> None:
    try:
        parsed = OperatorName.parse(text)
    except UserError as error:
        message = str(error)
    else:
        message = repr(parsed.text)
    assert repr(text) in message


@pytest.mark.parametrize(
    ("candidates", "message"),
    [([], "got none"), (["conv", "conv"], "conv twice"), ("conv", "must be a list"), (["conv", "cnov"], "got 'cnov'")],
)
def test_candidates_are_checked(candidates: list[str], message: str) -> None:
    with pytest.raises(UserError, match=message):
        check_candidates(candidates)


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
        conv = network.get_submodule(slot.name)
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


@pytest.mark.parametrize("operator", [*SEVEN, "local_k3", "global_r2"])
@pytest.mark.parametrize("stride", [1, 2])
def test_every_operator_fits_where_the_convolution_stood(operator: str, stride: int) -> None:
    slot = Slot("x", 6, 8, heads=2, stride=stride)
    x = torch.randn(2, 6, 9, 7)
    assert make_operator(slot, operator)(x).shape == nn.Conv2d(6, 8, 3, stride, 1)(x).shape


@pytest.mark.parametrize("bias", [True, False])
def test_conv_starts_from_the_weight_of_the_backbone(bias: bool) -> None:
    dense = nn.Conv2d(6, 8, 3, padding=1, bias=bias)
    x = torch.randn(1, 6, 5, 5)
    torch.testing.assert_close(make_operator(Slot("x", 6, 8, heads=2), "conv", dense)(x), dense(x))


def test_every_second_slot_moves_its_windows() -> None:
    assert [slot.shift for slot in find_slots(timm.create_model("resnet26"))] == [False, True] * 4


def test_put_reaches_into_containers() -> None:
    backbone = nn.Sequential(nn.Sequential(nn.ReLU(), nn.ReLU()))
    put(backbone, "0.1", nn.Identity())
    assert isinstance(backbone[0][1], nn.Identity)

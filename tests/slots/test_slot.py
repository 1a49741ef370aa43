"""Slots: what is found, what may stand there, and what is said about mistakes."""

from __future__ import annotations

from typing import Any

import pytest
import timm
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch import nn

from acmix_nas.operators import (
    ACmix,
    Convolution,
    ConvolutionPath,
    GlobalAttention,
    GlobalPath,
    LocalAttention,
    Mixing,
    OnesConv2d,
    Operator,
    Output,
    PatchwiseAttention,
    Projection,
    ReducedProjection,
    WindowAttention,
    WindowPath,
)
from acmix_nas.slots.blocks import open_blocks
from acmix_nas.slots.slot import DEFAULT_CANDIDATES, OperatorName, Slot, check_candidates, find_slots, make_operator, put
from acmix_nas.util.errors import UserError
from tests.small import EVERY, at


@pytest.mark.parametrize(
    ("name", "kind", "mixed", "settings"),
    [
        ("conv", None, False, {}),
        ("local", "local", False, {}),
        ("local_k3", "local", False, {"window": 3}),
        ("acmix_window_k4", "window", True, {"window": 4}),
        ("acmix_global", "global", True, {}),
        ("global_r2", "global", False, {"reduction": 2}),
        ("patchwise", "patchwise", False, {}),
        ("acmix_patchwise_k3", "patchwise", True, {"window": 3}),
    ],
)
def test_operator_names_are_taken_apart(name: str, kind: str | None, mixed: bool, settings: dict[str, int]) -> None:
    operator = OperatorName.parse(name)
    assert (operator.kind, operator.mixed, operator.settings) == (kind, mixed, settings)


@pytest.mark.parametrize(
    "name", ["", "axial", "acmix", "home", "acmix_conv", "patchwise_r2", "local_r2", "global_k3", "local_k", "Local", "local "]
)
def test_no_operator_has_another_name(name: str) -> None:
    with pytest.raises(UserError, match="operator must be conv, local, window, global, patchwise"):
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


@pytest.mark.parametrize("operator", EVERY)
@pytest.mark.parametrize("shape", [{}, {"stride": 2}, {"block": True, "position": "table"}], ids=["plain", "stride", "block"])
def test_every_operator_fits_where_the_convolution_stood(operator: str, shape: dict[str, Any]) -> None:
    slot = Slot("x", 6, 8, heads=2, **shape)
    stride = slot.stride
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


class Host(nn.Module):
    """A network with one operator in it, and a convolution behind that."""

    def __init__(self, operator: nn.Module) -> None:
        super().__init__()
        self.operator = operator
        self.conv = nn.Conv2d(8, 8, 3, padding=1)


def block(position: str = "table", window: int = 7, shift: bool = False) -> Operator:
    return Operator(Projection(8, 24), Output(WindowPath(8, 2, window, shift=shift, position=position)))


def reduced(reduction: int) -> Operator:
    return Operator(ReducedProjection(8, reduction), Output(GlobalPath(8, 4, reduction=reduction, position="none")))


HOMES: dict[str, tuple[Any, str, dict[str, Any]]] = {
    "local": (lambda: LocalAttention(6, 8, 2), "local", {"in_channels": 6, "heads": 2}),
    "local_k3": (
        lambda: LocalAttention(8, 8, 8, window=3, stride=2, dilation=2, position="table"), "local_k3",
        {"heads": 8, "stride": 2, "dilation": 2, "position": "table"},
    ),
    "window": (lambda: WindowAttention(8, 8, 1, shift=True), "window", {"heads": 1, "shift": True}),
    "global": (lambda: GlobalAttention(8, 8, 4, position="none"), "global", {"heads": 4, "position": "none"}),
    "global_r2": (lambda: GlobalAttention(8, 8, 4, reduction=2), "global_r2", {"heads": 4}),
    "patchwise_k3": (
        lambda: PatchwiseAttention(8, 8, 4, window=3), "patchwise_k3", {"heads": 4, "position": "none"},
    ),
    "acmix_window_k4": (
        lambda: ACmix(6, 8, 4, attention="window", window=4, stride=2), "window_k4",
        {"in_channels": 6, "heads": 4, "stride": 2},
    ),
    "acmix_patchwise": (
        lambda: ACmix(6, 8, 4, attention="patchwise"), "patchwise", {"in_channels": 6, "heads": 4, "position": "none"},
    ),
    "acmix_attention": (lambda: ACmix(8, 8, 4, window=5, mixing="attention"), "local_k5", {"heads": 4}),
    "conv": (lambda: Convolution(8, 8, 2, dilation=2), "local", {"heads": 2, "dilation": 2}),
    "block": (block, "window", {"heads": 2, "block": True, "position": "table"}),
    "block_shift": (
        lambda: block("linear", 5, shift=True), "window_k5", {"heads": 2, "block": True, "shift": True},
    ),
    "reduced": (
        lambda: reduced(4), "global", {"heads": 4, "block": True, "position": "none", "reduction": 4},
    ),
}  # fmt: skip


@pytest.mark.parametrize("home", HOMES)
def test_operators_of_this_package_are_slots(home: str) -> None:
    make, attention, attributes = HOMES[home]
    slot, conv = find_slots(Host(make()))
    candidates = ("conv", attention, f"acmix_{attention}")
    assert slot == Slot("operator", **{"in_channels": 8, "out_channels": 8, **attributes}, candidates=candidates)
    assert conv == Slot("conv", 8, 8, heads=4, shift=True, candidates=("conv", "local", "acmix_local"))


def test_what_is_inside_an_operator_is_no_slot() -> None:
    host = Host(block())
    host.operator.path.path.behind = nn.Conv2d(8, 8, 3, padding=1)
    assert [slot.name for slot in find_slots(host)] == ["operator", "conv"]


@pytest.mark.parametrize("home", HOMES)
def test_what_is_at_home_fits_at_its_slot(home: str) -> None:
    host = Host(HOMES[home][0]())
    slot, _ = find_slots(host, candidates=["home", "acmix_home", "conv", *(["patchwise"] if home != "acmix_patchwise" else [])])
    x = torch.randn(2, slot.in_channels, 6, 5)
    for operator in slot.candidates:
        assert make_operator(slot, operator, host.operator)(x).shape == host.operator(x).shape


def test_the_attention_at_home_is_named_by_slot() -> None:
    host = nn.Sequential(nn.Conv2d(8, 8, 3, padding=1), WindowAttention(8, 8, window=4), GlobalAttention(8, 8))
    named = [slot.candidates for slot in find_slots(host, candidates=["acmix_home", "local_k3", "home"])]
    assert named == [(f"acmix_{kind}", "local_k3", kind) for kind in ("local", "window_k4", "global")]


def test_a_candidate_that_home_comes_to_is_refused_twice() -> None:
    host = nn.Sequential(WindowAttention(8, 8))
    with pytest.raises(UserError, match="candidates must differ; got window twice"):
        find_slots(host, candidates=["home", "window"])


def test_home_is_local_where_nothing_is_known() -> None:
    assert check_candidates(DEFAULT_CANDIDATES) == Slot("x", 8, 8, heads=2).candidates == ("conv", "local", "acmix_local")


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


@pytest.mark.parametrize(
    ("candidates", "maps"),
    [
        (["patchwise"], 6),
        (["conv", "patchwise_k3", "acmix_patchwise"], 6),
        (["conv", "patchwise", "local"], 12),
        (["conv"], 12),
    ],
)
def test_stage_1_gives_what_the_attentions_read(candidates: list[str], maps: int) -> None:
    slot = at(Slot("x", 8, 16, heads=4), candidates)
    assert slot.maps == maps
    assert at(Slot("x", 16, 16, heads=4, reduction=2), candidates).maps == 12
    mixed = make_operator(slot, "acmix_patchwise")
    assert mixed.get_submodule("operator.projection.qkv").out_channels == maps * slot.depth
    alone = make_operator(slot, "patchwise")
    assert alone.get_submodule("operator.projection.qkv").out_channels == 6 * slot.depth


@pytest.mark.parametrize(
    ("shape", "kind"), [({}, nn.Conv2d), ({"block": True}, OnesConv2d), ({"block": True, "reduction": 2}, nn.Conv2d)]
)
def test_what_conv_is(shape: dict[str, Any], kind: type) -> None:
    conv = make_operator(Slot("x", 8, 8, heads=2, **shape), "conv")
    assert type(conv) is kind
    assert torch.equal(conv.bias, torch.zeros(8))


@pytest.mark.parametrize("window", ["window", "window_k5"])
def test_an_operator_takes_over_what_stands_at_home(window: str) -> None:
    home = block()
    slot = find_slots(Host(home))[0]
    operator = make_operator(slot, window, home).get_submodule("operator")
    same = {key for key, value in operator.state_dict().items() if torch.equal(value, home.state_dict()[key])}
    tables = {"path.path.position.table"} if window == "window" else set()  # of another window it has another size
    assert same == {"projection.qkv.weight", "projection.qkv.bias", "path.proj.weight", "path.proj.bias"} | tables


def test_an_acmix_takes_over_an_acmix() -> None:
    parts = Projection(8, 24), Output(WindowPath(8, 2, position="table")), ConvolutionPath(8, 2), Mixing()
    home = ACmix.of(*parts)
    for parameter in home.parameters():
        nn.init.normal_(parameter)
    slot = find_slots(Host(home))[0]
    operator = make_operator(slot, "acmix_window", home).get_submodule("operator")
    x = torch.randn(2, 8, 9, 5)
    assert torch.equal(operator(x), home(x))

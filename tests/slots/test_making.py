"""What is made for a slot, and the weights that it starts from."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from torch import nn

from acmix_nas.operators import (
    ACmix,
    ConvolutionPath,
    Mixing,
    OnesConv2d,
    Output,
    Projection,
    WindowPath,
)
from acmix_nas.slots.finding import Slot, find_slots
from acmix_nas.slots.making import make_operator, put
from tests.slots.homes import HOMES, Host, block
from tests.small import EVERY, at


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


def test_put_reaches_into_containers() -> None:
    backbone = nn.Sequential(nn.Sequential(nn.ReLU(), nn.ReLU()))
    put(backbone, "0.1", nn.Identity())
    assert isinstance(backbone.get_submodule("0.1"), nn.Identity)


@pytest.mark.parametrize("home", HOMES)
def test_what_is_at_home_fits_at_its_slot(home: str) -> None:
    host = Host(HOMES[home][0]())
    slot, _ = find_slots(host, candidates=["home", "acmix_home", "conv", *(["patchwise"] if home != "acmix_patchwise" else [])])
    x = torch.randn(2, slot.in_channels, 6, 5)
    for operator in slot.candidates:
        assert make_operator(slot, operator, host.operator)(x).shape == host.operator(x).shape


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
    assert len(slot.reads) == maps
    assert at(Slot("x", 16, 16, heads=4, reduction=2), candidates).reads == tuple(range(12))
    mixed = make_operator(slot, "acmix_patchwise")
    assert mixed.get_submodule("operator.projection.qkv").out_channels == maps * slot.head_dim
    alone = make_operator(slot, "patchwise")
    assert alone.get_submodule("operator.projection.qkv").out_channels == 6 * slot.head_dim


@pytest.mark.parametrize(
    ("shape", "kind"), [({}, nn.Conv2d), ({"block": True}, OnesConv2d), ({"block": True, "reduction": 2}, nn.Conv2d)]
)
def test_what_conv_is(shape: dict[str, Any], kind: type) -> None:
    conv = make_operator(Slot("x", 8, 8, heads=2, **shape), "conv")
    assert type(conv) is kind
    assert torch.equal(conv.get_parameter("bias"), torch.zeros(8))


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

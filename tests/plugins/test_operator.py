"""An operator from another package stands where ours do: named, found, searched, derived, fused, saved and exported."""

from __future__ import annotations

import json
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from acmix_nas.architecture import Architecture, build
from acmix_nas.deploy.export import export_onnx
from acmix_nas.deploy.fusion import _forms, fuse
from acmix_nas.operators import OPERATORS, ACmix, Operator, Output, Projection, attention_path, register_operator
from acmix_nas.operators import Path as OperatorPath
from acmix_nas.slots.finding import Slot, find_slots
from acmix_nas.slots.making import attention_at, make_operator
from acmix_nas.slots.names import OperatorName, check_candidates
from acmix_nas.supernet.candidates import SHARING, Candidates
from acmix_nas.util.errors import UserError
from tests.small import RESNET, SLOTS, about, at, images, train_briefly

pytestmark = pytest.mark.usefixtures("outside")
NAMES = ("conv", "axial", "acmix_axial", "patchwise", "acmix_local")


@pytest.fixture
def double() -> Iterator[None]:
    torch.set_default_dtype(torch.float64)
    yield
    torch.set_default_dtype(torch.float32)


def test_it_is_known_before_it_is_imported() -> None:
    assert "axial" in OPERATORS.names()
    assert "acmix_outside.axial" not in sys.modules
    assert OPERATORS.get("axial").kind == "axial"
    assert OPERATORS.origin("axial") == "acmix-outside 0.1"
    assert OPERATORS.origins(["axial", "local"]) == {"axial": "acmix-outside 0.1"}


def test_it_is_a_candidate_by_name() -> None:
    assert check_candidates(["home", "axial", "acmix_axial"]) == ("local", "axial", "acmix_axial")
    name = OperatorName.parse("acmix_axial")
    assert (name.kind, name.attention, name.mixed, name.settings) == ("axial", "axial", True, {})
    with pytest.raises(UserError, match=r"operator must be conv, .*axial.*; got 'axial_k3'"):
        OperatorName.parse("axial_k3")


def by_hand(maps: Tensor, heads: int, stride: int) -> Tensor:
    """Attend in a loop over pixels: one softmax over the keys of a row and of a column."""
    q, k, v = maps.unflatten(1, (3, heads, -1)).unbind(1)  # (B, N, D, H, W)
    height, width = maps.shape[2:]
    rows = []
    for y in range(0, height, stride):
        for x in range(0, width, stride):
            keys, values = (torch.cat((m[..., y, :], m[..., x]), dim=-1) for m in (k, v))  # (B, N, D, W + H)
            logits = torch.einsum("bnd,bndj->bnj", q[..., y, x], keys) / q.shape[2] ** 0.5
            rows.append(torch.einsum("bnj,bndj->bnd", logits.softmax(-1), values).flatten(1))
    found: Tensor = torch.stack(rows, dim=-1).unflatten(-1, (-(-height // stride), -(-width // stride)))
    return found


@pytest.mark.parametrize("stride", [1, 2])
@pytest.mark.usefixtures("double")
def test_it_computes_axial_attention(stride: int) -> None:
    maps = torch.randn(2, 24, 5, 7)
    torch.testing.assert_close(attention_path("axial", 8, 2, stride=stride, window=3)(maps), by_hand(maps, 2, stride))


PLACES = {
    "plain": Slot("x", 6, 8, heads=2, candidates=NAMES),
    "strided": Slot("x", 6, 16, heads=4, stride=2, candidates=NAMES),
    "block": Slot("x", 8, 8, heads=2, block=True, position="table", candidates=NAMES),
    "reduced": Slot("x", 8, 8, heads=2, block=True, position="none", reduction=2, candidates=NAMES),
}


@pytest.mark.parametrize("share", SHARING)
@pytest.mark.parametrize("place", PLACES)
def test_what_is_derived_equals_its_candidate(place: str, share: str) -> None:
    slot = PLACES[place]
    candidates = Candidates(slot, share)
    for parameter in candidates.parameters():
        nn.init.normal_(parameter, std=0.3)
    candidates.train().outputs(torch.randn(6, slot.in_channels, 9, 5))
    candidates.eval()
    x = torch.randn(2, slot.in_channels, 9, 5)
    for operator, expected in candidates.outputs(x).items():
        torch.testing.assert_close(candidates.derive(operator)(x), expected, atol=1e-5, rtol=1e-5)


@pytest.mark.parametrize("wrap", [lambda path: path, Output], ids=["plain", "block"])
def test_it_is_found_at_home(wrap: Callable[[OperatorPath], OperatorPath]) -> None:
    path = wrap(attention_path("axial", 8, 2))
    home = Operator(Projection(8, 24, bias=isinstance(path, Output)), path)  # as slots have it
    (slot,) = find_slots(nn.Sequential(home), candidates=["conv", "home", "acmix_home"])
    candidates = ("conv", "axial", "acmix_axial")
    assert slot == Slot("0", 8, 8, 2, candidates=candidates, position="none", block=isinstance(path, Output))
    x = torch.randn(2, 8, 5, 6)
    assert torch.equal(make_operator(slot, "axial", home).get_submodule("operator")(x), home(x))


FORMS: dict[str, Callable[[], Any]] = {
    "axial": lambda: Operator(Projection(6, 24), attention_path("axial", 8, 2)),
    "acmix_axial": lambda: ACmix(6, 8, 2, attention="axial", stride=2),
}


@pytest.mark.parametrize("name", FORMS)
@pytest.mark.usefixtures("double")
@torch.no_grad()
def test_every_fused_form_agrees(name: str) -> None:
    operator, norm = FORMS[name]().eval(), nn.BatchNorm2d(8).eval()
    for tensor in (*operator.parameters(), *norm.parameters(), norm.running_mean):
        nn.init.normal_(tensor, std=0.5)
    x = torch.randn(2, 6, 7, 5)
    for form, fused in _forms(operator, norm, (7, 5)).items():
        torch.testing.assert_close(fused(x), norm(operator(x)), msg=about(form))


def test_it_is_saved_built_fused_and_exported(tmp_path: Path) -> None:
    arguments = {key: value for key, value in RESNET.items() if key not in ("backbone", "slots")}
    arguments["channels"] = list(arguments["channels"])
    chosen = ("conv", "axial", "acmix_axial", "acmix_local")
    choice = dict(zip(SLOTS, chosen, strict=True))
    architecture = Architecture(RESNET["backbone"], choice, NAMES, arguments, (RESNET["slots"],))
    file = architecture.save(tmp_path / "architecture.json")
    assert json.loads(file.read_text())["origins"] == {"operators": {"axial": "acmix-outside 0.1"}}
    assert Architecture.load(file) == architecture
    network = train_briefly(build(file))
    fusion = fuse(network, images(), repeats=1)
    assert [slot.operator for slot in fusion.slots] == list(chosen[1:])
    x = images(3)
    torch.testing.assert_close(fusion.network(x), network(x), atol=1e-4, rtol=1e-4)
    assert export_onnx(network, tmp_path / "network.onnx", 32) < 1e-4


class Reading(OperatorPath):
    """A path with two settings that reads the queries of the last head alone, and all values."""

    settings = {"a": "first", "bc": "second"}

    def __init__(self, channels: int, heads: int, stride: int = 1, first: int = 1, second: int = 2) -> None:
        super().__init__(channels, heads, stride)
        self.first, self.second = first, second

    @classmethod
    def reads(cls, heads: int) -> tuple[int, ...]:
        return (heads - 1, *range(2 * heads, 3 * heads))

    def forward(self, maps: Tensor) -> Tensor:
        maps = maps.unflatten(1, (-1, self.head_dim))
        if maps.shape[1] == 3 * self.heads:
            maps = maps[:, self.reads(self.heads)]
        return ((maps[:, :1] + maps[:, 1:]) * self.first / self.second).flatten(1, 2)[..., :: self.stride, :: self.stride]


def test_settings_are_part_of_the_name_where_they_differ() -> None:
    register_operator("reading")(Reading)
    assert OperatorName.parse("acmix_reading_bc3").settings == {"second": 3}
    assert OperatorName.parse("reading_a2_bc3").settings == {"first": 2, "second": 3}
    slot = Slot("x", 6, 8, heads=2)
    assert attention_at(slot, OperatorName.parse("reading_bc3_a2")).name == "reading_a2_bc3"
    path = Reading(8, 2, first=2)
    assert (path.name, path.named(first=2), path.named(first=1, second=1)) == ("reading_a2", "reading", "reading_a2_bc2")


@pytest.mark.parametrize("names", [["reading", "acmix_reading_a2", "conv"], ["reading", "acmix_reading", "patchwise", "conv"]])
def test_stage_1_gives_what_the_attentions_read(names: list[str]) -> None:
    register_operator("reading")(Reading)
    slot = at(Slot("x", 6, 8, heads=4), names)
    assert len(slot.reads) == (12 if "patchwise" in names else 5)
    candidates = Candidates(slot).train()
    for parameter in candidates.parameters():
        nn.init.normal_(parameter, std=0.3)
    x = torch.randn(4, 6, 5, 4)
    candidates.outputs(x)
    for operator, expected in candidates.eval().outputs(x).items():
        torch.testing.assert_close(candidates.derive(operator)(x), expected, atol=1e-5, rtol=1e-5)
    alone = candidates.derive("reading").get_submodule("operator.projection.qkv")
    assert alone.out_channels == 5 * slot.head_dim


@pytest.mark.parametrize("name", ["conv", "home", "acmix", "Axial", "axial_2", "", "2d"])
def test_a_name_that_no_operator_can_have_is_refused(name: str) -> None:
    with pytest.raises(UserError, match=rf"got '{name}'$"):
        register_operator(name)
    assert name not in OPERATORS


def test_a_name_that_is_taken_is_refused() -> None:
    kind = Reading.__dict__.get("kind")
    with pytest.raises(UserError, match=r"attention 'local' is registered already, by acmix_nas\.operators\.local_attention"):
        register_operator("local")(Reading)
    assert Reading.__dict__.get("kind") == kind

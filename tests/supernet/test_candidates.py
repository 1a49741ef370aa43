"""The candidates of a slot: shared work, and equality with the network that is derived from them."""

from __future__ import annotations

import copy
from collections import Counter
from collections.abc import Callable, Iterator

import pytest
import torch
from torch import nn

from acmix_nas.operators import (
    ACmix,
    Convolution,
    ConvolutionPath,
    GlobalPath,
    Mixing,
    OnesConv2d,
    Operator,
    Output,
    PatchwiseAttention,
    Path,
    Projection,
    ReducedProjection,
    WindowPath,
)
from acmix_nas.slots.finding import Slot, find_slots
from acmix_nas.supernet.candidates import SHARING, Candidates
from acmix_nas.util.errors import UserError
from tests.small import EVERY, SEVEN, about, at, known, part, train_briefly

SLOT = Slot("layer.conv", 6, 8, heads=2)
NARROW = ["conv", "patchwise", "acmix_patchwise", "patchwise_k3", "acmix_patchwise_k3"]


def calls(candidates: Candidates, run: object) -> Counter[str]:
    """Count how often each stage runs in one call. "dense" is a convolution path that needs no Stage I."""
    count: Counter[str] = Counter()
    hooks = [
        module.register_forward_hook(lambda m, *_: count.update([type(m).__name__]))
        for module in candidates.modules()
        if isinstance(module, Projection | Path)
    ]
    assert callable(run)
    plain = ConvolutionPath.of_input

    def counted(path: ConvolutionPath, x: torch.Tensor, stage1: Projection) -> torch.Tensor:
        count.update(["dense"])
        return plain(path, x, stage1)

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(ConvolutionPath, "of_input", counted)
        run()
    for hook in hooks:
        hook.remove()
    return count


def test_shared_stages_run_once() -> None:
    candidates = Candidates(at(SLOT, SEVEN))
    count = calls(candidates, lambda: candidates(torch.randn(1, 6, 5, 5), torch.ones(7)))
    assert count == {"Projection": 1, "dense": 1, "LocalPath": 1, "WindowPath": 1, "GlobalPath": 1}


def test_without_sharing_every_candidate_has_its_own_stages() -> None:
    candidates = Candidates(at(SLOT, SEVEN), share="none")
    count = calls(candidates, lambda: candidates(torch.randn(1, 6, 5, 5), torch.ones(7)))
    assert count == {"Projection": 6, "dense": 3, "LocalPath": 2, "WindowPath": 2, "GlobalPath": 2}


@pytest.mark.parametrize(
    ("sampled", "expected"),
    [
        ("conv", {"dense": 1}),
        ("window", {"Projection": 1, "WindowPath": 1}),
        ("acmix_global", {"Projection": 1, "dense": 1, "GlobalPath": 1}),
    ],
)
def test_only_what_is_sampled_runs(sampled: str, expected: dict[str, int]) -> None:
    candidates = Candidates(at(SLOT, SEVEN))
    assert calls(candidates, lambda: candidates.outputs(torch.randn(1, 6, 5, 5), [sampled])) == expected


def test_wide_slots_convolve_the_maps_of_stage_1() -> None:
    slot = Slot("slot", 72, 72, 4, candidates=("conv", "acmix_global"))
    candidates = Candidates(slot)
    count = calls(candidates, lambda: candidates(torch.randn(1, 72, 5, 5), torch.ones(2)))
    assert count == {"Projection": 1, "ConvolutionPath": 1, "GlobalPath": 1}


def scrambled(slot: Slot, share: str = "all") -> Candidates:
    """Make candidates of which no weight and no statistic is a default, in evaluation mode."""
    candidates = Candidates(slot, share)
    for parameter in candidates.parameters():
        nn.init.normal_(parameter, std=0.3)
    candidates.train().outputs(torch.randn(6, slot.in_channels, 9, 5))
    return candidates.eval()


# Where a choice may stand: in place of a convolution, in a transformer (Stage I with a bias, an output projection, a table),
# in a PVT (Stage I that reduces), and among patchwise attentions alone (Stage I of 2 + N maps).
PLACES: dict[str, Slot] = {
    "plain": at(SLOT, EVERY),
    "strided": at(Slot("s", 6, 16, heads=8, stride=2, shift=True), EVERY),
    "block": at(Slot("b", 8, 8, heads=2, shift=True, block=True, position="table"), EVERY),
    "block_strided": at(Slot("b", 6, 16, heads=8, stride=2, dilation=2, block=True, position="table"), EVERY),
    "reduced": at(Slot("r", 8, 8, heads=2, block=True, position="none", reduction=2), [*EVERY, "global_r1"]),
    "narrow": at(Slot("n", 6, 16, heads=4, stride=2), NARROW),
    "narrow_block": at(Slot("n", 8, 8, heads=4, block=True), NARROW),
    "narrow_reduced": at(Slot("n", 8, 8, heads=4, block=True, reduction=3), NARROW),
}


@pytest.mark.parametrize("share", SHARING)
@pytest.mark.parametrize("place", PLACES)
def test_what_is_derived_equals_its_candidate(place: str, share: str) -> None:
    slot = PLACES[place]
    candidates = scrambled(slot, share)
    x = torch.randn(2, slot.in_channels, 9, 5)
    for operator, expected in candidates.outputs(x).items():
        derived = candidates.derive(operator)
        torch.testing.assert_close(derived(x), expected, atol=1e-5, rtol=1e-5, msg=about(operator))
        kind = OnesConv2d if slot.block and slot.linear else nn.Conv2d
        assert (type(derived) is kind) == (operator == "conv")


@pytest.mark.parametrize("place", ["block", "block_strided", "narrow_block"])
@pytest.mark.usefixtures("double")
def test_collapse_is_exact_in_a_block_and_at_its_border(place: str) -> None:
    slot = PLACES[place]
    candidates = scrambled(slot)
    assert candidates.get_parameter("projection.qkv.bias").abs().min() > 0
    for size in ((1, 1), (2, 3), (7, 4)):
        x = torch.randn(2, slot.in_channels, *size)
        torch.testing.assert_close(candidates.derive("conv")(x), candidates.outputs(x)["conv"], atol=1e-12, rtol=1e-12)


@pytest.mark.parametrize("share", ["all", "attention"])
@pytest.mark.parametrize("place", ["narrow", "narrow_block"])
def test_patchwise_alone_needs_a_narrow_stage_1(place: str, share: str) -> None:
    candidates = Candidates(PLACES[place], share)
    assert part(candidates, "projection.qkv", nn.Conv2d).out_channels == (2 + 4) * PLACES[place].head_dim
    if share == "all":
        assert known(candidates.convolution).maps == 2 + 4


def test_patchwise_among_others_leaves_what_it_does_not_read() -> None:
    candidates = scrambled(PLACES["block"])
    slim = part(candidates.derive("patchwise"), "operator.projection.qkv", nn.Conv2d)
    whole = part(candidates, "projection.qkv", nn.Conv2d)
    head_dim, channels = PLACES["block"].head_dim, PLACES["block"].out_channels
    read = [*range(head_dim), *range(channels, channels + head_dim), *range(2 * channels, 3 * channels)]
    assert torch.equal(slim.weight, whole.weight[read])
    assert torch.equal(known(slim.bias), known(whole.bias)[read])


@pytest.mark.parametrize("share", ["all", "attention"])
def test_conv_has_a_kernel_of_its_own_where_stage_1_is_not_linear(share: str) -> None:
    candidates = Candidates(PLACES["reduced"], share)
    assert list(candidates.alone) == ["conv"]
    assert isinstance(candidates.projection, ReducedProjection)


@pytest.mark.parametrize("place", ["block", "reduced", "narrow_block"])
def test_in_a_block_all_candidates_share_one_scale_and_one_bias(place: str) -> None:
    candidates = Candidates(PLACES[place])
    assert {name for name, _ in candidates.named_parameters() if name.startswith("norms.")} == {
        f"norms.{candidates.names[0]}.weight", f"norms.{candidates.names[0]}.bias",
    }  # fmt: skip
    twin = copy.deepcopy(candidates).double()
    for norm in twin.norms.values():
        assert norm.weight is twin.norms[twin.names[0]].weight
    with torch.no_grad():
        candidates.get_parameter(f"norms.{candidates.names[0]}.weight").fill_(3.0)
        candidates.get_parameter(f"norms.{candidates.names[0]}.bias").fill_(2.0)
    for out in candidates.train().outputs(torch.randn(8, 8, 9, 9)).values():
        torch.testing.assert_close(out.mean(dim=(0, 2, 3)), torch.full((8,), 2.0), atol=1e-4, rtol=0)


# What may stand at home, and the candidate that is the same.
HOMES: dict[str, tuple[Callable[[], Operator | ACmix], str]] = {
    "swin": (lambda: Operator(Projection(8, 24), Output(WindowPath(8, 2, shift=True, position="table"))), "window"),
    "pvt": (lambda: Operator(ReducedProjection(8, 4), Output(GlobalPath(8, 2, reduction=4, position="none"))), "global"),
    "san": (lambda: PatchwiseAttention(8, 8, 4, window=3, bias=False), "patchwise_k3"),
    "acmix_local": (lambda: ACmix(8, 8, 4, bias=False), "acmix_local"),
    "acmix_patchwise": (lambda: ACmix(8, 8, 4, attention="patchwise", bias=False), "acmix_patchwise"),
    "acmix_pvt": (
        lambda: ACmix.of(
            ReducedProjection(8, 2), Output(GlobalPath(8, 2, reduction=2, position="none")), ConvolutionPath(8, 2), Mixing()
        ),
        "acmix_global",
    ),
}


def starts_as_home(home: Operator | ACmix, operator: str, share: str) -> None:
    """Check that the candidate starts as the home operator, up to its normalisation, which starts as none."""
    for parameter in home.parameters():
        nn.init.normal_(parameter, std=0.5)
    (slot,) = find_slots(nn.Sequential(home.eval()))
    candidates = Candidates(slot, share, home).eval()
    x = torch.randn(2, 8, 9, 5)
    out = norm_undone(candidates, operator, candidates.outputs(x)[operator])
    torch.testing.assert_close(out, home(x), atol=1e-4, rtol=1e-4)


@pytest.mark.parametrize("share", SHARING)
@pytest.mark.parametrize("home", HOMES)
def test_a_choice_starts_as_what_stands_at_home(home: str, share: str) -> None:
    make, operator = HOMES[home]
    starts_as_home(make(), operator, share)


def test_a_convolution_of_two_stages_starts_as_one_at_home() -> None:
    starts_as_home(Convolution(8, 8, 4, bias=False), "conv", "all")


def test_what_is_derived_shares_no_weight() -> None:
    candidates = Candidates(at(SLOT, EVERY))
    before = {name: value.clone() for name, value in candidates.state_dict().items()}
    for operator in EVERY:
        derived = candidates.derive(operator)
        with torch.no_grad():
            for parameter in derived.parameters():
                parameter.add_(1.0)
        derived(torch.randn(2, 6, 5, 5))
    for name, value in candidates.state_dict().items():
        assert torch.equal(value, before[name]), name


@pytest.mark.parametrize("operator", EVERY)
def test_the_type_of_the_backbone_is_kept(operator: str) -> None:
    candidates = Candidates(at(SLOT, EVERY), home=nn.Conv2d(6, 8, 3, padding=1).double()).eval()
    x = torch.randn(1, 6, 5, 5, dtype=torch.float64)
    torch.testing.assert_close(candidates.derive(operator)(x), candidates.outputs(x)[operator])


def test_what_is_derived_learns_its_mixing() -> None:
    candidates = Candidates(at(SLOT, ["conv", "acmix_local"]))
    for parameter in candidates.mixings.parameters():
        parameter.requires_grad_(False)
    assert all(p.requires_grad for p in candidates.derive("acmix_local").parameters())


@pytest.mark.parametrize("share", ["attention", "none"])
def test_conv_keeps_the_weight_of_the_backbone(share: str) -> None:
    dense = nn.Conv2d(6, 8, 3, padding=1, bias=False)
    candidates = Candidates(at(SLOT, ["conv", "local"]), share, dense)
    assert torch.equal(candidates.get_parameter("alone.conv.weight"), dense.weight)


@pytest.mark.parametrize("share", SHARING)
def test_candidates_are_normalised_before_they_are_weighted(share: str) -> None:
    candidates = Candidates(at(SLOT, EVERY), share).train()
    for out in candidates.outputs(3.0 + 5.0 * torch.randn(8, 6, 9, 9)).values():
        torch.testing.assert_close(out.mean(dim=(0, 2, 3)), torch.zeros(8), atol=1e-4, rtol=0)
        torch.testing.assert_close(out.var(dim=(0, 2, 3), correction=0), torch.ones(8), atol=1e-2, rtol=0)
    assert not any(parameter.numel() for parameter in candidates.norms.parameters())


def test_the_mixture_is_the_weighted_sum() -> None:
    candidates = Candidates(at(SLOT, ["conv", "local", "acmix_local"])).eval()
    x, weights = torch.randn(2, 6, 5, 5), torch.tensor([0.2, 0.5, 0.3])
    outputs = candidates.outputs(x)
    expected = 0.2 * outputs["conv"] + 0.5 * outputs["local"] + 0.3 * outputs["acmix_local"]
    torch.testing.assert_close(candidates(x, weights), expected)


def test_an_acmix_mixes_the_plain_candidates() -> None:
    candidates = train_slot(Candidates(at(SLOT, ["conv", "window", "acmix_window"])))
    x = torch.randn(1, 6, 5, 5)
    raw = {name: norm_undone(candidates, name, out) for name, out in candidates.outputs(x).items()}
    mixing = candidates.mixing_of("acmix_window")
    assert mixing is not None
    expected = mixing.alpha * raw["window"] + mixing.beta * raw["conv"]
    torch.testing.assert_close(raw["acmix_window"], expected, atol=1e-5, rtol=1e-5)


def train_slot(candidates: Candidates) -> Candidates:
    candidates.train()
    candidates.outputs(torch.randn(8, 6, 5, 5))
    with torch.no_grad():
        for parameter in candidates.mixings.parameters():
            parameter.uniform_(0.2, 1.5)
    return candidates.eval()


def norm_undone(candidates: Candidates, name: str, out: torch.Tensor) -> torch.Tensor:
    norm = part(candidates.norms, name, nn.BatchNorm2d)
    return out * (known(norm.running_var) + norm.eps).sqrt()[:, None, None] + known(norm.running_mean)[:, None, None]


@pytest.mark.parametrize("share", SHARING)
def test_lean_reports_every_candidate(share: str) -> None:
    candidates = Candidates(at(SLOT, ["conv", "local", "acmix_local"]), share)
    assert list(candidates.lean({"conv": 0.5, "local": 0.2, "acmix_local": 0.3})) == [
        ("conv", 0.5, None, None), ("local", 0.2, None, None), ("acmix_local", 0.3, 0.5, 0.5),
    ]  # fmt: skip


def test_errors_name_the_slot_and_the_candidates() -> None:
    with pytest.raises(UserError, match=r"operator of slot 'layer.conv' must be one of conv, local; got 'window'"):
        Candidates(at(SLOT, ["conv", "local"])).derive("window")
    with pytest.raises(UserError, match="share must be one of all, attention, none; got 'some'"):
        Candidates(at(SLOT, ["conv"]), share="some")


@pytest.fixture
def double() -> Iterator[None]:
    torch.set_default_dtype(torch.float64)
    yield
    torch.set_default_dtype(torch.float32)


@pytest.mark.usefixtures("double")
def test_collapse_is_exact() -> None:
    candidates = Candidates(at(SLOT, ["conv"])).eval()
    assert isinstance(candidates.convolution, ConvolutionPath)
    nn.init.normal_(known(candidates.convolution.shift))
    x = torch.randn(1, 6, 7, 4)
    torch.testing.assert_close(candidates.derive("conv")(x), candidates.outputs(x)["conv"], atol=1e-12, rtol=1e-12)


def test_helpers_leave_no_default() -> None:
    network = nn.Sequential(nn.Conv2d(3, 4, 3, padding=1), nn.BatchNorm2d(4))
    assert train_briefly(network).get_buffer("1.running_mean").abs().min() > 0

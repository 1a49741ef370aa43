"""The candidates of a slot: shared work, and equality with the network that is derived from them."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator

import pytest
import torch
from torch import nn

from acmix_nas.errors import UserError
from acmix_nas.operators import ConvolutionPath, Path, Projection
from acmix_nas.slot import Slot
from acmix_nas.supernet import SHARING, Candidates
from tests.small import SEVEN, train_briefly

SLOT = Slot("layer.conv", 6, 8, heads=2)


def calls(candidates: Candidates, run: object) -> Counter[str]:
    """How often each stage runs in one call."""
    count: Counter[str] = Counter()
    hooks = [
        module.register_forward_hook(lambda m, *_: count.update([type(m).__name__]))
        for module in candidates.modules()
        if isinstance(module, Projection | Path)
    ]
    assert callable(run)
    run()
    for hook in hooks:
        hook.remove()
    return count


def test_shared_stages_run_once() -> None:
    candidates = Candidates(SLOT, SEVEN)
    count = calls(candidates, lambda: candidates(torch.randn(1, 6, 5, 5), torch.ones(7)))
    assert count == {"Projection": 1, "ConvolutionPath": 1, "LocalPath": 1, "WindowPath": 1, "GlobalPath": 1}


def test_without_sharing_every_candidate_has_its_own_stages() -> None:
    candidates = Candidates(SLOT, SEVEN, share="none")
    count = calls(candidates, lambda: candidates(torch.randn(1, 6, 5, 5), torch.ones(7)))
    assert count == {"Projection": 6, "ConvolutionPath": 3, "LocalPath": 2, "WindowPath": 2, "GlobalPath": 2}


@pytest.mark.parametrize(
    ("sampled", "expected"),
    [
        ("conv", {"Projection": 1, "ConvolutionPath": 1}),
        ("window", {"Projection": 1, "WindowPath": 1}),
        ("acmix_global", {"Projection": 1, "ConvolutionPath": 1, "GlobalPath": 1}),
    ],
)
def test_only_what_is_sampled_runs(sampled: str, expected: dict[str, int]) -> None:
    candidates = Candidates(SLOT, SEVEN)
    assert calls(candidates, lambda: candidates.outputs(torch.randn(1, 6, 5, 5), [sampled])) == expected


@pytest.mark.parametrize("share", SHARING)
@pytest.mark.parametrize("operator", SEVEN)
@pytest.mark.parametrize("slot", [SLOT, Slot("s", 6, 16, heads=8, stride=2, shift=True)], ids=["plain", "strided"])
def test_what_is_derived_equals_its_candidate(share: str, operator: str, slot: Slot) -> None:
    candidates = Candidates(slot, SEVEN, share, nn.Conv2d(6, slot.out_channels, 3, slot.stride, 1))
    nn.init.normal_(candidates.norms[operator].running_mean)
    nn.init.uniform_(candidates.norms[operator].running_var, 0.5, 2.0)
    for parameter in candidates.parameters():
        nn.init.normal_(parameter, std=0.3)
    candidates.eval()
    x = torch.randn(2, 6, 9, 5)
    derived = candidates.derive(operator)
    torch.testing.assert_close(derived(x), candidates.outputs(x)[operator], atol=1e-5, rtol=1e-5)
    assert (type(derived) is nn.Conv2d) == (operator == "conv")


def test_what_is_derived_shares_no_weight() -> None:
    candidates = Candidates(SLOT, SEVEN)
    before = {name: value.clone() for name, value in candidates.state_dict().items()}
    for operator in SEVEN:
        derived = candidates.derive(operator)
        with torch.no_grad():
            for parameter in derived.parameters():
                parameter.add_(1.0)
        derived(torch.randn(2, 6, 5, 5))
    for name, value in candidates.state_dict().items():
        assert torch.equal(value, before[name]), name


@pytest.mark.parametrize("operator", SEVEN)
def test_the_type_of_the_backbone_is_kept(operator: str) -> None:
    candidates = Candidates(SLOT, SEVEN, dense=nn.Conv2d(6, 8, 3, padding=1).double()).eval()
    x = torch.randn(1, 6, 5, 5, dtype=torch.float64)
    torch.testing.assert_close(candidates.derive(operator)(x), candidates.outputs(x)[operator])


def test_what_is_derived_learns_its_mixing() -> None:
    candidates = Candidates(SLOT, ["conv", "acmix_local"])
    for parameter in candidates.mixings.parameters():
        parameter.requires_grad_(False)
    assert all(p.requires_grad for p in candidates.derive("acmix_local").parameters())


@pytest.mark.parametrize("share", ["attention", "none"])
def test_conv_keeps_the_weight_of_the_backbone(share: str) -> None:
    dense = nn.Conv2d(6, 8, 3, padding=1, bias=False)
    candidates = Candidates(SLOT, ["conv", "local"], share, dense)
    assert torch.equal(candidates.alone["conv"].weight, dense.weight)


@pytest.mark.parametrize("share", SHARING)
def test_candidates_are_normalised_before_they_are_weighted(share: str) -> None:
    candidates = Candidates(SLOT, SEVEN, share).train()
    for out in candidates.outputs(3.0 + 5.0 * torch.randn(8, 6, 9, 9)).values():
        torch.testing.assert_close(out.mean(dim=(0, 2, 3)), torch.zeros(8), atol=1e-4, rtol=0)
        torch.testing.assert_close(out.var(dim=(0, 2, 3), correction=0), torch.ones(8), atol=1e-2, rtol=0)
    assert not any(parameter.numel() for parameter in candidates.norms.parameters())


def test_the_mixture_is_the_weighted_sum() -> None:
    candidates = Candidates(SLOT, ["conv", "local", "acmix_local"]).eval()
    x, weights = torch.randn(2, 6, 5, 5), torch.tensor([0.2, 0.5, 0.3])
    outputs = candidates.outputs(x)
    expected = 0.2 * outputs["conv"] + 0.5 * outputs["local"] + 0.3 * outputs["acmix_local"]
    torch.testing.assert_close(candidates(x, weights), expected)


def test_an_acmix_mixes_the_plain_candidates() -> None:
    candidates = train_slot(Candidates(SLOT, ["conv", "window", "acmix_window"]))
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
    norm = candidates.norms[name]
    return out * (norm.running_var + norm.eps).sqrt()[:, None, None] + norm.running_mean[:, None, None]


@pytest.mark.parametrize("share", SHARING)
def test_lean_reports_every_candidate(share: str) -> None:
    candidates = Candidates(SLOT, ["conv", "local", "acmix_local"], share)
    assert list(candidates.lean({"conv": 0.5, "local": 0.2, "acmix_local": 0.3})) == [
        ("conv", 0.5, None, None), ("local", 0.2, None, None), ("acmix_local", 0.3, 0.5, 0.5),
    ]  # fmt: skip


def test_errors_name_the_slot_and_the_candidates() -> None:
    with pytest.raises(UserError, match=r"operator of slot 'layer.conv' must be one of conv, local; got 'window'"):
        Candidates(SLOT, ["conv", "local"]).derive("window")
    with pytest.raises(UserError, match="share must be one of all, attention, none; got 'some'"):
        Candidates(SLOT, ["conv"], share="some")


@pytest.fixture
def double() -> Iterator[None]:
    torch.set_default_dtype(torch.float64)
    yield
    torch.set_default_dtype(torch.float32)


@pytest.mark.usefixtures("double")
def test_collapse_is_exact() -> None:
    candidates = Candidates(SLOT, ["conv"]).eval()
    assert isinstance(candidates.convolution, ConvolutionPath)
    nn.init.normal_(candidates.convolution.shift)
    x = torch.randn(1, 6, 7, 4)
    torch.testing.assert_close(candidates.derive("conv")(x), candidates.outputs(x)["conv"], atol=1e-12, rtol=1e-12)


def test_helpers_leave_no_default() -> None:
    network = nn.Sequential(nn.Conv2d(3, 4, 3, padding=1), nn.BatchNorm2d(4))
    assert train_briefly(network)[1].running_mean.abs().min() > 0

"""A weighted sum of normalised mixtures, computed from moments, against normalising each."""

from __future__ import annotations

import copy
from typing import Any

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor, nn

from acmix_nas.operators import kernels
from acmix_nas.supernet.mixture import normalised_sum

PAIRS = ((0, 2), (1, 2))
MADE_OF = ((0,), (1,), (2,), (0, 2), (1, 2))  # two attentions, a convolution path, and the ACmix of each


def case(channels: int, dtype: torch.dtype, affine: bool = False, momentum: float | None = 0.1) -> dict[str, Any]:
    maps = [scale * torch.randn(3, channels, 5, 4, dtype=dtype) + scale for scale in (1.0, 0.1, 7.0)]
    strengths = torch.zeros(len(MADE_OF), len(maps), dtype=dtype)
    for row, parts in zip(strengths, MADE_OF, strict=True):
        for part in parts:
            row[part] = 1.0 if len(parts) == 1 else 0.3 + part
    norms = [nn.BatchNorm2d(channels, affine=affine, momentum=momentum, dtype=dtype) for _ in MADE_OF]
    for norm in norms:
        norm.weight, norm.bias = norms[0].weight, norms[0].bias
    if affine:
        nn.init.normal_(norms[0].weight)
        nn.init.normal_(norms[0].bias)
    return {"maps": maps, "strengths": strengths, "weights": torch.rand(len(MADE_OF), dtype=dtype), "norms": norms}


def plainly(maps: list[Tensor], strengths: Tensor, weights: Tensor, norms: list[nn.BatchNorm2d]) -> Tensor:
    """Compute the sum word by word."""
    out = torch.zeros_like(maps[0])
    for row, weight, norm in zip(strengths, weights, norms, strict=True):
        out = out + weight * norm(sum(strength * x for strength, x in zip(row, maps, strict=True)))
    return out


def found(run: Any, of: dict[str, Any]) -> list[Tensor]:
    """Return the output, the gradients of everything, and the running statistics."""
    mine = copy.deepcopy(of)
    leaves = [*mine["maps"], mine["strengths"], mine["weights"]]
    for leaf in leaves:
        leaf.requires_grad_()
    out = run(**mine)
    (out * torch.linspace(-1, 2, out.numel(), dtype=out.dtype).view_as(out)).sum().backward()
    norm = mine["norms"][0]
    grads = [leaf.grad for leaf in leaves] + ([norm.weight.grad, norm.bias.grad] if norm.affine else [])
    # A strength that is 0 has no candidate that hangs on it: what would reach it is of no use, and is not computed.
    grads[len(mine["maps"])] = grads[len(mine["maps"])] * (of["strengths"] != 0)
    statistics = [x for norm in mine["norms"] for x in (norm.running_mean, norm.running_var, norm.num_batches_tracked)]
    return [out.detach(), *grads, *statistics]


def by_moments(**of: Any) -> Tensor:
    return normalised_sum(**of, pairs=PAIRS)


@pytest.mark.parametrize("momentum", [0.1, None])
@pytest.mark.parametrize("affine", [False, True])
@pytest.mark.parametrize("training", [True, False])
def test_equals_normalising_each(training: bool, affine: bool, momentum: float | None) -> None:
    of = case(6, torch.float64, affine, momentum)
    for norm in of["norms"]:
        norm.train(training)
        norm.running_mean.uniform_(-1, 1)
        norm.running_var.uniform_(0.5, 2)
    for mine, theirs in zip(found(by_moments, of), found(plainly, of), strict=True):
        torch.testing.assert_close(mine, theirs, rtol=1e-9, atol=1e-9)


@given(channels=st.integers(1, 40), affine=st.booleans())
@settings(max_examples=25, deadline=None)
def test_in_c(channels: int, affine: bool) -> None:
    torch.manual_seed(0)
    of = case(channels, torch.float32, affine)
    assert kernels.runs_on(of["maps"][0])
    for mine, theirs in zip(found(by_moments, of), found(plainly, of), strict=True):
        # Of one map alone a strength has no gradient but rounding: a norm undoes it. It is the least exact of all.
        assert (mine - theirs).abs().max() <= 1e-3 * max(1.0, float(theirs.abs().max()))


def test_a_large_mean_costs_no_digits_in_c() -> None:
    x = torch.randn(8, 3, 30, 30)
    mean, variance, covariance = kernels.moments([x + 1000, 2 * x - 1000], [(0, 1)])
    exact = x.double()
    torch.testing.assert_close(mean[0], (exact + 1000).mean((0, 2, 3)).float())
    torch.testing.assert_close(variance[0], exact.var((0, 2, 3), correction=0).float(), rtol=1e-3, atol=1e-3)
    torch.testing.assert_close(covariance[0], 2 * variance[0], rtol=1e-3, atol=1e-3)


def test_mixtures_that_cancel_stay_numbers() -> None:
    x = torch.randn(4, 3, 5, 5)
    norms = [nn.BatchNorm2d(3, affine=False)]
    out = normalised_sum([x, -x], torch.ones(1, 2), torch.ones(1), norms, [(0, 1)])
    assert out.abs().max() < 1


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
def test_lower_precision_is_measured_in_float32(dtype: torch.dtype) -> None:
    of = case(6, torch.float32)
    expected = plainly(**copy.deepcopy(of))
    out = by_moments(**{**of, "maps": [x.to(dtype) for x in of["maps"]]})
    assert out.dtype == dtype
    torch.testing.assert_close(out.float(), expected, rtol=0.1, atol=0.1)


@pytest.mark.parametrize("training", [True, False])
def test_under_autocast_statistics_stay_in_float32(training: bool) -> None:
    of = case(6, torch.float32, affine=True)
    for norm in of["norms"]:
        norm.train(training)
    plain = copy.deepcopy(of)
    expected = plainly(**plain)
    with torch.autocast("cpu", torch.bfloat16):
        out = by_moments(**{**of, "maps": [x.bfloat16() for x in of["maps"]]})
    assert out.dtype == torch.bfloat16
    torch.testing.assert_close(out.float(), expected, rtol=0.1, atol=0.1)
    for mine, theirs in zip(of["norms"], plain["norms"], strict=True):
        torch.testing.assert_close(mine.running_var, theirs.running_var, rtol=1e-2, atol=1e-2)


def test_a_network_of_lower_precision_throughout() -> None:
    of = case(6, torch.float32)
    expected = plainly(**copy.deepcopy(of))
    low = {name: [x.bfloat16() for x in of[name]] for name in ("maps", "norms")}
    out = by_moments(**low, strengths=of["strengths"].bfloat16(), weights=of["weights"].bfloat16())
    assert out.dtype == torch.bfloat16
    torch.testing.assert_close(out.float(), expected, rtol=0.1, atol=0.1)

"""The baselines compute what our operators and the formulas do: a benchmark compares equals."""

from __future__ import annotations

import copy
from collections.abc import Callable

import pytest
import torch
from torch import Tensor, nn

from acmix_nas.operators import ACmix, PatchwiseAttention
from acmix_nas.research.speed.naive import NaiveACmix, NaivePatchwise
from tests import reference
from tests.small import Tolerance, known

TOLERANCE: Tolerance = {"atol": 1e-10, "rtol": 1e-8}
SIZES = [(4, 9), (7, 7), (11, 5)]  # the published reflection needs more than K // 2


def randomised(module: nn.Module) -> nn.Module:
    """Return the module in float64, every parameter with a value of its own."""
    module = module.double()
    with torch.no_grad():
        for parameter in module.parameters():
            parameter.add_(0.3 * torch.randn_like(parameter))
    return module


def acmix(stride: int, heads: int = 4) -> ACmix:
    module = randomised(ACmix(5, 12, heads, stride=stride))
    assert isinstance(module, ACmix)
    return module


def patchwise(stride: int) -> PatchwiseAttention:
    module = randomised(PatchwiseAttention(5, 16, heads=4, stride=stride))
    assert isinstance(module, PatchwiseAttention)
    return module


def run(module: nn.Module, x: Tensor) -> tuple[Tensor, Tensor]:
    """Return the output, and the input's gradient from a cotangent that is the same for all. The weights' is accumulated."""
    x = x.clone().requires_grad_()
    out = module(x)
    out.backward(torch.linspace(-1, 1, out.numel(), dtype=out.dtype).view(out.shape))
    assert x.grad is not None
    return out.detach(), x.grad


def gradient(module: nn.Module, *names: str) -> Tensor:
    """Return the gradients of these parameters, one after the other along the first axis."""
    return torch.cat([known(module.get_parameter(name).grad) for name in names])


@pytest.mark.parametrize("size", SIZES)
@pytest.mark.parametrize(("stride", "heads"), [(1, 4), (1, 3), (2, 4), (3, 1)])
def test_acmix(size: tuple[int, int], stride: int, heads: int) -> None:
    ours = acmix(stride, heads)
    naive = NaiveACmix.from_ours(ours)
    x = torch.randn(2, 5, *size, dtype=torch.float64)
    torch.testing.assert_close(run(naive, x), run(ours, x), **TOLERANCE)
    for leaf in ("weight", "bias"):
        stage1 = gradient(naive, f"q.{leaf}", f"k.{leaf}", f"v.{leaf}")
        torch.testing.assert_close(stage1, gradient(ours, f"projection.qkv.{leaf}"), **TOLERANCE)
    torch.testing.assert_close(
        gradient(naive, "encode.weight").flatten(1), gradient(ours, "attention.position.linear.weight"), **TOLERANCE
    )
    torch.testing.assert_close(gradient(naive, "fc.weight").flatten(1), gradient(ours, "convolution.fc"), **TOLERANCE)
    torch.testing.assert_close(gradient(naive, "shift.weight"), gradient(ours, "convolution.shift"), **TOLERANCE)
    for name in ("alpha", "beta"):
        torch.testing.assert_close(naive.get_parameter(name).grad, getattr(ours.mixing, name).grad, **TOLERANCE)


@pytest.mark.parametrize("size", SIZES)
@pytest.mark.parametrize("stride", [1, 2])
def test_acmix_is_the_formula(size: tuple[int, int], stride: int) -> None:
    naive = NaiveACmix.from_ours(acmix(stride))
    x = torch.randn(2, 5, *size, dtype=torch.float64)
    weight = torch.cat([conv.weight for conv in (naive.q, naive.k, naive.v)])
    bias = torch.cat([known(conv.bias) for conv in (naive.q, naive.k, naive.v)])
    qkv = reference.project(x, weight, bias, 4)
    attention = reference.local_attention(*qkv, (naive.encode.weight.flatten(1), known(naive.encode.bias)), 7, stride)
    convolution = reference.convolution(*qkv, naive.fc.weight.flatten(1), naive.shift.weight, stride)
    torch.testing.assert_close(naive(x), naive.alpha * attention + naive.beta * convolution, **TOLERANCE)


@pytest.mark.parametrize("size", SIZES)
@pytest.mark.parametrize("stride", [1, 2])
@pytest.mark.parametrize("training", [True, False])
def test_patchwise(size: tuple[int, int], stride: int, training: bool) -> None:
    ours = patchwise(stride)
    run(ours, torch.randn(3, 5, *size, dtype=torch.float64))  # running statistics that are no defaults
    ours.zero_grad()
    ours.train(training)
    naive = NaivePatchwise.from_ours(ours)
    x = torch.randn(3, 5, *size, dtype=torch.float64)
    torch.testing.assert_close(run(naive, x), run(ours, x), **TOLERANCE)
    for leaf in ("weight", "bias"):
        stage1 = gradient(naive, f"q.{leaf}", f"k.{leaf}", f"v.{leaf}")
        torch.testing.assert_close(stage1, gradient(ours, f"projection.qkv.{leaf}"), **TOLERANCE)
    for name in ("norm1.weight", "norm1.bias", "squeeze.weight", "norm2.weight", "norm2.bias", "expand.weight", "expand.bias"):
        torch.testing.assert_close(gradient(naive, name), gradient(ours, f"path.{name}"), **TOLERANCE)
    torch.testing.assert_close(naive.norm1.running_var, ours.get_buffer("path.norm1.running_var"), **TOLERANCE)


@pytest.mark.parametrize("stride", [1, 2])
def test_patchwise_is_the_formula(stride: int) -> None:
    naive = NaivePatchwise.from_ours(patchwise(stride))
    norms = copy.deepcopy((naive.norm1, naive.norm2))
    x = torch.randn(3, 5, 9, 6, dtype=torch.float64)
    formula = reference.patchwise_attention(
        naive.q(x), naive.k(x), naive.v(x), norms[0], naive.squeeze.weight.flatten(1), norms[1],
        (naive.expand.weight.flatten(1), known(naive.expand.bias)), 7, stride,
    )  # fmt: skip
    torch.testing.assert_close(naive(x), formula, **TOLERANCE)


@pytest.mark.parametrize("make", [lambda: NaiveACmix.from_ours(acmix(1)), lambda: NaivePatchwise.from_ours(patchwise(1))])
def test_a_copy_has_weights_of_its_own(make: Callable[[], nn.Module]) -> None:
    naive = make()
    assert all(parameter.is_leaf and parameter.requires_grad for parameter in naive.parameters())

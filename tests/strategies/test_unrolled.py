"""The second-order gradient: against the exact one, and what the virtual steps leave behind."""

from __future__ import annotations

import random

import numpy as np
import pytest
import torch
from torch import Tensor, nn
from torch.nn import functional as F

from acmix_nas.strategies.oneshot.unrolled import buffers_kept, same_draws, unrolled

RATE = 0.5


class Mixed(nn.Module):
    """Two operators under a softmax, then a layer: small, and of every order in its weights."""

    def __init__(self) -> None:
        super().__init__()
        self.weights = nn.ParameterList(nn.Parameter(torch.randn(*shape).double() / 2) for shape in ((4, 3), (4, 3), (1, 4)))
        self.alpha = nn.Parameter(torch.randn(2).double())

    def loss(self, x: Tensor, y: Tensor, *weights: Tensor) -> Tensor:
        first, second, last = weights
        p = self.alpha.softmax(0)
        hidden = p[0] * torch.tanh(x @ first.T) + p[1] * torch.sigmoid(x @ second.T)
        return F.mse_loss(hidden @ last.T, y)


def problem() -> tuple[Mixed, tuple[Tensor, Tensor], tuple[Tensor, Tensor]]:
    torch.manual_seed(3)
    train, val = ((torch.randn(16, 3).double(), torch.randn(16, 1).double()) for _ in range(2))
    return Mixed(), train, val


def exact(network: Mixed, train: tuple[Tensor, Tensor], val: tuple[Tensor, Tensor], rates: list[float]) -> Tensor:
    """Differentiate through the virtual step, by autograd's second derivatives."""
    weights = list(network.weights)
    steps = torch.autograd.grad(network.loss(*train, *weights), weights, create_graph=True)
    ahead = [weight - rate * step for weight, rate, step in zip(weights, rates, steps, strict=True)]
    return torch.autograd.grad(network.loss(*val, *ahead), network.alpha)[0]


@pytest.mark.parametrize("rates", [[RATE] * 3, [0.1, 0.5, 0.9]])
def test_it_is_the_exact_gradient_through_the_virtual_step(rates: list[float]) -> None:
    network, train, val = problem()
    weights = list(network.weights)
    before = [weight.detach().clone() for weight in weights]
    first_order = torch.autograd.grad(network.loss(*val, *weights), network.alpha)[0]
    expected = exact(network, train, val, rates)
    unrolled(
        dict(zip(weights, rates, strict=True)), [network.alpha],
        lambda: network.loss(*train, *weights).backward(), lambda: network.loss(*val, *weights).backward(),
    )  # fmt: skip
    found = network.alpha.grad
    assert found is not None
    assert (found - expected).abs().max() < 1e-3 * expected.abs().max()
    assert (first_order - expected).abs().max() > 0.05 * expected.abs().max()  # the two orders do differ here
    assert all(torch.equal(weight, value) for weight, value in zip(weights, before, strict=True))
    assert all(weight.grad is None for weight in weights)


def test_at_a_rate_of_zero_it_is_first_order() -> None:
    network, train, val = problem()
    weights = list(network.weights)
    expected = torch.autograd.grad(network.loss(*val, *weights), network.alpha)[0]
    unrolled(
        dict.fromkeys(weights, 0.0), [network.alpha],
        lambda: network.loss(*train, *weights).backward(), lambda: network.loss(*val, *weights).backward(),
    )  # fmt: skip
    torch.testing.assert_close(network.alpha.grad, expected, atol=0, rtol=0)


@pytest.mark.parametrize("broken", range(4))
def test_an_error_in_a_virtual_step_leaves_the_weights_as_they_were(broken: int) -> None:
    network, train, val = problem()
    weights = list(network.weights)
    before = [weight.detach().clone() for weight in weights]
    asked: list[list[bool]] = []

    def step(of: tuple[Tensor, Tensor]) -> None:
        asked.append([weight.requires_grad for weight in weights])
        if len(asked) == 1 + broken:
            raise KeyboardInterrupt
        network.loss(*of, *weights).backward()

    with pytest.raises(KeyboardInterrupt):
        unrolled(dict.fromkeys(weights, RATE), [network.alpha], lambda: step(train), lambda: step(val))
    assert all(torch.equal(weight, value) and weight.requires_grad for weight, value in zip(weights, before, strict=True))
    assert all(weight.grad is None for weight in weights)


def test_the_difference_asks_nothing_of_the_weights_and_held_ones_stay_held() -> None:
    network, train, val = problem()
    weights = list(network.weights)
    weights[0].requires_grad_(False)
    asked: list[list[bool]] = []

    def step(of: tuple[Tensor, Tensor]) -> None:
        asked.append([weight.requires_grad for weight in weights])
        network.loss(*of, *weights).backward()

    unrolled(dict.fromkeys(weights, RATE), [network.alpha], lambda: step(train), lambda: step(val))
    assert asked == [[False, True, True]] * 2 + [[False] * 3] * 2
    assert [weight.requires_grad for weight in weights] == [False, True, True]


def test_the_same_is_drawn_again() -> None:
    with same_draws():
        first = (torch.rand(2).tolist(), np.random.rand(), random.random())
    assert (torch.rand(2).tolist(), np.random.rand(), random.random()) == first


def test_buffers_are_afterwards_what_they_were() -> None:
    norm = nn.BatchNorm2d(3)
    before = {name: value.clone() for name, value in norm.state_dict().items()}
    with buffers_kept(norm):
        norm(torch.randn(4, 3, 5, 5) + 2)
    assert all(torch.equal(value, before[name]) for name, value in norm.state_dict().items())

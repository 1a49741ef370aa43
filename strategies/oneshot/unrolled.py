"""The second-order gradient of DARTS (Liu et al. 2019): the architecture looks one step of the weights ahead."""

from __future__ import annotations

import random
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager

import numpy as np
import torch
from torch import Tensor, nn

__all__ = ["buffers_kept", "same_draws", "unrolled"]

RADIUS = 0.01
"""How far the differences reach in the space of the weights, as in the paper's footnote 2."""


@torch.no_grad()
def unrolled(
    rates: Mapping[nn.Parameter, float],
    architecture: Sequence[nn.Parameter],
    train: Callable[[], None],
    validate: Callable[[], None],
) -> None:
    """Leave in the architecture's `.grad` the gradient of L_val(w − ξ ∇_w L_train(w, α), α) (equations 7 and 8).

    That is ∇_α L_val(w', α) − ξ ∇²_{α,w} L_train(w, α) ∇_{w'} L_val(w', α), at the virtual weights w' of a plain gradient step;
    the product with the matrix is a central difference of ∇_α L_train over w ± ε ξ ∇_{w'} L_val. The weights are afterwards
    what they were, to the bit, and have no gradient.

    Args:
        rates: weight w → ξ, the learning rate of its optimizer.
        architecture: α.
        train: adds the gradients of L_train to `.grad` of both, or of α alone while the weights require none; called three
            times, and must draw the same each time.
        validate: likewise those of L_val; called once.
    """
    start = {weight: weight.clone() for weight in rates}
    trained = [weight for weight in rates if weight.requires_grad]
    everything = [*rates, *architecture]

    def gradients(of: Callable[[], None], of_weights: bool = True) -> tuple[list[Tensor], list[Tensor]]:
        """Compute gradients: (of the weights, of the architecture)."""
        for parameter in everything:
            parameter.grad = None
        for weight in trained:
            weight.requires_grad_(of_weights)
        with torch.enable_grad():
            of()
        found = [torch.zeros_like(p) if p.grad is None else p.grad for p in everything]
        return found[: len(rates)], found[len(rates) :]

    def move(direction: Sequence[Tensor], by: float) -> None:
        for weight, step in zip(rates, direction, strict=True):
            weight.copy_(start[weight] + by * step)

    try:
        steps, _ = gradients(train)
        move([rate * step for rate, step in zip(rates.values(), steps, strict=True)], -1.0)
        ahead, found = gradients(validate)
        direction = [rate * step for rate, step in zip(rates.values(), ahead, strict=True)]
        length = float(torch.stack([step.square().sum() for step in direction]).sum().sqrt())
        if length > 0:  # a schedule may begin with a rate of zero
            epsilon = RADIUS / length
            sides = []
            for sign in (1.0, -1.0):
                move(direction, sign * epsilon)
                sides.append(gradients(train, of_weights=False)[1])
            found = [g - (plus - minus) / (2 * epsilon) for g, plus, minus in zip(found, *sides, strict=True)]
    finally:
        for weight, value in start.items():
            weight.copy_(value)
            weight.grad = None
        for weight in trained:
            weight.requires_grad_(True)
    for parameter, gradient in zip(architecture, found, strict=True):
        parameter.grad = gradient


@contextmanager
def same_draws() -> Iterator[None]:
    """Let whoever comes next draw once more what is drawn in here (dropout, Mixup).

    A difference of two losses under different masks would be noise.
    """
    python, numpy = random.getstate(), np.random.get_state()
    with torch.random.fork_rng(devices=range(torch.cuda.device_count())):
        yield
    random.setstate(python)
    np.random.set_state(numpy)


@contextmanager
def buffers_kept(network: nn.Module) -> Iterator[None]:
    """Keep the statistics of batch norms, and all other buffers: afterwards they are what they were."""
    kept = [buffer.clone() for buffer in network.buffers()]
    try:
        yield
    finally:
        for buffer, value in zip(network.buffers(), kept, strict=True):
            buffer.copy_(value)

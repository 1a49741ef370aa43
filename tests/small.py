"""Small things that several tests build on."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import replace
from typing import Any, TypedDict, TypeVar

import torch
from torch import nn

from acmix_nas.slots.finding import Slot

# A bottleneck ResNet with 4 slots; its last normalisation is not zero, so that every slot matters to the output.
RESNET: dict[str, Any] = {
    "backbone": "resnet14t", "slots": "layer*", "channels": (8, 8, 16, 16), "num_classes": 5, "zero_init_last": False,
}  # fmt: skip
PATIENCE = 3600.0
"""Seconds that a command may take in a test: one that hangs fails, one on a slow machine does not."""
SLOTS = ["layer1.0.conv2", "layer2.0.conv2", "layer3.0.conv2", "layer4.0.conv2"]
SEVEN = ["conv", "local", "window", "global", "acmix_local", "acmix_window", "acmix_global"]
EVERY = [*SEVEN, "patchwise", "acmix_patchwise", "local_k3", "acmix_window_k5", "global_r2"]


Kind = TypeVar("Kind")


class Tolerance(TypedDict):
    """How far two tensors may lie apart: arguments of `torch.testing.assert_close`."""

    atol: float
    rtol: float


def about(name: str) -> Callable[[str], str]:
    """Return what puts the name before the message of `torch.testing.assert_close`."""
    return lambda text: f"{name}: {text}"


def part(module: nn.Module, name: str, kind: type[Kind]) -> Kind:
    """Return the submodule of this name, which must be of this kind."""
    found = module.get_submodule(name)
    assert isinstance(found, kind)
    return found


def known(value: Kind | None) -> Kind:
    """Return a value that must be there, such as the bias of a layer or a gradient."""
    assert value is not None
    return value


def at(slot: Slot, candidates: Sequence[str]) -> Slot:
    """Return the slot with these candidates."""
    return replace(slot, candidates=tuple(candidates))


def images(number: int = 2, side: int = 32) -> torch.Tensor:
    return torch.randn(number, 3, side, side)


def train_briefly(network: nn.Module, steps: int = 2, resample: Any = lambda: None) -> nn.Module:
    """Give weights, running statistics, α and β values that are no defaults; leaves evaluation mode behind."""
    optimizer = torch.optim.SGD([p for p in network.parameters() if p.requires_grad], lr=0.05)
    network.train()
    for _ in range(steps):
        resample()
        optimizer.zero_grad()
        network(images(4)).square().mean().backward()
        optimizer.step()
    with torch.no_grad():
        for name, parameter in network.named_parameters():
            if name.endswith(("alpha", "beta")):
                parameter.uniform_(0.2, 1.5)
    return network.eval()


class Tiny(nn.Sequential):
    """With all that a continued run could get wrong: dropout, batch norm, and a scalar such as α."""

    def __init__(self) -> None:
        super().__init__(
            nn.Conv2d(3, 8, 3, stride=2), nn.BatchNorm2d(8), nn.ReLU(), nn.Flatten(), nn.Dropout(0.2), nn.Linear(72, 10)
        )  # fmt: skip
        self.alpha = nn.Parameter(torch.tensor(0.5))

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        for layer in self:
            x = layer(x)
        return self.alpha * x


def tiny() -> Tiny:
    torch.manual_seed(1)
    return Tiny()

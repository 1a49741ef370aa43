"""What is measured: built from a few words, so that a process of its own can build it, and called again and again."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from typing import Any

import timm
import torch
from torch import Tensor, nn
from torch.nn import functional as F

from acmix_nas.deploy.fusion import fuse
from acmix_nas.operators import ACmix, PatchwiseAttention
from acmix_nas.research.speed.cases import CANDIDATES, Spec
from acmix_nas.research.speed.naive import NaiveACmix, NaivePatchwise
from acmix_nas.slots.finding import Slot
from acmix_nas.slots.making import make_operator
from acmix_nas.supernet.candidates import Candidates

__all__ = ["KINDS", "DartsStep", "Evaluation", "Subject", "Training", "build"]

HEADS = 4
CLASSES = 10
SEED = 0


class Subject:
    """Something that is called, and what clears its gradients before each call, untimed."""

    def __call__(self) -> None:
        raise NotImplementedError

    def clear(self) -> None:
        """Clear all gradients, so that every backward makes its own anew, as after `zero_grad`."""


class Training(Subject):
    """Forward and backward from a fixed cotangent, to the weights and to the input.

    The cotangent has the memory format of the output, as the gradient of whatever came next would.

    Args:
        x: (B, …), contiguous, for whatever module.
    """

    def __init__(self, module: nn.Module, x: Tensor) -> None:
        self.module, self.x = module.train(), x.requires_grad_()
        with torch.no_grad():
            self.cotangent = torch.randn_like(self.module(self.x))

    def __call__(self) -> None:
        self.module(self.x).backward(self.cotangent)

    def clear(self) -> None:
        _clear([self.x, *self.module.parameters()])


class Evaluation(Subject):
    """Forward in evaluation mode."""

    def __init__(self, module: nn.Module, x: Tensor) -> None:
        self.module, self.x = module.eval(), x

    @torch.inference_mode()
    def __call__(self) -> None:
        self.module(self.x)


class DartsStep(Subject):
    """Both halves of a step of DARTS, first order, without the optimizers.

    Args:
        space: mutated by the strategy.
        architecture: its parameters of the architecture; the others are weights.
        images: (2, B, 3, S, S), those of the architecture's half and those of the weights'.
        labels: (2, B).
        stock: whether the architecture's half computes the gradients of the weights as well, as NNI's loop does and ours does
            not.
    """

    def __init__(
        self, space: nn.Module, architecture: Iterable[nn.Parameter], images: Tensor, labels: Tensor, stock: bool
    ) -> None:
        self.space, self.images, self.labels, self.stock = space.train(), images, labels, stock
        self.architecture = list(architecture)
        chosen = set(self.architecture)
        self.weights = [p for p in space.parameters() if p not in chosen and p.requires_grad]

    def __call__(self) -> None:
        _clear(self.architecture)
        for weight in self.weights:
            weight.requires_grad_(self.stock)
        self._loss(0).backward()
        for weight in self.weights:
            weight.requires_grad_(True)
        loss = self._loss(1)
        _clear(self.weights)  # only now, so what the first half leaves is there during the second's forward
        loss.backward()

    def _loss(self, half: int) -> Tensor:
        return F.cross_entropy(self.space(self.images[half]), self.labels[half])

    def clear(self) -> None:
        _clear([*self.architecture, *self.weights])


class Weighted(nn.Module):
    """A slot under the softmax of its architecture's parameters, as in DARTS."""

    def __init__(self, candidates: Candidates) -> None:
        super().__init__()
        self.candidates = candidates
        self.logits = nn.Parameter(torch.zeros(len(candidates.names)))

    def forward(self, x: Tensor) -> Tensor:
        out: Tensor = self.candidates(x, self.logits.softmax(0))
        return out


def build(spec: Spec, device: torch.device, dtype: torch.dtype) -> Subject:
    """Build the subject. The naive form has the weights of ours, and all at one size have the same input."""
    torch.manual_seed(SEED)
    return KINDS[spec.kind](spec, device, dtype, **spec.arguments)


def _subject(spec: Spec, module: nn.Module, channels: int, side: int, device: torch.device, dtype: torch.dtype) -> Subject:
    x = torch.randn(spec.batch, channels, side, side, generator=torch.Generator().manual_seed(SEED))
    return (Training if spec.train else Evaluation)(module.to(device, dtype), x.to(device, dtype))


def _operator(make: Callable[..., nn.Module]) -> Callable[..., Subject]:
    """Make the kind of subject of an operator from the function that makes it of its channels and its other arguments."""

    def built(spec: Spec, device: torch.device, dtype: torch.dtype, channels: int, side: int, **arguments: Any) -> Subject:
        return _subject(spec, make(channels, **arguments), channels, side, device, dtype)

    return built


def _acmix(channels: int, stride: int = 1) -> ACmix:
    return ACmix(channels, channels, HEADS, "local", stride=stride)


def _patchwise(channels: int) -> PatchwiseAttention:
    return PatchwiseAttention(channels, channels, HEADS)


def _conv(channels: int, stride: int = 1) -> nn.Conv2d:
    return nn.Conv2d(channels, channels, 3, stride, padding=1, bias=False)


def _slot(channels: int) -> Slot:
    return Slot("slot", channels, channels, HEADS, candidates=CANDIDATES)


def _network(
    spec: Spec, device: torch.device, dtype: torch.dtype, name: str, side: int, fused: bool, **arguments: Any
) -> Subject:
    network = timm.create_model(name, **arguments).to(device, dtype).eval()
    if fused:
        images = torch.randn(spec.batch, 3, side, side, device=device, dtype=dtype)
        # The largest of our networks' differences in bfloat16 is 1.4e-2, where a wrong form differs by the output itself.
        tolerance = 5e-2 if dtype == torch.bfloat16 else 1e-5
        network = fuse(network, images, tolerance=tolerance).network
    return _subject(spec, network, 3, side, device, dtype)


def _darts_step(
    spec: Spec, device: torch.device, dtype: torch.dtype, share: str, stock: bool, side: int, channels: Sequence[int]
) -> DartsStep:  # fmt: skip
    from acmix_nas.search_spaces import MixedSlot, hybridize  # needs NNI
    from acmix_nas.strategies import DARTS

    space = hybridize(
        "resnet26", CANDIDATES, slots="layer*", share=share, num_classes=CLASSES, channels=tuple(channels)
    )  # fmt: skip
    supernet = DARTS().mutate_model(space).to(device, dtype)
    slots = [module for module in supernet.modules() if isinstance(module, MixedSlot)]
    architecture = [parameter for slot in slots for parameter in slot.arch_parameters()]
    images = torch.randn(2, spec.batch, 3, side, side, device=device, dtype=dtype)
    labels = torch.randint(CLASSES, (2, spec.batch), device=device)
    return DartsStep(supernet, architecture, images, labels, stock)


KINDS: dict[str, Callable[..., Subject]] = {
    "acmix": _operator(_acmix),
    "naive_acmix": _operator(lambda channels, stride=1: NaiveACmix.from_ours(_acmix(channels, stride))),
    "patchwise": _operator(_patchwise),
    "naive_patchwise": _operator(lambda channels: NaivePatchwise.from_ours(_patchwise(channels))),
    "conv3x3": _operator(_conv),
    "candidates": _operator(lambda channels, share: Weighted(Candidates(_slot(channels), share))),
    "candidate": _operator(lambda channels, operator: make_operator(_slot(channels), operator)),
    "network": _network,
    "darts_step": _darts_step,
}


def _clear(tensors: Iterable[Tensor]) -> None:
    for tensor in tensors:
        tensor.grad = None

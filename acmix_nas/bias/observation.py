"""What is seen of a network at one epoch: the probabilities of its candidates, and the α and β of its ACmix operators."""

from __future__ import annotations

import math
from collections.abc import Iterable, Sequence
from typing import NamedTuple, Protocol, runtime_checkable

from torch import nn

from acmix_nas.operators import ACmix

__all__ = [
    "Leaning", "Observation", "acmix_of", "by_slot", "entropy", "last_epoch", "log_ratio", "observe", "stage_of",
    "with_probability",
]  # fmt: skip


class Observation(NamedTuple):
    """One candidate of one slot at one epoch.

    Attributes:
        epoch: epochs completed; 0 is the state before training.
        slot: the module path of the slot, `layer2.0.conv2`.
        operator: the candidate, `acmix_local`.
        probability: of this candidate; None where the operator is not searched.
        alpha: α, the weight of the attention; None for operators other than ACmix.
        beta: β, the weight of the convolution; None likewise.
    """

    epoch: int
    slot: str
    operator: str
    probability: float | None
    alpha: float | None
    beta: float | None


@runtime_checkable
class Leaning(Protocol):
    """A module that says itself how it leans: the slots of a supernet."""

    def lean(self) -> Iterable[tuple[str, float | None, float | None, float | None]]:
        """Yield operator, probability, α and β of each candidate."""


def observe(network: nn.Module, epoch: int) -> list[Observation]:
    """Observe every candidate of every `Leaning` slot, and every `ACmix` elsewhere, in order of definition, which is depth.

    Slots are named by their path in `network`, so pass the backbone itself, not a module that wraps it. In a derived
    network, the ACmix at `<slot>.operator` stands at `<slot>`.
    """
    observations: list[Observation] = []
    inside: str | None = None  # named_modules walks depth first: what is in a module that was observed follows at once
    for name, module in network.named_modules():
        if inside is not None and name.startswith(inside):
            continue
        if isinstance(module, Leaning):
            observations += [Observation(epoch, name, *candidate) for candidate in module.lean()]
        elif isinstance(module, ACmix):
            slot = name.removesuffix(".operator")
            observations.append(Observation(epoch, slot, module.name, None, module.alpha.item(), module.beta.item()))
        else:
            continue
        inside = f"{name}." if name else ""
    return observations


def stage_of(slot: str) -> str:
    """Return the stage of a slot, told by its name: the path up to the first number, the slot's own name left out.

    `layer2.0.conv2` → `layer2`, `stages.2.blocks.1.conv` → `stages.2`, `features.denseblock1.denselayer2.conv2` →
    `features.denseblock1`. Without such a number it is the first component: `features.3` → `features`.
    """
    components = slot.split(".")
    for i, component in enumerate(components[:-1]):
        if any(letter.isdigit() for letter in component):
            return ".".join(components[: i + 1])
    return components[0]


def log_ratio(alpha: float | None, beta: float | None) -> float | None:
    """Compute log|α/β|, natural: above zero the attention weighs more.

    Return None where it is not finite (a zero) or there is none.
    """
    if not alpha or not beta:
        return None
    ratio = math.log(abs(alpha)) - math.log(abs(beta))  # the quotient itself could overflow
    return ratio if math.isfinite(ratio) else None


def entropy(probabilities: Iterable[float]) -> float:
    """Compute the entropy in nats: 0 when the choice is made, log n when n candidates are equal."""
    return -sum(p * math.log(p) for p in probabilities if p > 0)


def last_epoch(observations: Sequence[Observation]) -> list[Observation]:
    """Return the observations of the last epoch."""
    last = max((o.epoch for o in observations), default=0)
    return [o for o in observations if o.epoch == last]


def by_slot(observations: Iterable[Observation]) -> dict[str, list[Observation]]:
    """Return the observations of each slot, slots in the order of depth."""
    slots: dict[str, list[Observation]] = {}
    for o in observations:
        slots.setdefault(o.slot, []).append(o)
    return slots


def with_probability(observations: Iterable[Observation]) -> list[Observation]:
    """Return the candidates of searched slots."""
    return [o for o in observations if o.probability is not None]


def acmix_of(observations: Sequence[Observation]) -> dict[str, Observation]:
    """Return the ACmix of each slot at the last epoch: the most probable candidate, or the first without probabilities."""
    mixed = (o for o in last_epoch(observations) if o.alpha is not None and o.beta is not None)
    return {slot: max(found, key=lambda o: o.probability or 0.0) for slot, found in by_slot(mixed).items()}

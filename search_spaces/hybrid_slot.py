"""The slot as a mutable of NNI, and the forms it takes in NNI's one-shot strategies."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from functools import reduce
from typing import Any

import nni.nas.strategy  # noqa: F401  imported first: NNI's one-shot modules and its strategies import each other
import torch
from nni.mutable import Categorical, Sample, ensure_frozen
from nni.nas.nn.pytorch import MutableModule
from nni.nas.oneshot.pytorch.supermodule.base import BaseSuperNetModule
from torch import Tensor, distributed, nn

from acmix_nas.operators import Mixing
from acmix_nas.slots.finding import Slot
from acmix_nas.slots.making import make_operator
from acmix_nas.supernet.candidates import Candidates, Lean

__all__ = ["GumbelSlot", "HybridSlot", "MixedSlot", "ProxylessSlot", "SampledSlot"]


def draw(weights: Tensor) -> int:
    """Draw an index in proportion to its weight, the same on all processes.

    It comes from torch's generator: NNI's own draws from a fresh one each time, which no seed reaches.
    """
    return int(from_first(torch.multinomial(weights, 1)))


def gumbel_noise(like: Tensor) -> Tensor:
    """Draw standard Gumbel noise of this shape, the same on all processes."""
    return from_first(-torch.empty_like(like).exponential_().log())


def from_first(drawn: Tensor) -> Tensor:
    """Return what the first process drew."""
    if distributed.is_available() and distributed.is_initialized():
        distributed.broadcast(drawn, src=0)
    return drawn


class HybridSlot(MutableModule):
    """A slot whose operator is a choice, labelled with the slot's name.

    As it stands it runs its first candidate; a strategy turns it into one of the forms below, or freezes it.
    """

    def __init__(self, slot: Slot, share: str = "all", home: nn.Module | None = None) -> None:
        super().__init__()
        self.slot = slot
        self.candidates = Candidates(slot, share, home)
        self.choice = self.add_mutable(Categorical(list(self.candidates.names), label=slot.name))
        self._dry_run = ensure_frozen(self.choice)

    @classmethod
    def create_fixed_module(
        cls, sample: Sample, slot: Slot, share: str = "all", home: nn.Module | None = None
    ) -> nn.Module:  # fmt: skip
        """Make the operator itself, where NNI builds a network of a known sample."""
        operator = Categorical(list(slot.candidates), label=slot.name).freeze(sample)
        return make_operator(slot, operator, None if share == "all" else home)

    def freeze(self, sample: Sample) -> nn.Module:
        """Return the chosen operator, with a copy of the weights."""
        self.validate(sample)
        return self.candidates.derive(self.choice.freeze(sample))

    def forward(self, x: Tensor) -> Tensor:
        return self.candidates.outputs(x, [self._dry_run])[self._dry_run]

    def lean(self) -> Iterator[Lean]:
        """Yield (operator, probability, α, β) of every candidate."""
        return self.candidates.lean()


class SupernetSlot(BaseSuperNetModule):
    """What the one-shot forms of a slot have in common."""

    def __init__(self, hybrid: HybridSlot) -> None:
        super().__init__()
        self.slot, self.candidates = hybrid.slot, hybrid.candidates
        self.choice = self.add_mutable(hybrid.choice)

    @property
    def label(self) -> str:
        label: str = self.choice.label
        return label

    def freeze(self, sample: Sample) -> nn.Module:
        """Return the chosen operator, with a copy of the weights."""
        self.validate(sample)
        return self.candidates.derive(self.choice.freeze(sample))

    def resample(self, memo: Sample) -> Sample:  # noqa: ARG002
        """Sample nothing, unless a form does."""
        return {}

    def lean(self) -> Iterator[Lean]:
        """Yield (operator, probability, α, β) of every candidate, for logs and figures."""
        return self.candidates.lean()


class MixedSlot(SupernetSlot):
    """For DARTS, and NNI's GumbelDARTS: the mixture of all candidates under a softmax.

    α and β of the ACmix candidates keep their start, since they can mask the choice: an ACmix with β = 0 is plain attention
    under another name. Retraining learns them.
    """

    def __init__(self, hybrid: HybridSlot, alpha: nn.Parameter, softmax: nn.Module) -> None:
        super().__init__(hybrid)
        self._arch_alpha = alpha
        self._softmax = softmax
        self.learn_mixing(False)

    def learn_mixing(self, learned: bool) -> None:
        """Set whether α and β are learned beside the choice."""
        for module in self.candidates.modules():
            if isinstance(module, Mixing):
                module.requires_grad_(learned)

    @classmethod
    def mutate(cls, module: nn.Module, name: str, memo: Sample, mutate_kwargs: dict[str, Any]) -> nn.Module | bool:  # noqa: ARG003
        """Return the supernet form of a slot, or nothing for any other module (NNI's hook). What is inside is left alone."""
        if isinstance(module, HybridSlot):
            return cls(module, memo[module.choice.label], mutate_kwargs["softmax"])
        return isinstance(module, cls)

    def forward(self, x: Tensor) -> Tensor:
        out: Tensor = self.candidates(x, self._softmax(self._arch_alpha))
        return out

    def probabilities(self) -> Tensor:
        """Return (candidates,): the live softmax, without Gumbel noise, with a gradient."""
        return self._arch_alpha.softmax(dim=-1)

    def arch_parameters(self) -> Iterator[nn.Parameter]:
        yield self._arch_alpha

    def export(self, memo: Sample) -> Sample:
        """Return the most likely operator."""
        return {} if self.label in memo else {self.label: self.candidates.names[int(self._arch_alpha.argmax())]}

    def export_probs(self, memo: Sample) -> dict[str, Mapping[str, float]]:
        if self.label in memo:
            return {}
        return {self.label: dict(zip(self.candidates.names, self.probabilities().tolist(), strict=True))}

    def lean(self) -> Iterator[Lean]:
        return self.candidates.lean(self.export_probs({})[self.label])


class ProxylessSlot(MixedSlot):
    """For Proxyless: one sampled candidate runs with a gradient; the architecture sees the outputs of all.

    With the binary gates of ProxylessNAS, ∂L/∂α_i = Σ_j ⟨∂L/∂out, o_j⟩ ∂p_j/∂α_i. Adding Σ_j (p_j − stop(p_j)) · stop(o_j),
    which is zero, to the sampled output gives just that.
    """

    _sampled: str | None = None

    def resample(self, memo: Sample) -> Sample:
        if self.label in memo:
            self._sampled = memo[self.label]
        else:
            self._sampled = self.candidates.names[draw(self.probabilities().detach())]
        return {self.label: self._sampled}

    def forward(self, x: Tensor) -> Tensor:
        if self._sampled is None:
            raise RuntimeError(f"resample() must be called before the forward of slot {self.label!r}")
        outputs = self.candidates.outputs(x)
        gates = self.probabilities()
        gates = gates - gates.detach()
        zeros = (gate * outputs[name].detach() for gate, name in zip(gates, self.candidates.names, strict=True))
        return reduce(torch.add, zeros, outputs[self._sampled])


class GumbelSlot(MixedSlot):
    """For Gumbel: one sampled candidate runs, and it alone tells the architecture anything (GDAS, Dong and Yang 2019).

    With g standard Gumbel noise and p = softmax((log softmax α + g) / τ), the candidate k of the largest p is drawn in
    proportion to softmax α. The output is o_k · (1 + p_k − stop(p_k)), which is o_k, with ∂L/∂α = ⟨∂L/∂out, o_k⟩ ∂p_k/∂α.
    """

    temperature: float = 1.0
    _noise: Tensor | None = None

    def resample(self, memo: Sample) -> Sample:  # noqa: ARG002  a label is the name of a slot, so no other slot has drawn it
        self._noise = gumbel_noise(self._arch_alpha.detach())
        return {self.label: self.candidates.names[int(self._relaxed().argmax())]}

    def _relaxed(self) -> Tensor:
        """Return (candidates,): p."""
        if self._noise is None:
            raise RuntimeError(f"resample() must be called before the forward of slot {self.label!r}")
        return ((self._arch_alpha.log_softmax(dim=-1) + self._noise) / self.temperature).softmax(dim=-1)

    def forward(self, x: Tensor) -> Tensor:
        relaxed = self._relaxed()
        sampled = int(relaxed.argmax())
        name, p = self.candidates.names[sampled], relaxed[sampled]
        return self.candidates.outputs(x, [name])[name] * (1 + (p - p.detach()))


class SampledSlot(SupernetSlot):
    """For SinglePath and NNI's RandomOneShot (uniform sampling): only the sampled candidate runs.

    While `averaging` is set, a training forward gives the mean of all instead.
    """

    _sampled: str | None = None
    averaging: bool = False

    @classmethod
    def mutate(cls, module: nn.Module, name: str, memo: Sample, mutate_kwargs: dict[str, Any]) -> nn.Module | bool:  # noqa: ARG003
        """Return the supernet form of a slot, or nothing for any other module (NNI's hook)."""
        return cls(module) if isinstance(module, HybridSlot) else isinstance(module, cls)

    def resample(self, memo: Sample) -> Sample:
        self._sampled = memo[self.label] if self.label in memo else self._any()
        return {self.label: self._sampled}

    def _any(self) -> str:
        device = next(self.candidates.parameters()).device
        return self.candidates.names[draw(torch.ones(len(self.candidates.names), device=device))]

    def activate(self, operator: str) -> None:
        """Make the choice by hand."""
        self.choice.validate({self.label: operator})
        self._sampled = operator

    def export(self, memo: Sample) -> Sample:
        """Draw a random operator: uniform sampling prefers none."""
        return {} if self.label in memo else {self.label: self._any()}

    def export_probs(self, memo: Sample) -> dict[str, Mapping[str, float]]:  # noqa: ARG002
        return {}

    def forward(self, x: Tensor) -> Tensor:
        if self._sampled is None:
            raise RuntimeError(f"resample() must be called before the forward of slot {self.label!r}")
        if self.averaging and self.training:
            number = len(self.candidates.names)
            out: Tensor = self.candidates(x, x.new_full((number,), 1 / number))
            return out
        return self.candidates.outputs(x, [self._sampled])[self._sampled]

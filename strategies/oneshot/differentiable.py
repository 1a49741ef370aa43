"""What the strategies that train a distribution over architectures have in common: their loop."""

from __future__ import annotations

from typing import Any

from nni.nas.oneshot.pytorch.differentiable import DartsLightningModule
from torch import Tensor, nn
from torch.nn.modules.batchnorm import _BatchNorm

from acmix_nas.bias.decision import Decision
from acmix_nas.search_spaces import MixedSlot

__all__ = ["SampledSearchModule", "SearchModule"]


class SearchModule(DartsLightningModule):
    """NNI's loop of DARTS in two methods that can be overridden, with its parameters in order, and a log of how decided it is.

    While it warms up, the weights are trained alone: before they mean anything, a gradient of the architecture tells which
    operators learn fast, not which are good (Liang et al. 2019, Xu et al. 2020).
    """

    def training_step(self, batch: dict[str, Any], batch_idx: int) -> Any:
        """Take one step of the architecture on the search-validation part, and one of the weights on the training part."""
        if self.trainer.current_epoch >= self.warmup_epochs:
            self.architecture_step(batch, batch_idx)
        self.resample()
        given = self.training_module.training_step(batch["train"], 2 * batch_idx + 1)
        self.advance_optimization(loss_of(given), batch_idx, self.gradient_clip_val)
        self.advance_lr_schedulers(batch_idx)
        if batch_idx % self.log_prob_every_n_step == 0:
            self.log_probs(self.export_probs())
        return given

    def architecture_step(self, batch: dict[str, Any], batch_idx: int) -> None:
        """Move the architecture; first order, with the weights as they are."""
        optimizer: Any = self.architecture_optimizers()
        self.resample()
        optimizer.zero_grad()
        with self.toggled_optimizer(optimizer):  # gradients of the weights would cost a third of the step, for nothing
            self.manual_backward(self.architecture_loss(batch, batch_idx))
        optimizer.step()

    def architecture_loss(self, batch: dict[str, Any], batch_idx: int) -> Tensor:
        """Compute the loss that the architecture's step goes down."""
        return loss_of(self.training_module.training_step(batch["val"], 2 * batch_idx))

    def slots(self) -> list[MixedSlot]:
        """Return the slots in order."""
        return [module for module in self.supernet_modules() if isinstance(module, MixedSlot)]

    def arch_parameters(self) -> list[nn.Parameter]:
        """Return the architecture's parameters in the order of the slots.

        NNI gives them as a set, so their order differs from run to run. But a checkpoint restores the state of an optimizer by
        the order of its parameters.
        """
        return list(dict.fromkeys(parameter for slot in self.slots() for parameter in slot.arch_parameters()))

    def log_probs(self, probs: dict[str, dict[str, float]]) -> None:
        """Log how decided the distribution is. NNI logs every probability, which `BiasLogger` does once an epoch."""
        decision = Decision.of(probs)
        self.log("entropy", decision.entropy, prog_bar=True)
        self.log("dominance", decision.dominance)


class SampledSearchModule(SearchModule):
    """The loop where sampled paths run. The architecture's steps see the backbone's batch norms with their running statistics.

    A batch norm that computes its own statistics undoes the scale of what enters it. Most backbones have one behind a slot.
    There ⟨∂L/∂out, o_k⟩ of the candidate that runs would be exactly zero. Gumbel would learn nothing. Proxyless would learn
    only which other candidate is unlike the one that runs, and add to it. (The candidates' own norms, inside the slots, stay
    as they are.)
    """

    def architecture_step(self, batch: dict[str, Any], batch_idx: int) -> None:
        inside = {norm for slot in self.slots() for norm in slot.modules()}
        norms = [m for m in self.model.modules() if isinstance(m, _BatchNorm) and m.training and m not in inside]
        for norm in norms:
            norm.eval()
        super().architecture_step(batch, batch_idx)
        for norm in norms:
            norm.train()


def loss_of(given: Any) -> Tensor:
    """Return the loss, of what a training step gives."""
    loss: Tensor = given["loss"] if isinstance(given, dict) else given
    return loss

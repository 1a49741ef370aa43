"""DARTS that knows what operators cost."""

from __future__ import annotations

import math
from typing import Any

from nni.nas.nn.pytorch import ModelSpace
from nni.nas.oneshot.pytorch.differentiable import DartsLightningModule
from nni.nas.strategy import DARTS as NniDARTS
from pytorch_lightning import LightningModule
from torch import Tensor, nn

from acmix_nas.cost import MEASURES, CostTable
from acmix_nas.errors import UserError, one_of
from acmix_nas.search_spaces import HybridSpace, MixedSlot

__all__ = ["DARTS", "in_order"]


class DARTS(NniDARTS):
    """NNI's DARTS, first order, with a cost penalty that has a gradient.

    The loss of the architecture's step is the task's plus penalty · E, where E is the expected cost of the slots under the
    live softmax over its mean over the space: at a penalty of 0.1, an architecture of half the mean's cost is worth 0.05 of
    loss. (NNI's own penalty is computed from numbers without a gradient, and changes nothing.)

    Args:
        penalty: weight of the expected cost; 0 searches for accuracy alone.
        cost: what it counts, "macs" or "parameters".
        table: the cost table; measured at the size of the first images by default.
        learn_mixing: whether α and β are learned during the search after all.
        others: as of NNI's DARTS: `arc_learning_rate`, `warmup_epochs`, `gradient_clip_val`, `log_prob_every_n_step`.

    Raises:
        UserError: for a negative penalty or an unknown cost.
    """

    def __init__(
        self,
        *,
        penalty: float = 0.0,
        cost: str = "macs",
        table: CostTable | None = None,
        learn_mixing: bool = False,
        arc_learning_rate: float = 3e-4,
        **others: Any,
    ) -> None:
        if isinstance(penalty, bool) or not isinstance(penalty, int | float) or not penalty >= 0:
            raise UserError(f"penalty must be a number of 0 or more; got {penalty!r}")
        if cost not in MEASURES:
            raise one_of("cost", cost, MEASURES)
        super().__init__(arc_learning_rate=arc_learning_rate, **others)
        self.cost_penalty, self.cost, self.table, self.learn_mixing = float(penalty), cost, table, learn_mixing

    def mutate_model(self, model: ModelSpace) -> ModelSpace:
        model = super().mutate_model(model)
        for module in model.modules():
            if isinstance(module, MixedSlot):
                module.learn_mixing(self.learn_mixing)
        return model

    def configure_oneshot_module(self, training_module: LightningModule) -> DartsModule:
        return DartsModule(
            training_module,
            CostPenalty(self.cost_penalty, self.cost, self.table),
            arc_learning_rate=self.arc_learning_rate,
            gradient_clip_val=self.gradient_clip_val,
            log_prob_every_n_step=self.log_prob_every_n_step,
            warmup_epochs=self.warmup_epochs,
        )


class CostPenalty:
    """Adds the expected cost to a loss; called by NNI's step with the loss and probabilities, which have no gradient."""

    def __init__(self, weight: float, cost: str, table: CostTable | None) -> None:
        self.weight, self.cost, self.table = weight, cost, table
        self.slots: list[MixedSlot] = []

    def expected(self) -> Tensor:
        """E: expected cost under the live softmax; 1 is the mean of the space."""
        assert self.table is not None
        return self.table.expected({slot.slot.name: slot.probabilities() for slot in self.slots}, self.cost)

    def __call__(self, loss: Tensor, _: Any) -> tuple[Tensor, dict[str, float]]:
        if self.table is None:
            return loss, {}
        expected = self.expected()
        return loss + self.weight * expected, {f"expected_{self.cost}": expected.item()}


def in_order(module: DartsLightningModule) -> list[nn.Parameter]:
    """The architecture's parameters in the order of the slots.

    NNI gives them as a set, so their order differs from run to run, while a checkpoint restores the state of an optimizer by
    the order of its parameters.
    """
    slots = [slot for slot in module.supernet_modules() if isinstance(slot, MixedSlot)]
    return list(dict.fromkeys(parameter for slot in slots for parameter in slot.arch_parameters()))


class DartsModule(DartsLightningModule):
    """NNI's search loop, with our penalty, and a log of how decided the search is."""

    penalty: CostPenalty

    def __init__(self, training_module: LightningModule, penalty: CostPenalty, **others: Any) -> None:
        super().__init__(training_module, **others)
        self.penalty = penalty

    def training_step(self, batch: dict[str, Any], batch_idx: int) -> Any:
        """One step of the architecture on the search-validation part, one of the weights on the training part."""
        if not self.penalty.slots:
            self.penalty.slots = [module for module in self.model.modules() if isinstance(module, MixedSlot)]
        if self.penalty.table is None and self.penalty.weight:
            if not isinstance(self.model, HybridSpace):
                raise UserError("penalty needs table=… on a space of your own: its costs are only known of hybridize's spaces")
            images = batch["val"][0]
            self.penalty.table = CostTable.of(self.model.backbone, self.model.slots, images.shape[1:])
        return super().training_step(batch, batch_idx)

    def arch_parameters(self) -> list[nn.Parameter]:
        return in_order(self)

    def log_probs(self, probs: dict[str, dict[str, float]]) -> None:
        """Mean entropy over the slots, in units of the largest possible one: 1 is undecided, 0 decided."""
        entropies = [-sum(p * math.log(p) for p in row.values() if p > 0) for row in probs.values()]
        largest = sum(math.log(len(row)) for row in probs.values())
        self.log("entropy", sum(entropies) / max(largest, 1e-9), prog_bar=True)

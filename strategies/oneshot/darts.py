"""DARTS that knows what operators cost, in first or second order."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

from nni.nas.nn.pytorch import ModelSpace
from nni.nas.strategy import DARTS as NniDARTS
from pytorch_lightning import LightningModule
from torch import Tensor

from acmix_nas.costs.registry import COSTS
from acmix_nas.costs.table import CostTable
from acmix_nas.search_spaces import HybridSpace, MixedSlot
from acmix_nas.strategies.oneshot.differentiable import SearchModule, loss_of
from acmix_nas.strategies.oneshot.unrolled import buffers_kept, same_draws, unrolled
from acmix_nas.util.errors import UserError, one_of

__all__ = ["DARTS"]

ORDERS = (1, 2)


class DARTS(NniDARTS):
    """NNI's DARTS, with a cost penalty that has a gradient, and in second order where that is asked for.

    The loss of the architecture's step is the task's plus penalty · E. E is the expected cost of the slots under the live
    softmax over its mean over the space. At a penalty of 0.1, an architecture of half the mean's cost is worth 0.05 of loss.
    (NNI's own penalty is computed from numbers without a gradient, and changes nothing.)

    In second order the architecture's loss is that of the weights after their next step, see `unrolled`. It takes four
    gradients instead of one. The virtual steps leave no trace in the statistics of batch norms, nor in the logs. They need
    full precision, since they are differences.

    Args:
        penalty: weight of the expected cost; 0 searches for accuracy alone.
        cost: what it counts: a registered cost, such as "macs", "parameters" or "latency".
        table: the cost table; measured at the size of the first images by default.
        learn_mixing: whether α and β are learned during the search after all.
        order: 1 or 2.
        others: of NNI's DARTS: `arc_learning_rate`, `warmup_epochs`, `gradient_clip_val`, `log_prob_every_n_step`.

    Raises:
        UserError: for a negative penalty, an unknown cost or another order.
    """

    def __init__(
        self,
        *,
        penalty: float = 0.0,
        cost: str = "macs",
        table: CostTable | None = None,
        learn_mixing: bool = False,
        order: int = 1,
        arc_learning_rate: float = 3e-4,
        **others: Any,
    ) -> None:
        if isinstance(penalty, bool) or not isinstance(penalty, int | float) or not penalty >= 0:
            raise UserError(f"penalty must be a number of 0 or more; got {penalty!r}")
        COSTS.get(cost)
        if order not in ORDERS:
            raise one_of("order", order, ORDERS)
        super().__init__(arc_learning_rate=arc_learning_rate, **others)
        self.cost_penalty, self.cost, self.table, self.learn_mixing = float(penalty), cost, table, learn_mixing
        self.order = order

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
            self.order,
            arc_learning_rate=self.arc_learning_rate,
            gradient_clip_val=self.gradient_clip_val,
            log_prob_every_n_step=self.log_prob_every_n_step,
            warmup_epochs=self.warmup_epochs,
        )


class CostPenalty:
    """The expected cost, as a part of a loss."""

    def __init__(self, weight: float, cost: str, table: CostTable | None) -> None:
        self.weight, self.cost, self.table = weight, cost, table
        self.slots: list[MixedSlot] = []

    def expected(self) -> Tensor:
        """Compute E: expected cost under the live softmax. 1 is the mean of the space."""
        assert self.table is not None
        return self.table.expected({slot.slot.name: slot.probabilities() for slot in self.slots}, self.cost)

    def __call__(self, loss: Tensor) -> tuple[Tensor, dict[str, float]]:
        """Return the loss with the penalty, and what to log of it."""
        if self.table is None:
            return loss, {}
        expected = self.expected()
        return loss + self.weight * expected, {f"expected_{self.cost}": expected.item()}


class DartsModule(SearchModule):
    """The loop with the penalty, and with the architecture's step of either order."""

    def __init__(self, training_module: LightningModule, penalty: CostPenalty, order: int, **others: Any) -> None:
        super().__init__(training_module, **others)
        self.cost_penalty, self.order = penalty, order

    def training_step(self, batch: dict[str, Any], batch_idx: int) -> Any:
        if not self.cost_penalty.slots:
            self.cost_penalty.slots = self.slots()
        if self.cost_penalty.table is None and self.cost_penalty.weight:
            if not isinstance(self.model, HybridSpace):
                raise UserError("penalty needs table=… on a space of your own: its costs are only known of hybridize's spaces")
            images = batch["val"][0]
            self.cost_penalty.table = CostTable.of(
                self.model.backbone, self.model.slots, images.shape[1:], [self.cost_penalty.cost]
            )  # fmt: skip
        return super().training_step(batch, batch_idx)

    def architecture_loss(self, batch: dict[str, Any], batch_idx: int) -> Tensor:
        loss, details = self.cost_penalty(super().architecture_loss(batch, batch_idx))
        self.log_dict({f"penalty/{name}": value for name, value in details.items()})
        return loss

    def architecture_step(self, batch: dict[str, Any], batch_idx: int) -> None:
        if self.order == 1:
            super().architecture_step(batch, batch_idx)
            return
        optimizer: Any = self.architecture_optimizers()
        (weights,) = (one for one in self.trainer.optimizers if not getattr(one, "is_arch_optimizer", False))
        rates = {weight: group["lr"] for group in weights.param_groups for weight in group["params"]}

        def train() -> None:
            with same_draws(), self._unlogged():
                given = self.training_module.training_step(batch["train"], 2 * batch_idx + 1)
                self.manual_backward(loss_of(given))

        with buffers_kept(self.model):
            unrolled(
                rates, self.arch_parameters(), train,
                lambda: self.manual_backward(self.architecture_loss(batch, batch_idx)),
            )  # fmt: skip
        optimizer.step()

    @contextmanager
    def _unlogged(self) -> Iterator[None]:
        """Leave virtual steps out of the log: they are no steps of the training."""
        self.training_module.log = lambda *_, **__: None
        try:
            yield
        finally:
            self.training_module.log = self.log  # where NNI redirects it

"""Gumbel samples: a distribution over architectures, trained through one path at a time."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from nni.nas.strategy import DARTS as NniDARTS
from pytorch_lightning import LightningModule

from acmix_nas.search_spaces import GumbelSlot
from acmix_nas.strategies.differentiable import check_temperature
from acmix_nas.strategies.oneshot.differentiable import SampledSearchModule

__all__ = ["Gumbel"]


class Gumbel(NniDARTS):
    """GDAS (Dong and Yang 2019): only the sampled candidate of each slot runs, so a step costs what one network does.

    NNI's GumbelDARTS runs all candidates and weighs them by soft samples; what it trains is a mixture. Both anneal the
    temperature linearly, NNI's from 1 to 0.33 by default, this one as in the paper.

    Args:
        temperature: of the first and of the last epoch. A high one gives all candidates a gradient, a low one those that
            came close.
        others: of NNI's DARTS.

    Raises:
        UserError: where the temperatures are not positive, or rise.
    """

    def __init__(
        self, *, temperature: Sequence[float] = (10.0, 0.1), mutation_hooks: Sequence[Any] = (), **others: Any
    ) -> None:  # fmt: skip
        super().__init__(mutation_hooks=[GumbelSlot.mutate, *mutation_hooks], **others)
        self.temperature = check_temperature(temperature)

    def configure_oneshot_module(self, training_module: LightningModule) -> GumbelModule:
        return GumbelModule(
            training_module,
            self.temperature,
            arc_learning_rate=self.arc_learning_rate,
            gradient_clip_val=self.gradient_clip_val,
            log_prob_every_n_step=self.log_prob_every_n_step,
            warmup_epochs=self.warmup_epochs,
        )


class GumbelModule(SampledSearchModule):
    """The loop, which cools down from epoch to epoch."""

    def __init__(self, training_module: LightningModule, temperature: tuple[float, float], **others: Any) -> None:
        super().__init__(training_module, **others)
        self.temperature = temperature

    def on_train_epoch_start(self) -> None:
        first, last = self.temperature
        epoch, epochs = self.trainer.current_epoch, self.trainer.max_epochs or 1
        now = first + (last - first) * min(1.0, epoch / max(1, epochs - 1))
        self.log("temperature", now)
        for slot in self.slots():
            if isinstance(slot, GumbelSlot):
                slot.temperature = now
        super().on_train_epoch_start()

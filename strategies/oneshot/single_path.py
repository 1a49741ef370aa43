"""Uniform sampling of single paths, begun as the mean of all candidates, which learns sooner."""

from __future__ import annotations

from typing import Any

from nni.nas.oneshot.pytorch.sampling import RandomSamplingLightningModule
from nni.nas.strategy import RandomOneShot
from pytorch_lightning import LightningModule

from acmix_nas.search_spaces import SampledSlot
from acmix_nas.util.errors import UserError

__all__ = ["SinglePath"]


class SinglePath(RandomOneShot):
    """NNI's RandomOneShot (Guo et al. 2020), whose first epochs train the mean of all candidates.

    A path that is drawn anew in every step learns nothing for many epochs, then suddenly. The mean of the candidates on one
    Stage I learns from the first step on, and single paths go on from weights that already see.

    Args:
        warmup_epochs: in which every slot gives the mean of its candidates' normalised outputs.
        others: of NNI's RandomOneShot.

    Raises:
        UserError: for a negative number of epochs.
    """

    def __init__(self, *, warmup_epochs: int = 0, **others: Any) -> None:
        if warmup_epochs < 0:
            raise UserError(f"warmup_epochs must be 0 or more; got warmup_epochs={warmup_epochs}")
        super().__init__(**others)
        self.warmup_epochs = warmup_epochs

    def configure_oneshot_module(self, training_module: LightningModule) -> SinglePathModule:
        return SinglePathModule(training_module, self.warmup_epochs, filter=self.filter)


class SinglePathModule(RandomSamplingLightningModule):
    """NNI's loop, which samples a path in every step, with the mean of all candidates in the first epochs."""

    def __init__(self, training_module: LightningModule, warmup_epochs: int, **others: Any) -> None:
        super().__init__(training_module, **others)
        self.warmup_epochs = warmup_epochs

    def on_train_epoch_start(self) -> None:
        averaging = self.trainer.current_epoch < self.warmup_epochs
        for slot in self.supernet_modules():
            if isinstance(slot, SampledSlot):
                slot.averaging = averaging
        super().on_train_epoch_start()

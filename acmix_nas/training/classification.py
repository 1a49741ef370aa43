"""What a training does: its recipe, its steps, its optimizer. timm gives optimizers, schedules, losses and the average."""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import Any

import pytorch_lightning as pl
import torch
from timm.data import Mixup
from timm.loss import LabelSmoothingCrossEntropy, SoftTargetCrossEntropy
from timm.optim import create_optimizer_v2
from timm.scheduler import create_scheduler_v2
from timm.utils import ModelEmaV3
from torch import Tensor, nn
from torch.nn import functional as F
from torch.optim.lr_scheduler import LRScheduler

from acmix_nas.training.recipe import Recipe
from acmix_nas.util.errors import UserError

__all__ = ["Classification", "Recipe", "Retraining"]


class TimmSchedule(LRScheduler):
    """A schedule of timm's as one of PyTorch's, to be stepped after every update: the form that Lightning and NNI call."""

    def __init__(self, optimizer: torch.optim.Optimizer, schedule: Any) -> None:
        self.schedule = schedule
        super().__init__(optimizer)

    def get_lr(self) -> list[Any]:
        self.schedule.step_update(self.last_epoch)
        return [group["lr"] for group in self.optimizer.param_groups]

    def state_dict(self) -> dict[str, Any]:
        # timm's schedules have no state but hold the optimizer, which has its own place in a checkpoint.
        return {key: value for key, value in super().state_dict().items() if key != "schedule"}


class Classification(pl.LightningModule):
    """The steps and the optimizer of a classifier, whoever owns the network and drives the optimizer.

    Batches are (images (B, 3, S, S), labels (B,)).
    """

    def __init__(self, recipe: Recipe, num_classes: int) -> None:
        super().__init__()
        self.recipe = recipe
        self.mixing: Mixup | None = None
        self.loss: nn.Module = LabelSmoothingCrossEntropy(recipe.label_smoothing)
        if recipe.mixup or recipe.cutmix:
            self.mixing = Mixup(recipe.mixup, recipe.cutmix, label_smoothing=recipe.label_smoothing, num_classes=num_classes)
            self.loss = SoftTargetCrossEntropy()

    @property
    def network(self) -> nn.Module:
        """What is trained; subclasses own it."""
        raise NotImplementedError

    @property
    def evaluated(self) -> nn.Module:
        """What validation and test see."""
        return self.network

    def forward(self, images: Tensor) -> Tensor:
        return self.network(images)

    def training_step(self, batch: Any, batch_idx: int) -> Tensor:  # noqa: ARG002 Lightning's signature
        images, labels = batch
        targets = labels
        if self.mixing is not None:
            even = len(labels) // 2 * 2  # timm mixes pairs
            images, labels = images[:even], labels[:even]
            images, targets = self.mixing(images, labels)
        logits = self(images)
        loss = self.loss(logits, targets)
        self._record("train", loss, logits, labels)
        return loss

    def validation_step(self, batch: Any, batch_idx: int) -> None:  # noqa: ARG002
        self._judge("val", batch)

    def test_step(self, batch: Any, batch_idx: int) -> None:  # noqa: ARG002
        self._judge("test", batch)

    def _judge(self, part: str, batch: Any) -> None:
        images, labels = batch
        logits = self.evaluated(images)
        self._record(part, F.cross_entropy(logits, labels), logits, labels)

    def _record(self, part: str, loss: Tensor, logits: Tensor, labels: Tensor) -> None:
        """Log the mean over the epoch's images. One by one: NNI redirects `log`, and only that."""
        accuracy = (logits.argmax(1) == labels).float().mean()
        for name, value in ((f"{part}_loss", loss.detach()), (f"{part}_accuracy", accuracy)):
            self.log(
                name, value, on_step=False, on_epoch=True, sync_dist=True, batch_size=len(labels),
                prog_bar=name in ("train_loss", "val_accuracy"),
            )  # fmt: skip

    def configure_optimizers(self) -> Any:
        recipe = self.recipe
        try:
            optimizer = create_optimizer_v2(
                self.network, recipe.optimizer, lr=recipe.lr, weight_decay=recipe.weight_decay, momentum=recipe.momentum
            )
        except (AssertionError, ImportError, ValueError) as error:
            raise UserError(f"optimizer must be a name that timm knows; got {recipe.optimizer!r} ({error})") from error
        if recipe.schedule == "none":
            return {"optimizer": optimizer}
        schedule, _ = create_scheduler_v2(
            optimizer, recipe.schedule, recipe.epochs, warmup_epochs=recipe.warmup_epochs, min_lr=recipe.min_lr,
            decay_rate=1.0, step_on_epochs=False, updates_per_epoch=self._updates_per_epoch(),
        )  # fmt: skip
        return {"optimizer": optimizer, "lr_scheduler": {"scheduler": TimmSchedule(optimizer, schedule), "interval": "step"}}

    def _updates_per_epoch(self) -> int:
        # trainer.estimated_stepping_batches would start the loader's workers before a checkpoint has told the epoch.
        batches = len(self.trainer.datamodule.train_dataloader())  # type: ignore[attr-defined]
        return math.ceil(batches / self.trainer.accumulate_grad_batches)


class Retraining(Classification):
    """A classifier that owns its network, and the average of its weights where the recipe asks for one.

    Args:
        settings: kept in the checkpoints; a run is only continued under equal ones.
    """

    def __init__(
        self,
        network: nn.Module,
        recipe: Recipe,
        num_classes: int,
        settings: Mapping[str, Any] | None = None,
    ) -> None:
        super().__init__(recipe, num_classes)
        self._network = network
        self.average: ModelEmaV3 | None = None
        if recipe.ema_decay:
            self.average = ModelEmaV3(network, recipe.ema_decay, use_warmup=True)
            self.average.requires_grad_(False)  # parameters without a gradient would stop DDP
        self.settings = dict(settings or {})

    @property
    def network(self) -> nn.Module:
        return self._network

    @property
    def evaluated(self) -> nn.Module:
        return self._network if self.average is None else self.average.module

    def on_train_batch_end(self, *_: Any) -> None:
        if self.average is not None:
            self.average.update(self._network, step=self.global_step)

    def on_save_checkpoint(self, checkpoint: dict[str, Any]) -> None:
        checkpoint["settings"] = self.settings

    def on_load_checkpoint(self, checkpoint: dict[str, Any]) -> None:
        for what, begun in checkpoint["settings"].items():
            differing = [key for key, value in self.settings[what].items() if begun.get(key) != value]
            if differing:
                was = ", ".join(f"{key}={begun.get(key)!r}" for key in differing)
                raise UserError(f"{what} must be what the run was begun with, {was}; or train into another folder")
        shapes = {name: value.shape for name, value in self.state_dict().items()}
        if shapes != {name: value.shape for name, value in checkpoint["state_dict"].items()}:
            raise UserError("network must be the one that the run was begun with; or train into another folder")

"""Ends a search that collapses, and gives back the distribution it had before."""

from __future__ import annotations

from typing import Any

import pytorch_lightning as pl
import torch
from torch import Tensor

from acmix_nas.bias.decision import Decision
from acmix_nas.search_spaces import MixedSlot
from acmix_nas.util.errors import UserError

__all__ = ["Guard"]


class Guard(pl.Callback):
    """Stops a differentiable search that has collapsed, and puts back the distribution of its last good epoch.

    An epoch is bad where accuracy is clearly below the best of the epochs before, by `clear_drop`. Half of that is enough
    where one operator is first at every slot and still grows. It is the accuracy of what runs (the mixture, or the sampled
    paths) on the search-validation part, which the architecture's steps have computed anyway. So many bad epochs in a row are
    a collapse.

    Like the early stopping of DARTS+ (Liang et al. 2019) and RobustDARTS (Zela et al. 2020), it takes the architecture from
    before. Their signs are a count of skips and an eigenvalue of the Hessian. This sign is known in every space and costs
    nothing. It cannot see a mixture that gains while what is derived from it loses.

    Only the distribution goes back: the weights are those of the last epoch, since derived networks are trained again.

    Args:
        patience: bad epochs in a row.
        monitor: what the evaluator logs of the search-validation part, the larger the better, from 0 to 1.
        clear_drop: a fall below the best that no ordinary epoch shows: searches of 20 epochs on digits never dipped by more
            than 0.013.

    Attributes:
        collapse: what happened: "said", in one line, "epoch" (after which it stopped), "good" (the last good epoch),
            "accuracy" and "best"; None where nothing did.

    Raises:
        UserError: for a patience below 1; in training, where nothing of the monitor's name is logged.
    """

    def __init__(self, patience: int = 3, monitor: str = "val_accuracy", clear_drop: float = 0.05) -> None:
        if patience < 1:
            raise UserError(f"patience must be at least 1; got patience={patience}")
        self.patience, self.monitor, self.clear_drop = patience, monitor, clear_drop
        self.best, self.bad, self.strength = 0.0, 0, 0.0
        self.good: list[Tensor] = []
        self.good_epoch = 0
        self.collapse: dict[str, Any] | None = None

    def is_bad(self, accuracy: float, probabilities: dict[str, dict[str, float]]) -> bool:
        """Return whether this epoch counts as bad. Call it once per epoch, in order."""
        decision = Decision.of(probabilities)
        before = self.strength
        self.strength = 0.0
        if decision.dominance == 1.0:
            self.strength = sum(row[decision.operator] for row in probabilities.values()) / len(probabilities)
        taking_over = self.strength > before > 0
        bad = self.best - accuracy > (self.clear_drop / 2 if taking_over else self.clear_drop)
        self.best = max(self.best, accuracy)
        return bad

    def on_train_start(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:  # noqa: ARG002
        if self.collapse is not None:  # resumed after the epoch that was the last one
            trainer.should_stop = True

    def on_train_epoch_end(self, trainer: pl.Trainer, pl_module: Any) -> None:
        if trainer.current_epoch < pl_module.warmup_epochs:
            return
        if self.monitor not in trainer.callback_metrics:
            raise UserError(f"monitor must be logged by the evaluator, as its training_step does; got {self.monitor!r}")
        accuracy = float(trainer.callback_metrics[self.monitor])
        if not self.is_bad(accuracy, pl_module.export_probs()):
            self.bad, self.good_epoch = 0, trainer.current_epoch + 1
            self.good = [slot._arch_alpha.detach().clone() for slot in slots_of(pl_module)]
            return
        self.bad += 1
        if self.bad == self.patience:
            epoch = trainer.current_epoch + 1
            said = (
                f"collapsed: stopped after epoch {epoch}, with {self.monitor} {accuracy:.2%} after a best of {self.best:.2%}; "
                f"what counts is the distribution after epoch {self.good_epoch}"
            )
            self.collapse = {
                "said": said, "epoch": epoch, "good": self.good_epoch, "accuracy": accuracy, "best": self.best
            }  # fmt: skip
            trainer.should_stop = True

    def on_train_end(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:  # noqa: ARG002
        if self.collapse is not None:
            with torch.no_grad():
                for slot, alpha in zip(slots_of(pl_module), self.good, strict=True):
                    slot._arch_alpha.copy_(alpha)

    def state_dict(self) -> dict[str, Any]:
        """Return all that the next epochs depend on. Lightning keeps it in checkpoints."""
        return {name: getattr(self, name) for name in ("best", "bad", "strength", "good", "good_epoch", "collapse")}

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        for name, value in state_dict.items():
            setattr(self, name, value)


def slots_of(module: pl.LightningModule) -> list[MixedSlot]:
    """Return the slots of a differentiable supernet."""
    return [slot for slot in module.modules() if isinstance(slot, MixedSlot)]

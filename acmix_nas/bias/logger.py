"""Observes a network while Lightning trains it."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import pytorch_lightning as pl
from pytorch_lightning.loggers import TensorBoardLogger
from torch import nn
from torch.utils.tensorboard import SummaryWriter

from acmix_nas.bias.history import HISTORY, append_history, read_history
from acmix_nas.bias.observation import Observation, observe
from acmix_nas.bias.tensorboard import write_figures, write_layout, write_scalars
from acmix_nas.util.errors import UserError

__all__ = ["BiasLogger"]


class BiasLogger(pl.Callback):
    """Writes history.csv, and to TensorBoard where the trainer has a TensorBoardLogger, after each epoch.

    Epoch 0 is the state before training, epoch n that after n epochs. A resumed run goes on with its history. Only the
    process of rank zero writes; a network with neither ACmix nor a supernet's slots leaves no trace.

    Args:
        folder: of the run, where history.csv goes.
        network: gives the network to observe; by default it is the `network` of the Lightning module.
        every: epochs from one pair of figures to the next; the last epoch has figures in any case.

    Raises:
        UserError: for `every` below 1; when training starts from scratch where a history lies already.
    """

    def __init__(self, folder: Path, network: Callable[[], nn.Module] | None = None, every: int = 1) -> None:
        if every < 1:
            raise UserError(f"every must be at least 1 epoch; got every={every}")
        self.history, self.network, self.every = folder / HISTORY, network, every
        self._undrawn: list[Observation] = []

    # Not on_fit_start: there Lightning has not yet restored the epoch and the step of a resumed run.
    def on_train_start(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        observations = self._observe(trainer, pl_module, trainer.current_epoch)
        if not observations:
            return
        for writer in _writers(trainer):
            write_layout(writer, observations)
        if trainer.global_step == 0:
            # Epochs 0 and 1 may be replaced: a run leaves them that stopped before its first checkpoint.
            if self.history.exists() and any(o.epoch > 1 for o in read_history(self.history)):
                raise UserError(
                    f"folder {str(self.history.parent)!r} holds the {HISTORY} of another run; "
                    "resume that run from its checkpoint, or choose a new folder"
                )
            self._write(trainer, observations)

    def on_train_epoch_end(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        self._write(trainer, self._observe(trainer, pl_module, trainer.current_epoch + 1))

    def on_train_end(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:  # noqa: ARG002
        self._draw(trainer)

    def _observe(self, trainer: pl.Trainer, pl_module: pl.LightningModule, epoch: int) -> list[Observation]:
        if not trainer.is_global_zero:
            return []
        network = self.network() if self.network else pl_module.network
        assert isinstance(network, nn.Module)
        return observe(network, epoch)

    def _write(self, trainer: pl.Trainer, observations: list[Observation]) -> None:
        if not observations:
            return
        epoch = observations[0].epoch
        append_history(self.history, observations)
        for writer in _writers(trainer):
            write_scalars(writer, observations, epoch)
        self._undrawn = observations
        if epoch % self.every == 0:
            self._draw(trainer)

    def _draw(self, trainer: pl.Trainer) -> None:
        if self._undrawn:
            for writer in _writers(trainer):
                write_figures(writer, self._undrawn, self._undrawn[0].epoch)
        self._undrawn = []


def _writers(trainer: pl.Trainer) -> list[SummaryWriter]:
    return [logger.experiment for logger in trainer.loggers if isinstance(logger, TensorBoardLogger)]

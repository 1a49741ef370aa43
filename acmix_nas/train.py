"""Training a network: PyTorch Lightning runs the loop; timm gives the optimizer, the schedule, the losses and the average."""

from __future__ import annotations

import itertools
import logging
import math
import random
import signal
import warnings
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pytorch_lightning as pl
import torch
from pytorch_lightning.callbacks import ModelCheckpoint, RichProgressBar, Timer
from pytorch_lightning.loggers import TensorBoardLogger
from pytorch_lightning.utilities import rank_zero_only
from pytorch_lightning.utilities.exceptions import MisconfigurationException
from pytorch_lightning.utilities.warnings import PossibleUserWarning
from rich.console import Console
from rich.progress import track
from timm.data import Mixup
from timm.loss import LabelSmoothingCrossEntropy, SoftTargetCrossEntropy
from timm.optim import create_optimizer_v2
from timm.scheduler import create_scheduler_v2
from timm.utils import ModelEmaV3
from torch import Tensor, nn
from torch.nn import functional as F
from torch.optim.lr_scheduler import LRScheduler
from torch.optim.swa_utils import update_bn

from acmix_nas import files
from acmix_nas.data import ImageData
from acmix_nas.errors import UserError, one_of
from acmix_nas.terminal import BrokenRun

__all__ = [
    "Classification",
    "EpochSeed",
    "Recipe",
    "Retraining",
    "evaluate",
    "fit",
    "quiet",
    "recalibrate",
    "running",
    "seed_all",
    "trainer_options",
]

SCHEDULES = ("cosine", "tanh", "poly", "none")
PRECISIONS = ("32-true", "bf16-mixed", "16-mixed")


@dataclass(frozen=True)
class Recipe:
    """How a network is trained. The defaults suit a thousand small images.

    Args:
        epochs: how often every training image is seen.
        optimizer: any of timm's names. Weight decay leaves out biases, norms and scalars such as α and β.
        lr: learning rate at its peak.
        weight_decay: as the optimizer understands it.
        momentum: of the optimizers that have one.
        schedule: "cosine", "tanh", "poly" (a straight line) or "none", stepped after every update.
        warmup_epochs: of the epochs, in which the rate rises to `lr`.
        min_lr: where the schedule ends.
        label_smoothing: share of a label that goes to all classes.
        mixup: α of Mixup; 0 is off.
        cutmix: α of CutMix; 0 is off.
        ema_decay: of the average of the weights, which is then what is evaluated and kept; 0 is off.
        clip_grad: largest norm of the gradient.
        precision: "32-true", "bf16-mixed" or "16-mixed".
        seed: of the weights, the order of the images and their augmentation.

    Raises:
        UserError: where a value has no meaning; the message names it.
    """

    epochs: int = 12
    optimizer: str = "adamw"
    lr: float = 3e-3
    weight_decay: float = 0.05
    momentum: float = 0.9
    schedule: str = "cosine"
    warmup_epochs: int = 1
    min_lr: float = 1e-5
    label_smoothing: float = 0.1
    mixup: float = 0.0
    cutmix: float = 0.0
    ema_decay: float = 0.0
    clip_grad: float | None = None
    precision: str = "32-true"
    seed: int = 0

    def __post_init__(self) -> None:
        for field, right, meaning in (
            ("epochs", self.epochs >= 1, "at least 1"),
            ("lr", self.lr > 0, "positive"),
            ("weight_decay", self.weight_decay >= 0, "0 or more"),
            ("warmup_epochs", 0 <= self.warmup_epochs <= self.epochs, f"from 0 to epochs={self.epochs}"),
            ("min_lr", 0 <= self.min_lr <= self.lr, f"from 0 to lr={self.lr}"),
            ("label_smoothing", 0 <= self.label_smoothing < 1, "0 or more and less than 1"),
            ("mixup", self.mixup >= 0, "0 or more"),
            ("cutmix", self.cutmix >= 0, "0 or more"),
            ("ema_decay", 0 <= self.ema_decay < 1, "0 or more and less than 1"),
            ("clip_grad", self.clip_grad is None or self.clip_grad > 0, "positive, or None"),
            ("seed", self.seed >= 0, "0 or more"),
        ):
            if not right:
                raise UserError(f"{field} must be {meaning}; got {field}={getattr(self, field)}")
        if self.schedule not in SCHEDULES:
            raise one_of("schedule", self.schedule, SCHEDULES)
        if self.precision not in PRECISIONS:
            raise one_of("precision", self.precision, PRECISIONS)


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

    Args:
        steps_per_epoch: updates per epoch; None asks the trainer's data module.
    """

    def __init__(self, recipe: Recipe, num_classes: int, steps_per_epoch: int | None = None) -> None:
        super().__init__()
        self.recipe, self.steps_per_epoch = recipe, steps_per_epoch
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
        if self.steps_per_epoch is not None:
            return self.steps_per_epoch
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
        steps_per_epoch: int | None = None,
        settings: Mapping[str, Any] | None = None,
    ) -> None:
        super().__init__(recipe, num_classes, steps_per_epoch)
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


class EpochSeed(pl.Callback):
    """Seeds every generator from (seed, epoch, process) as an epoch starts: a continued run equals an uninterrupted one."""

    def __init__(self, seed: int) -> None:
        self.seed = seed

    def on_train_epoch_start(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:  # noqa: ARG002
        entropy = (self.seed, trainer.current_epoch, trainer.global_rank)
        seed_all(int(np.random.SeedSequence(entropy).generate_state(1)[0]))


def seed_all(seed: int) -> None:
    """Seed Python's, NumPy's and PyTorch's generators."""
    random.seed(seed)
    np.random.seed(seed)
    torch.manual_seed(seed)


@contextmanager
def quiet() -> Iterator[None]:
    """Silences Lightning's tips and advice, and leaves warnings and errors that matter."""
    loggers = [logging.getLogger(name) for name in ("pytorch_lightning", "lightning", "lightning_fabric")]
    levels = [logger.level for logger in loggers]
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", PossibleUserWarning)
        for message in (
            "Checkpoint directory .* exists",
            "GPU available but not",
            "Found .* in eval mode",
            "`isinstance.treespec",
        ):
            warnings.filterwarnings("ignore", f".*{message}")
        try:
            for logger in loggers:
                logger.setLevel(logging.WARNING)
            yield
        finally:
            for logger, level in zip(loggers, levels, strict=True):
                logger.setLevel(level)


@contextmanager
def running() -> Iterator[None]:
    """Lightning turns Ctrl-C into SystemExit and stops listening to it: give both back."""
    handler = signal.getsignal(signal.SIGINT)
    try:
        yield
    except SystemExit as error:
        if not isinstance(error.__context__, KeyboardInterrupt):
            raise
        signal.signal(signal.SIGINT, handler)
        raise KeyboardInterrupt from None


def first_process() -> bool:
    """Whether this is the process that talks and writes, of several that train together."""
    return getattr(rank_zero_only, "rank", None) in (None, 0)


def make_trainer(kind: Callable[..., Any], options: Mapping[str, Any]) -> Any:
    """Lightning's Trainer, or NNI's traced one.

    Raises:
        UserError: where this machine lacks what the options ask for.
    """
    try:
        return kind(**options)
    except (MisconfigurationException, ModuleNotFoundError, ValueError) as error:
        asked = ", ".join(f"{name}={options[name]!r}" for name in ("accelerator", "devices", "strategy") if name in options)
        raise UserError(f"Lightning refuses {asked}: {str(error).splitlines()[0]}") from error


class Finite(pl.Callback):
    """Ends a training whose loss is no number any more, before its weights are kept."""

    def on_train_epoch_end(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:  # noqa: ARG002
        loss = trainer.callback_metrics.get("train_loss")
        if loss is not None and not loss.isfinite():
            raise BrokenRun(f"train_loss is {loss.item()} after epoch {trainer.current_epoch + 1}: try a lower lr, or 32-true")


def trainer_options(
    folder: Path, recipe: Recipe, callbacks: Sequence[pl.Callback] = (), progress: bool = True, monitor: str | None = None
) -> dict[str, Any]:
    """What Lightning's Trainer is built with: one device, folder/tensorboard, and folder/checkpoints/last.ckpt each epoch.

    Args:
        monitor: a logged value whose largest also keeps a checkpoint, best.ckpt.
    """
    checkpoints = folder / "checkpoints"
    kept: dict[str, Any] = {"save_on_train_epoch_end": True, "enable_version_counter": False}
    ours: list[pl.Callback] = [EpochSeed(recipe.seed), Finite(), ModelCheckpoint(checkpoints, "last", **kept)]
    if monitor is not None:  # before last.ckpt, which keeps the state of the others
        ours.insert(1, ModelCheckpoint(checkpoints, "best", monitor=monitor, mode="max", **kept))
    if progress:
        ours.append(RichProgressBar(console_kwargs={"stderr": True}))
    return {
        "accelerator": "auto", "devices": 1, "max_epochs": recipe.epochs, "precision": recipe.precision,
        "gradient_clip_val": recipe.clip_grad, "callbacks": [*ours, *callbacks],
        "logger": TensorBoardLogger(folder, name="tensorboard", version="", default_hp_metric=False),
        "enable_progress_bar": progress, "enable_model_summary": False, "num_sanity_val_steps": 0,
    }  # fmt: skip


def fit(
    network: nn.Module,
    data: ImageData,
    recipe: Recipe,
    folder: Path,
    *,
    callbacks: Sequence[pl.Callback] = (),
    progress: bool = True,
    resume: bool = False,
    trainer_kwargs: Mapping[str, Any] | None = None,
) -> dict[str, Any]:
    """Train the network in place, then look at the test part, once, with the weights of the last epoch (or their average).

    Writes into the folder: result.json (what is returned), network.pt (the state dict), checkpoints/last.ckpt (after each
    epoch) and best.ckpt (by validation accuracy), tensorboard/. It runs on one device unless trainer_kwargs says more,
    such as {"devices": 8, "strategy": "ddp"}; then the first process judges and writes, and all return the result.

    Args:
        resume: continue a run that was cut off, from the end of its last whole epoch; a run without one begins.
        trainer_kwargs: go to Lightning's Trainer, over what is set here.

    Raises:
        UserError: where the folder holds a result, or an unfinished run that is not to be resumed, or one of other settings.
        KeyboardInterrupt: as it comes; the checkpoints stay.
    """
    result, last = folder / "result.json", folder / "checkpoints" / "last.ckpt"
    if result.exists():
        raise UserError(f"folder {str(folder)!r} holds a result already; take another folder")
    if last.exists() and not resume:
        raise UserError(f"folder {str(folder)!r} holds an unfinished run; resume it, or take another folder")
    settings = {"recipe": asdict(recipe), "data": asdict(data.config)}
    module = Retraining(network.train(), recipe, data.num_classes, settings=settings)
    timer = Timer(verbose=False)
    options = trainer_options(folder, recipe, [timer, *callbacks], progress, monitor="val_accuracy")
    with quiet():
        trainer = make_trainer(pl.Trainer, {**options, **(trainer_kwargs or {})})
        with running():
            trainer.fit(module, datamodule=data, ckpt_path=str(last) if last.exists() else None)
        network.load_state_dict(module.evaluated.state_dict())
        content: dict[str, Any] = {}
        if trainer.is_global_zero:
            # By one process and in full: Lightning would repeat images until every process has as many.
            validation, test = (evaluate(network, data, part, progress) for part in ("validation", "test"))
            content = {
                **files.provenance(),
                **settings,
                "epochs": recipe.epochs,
                "val_accuracy": validation["accuracy"],
                "test_accuracy": test["accuracy"],
                "train_seconds": round(timer.time_elapsed("train"), 2),
                "seed": recipe.seed,
                "parameters": sum(parameter.numel() for parameter in network.parameters()),
            }
            files.save_tensors(folder / "network.pt", network.state_dict())
            files.write_json(result, content)
        return trainer.strategy.broadcast(content)


@contextmanager
def _modes_kept(network: nn.Module) -> Iterator[None]:
    modes = {module: module.training for module in network.modules()}
    try:
        yield
    finally:
        for module, mode in modes.items():
            module.training = mode


@torch.no_grad()
def evaluate(network: nn.Module, data: ImageData, part: str = "test", progress: bool = False) -> dict[str, float]:
    """Accuracy (from 0 to 1), cross-entropy loss and number of the images of a part, "validation" or "test".

    It runs on the network's device, or on the GPU if there is one; modes and device are afterwards what they were.

    Raises:
        UserError: for another part.
    """
    loaders = {"validation": data.val_dataloader, "test": data.test_dataloader}
    if part not in loaders:
        raise one_of("part", part, loaders)
    home = next(network.parameters()).device
    device = torch.device("cuda") if home.type == "cpu" and torch.cuda.is_available() else home
    right = loss = 0.0
    images = 0
    batches: Iterable[Any] = loaders[part]()
    if progress:
        batches = track(batches, part, console=Console(stderr=True), transient=True)
    with _modes_kept(network):
        network.eval().to(device)
        try:
            for x, y in batches:
                logits, labels = network(x.to(device)).float(), y.to(device)
                right += int((logits.argmax(1) == labels).sum())
                loss += float(F.cross_entropy(logits, labels, reduction="sum"))
                images += len(labels)
        finally:
            network.to(home)
    return {"accuracy": right / images, "loss": loss / images, "images": images}


@torch.no_grad()
def recalibrate(network: nn.Module, loader: Iterable[Any], batches: int = 50) -> None:
    """Estimate the statistics of every batch norm anew: the plain mean over so many training batches.

    A network taken from a supernet carries the statistics of other paths. Modes and momenta are afterwards what they were.
    """
    with _modes_kept(network):
        update_bn(itertools.islice(loader, batches), network, next(network.parameters()).device)

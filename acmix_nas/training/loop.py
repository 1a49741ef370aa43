"""Training a network: PyTorch Lightning runs the loop, keeps checkpoints and works on several devices."""

from __future__ import annotations

import itertools
import logging
import random
import signal
import warnings
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import AbstractContextManager, contextmanager, nullcontext
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pytorch_lightning as pl
import torch
from pytorch_lightning.callbacks import ModelCheckpoint, RichProgressBar, Timer
from pytorch_lightning.loggers import TensorBoardLogger
from pytorch_lightning.utilities import rank_zero_only
from pytorch_lightning.utilities.exceptions import MisconfigurationException, SIGTERMException
from pytorch_lightning.utilities.warnings import PossibleUserWarning
from rich.console import Console
from rich.progress import track
from torch import nn
from torch.optim.swa_utils import update_bn

from acmix_nas.training.data import Data
from acmix_nas.training.module import Retraining
from acmix_nas.training.recipe import Recipe
from acmix_nas.training.task import Classification, Evaluation, Task
from acmix_nas.util import files
from acmix_nas.util.errors import UserError
from acmix_nas.util.terminal import BrokenRun

__all__ = [
    "EpochSeed", "Fitted", "alone_in", "begun", "evaluation_device", "first_process", "fit", "make_trainer", "measure", "quiet",
    "recalibrate", "running", "seed_all", "trainer_options",
]  # fmt: skip


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
    """Silence Lightning's tips and advice, and leave warnings and errors that matter."""
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
    """Give Ctrl-C back, which Lightning turns into SystemExit, and let SIGTERM end with a status that is no success."""
    handler = signal.getsignal(signal.SIGINT)
    try:
        yield
    except SIGTERMException:
        raise SystemExit(128 + signal.SIGTERM) from None
    except SystemExit as error:
        if not isinstance(error.__context__, KeyboardInterrupt):
            raise
        signal.signal(signal.SIGINT, handler)
        raise KeyboardInterrupt from None


def first_process() -> bool:
    """Return whether this is the process that talks and writes, of several that train together."""
    return getattr(rank_zero_only, "rank", None) in (None, 0)


def alone_in(folder: Path) -> AbstractContextManager[None]:
    """Hold a folder for this run and its processes; see `files.held`."""
    return files.held(folder) if first_process() else nullcontext()


def make_trainer(kind: Callable[..., Any], options: Mapping[str, Any]) -> Any:
    """Make Lightning's Trainer, or NNI's traced one.

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


class Pause(pl.Callback):
    """Ends a training after so many epochs, as if it had been cut off there."""

    def __init__(self, epochs: int) -> None:
        self.epochs = epochs

    def on_train_start(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:  # noqa: ARG002
        if trainer.current_epoch >= self.epochs:
            trainer.should_stop = True

    def on_train_epoch_end(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:  # noqa: ARG002
        if trainer.current_epoch + 1 >= self.epochs:
            trainer.should_stop = True


def trainer_options(
    folder: Path, recipe: Recipe, callbacks: Sequence[pl.Callback] = (), progress: bool = True, monitor: str | None = None
) -> dict[str, Any]:
    """Return the arguments of Lightning's Trainer: one device, folder/tensorboard, folder/checkpoints/last.ckpt each epoch.

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


def begun(folder: Path, resume: bool) -> bool:
    """Return whether the folder holds an unfinished run, which is to be resumed.

    Raises:
        UserError: where it is not to be, or where the folder holds a result, or the weights of something else.
    """
    if (folder / "result.json").exists():
        raise UserError(f"folder {str(folder)!r} holds a result already; take another folder")
    if not (folder / "checkpoints" / "last.ckpt").exists():
        files.unused(folder / "network.pt")
        return False
    if not resume:
        raise UserError(f"folder {str(folder)!r} holds an unfinished run; resume it, or take another folder")
    return True


@dataclass(frozen=True)
class Fitted:
    """What a training reached, by the weights of its last epoch or their average.

    Attributes:
        metric: what the scores are called, "accuracy".
        validation: score of the validation part.
        test: score of the test part; None where there is none, or the training is paused.
        epochs: that were trained.
        seconds: of training.
    """

    metric: str
    validation: float
    test: float | None
    epochs: int
    seconds: float

    @property
    def content(self) -> dict[str, Any]:
        """Return the fields as result.json has them."""
        test = {} if self.test is None else {f"test_{self.metric}": self.test}
        return {
            "epochs": self.epochs, "metric_name": self.metric, f"val_{self.metric}": self.validation, **test,
            "train_seconds": self.seconds,
        }  # fmt: skip

    @classmethod
    def read(cls, content: Mapping[str, Any]) -> Fitted:
        """Return what `content` gave."""
        metric = content["metric_name"]
        return cls(
            metric, content[f"val_{metric}"], content.get(f"test_{metric}"), content["epochs"], content["train_seconds"]
        )  # fmt: skip


def fit(
    network: nn.Module,
    data: Data,
    recipe: Recipe,
    folder: Path,
    *,
    task: Task | None = None,
    callbacks: Sequence[pl.Callback] = (),
    progress: bool = True,
    resume: bool = False,
    until: int | None = None,
    trainer_kwargs: Mapping[str, Any] | None = None,
) -> Fitted:
    """Train the network in place, then look at the test part, once, with the weights of the last epoch (or their average).

    Writes into the folder: result.json, network.pt (the state dict), checkpoints/last.ckpt (after each
    epoch) and best.ckpt (by the validation score), tensorboard/. It runs on one device unless trainer_kwargs says more,
    such as {"devices": 8, "strategy": "ddp"}; then the first process evaluates and writes, and all return the result.

    Args:
        task: classification by default.
        resume: resume a run that was interrupted, from the end of its last whole epoch; a run without one begins.
        until: pause after so many epochs, fewer than the recipe's: then only the validation part is looked at and only
            checkpoints are written, from which another call resumes.
        trainer_kwargs: go to Lightning's Trainer, over what is set here.

    Raises:
        UserError: as `begun` does, and where the unfinished run is one of other settings.
        KeyboardInterrupt: as it comes; the checkpoints stay.
    """
    last = str(folder / "checkpoints" / "last.ckpt") if begun(folder, resume) else None
    task = task or Classification()
    identity = task.identity
    task = task.prepare(recipe, data)
    settings = {"recipe": asdict(recipe), "data": dict(data.settings), "task": identity}
    module = Retraining(network.train(), recipe, task, settings=settings)
    timer = Timer(verbose=False)
    pause = [] if until is None else [Pause(until)]
    options = trainer_options(folder, recipe, [timer, *pause, *callbacks], progress, monitor=f"val_{task.metric}")
    with quiet():
        trainer = make_trainer(pl.Trainer, {**options, **(trainer_kwargs or {})})
        with running():
            trainer.fit(module, datamodule=data, ckpt_path=last)
        network.load_state_dict(module.evaluated.state_dict())
        fitted: Fitted | None = None
        if trainer.is_global_zero:
            # By one process and in full: Lightning would repeat images until every process has as many.
            validation = measure(network, data, "validation", task, progress).score
            seconds = round(timer.time_elapsed("train"), 2)
            if until is not None:
                paused: Fitted = trainer.strategy.broadcast(Fitted(task.metric, validation, None, until, seconds))
                return paused
            test = measure(network, data, "test", task, progress).score if "test" in data.parts else None
            fitted = Fitted(task.metric, validation, test, recipe.epochs, seconds)
            parameters = sum(parameter.numel() for parameter in network.parameters())
            content = {**settings, **fitted.content, "seed": recipe.seed, "parameters": parameters}
            files.save_tensors(folder / "network.pt", network.state_dict())
            files.write_document(folder / "result.json", "result", content)
        finished: Fitted = trainer.strategy.broadcast(fitted)
        return finished


@contextmanager
def _modes_kept(network: nn.Module) -> Iterator[None]:
    modes = {module: module.training for module in network.modules()}
    try:
        yield
    finally:
        for module, mode in modes.items():
            module.training = mode


def evaluation_device(network: nn.Module) -> torch.device:
    """Return where a network is evaluated: where it is, or on the GPU if there is one, since Lightning leaves it on the CPU."""
    home = next(network.parameters()).device
    return torch.device("cuda") if home.type == "cpu" and torch.cuda.is_available() else home


@contextmanager
def _on_evaluation_device(network: nn.Module) -> Iterator[torch.device]:
    """Yield the device to evaluate on. Device and modes are afterwards what they were."""
    home, device = next(network.parameters()).device, evaluation_device(network)
    with _modes_kept(network):
        network.to(device)
        try:
            yield device
        finally:
            network.to(home)


@torch.no_grad()
def measure(
    network: nn.Module, data: Data, part: str = "test", task: Task | None = None, progress: bool = False
) -> Evaluation:  # fmt: skip
    """Return the score, the loss and the number of samples of a part, "validation" or "test".

    It runs on its `evaluation_device`; modes and device are afterwards what they were.

    Raises:
        UserError: for another part, or where there is no test part.
    """
    batches: Iterable[Any] = data.loader(part)
    if progress:
        batches = track(batches, part, console=Console(stderr=True), transient=True)
    with _on_evaluation_device(network) as device:
        network.eval()
        return (task or Classification()).evaluate(network, batches, device)


@torch.no_grad()
def recalibrate(network: nn.Module, data: Data, task: Task | None = None, batches: int = 50) -> None:
    """Estimate the statistics of every batch norm anew: the plain mean over so many training batches.

    A network taken from a supernet carries the statistics of other paths. It runs on its `evaluation_device`. Modes,
    momenta and device are afterwards what they were.
    """
    inputs = map((task or Classification()).inputs, itertools.islice(data.train_dataloader(), batches))
    with _on_evaluation_device(network) as device:
        update_bn(inputs, network, device)

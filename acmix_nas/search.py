"""A one-shot search from a configuration to files: the supernet, the architecture, the network that inherits its weights."""

from __future__ import annotations

import logging
import warnings
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import asdict
from pathlib import Path
from time import perf_counter
from typing import Any

import nni.nas.strategy as nni_strategy
import pytorch_lightning as pl
import torch
from nni.nas.evaluator.pytorch import Lightning, LightningModule, Trainer
from nni.nas.oneshot.pytorch.strategy import OneShotStrategy
from rich.console import Console
from rich.progress import track
from torch import Tensor, nn

from acmix_nas.architecture import Architecture
from acmix_nas.bias import BiasLogger
from acmix_nas.classification import Classification, Recipe
from acmix_nas.config import SearchConfig
from acmix_nas.cost import CostTable
from acmix_nas.data import ImageData
from acmix_nas.derive import inherit, most_likely
from acmix_nas.errors import UserError
from acmix_nas.files import provenance, save_tensors, write_json
from acmix_nas.search_spaces import HybridSpace, MixedSlot, SampledSlot
from acmix_nas.strategies import DARTS, in_order
from acmix_nas.train import evaluate, first_process, make_trainer, quiet, recalibrate, running, seed_all, trainer_options

__all__ = ["describe", "judge", "load_supernet", "make_space", "make_strategy", "search", "train_supernet"]


def make_space(config: SearchConfig, num_classes: int) -> HybridSpace:
    """The search space, with the weights that the seed gives."""
    seed_all(config.recipe.seed)
    arguments = {**config.backbone_args, "num_classes": num_classes}
    return HybridSpace(config.backbone, config.candidates, config.slots, config.heads, config.share, arguments)


def make_strategy(config: SearchConfig) -> OneShotStrategy:
    """The strategy; a fresh one, since it remembers the space it changed."""
    if config.strategy == "random":
        return nni_strategy.RandomOneShot()
    arguments: dict[str, Any] = {
        "arc_learning_rate": config.arc_learning_rate,
        "warmup_epochs": config.arc_warmup,
        "gradient_clip_val": config.recipe.clip_grad,
    }
    if config.strategy == "darts":
        return DARTS(penalty=config.penalty, cost=config.cost, **arguments)
    return {"gumbel": nni_strategy.GumbelDARTS, "proxyless": nni_strategy.Proxyless}[config.strategy](**arguments)


def describe(config: SearchConfig, data: ImageData, choice: Mapping[str, str], **found: Any) -> Architecture:
    """The architecture of a choice in this space; `found` is what the search says of it."""
    return Architecture(
        config.backbone, choice, config.candidates, config.backbone_args, config.slots, config.heads,
        seed=config.recipe.seed, data=data.described, **found,
    )  # fmt: skip


class SearchImages(pl.LightningDataModule):
    """The two parts that a search sees. Loaders are made when Lightning asks, and then know how many processes there are.

    Args:
        alternating: whether the search-validation part is trained on too, by the architecture's steps.
    """

    def __init__(self, data: ImageData, alternating: bool) -> None:
        super().__init__()
        self.data, self.alternating = data, alternating

    def train_dataloader(self) -> Any:
        return self.data.train_dataloader()

    def val_dataloader(self) -> Any:
        return self.data.search_dataloader() if self.alternating else self.data.val_dataloader()

    @property
    def steps(self) -> int:
        """Steps of an epoch: the shorter part is seen again until the longer one ends."""
        train = len(self.data.train_dataloader())
        return max(train, len(self.data.search_dataloader())) if self.alternating else train


class SearchTask(Classification, LightningModule):
    """The classifier as NNI's evaluators want it: the space is NNI's `model`.

    Where the images alternate, steps with an even index are the architecture's, on the search-validation part, as NNI's
    differentiable strategies number them. What is logged of them is called `val_…`.
    """

    def __init__(self, recipe: Recipe, num_classes: int, images: SearchImages) -> None:
        super().__init__(recipe, num_classes)
        self.images, self.held_out = images, False

    def _updates_per_epoch(self) -> int:
        return self.images.steps

    @property
    def network(self) -> nn.Module:
        model = self.model
        assert isinstance(model, nn.Module)
        return model

    def training_step(self, batch: Any, batch_idx: int) -> Tensor:
        self.held_out = self.images.alternating and batch_idx % 2 == 0
        return super().training_step(batch, batch_idx)

    def _record(self, part: str, loss: Tensor, logits: Tensor, labels: Tensor) -> None:
        super()._record("val" if part == "train" and self.held_out else part, loss, logits, labels)


def train_supernet(
    config: SearchConfig,
    data: ImageData,
    space: HybridSpace,
    folder: Path,
    *,
    callbacks: Sequence[pl.Callback] = (),
    progress: bool = True,
    resume: bool = False,
    trainer_kwargs: Mapping[str, Any] | None = None,
) -> None:
    """Turn the space into a supernet, in place, and train it; checkpoints/last.ckpt after each epoch, supernet.pt at the end.

    Args:
        resume: continue from the end of the last whole epoch, to the result of an uninterrupted search.

    A supernet that is trained already is only loaded.

    Raises:
        UserError: where the folder holds an unfinished search that is not to be resumed, or one of other settings.
    """
    done, last = folder / "supernet.pt", folder / "checkpoints" / "last.ckpt"
    begun = done.exists() or last.exists()
    if begun and not resume:
        raise UserError(f"folder {str(folder)!r} holds an unfinished search; resume it, or take another folder")
    if begun and SearchConfig.load(folder) != config:
        raise UserError(
            f"folder {str(folder)!r} holds a search of other settings; resume it with those, or take another folder"
        )
    strategy = make_strategy(config)
    strategy.mutate_model(space)
    if done.exists():
        space.load_state_dict(torch.load(done, map_location="cpu", weights_only=True))
        return
    if not begun:
        config.save(folder)
    images = SearchImages(data, alternating=config.strategy != "random")
    task = SearchTask(config.recipe, data.num_classes, images)
    bias = BiasLogger(folder, network=lambda: space.backbone, every=config.recipe.epochs)
    options = trainer_options(folder, config.recipe, [bias, *callbacks], progress, monitor=None)
    if config.strategy != "random":
        options.pop("gradient_clip_val")  # NNI's loop is manual: the strategy clips
    options |= trainer_kwargs or {}
    if options.get("strategy") == "ddp":
        # A step of the architecture or of one path leaves weights without a gradient, which plain DDP takes for an error.
        options["strategy"] = "ddp_find_unused_parameters_true"
    with quiet(), quiet_nni(), running():
        trainer = make_trainer(Trainer, options)
        evaluator = Lightning(task, trainer, datamodule=images)
        if last.exists():
            evaluator.fit_kwargs["ckpt_path"] = str(last)
        evaluator = strategy.mutate_evaluator(evaluator)
        if config.strategy in ("gumbel", "proxyless"):
            evaluator.module.arch_parameters = lambda: in_order(evaluator.module)
        # NNI would report its own idea of a metric to the experiment, under the trial's name.
        evaluator.module._final_report = lambda: None
        evaluator.evaluate(space)
    if first_process():
        save_tensors(done, space.state_dict())


@contextmanager
def quiet_nni() -> Iterator[None]:
    """Silences what is said of validation, which DARTS has not, and of loaders that NNI would have to send elsewhere."""
    logger = logging.getLogger("nni.nas.evaluator.pytorch.lightning")
    level = logger.level
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", "When using training service to spawn trials", RuntimeWarning)
        warnings.filterwarnings("ignore", "You passed in a `val_dataloader` but have no `validation_step`")
        logger.setLevel(logging.ERROR)
        try:
            yield
        finally:
            logger.setLevel(level)


def load_supernet(folder: Path, data: ImageData | None = None) -> tuple[SearchConfig, ImageData, HybridSpace]:
    """A trained supernet, from the folder where it was trained.

    Raises:
        UserError: where there is none.
    """
    config = SearchConfig.load(folder)
    if not (folder / "supernet.pt").exists():
        raise UserError(f"supernet: {str(folder)!r} holds no supernet.pt; its search has not finished")
    data = data or ImageData(config.data, config.recipe.seed)
    space = make_space(config, data.num_classes)
    make_strategy(config).mutate_model(space)
    space.load_state_dict(torch.load(folder / "supernet.pt", map_location="cpu", weights_only=True))
    return config, data, space


def judge(space: HybridSpace, choice: Mapping[str, str], data: ImageData) -> tuple[nn.Module, float]:
    """The network of a choice with inherited weights and statistics of its own, and its search-validation accuracy.

    The statistics of the batch norms are computed anew from training images: the supernet's belong to all paths.
    """
    network = inherit(space, choice)
    recalibrate(network, data.train_dataloader())
    return network, evaluate(network, data, "validation")["accuracy"]


def search(
    config: SearchConfig,
    folder: Path,
    *,
    callbacks: Sequence[pl.Callback] = (),
    progress: bool = True,
    resume: bool = False,
    trainer_kwargs: Mapping[str, Any] | None = None,
) -> dict[str, Any]:
    """Search: train the supernet, derive an architecture, and write both.

    Writes into the folder, beside what `train_supernet` does: architecture.json, network.pt (the weights it inherits),
    history.csv and tensorboard/ (probabilities, α and β by epoch), and result.json, which is what is returned. Of several
    processes the first does; the others return nothing.

    Raises:
        UserError: where the folder holds a finished search, and as `train_supernet` does.
    """
    if (folder / "result.json").exists():
        raise UserError(f"folder {str(folder)!r} holds a finished search; take another folder")
    start = perf_counter()
    data = ImageData(config.data, config.recipe.seed)
    space = make_space(config, data.num_classes)
    table = CostTable.of(space.backbone, space.slots, (data.in_chans, data.image_size, data.image_size))
    train_supernet(
        config, data, space, folder,
        callbacks=callbacks, progress=progress, resume=resume, trainer_kwargs=trainer_kwargs,
    )  # fmt: skip
    if config.strategy == "random":
        probabilities: dict[str, dict[str, float]] = {}
        choices = sampled(config, space)
    else:
        slots = [module for module in space.modules() if isinstance(module, MixedSlot)]
        probabilities = {
            slot.label: dict(zip(slot.candidates.names, slot.probabilities().tolist(), strict=True)) for slot in slots
        }
        choices = [most_likely(probabilities)]
    if not first_process():
        return {}
    choice = best_of(choices, space, data, progress)
    network, accuracy = judge(space, choice, data)
    costs = table.of_architecture(choice)
    metric = {"inherited_val_accuracy": accuracy, **costs}
    describe(config, data, choice, metric=metric, probabilities=probabilities).save(folder / "architecture.json")
    save_tensors(folder / "network.pt", network.state_dict())
    result = {
        **provenance(), "trial": None, "sequence": 0, "parameters": {},
        "search": asdict(config), "architecture": "architecture.json", "metric": accuracy, "costs": costs,
        "seconds": round(perf_counter() - start, 2),
    }  # fmt: skip
    write_json(folder / "result.json", result)
    return result


def sampled(config: SearchConfig, space: HybridSpace) -> list[dict[str, str]]:
    """Random architectures, the same for the same seed."""
    slots = [module for module in space.modules() if isinstance(module, SampledSlot)]
    seed_all(config.recipe.seed)
    return [{slot.label: slot.resample({})[slot.label] for slot in slots} for _ in range(config.samples)]


def best_of(choices: Sequence[dict[str, str]], space: HybridSpace, data: ImageData, progress: bool) -> dict[str, str]:
    """The best of several architectures, by the accuracy that they inherit."""
    if len(choices) == 1:
        return choices[0]
    shown = track(choices, "samples", console=Console(stderr=True), disable=not progress, transient=True)
    return max(shown, key=lambda choice: judge(space, choice, data)[1])

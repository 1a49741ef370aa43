"""The supernet of a search: made from a config, trained, and loaded again."""

from __future__ import annotations

import hashlib
import json
import logging
import warnings
from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import nni.nas.strategy  # noqa: F401  imported first: NNI's one-shot modules and its strategies import each other
import pytorch_lightning as pl
import torch
from nni.nas.evaluator.pytorch import Lightning, LightningModule, Trainer
from torch import Tensor, nn

from acmix_nas.architecture import Architecture
from acmix_nas.bias import BiasLogger
from acmix_nas.costs.registry import COSTS
from acmix_nas.costs.survey import survey
from acmix_nas.costs.table import COUNTED, CostTable
from acmix_nas.search_spaces import HybridSpace
from acmix_nas.searching.config import SETTINGS, SearchConfig
from acmix_nas.strategies.base import STRATEGIES, Supernet
from acmix_nas.training.config import DATA, TASKS
from acmix_nas.training.data import Data
from acmix_nas.training.loop import first_process, make_trainer, measure, quiet, recalibrate, running, seed_all, trainer_options
from acmix_nas.training.module import TrainingModule
from acmix_nas.training.recipe import Recipe
from acmix_nas.training.retrain import data_for, task_for
from acmix_nas.training.task import Step, Task
from acmix_nas.util.errors import UserError
from acmix_nas.util.files import read_document, save_tensors, unused, write_document
from acmix_nas.util.registry import Registry

__all__ = ["begin", "begun", "costs_of", "describe", "judge", "load_supernet", "make_space", "make_supernet", "train_supernet"]

COLLAPSE = "collapse.json"


def make_space(config: SearchConfig, data: Data, task: Task | None = None, backbone: nn.Module | None = None) -> HybridSpace:
    """Return the search space, with the weights that the seed gives.

    Args:
        backbone: the user's module, which is copied; timm's network of the config by default.
    """
    seed_all(config.recipe.seed)
    if backbone is not None:
        return HybridSpace(backbone, config.candidates, config.slots, config.heads, config.share)
    arguments = {**config.arguments(data.input_size[1:]), **(task or task_for(config.task)).network_args(data)}
    return HybridSpace(str(config.backbone), config.candidates, config.slots, config.heads, config.share, arguments)


def costs_of(config: SearchConfig, space: HybridSpace, data: Data) -> CostTable:
    """Return the costs of the space, with all that the budget and the strategy count."""
    measures = dict.fromkeys((*COUNTED, *config.limits, *config.method.measures))
    return CostTable.of(space.backbone, space.slots, data.input_size, measures)


def make_supernet(
    config: SearchConfig, data: Data, task: Task | None = None, backbone: nn.Module | None = None, progress: bool = False
) -> Supernet:
    """Return a supernet that is not trained yet: its space is as it was made.

    Raises:
        UserError: where the backbone does not take these inputs, or its outputs do not suit the task.
    """
    task = task or task_for(config.task)
    task.check_data(data)
    space = make_space(config, data, task, backbone)
    task.check_outputs(survey(space.backbone, space.slots, data.input_size).outputs, data)
    table = costs_of(config, space, data)
    return Supernet(space, data, task, table, config.limits, config.recipe.seed, progress)


def describe(config: SearchConfig, supernet: Supernet, choice: Mapping[str, str], **found: Any) -> Architecture:
    """Return the architecture of a choice in this space; `found` is what the search says of it."""
    return Architecture(
        config.backbone, choice, config.candidates, config.arguments(supernet.data.input_size[1:]), config.slots, config.heads,
        seed=config.recipe.seed, data=supernet.data.described, task=supernet.task.name,
        origins=origins_of(config), **found,
    )  # fmt: skip


def origins_of(config: SearchConfig) -> dict[str, dict[str, str]]:
    """Return group → name → distribution, of what a config names and another package registers."""
    named: dict[str, tuple[Registry[Any], Iterable[str]]] = {
        "strategies": (STRATEGIES, [config.strategy]), "tasks": (TASKS, [config.task]), "data": (DATA, [config.data.name]),
        "costs": (COSTS, [*config.limits, *config.method.measures]),
    }  # fmt: skip
    found = {group: registry.origins(names) for group, (registry, names) in named.items()}
    return {group: names for group, names in found.items() if names}


class SearchLoaders(pl.LightningDataModule):
    """The two parts that a search sees. Loaders are made when Lightning asks, and then know how many processes there are.

    Args:
        alternating: whether the validation part is trained on too, by the architecture's steps.
    """

    def __init__(self, data: Data, alternating: bool) -> None:
        super().__init__()
        self.data, self.alternating = data, alternating

    def train_dataloader(self) -> Any:
        return self.data.train_dataloader()

    def val_dataloader(self) -> Any:
        return self.data.search_dataloader() if self.alternating else self.data.val_dataloader()

    @property
    def steps(self) -> int:
        """Return the steps of an epoch: the shorter part is seen again until the longer one ends."""
        train = len(self.data.train_dataloader())
        return max(train, len(self.data.search_dataloader())) if self.alternating else train


class SearchModule(TrainingModule, LightningModule):
    """The task as NNI's evaluators want it: the space is NNI's `model`.

    Where the parts alternate, steps with an even index are the architecture's, on the validation part, as NNI's
    differentiable strategies number them. What is logged of them is called `val_…`.
    """

    def __init__(self, recipe: Recipe, task: Task, loaders: SearchLoaders) -> None:
        super().__init__(recipe, task)
        self.loaders, self.held_out = loaders, False

    def _updates_per_epoch(self) -> int:
        return self.loaders.steps

    @property
    def network(self) -> nn.Module:
        model = self.model
        assert isinstance(model, nn.Module)
        return model

    def training_step(self, batch: Any, batch_idx: int) -> Tensor:
        self.held_out = self.loaders.alternating and batch_idx % 2 == 0
        return super().training_step(batch, batch_idx)

    def _record(self, part: str, step: Step) -> None:
        super()._record("val" if part == "train" and self.held_out else part, step)


def begun(folder: Path) -> bool:
    """Return whether a search has come so far here that it can be resumed."""
    return any((folder / name).exists() for name in ("supernet.pt", "checkpoints/last.ckpt", "race"))


def begin(config: SearchConfig, supernet: Supernet, folder: Path, resume: bool) -> None:
    """Write what a search in this folder is begun with, where none was.

    Raises:
        UserError: where the folder holds an unfinished search that is not to be resumed, or one of other settings, or an
            architecture that is no search's.
    """
    if begun(folder):
        if not resume:
            raise UserError(f"folder {str(folder)!r} holds an unfinished search; resume it, or take another folder")
        begun_with = read_document(folder / SETTINGS, "search")
        others = {"settings": SearchConfig.load(folder) != config}
        others |= {what: begun_with.get(what, value) != value for what, value in brought(supernet).items()}
        for what in (what for what, other in others.items() if other):
            raise UserError(
                f"folder {str(folder)!r} holds a search of other {what}; resume it with those, or take another folder"
            )
        return
    unused(folder / "architecture.json", folder / "network.pt")
    config.save(folder, **brought(supernet))


def brought(supernet: Supernet) -> dict[str, Any]:
    """Return what tells the data, the task and the backbone of a search from others, beside its settings."""
    made_of = hashlib.sha256(repr(supernet.space.backbone).encode()).hexdigest()
    plain: dict[str, Any] = json.loads(json.dumps({"data": supernet.data.settings, "task": supernet.task.identity}))
    return {**plain, "backbone": made_of}


def train_supernet(
    config: SearchConfig,
    supernet: Supernet,
    folder: Path,
    *,
    callbacks: Sequence[pl.Callback] = (),
    resume: bool = False,
    trainer_kwargs: Mapping[str, Any] | None = None,
) -> None:
    """Train a supernet in place; checkpoints/last.ckpt after each epoch, supernet.pt at the end.

    A search that collapses ends early, with the distribution from before, and says so in collapse.json. A supernet that is
    trained already is only loaded.

    Args:
        resume: continue from the end of the last whole epoch, to the result of an uninterrupted search.

    Raises:
        UserError: as `begin` does.
    """
    done, last = folder / "supernet.pt", folder / "checkpoints" / "last.ckpt"
    begin(config, supernet, folder, resume)
    space, alternating = supernet.space, config.method.alternating
    strategy = config.method.one_shot(config.recipe, supernet.table)
    strategy.mutate_model(space)
    if done.exists():
        space.load_state_dict(torch.load(done, map_location="cpu", weights_only=True))
        return
    loaders = SearchLoaders(supernet.data, alternating)
    module = SearchModule(config.recipe, supernet.task.prepare(config.recipe, supernet.data), loaders)
    bias = BiasLogger(folder, network=lambda: space.backbone, every=config.recipe.epochs)
    watching = config.method.callbacks(supernet.task)
    options = trainer_options(folder, config.recipe, [bias, *watching, *callbacks], supernet.progress, monitor=None)
    if alternating:
        options.pop("gradient_clip_val")  # NNI's loop is manual: the strategy clips
    options |= trainer_kwargs or {}
    if options["devices"] != 1 and options.get("strategy", "auto") in ("auto", "ddp"):
        # A step of the architecture or of one path leaves weights without a gradient, which plain DDP takes for an error.
        options["strategy"] = "ddp_find_unused_parameters_true"
    with quiet(), quiet_nni(), running():
        trainer = make_trainer(Trainer, options)
        evaluator = Lightning(module, trainer, datamodule=loaders)
        if last.exists():
            evaluator.fit_kwargs["ckpt_path"] = str(last)
        evaluator = strategy.mutate_evaluator(evaluator)
        # NNI would report its own idea of a metric to the experiment, under the trial's name.
        evaluator.module._final_report = lambda: None
        evaluator.evaluate(space)
    if first_process():
        for guard in watching:
            collapse = getattr(guard, "collapse", None)
            if collapse is not None:
                write_document(folder / COLLAPSE, "collapse", collapse)
        save_tensors(done, space.state_dict())


@contextmanager
def quiet_nni() -> Iterator[None]:
    """Silence what is said of validation, which DARTS has not, and of loaders that NNI would have to send elsewhere."""
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


def load_supernet(
    folder: Path, data: Data | None = None, backbone: nn.Module | None = None
) -> tuple[SearchConfig, Supernet]:  # fmt: skip
    """Return a trained supernet and its config, from the folder where it was trained.

    Raises:
        UserError: where there is none.
    """
    config = SearchConfig.load(folder)
    if not (folder / "supernet.pt").exists():
        raise UserError(f"supernet: {str(folder)!r} holds no supernet.pt; its search has not finished")
    supernet = make_supernet(config, data or data_for(config.data, seed=config.recipe.seed), backbone=backbone)
    config.method.one_shot(config.recipe, supernet.table).mutate_model(supernet.space)
    supernet.space.load_state_dict(torch.load(folder / "supernet.pt", map_location="cpu", weights_only=True))
    return config, supernet


def judge(supernet: Supernet, choice: Mapping[str, str]) -> tuple[nn.Module, float]:
    """Return the network of a choice with inherited weights and statistics of its own, and its validation score.

    The statistics of the batch norms are computed anew from training images: the supernet's belong to all paths.
    """
    network = supernet.space.inherit(choice)
    recalibrate(network, supernet.data, supernet.task)
    return network, measure(network, supernet.data, "validation", supernet.task).score

"""A one-shot search from a configuration to files: the supernet, the architecture, the network that inherits its weights."""

from __future__ import annotations

import itertools
import logging
import math
import random
import shutil
import warnings
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import asdict
from functools import partial
from pathlib import Path
from time import perf_counter
from typing import Any

import nni.nas.strategy  # noqa: F401  imported first: NNI's one-shot modules and its strategies import each other
import pytorch_lightning as pl
import torch
from nni.nas.evaluator.pytorch import Lightning, LightningModule, Trainer
from nni.nas.oneshot.pytorch.strategy import OneShotStrategy
from rich.console import Console
from rich.progress import track
from torch import Tensor, nn

from acmix_nas.architecture import Architecture
from acmix_nas.bias import BiasLogger
from acmix_nas.bias.decision import Decision
from acmix_nas.costs.program import derive, inherit, log_probabilities, ranked, spread
from acmix_nas.costs.table import CostTable
from acmix_nas.deploy.latency import timed
from acmix_nas.search_spaces import HybridSpace, MixedSlot
from acmix_nas.searching.again import RANKING
from acmix_nas.searching.config import SearchConfig
from acmix_nas.slots.backbones import open_backbone
from acmix_nas.strategies import DARTS, Guard, Gumbel, Proxyless, SinglePath
from acmix_nas.strategies.evolution import RegularizedEvolution
from acmix_nas.supernet.perturbation import Perturbation
from acmix_nas.supernet.ranking import Ranker
from acmix_nas.training.classification import Classification, Recipe
from acmix_nas.training.data import ImageData
from acmix_nas.training.loop import (
    evaluate,
    first_process,
    make_trainer,
    quiet,
    recalibrate,
    running,
    seed_all,
    trainer_options,
)
from acmix_nas.training.retrain import retrain
from acmix_nas.util.errors import UserError
from acmix_nas.util.files import provenance, read_json, save_tensors, unused, write_json

DRAWS = 10_000
COLLAPSE = "collapse.json"
HALF_TIME = "half-time.json"
INHERITED = "inherited.pt"

__all__ = ["describe", "judge", "load_supernet", "make_space", "make_strategy", "search", "train_supernet"]


def make_space(config: SearchConfig, num_classes: int) -> HybridSpace:
    """The search space, with the weights that the seed gives."""
    seed_all(config.recipe.seed)
    arguments = {**config.arguments, "num_classes": num_classes}
    return HybridSpace(config.backbone, config.candidates, config.slots, config.heads, config.share, arguments)


def make_strategy(config: SearchConfig, table: CostTable | None = None) -> OneShotStrategy:
    """The strategy; a fresh one, since it remembers the space it changed.

    Args:
        table: the costs that a penalty counts.
    """
    if config.strategy == "single_path":
        return SinglePath(warmup_epochs=config.warmup)
    arguments: dict[str, Any] = {
        "arc_learning_rate": config.arc_learning_rate,
        "warmup_epochs": config.warmup,
        "gradient_clip_val": config.recipe.clip_grad,
    }
    if config.strategy == "darts":
        return DARTS(penalty=config.penalty, cost=config.cost, table=table, order=config.darts_order, **arguments)
    if config.strategy == "gumbel":
        return Gumbel(temperature=config.temperature, **arguments)
    return Proxyless(**arguments)


def describe(config: SearchConfig, data: ImageData, choice: Mapping[str, str], **found: Any) -> Architecture:
    """The architecture of a choice in this space; `found` is what the search says of it."""
    return Architecture(
        config.backbone, choice, config.candidates, config.arguments, config.slots, config.heads,
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


def begun(folder: Path) -> bool:
    """Whether a search has come so far here that it can go on."""
    return any((folder / name).exists() for name in ("supernet.pt", "checkpoints/last.ckpt", "race"))


def begin(config: SearchConfig, folder: Path, resume: bool) -> None:
    """Write what a search in this folder is begun with, where none was.

    Raises:
        UserError: where the folder holds an unfinished search that is not to be resumed, or one of other settings, or an
            architecture that is no search's.
    """
    if begun(folder):
        if not resume:
            raise UserError(f"folder {str(folder)!r} holds an unfinished search; resume it, or take another folder")
        if SearchConfig.load(folder) != config:
            raise UserError(
                f"folder {str(folder)!r} holds a search of other settings; resume it with those, or take another folder"
            )
        return
    unused(folder / "architecture.json", folder / "network.pt")
    config.save(folder)


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

    A search that collapses ends early, with the distribution from before, and says so in collapse.json.

    Args:
        resume: continue from the end of the last whole epoch, to the result of an uninterrupted search.

    A supernet that is trained already is only loaded.

    Raises:
        UserError: as `begin` does.
    """
    done, last = folder / "supernet.pt", folder / "checkpoints" / "last.ckpt"
    begin(config, folder, resume)
    strategy = make_strategy(config, costs_of(config, space, data) if config.penalty else None)
    strategy.mutate_model(space)
    if done.exists():
        space.load_state_dict(torch.load(done, map_location="cpu", weights_only=True))
        return
    images = SearchImages(data, alternating=config.differentiable)
    task = SearchTask(config.recipe, data.num_classes, images)
    bias = BiasLogger(folder, network=lambda: space.backbone, every=config.recipe.epochs)
    guards = [Guard(config.patience)] if config.differentiable and config.patience else []
    options = trainer_options(folder, config.recipe, [bias, *guards, *callbacks], progress, monitor=None)
    if config.differentiable:
        options.pop("gradient_clip_val")  # NNI's loop is manual: the strategy clips
    options |= trainer_kwargs or {}
    if options["devices"] != 1 and options.get("strategy", "auto") in ("auto", "ddp"):
        # A step of the architecture or of one path leaves weights without a gradient, which plain DDP takes for an error.
        options["strategy"] = "ddp_find_unused_parameters_true"
    with quiet(), quiet_nni(), running():
        trainer = make_trainer(Trainer, options)
        evaluator = Lightning(task, trainer, datamodule=images)
        if last.exists():
            evaluator.fit_kwargs["ckpt_path"] = str(last)
        evaluator = strategy.mutate_evaluator(evaluator)
        # NNI would report its own idea of a metric to the experiment, under the trial's name.
        evaluator.module._final_report = lambda: None
        evaluator.evaluate(space)
    if first_process():
        for guard in guards:
            if guard.collapse is not None:
                write_json(folder / COLLAPSE, guard.collapse)
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
    """Search: train the supernet, rank architectures within the budget, train each of the finalists, and take the best.

    Writes into the folder, beside what `train_supernet` does: architecture.json, network.pt (its weights: the supernet's, or
    those of the race where there was one), ranking.json (what a single-path search judged), race/1, race/2, … (what
    `retrain` writes of each finalist, inherited.pt and half-time.json), history.csv and tensorboard/ (probabilities, α and β by
    epoch), and result.json, which is what is returned, with how decided a differentiable search is, and whether it collapsed;
    its seconds are those since the search began, or went on where it had been interrupted ("resumed").
    Of several processes the first does; the others return nothing.

    Raises:
        UserError: where the folder holds a finished search, or no architecture meets the budget, and as `train_supernet` does.
    """
    if (folder / "result.json").exists():
        raise UserError(f"folder {str(folder)!r} holds a finished search; take another folder")
    if config.finalists > 1 and (trainer_kwargs or {}).get("devices", 1) != 1:
        raise UserError(f"finalists must be 1 on several devices, and be retrained afterwards; got {config.finalists}")
    start, resumed = perf_counter(), begun(folder)
    data = ImageData(config.data, config.recipe.seed)
    space = make_space(config, data.num_classes)
    table = costs_of(config, space, data)
    cheapest(table, config.limits)
    probabilities: dict[str, dict[str, float]] = {}
    scores: dict[str, dict[str, float]] = {}
    if config.strategy == "random":
        begin(config, folder, resume)
        choices = uniform(config, space, table)
    else:
        train_supernet(
            config, data, space, folder,
            callbacks=callbacks, progress=progress, resume=resume, trainer_kwargs=trainer_kwargs,
        )  # fmt: skip
        if not first_process():
            return {}
        if config.differentiable:
            probabilities, scores = judged_slots(config, space, data, progress)
            likely = scores or log_probabilities(probabilities)
            choices = ranked(likely, table, config.limits, config.finalists, config.distance(len(space.slots)))
        else:
            judged = rank(config, space, data, table, progress)
            write_ranking(folder / RANKING, judged, table)
            choices = spread((choice for choice, _ in judged), config.finalists, config.distance(len(space.slots)))
    seconds = {"shortlist": round(perf_counter() - start, 2)}
    metric: dict[str, float] = {}
    choice = choices[0]
    if config.strategy != "random":
        network, metric["inherited_val_accuracy"] = judge(space, choice, data)
        save_tensors(folder / "network.pt", network.state_dict())
    if len(choices) > 1 or config.strategy == "random":
        best, trained = race(config, data, space, choices, folder / "race", progress)
        choice, metric = choices[best], {"val_accuracy": trained["val_accuracy"]}
        shutil.copyfile(folder / "race" / str(best + 1) / "network.pt", folder / "network.pt")
    seconds["all"] = round(perf_counter() - start, 2)
    costs = table.of_architecture(choice)
    metric |= costs
    found = {"metric": metric, "probabilities": probabilities, "scores": scores}
    describe(config, data, choice, budget=config.limits, **found).save(folder / "architecture.json")
    result = {
        **provenance(), "trial": None, "sequence": 0, "parameters": {},
        "search": asdict(config), "architecture": "architecture.json",
        "metric": metric.get("val_accuracy", metric.get("inherited_val_accuracy")), "costs": costs,
        "finalists": choices, "resumed": resumed, "seconds": seconds["all"], "seconds_to_shortlist": seconds["shortlist"],
    }  # fmt: skip
    if config.differentiable and config.watch:
        result["decision"] = Decision.of(probabilities).as_json()
    if (folder / COLLAPSE).exists():
        result["collapse"] = read_json(folder / COLLAPSE, "collapse")
    write_json(folder / "result.json", result)
    return result


def costs_of(config: SearchConfig, space: HybridSpace, data: ImageData) -> CostTable:
    """The costs of the space, with latencies of this machine where the settings ask for them."""
    size = (data.in_chans, data.image_size, data.image_size)
    table = CostTable.of(space.backbone, space.slots, size)
    if "latency" not in config.limits and not (config.penalty and config.cost == "latency"):
        return table
    arguments = {**config.arguments, "num_classes": data.num_classes}
    return timed(table, *open_backbone(config.backbone, arguments, config.slots, config.heads, config.candidates), size)


def cheapest(table: CostTable, limits: Mapping[str, float]) -> dict[str, str]:
    """An architecture within the budget, however bad.

    Raises:
        UserError: where there is none; the message names the cheapest.
    """
    return derive({slot: dict.fromkeys(row, 0.0) for slot, row in table.costs.items()}, table, limits)


def within(table: CostTable, limits: Mapping[str, float], choice: Mapping[str, str]) -> bool:
    """Whether an architecture meets every limit."""
    return all(table.total(choice, name) <= limit for name, limit in limits.items())


def judged_slots(
    config: SearchConfig, space: HybridSpace, data: ImageData, progress: bool = False
) -> tuple[dict[str, dict[str, float]], dict[str, dict[str, float]]]:
    """Slot → operator → probability, of a differentiable search; and its worth by perturbation, where that is asked for."""
    probabilities = probabilities_of(space)
    if config.selection != "perturbation":
        return probabilities, {}
    return probabilities, Perturbation.of(space.backbone, space.slots, data).scores(probabilities, progress)


def probabilities_of(space: HybridSpace) -> dict[str, dict[str, float]]:
    """Slot → operator → probability, of a differentiable search."""
    slots = [module for module in space.modules() if isinstance(module, MixedSlot)]
    return {slot.label: dict(zip(slot.candidates.names, slot.probabilities().tolist(), strict=True)) for slot in slots}


def evolution(config: SearchConfig, space: HybridSpace, table: CostTable) -> RegularizedEvolution:
    """Proposes architectures within the budget, each once."""
    candidates = {slot.name: slot.candidates for slot in space.slots}
    feasible = partial(within, table, config.limits)
    return RegularizedEvolution(candidates, feasible, seed=config.recipe.seed)


def uniform(config: SearchConfig, space: HybridSpace, table: CostTable) -> list[dict[str, str]]:
    """Different random architectures within the budget, as many as there are finalists; fewer where there are no more."""
    candidates = {slot.name: slot.candidates for slot in space.slots}
    generator = random.Random(config.recipe.seed)
    drawn: dict[tuple[str, ...], dict[str, str]] = {}
    for _ in range(DRAWS):
        choice = {name: generator.choice(names) for name, names in candidates.items()}
        if within(table, config.limits, choice):
            drawn.setdefault(tuple(choice.values()), choice)
        if len(drawn) == config.finalists:
            break
    if not drawn:
        raise UserError(f"budget leaves less than one in {DRAWS} architectures: random draws do not find them; widen it")
    return list(drawn.values())


Judged = list[tuple[dict[str, str], float]]


def rank(config: SearchConfig, space: HybridSpace, data: ImageData, table: CostTable, progress: bool = False) -> Judged:
    """Architectures within the budget and the accuracy that they inherit, best first: all, or those that evolution asks for."""
    ranker = Ranker.of(space.backbone, space.slots, data)
    candidates = {slot.name: slot.candidates for slot in space.slots}
    size = math.prod(map(len, candidates.values()))
    console = Console(stderr=True)
    judged: Judged = []
    if size <= config.samples:
        choices = (dict(zip(candidates, one, strict=True)) for one in itertools.product(*candidates.values()))
        feasible = ranker.in_tree_order(choice for choice in choices if within(table, config.limits, choice))
        for choice in track(feasible, "ranking", console=console, disable=not progress, transient=True):
            judged.append((choice, ranker.accuracy(choice)))
    else:
        proposals = evolution(config, space, table)
        for number in track(range(config.samples), "evolving", console=console, disable=not progress, transient=True):
            try:
                choice = proposals.ask()
            except UserError:  # fewer are within the budget than samples, or so few that draws do not find them
                if number:
                    break
                choice = cheapest(table, config.limits)
            accuracy = ranker.accuracy(choice)
            proposals.tell(choice, accuracy)
            judged.append((choice, accuracy))
    return sorted(judged, key=lambda pair: -pair[1])


def write_ranking(path: Path, judged: Judged, table: CostTable) -> Path:
    """What was judged, best first."""
    rows = [{"slots": choice, "accuracy": accuracy, "costs": table.of_architecture(choice)} for choice, accuracy in judged]
    return write_json(path, {**provenance(), "ranking": rows})


def race(
    config: SearchConfig,
    data: ImageData,
    space: HybridSpace,
    choices: Sequence[Mapping[str, str]],
    folder: Path,
    progress: bool,
) -> tuple[int, dict[str, Any]]:
    """Train each of the finalists, from half-time on only the best of them (successive halving, Jamieson and Talwalkar 2016).

    They begin with what they inherit of the space's weights, where the settings say so, or from scratch. It may be interrupted
    at any time; the same call goes on.

    Returns:
        The index of the best by the search-validation part, and what `retrain` says of it.

    Raises:
        UserError: where the race was begun with other finalists.
    """

    def train(i: int, until: int | None = None) -> dict[str, Any]:
        return train_finalist(config, data, space, choices[i], folder / str(i + 1), progress, until)

    running = list(range(len(choices)))
    if config.half_time:
        accuracy = [train(i, config.half_time)["val_accuracy"] for i in running]
        running = sorted(running, key=lambda i: -accuracy[i])[: config.race_cut]
    finals = {i: train(i) for i in sorted(running)}
    best = max(finals, key=lambda i: finals[i]["val_accuracy"])
    return best, finals[best]


def train_finalist(
    config: SearchConfig, data: ImageData, space: HybridSpace, choice: Mapping[str, str], folder: Path, progress: bool,
    until: int | None = None,
) -> dict[str, Any]:  # fmt: skip
    """What `retrain` gives of a finalist, which is trained but once; at half-time, what it had then."""
    half_time, inherited, begun_with = folder / HALF_TIME, folder / INHERITED, folder / "architecture.json"
    if begun_with.exists() and dict(Architecture.load(begun_with).slots) != dict(choice):
        raise UserError(f"finalist {str(folder)!r} is another than when the race began; take another folder for the search")
    if until is not None and half_time.exists():
        return read_json(half_time, "half-time")
    if (folder / "result.json").exists():
        return read_json(folder / "result.json", "finalist")
    if config.warm and not (folder / "checkpoints" / "last.ckpt").exists():
        save_tensors(inherited, inherit(space, choice).state_dict())
    found = retrain(
        describe(config, data, choice), config.data, config.race, folder,
        weights=inherited if config.warm else None, progress=progress, resume=True, until=until,
    )  # fmt: skip
    if until is not None:
        write_json(half_time, {**provenance(), **found})
    return found

"""A search: data → space → supernet → shortlist → race → found. Each step is a function that can be used alone."""

from __future__ import annotations

import shutil
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from time import perf_counter
from typing import Any

import pytorch_lightning as pl
from torch import nn

from acmix_nas.architecture import Architecture, build
from acmix_nas.costs.budget import Budget, texts_of
from acmix_nas.costs.choose import any_within
from acmix_nas.searching.again import RANKING, Ranked, write_ranking
from acmix_nas.searching.config import SearchConfig
from acmix_nas.searching.race import race
from acmix_nas.searching.supernets import COLLAPSE, begin, begun, describe, judge, make_supernet, train_supernet
from acmix_nas.strategies.base import SearchStrategy, Supernet
from acmix_nas.training.config import DataConfig
from acmix_nas.training.data import Data
from acmix_nas.training.loop import alone_in, first_process
from acmix_nas.training.retrain import copy_of, data_for, refuse_bare_loaders, refuse_image_settings, task_for
from acmix_nas.training.task import Task
from acmix_nas.util.errors import UserError
from acmix_nas.util.files import new_folder, read_document, save_tensors, write_document
from acmix_nas.util.settings import replace_flat

__all__ = ["Found", "run_search", "search"]


@dataclass(frozen=True)
class Found:
    """Hold what a search found.

    Attributes:
        architecture: which operator stands at which slot, with its provenance.
        network: the network, with the weights of the supernet or of its race, on the CPU.
        costs: cost → value of the whole network.
        score: validation score of the network, from 0 to 1 for an accuracy.
        ranking: what was judged one by one, best first; empty where a distribution was trained.
        finalists: slot → operator of each, best-ranked first.
        folder: of the search, with architecture.json, network.pt, result.json and TensorBoard's events.
        seconds: since the search began, or was resumed.
        resumed: whether it had been interrupted.
        notes: "decision" (how decided a distribution is) and "collapse", each with a line "said".
        backbone: the user's module, where the search ran on one; as it was given.

    Example:
        >>> found = search("resnet18", "photos")  # doctest: +SKIP
        >>> found.score, found.costs["macs"], found.ranking[0].slots  # doctest: +SKIP
    """

    architecture: Architecture
    network: nn.Module
    costs: Mapping[str, float]
    score: float
    ranking: Sequence[Ranked]
    finalists: Sequence[Mapping[str, str]]
    folder: Path
    seconds: float
    resumed: bool = False
    notes: Mapping[str, Any] = field(default_factory=dict)
    backbone: nn.Module | None = None


def search(
    backbone: str | nn.Module = "resnet26",
    data: Data | pl.LightningDataModule | DataConfig | str | Path = "digits",
    *,
    task: Task | str = "classification",
    budget: Budget = (),
    strategy: SearchStrategy | str = "single_path",
    output: str | Path | None = None,
    resume: bool = False,
    progress: bool = True,
    devices: int = 1,
    callbacks: Sequence[pl.Callback] = (),
    **settings: Any,
) -> Found:
    """Search where a backbone should convolve and where it should attend.

    Args:
        backbone: timm's name, or a module of your own with dense 3×3 convolutions, which is copied.
        data: a `Data`, a Lightning data module, a folder of images or a registered name such as "digits".
        task: what the networks are trained for; an object, or a registered name.
        budget: limits that the architecture must meet: {"macs": 60e6}, "macs=60M,latency=3ms".
        strategy: an object, or a registered name: "single_path", "darts", "gumbel", "proxyless", "random".
        output: the folder to write into; a new one under runs/ by default.
        resume: continue the unfinished search in `output`, to the result of an uninterrupted one.
        progress: whether bars are shown.
        devices: how many devices of this machine train the supernet.
        callbacks: of Lightning, beside ours, while the supernet trains.
        settings: any other setting by the name it has on the command line: `epochs=20`, `candidates=["conv", "local"]`,
            `finalists=8`, `lr=1e-3`, `image_size=64`, `penalty=0.1`; see `SearchConfig`, `Recipe` and `DataConfig`.

    Returns:
        The architecture, its network, and what the search knows of both.

    Raises:
        UserError: for a wrong argument, which the message names, before anything is trained; where nothing meets the budget;
            where the folder holds another search. Nothing is overwritten.

    Example:
        >>> short = {"image_size": 16, "epochs": 1, "samples": 2, "progress": False}
        >>> found = search("resnet14t", "digits", budget={"macs": 20e6}, slots=["layer4*"], **short)
        >>> list(found.architecture.slots), found.costs["macs"] < 20e6
        (['layer4.0.conv2'], True)
    """
    refuse_bare_loaders(data)
    module = backbone if isinstance(backbone, nn.Module) else None
    given: dict[str, Any] = {**settings, "budget": texts_of(budget), "backbone": None if module is not None else backbone}
    base = SearchConfig(data=data) if isinstance(data, DataConfig) else SearchConfig()
    if isinstance(data, pl.LightningDataModule):
        refuse_image_settings(settings)
    elif not isinstance(data, DataConfig):
        given["data"] = str(data)
    if isinstance(strategy, str):
        given["strategy"] = strategy
    else:
        base = replace(base, strategy=strategy.name, method=strategy)
    if isinstance(task, str):
        given["task"] = task
    (config,) = replace_flat(given, base)
    loaders = data_for(data if isinstance(data, pl.LightningDataModule) else config.data, seed=config.recipe.seed)
    folder = Path(output) if output is not None else new_folder(Path("runs"), "search")
    return run_search(
        config, folder, data=loaders, task=task_for(task), backbone=module, callbacks=callbacks, progress=progress,
        resume=resume, trainer_kwargs={"devices": devices},
    )  # fmt: skip


def run_search(
    config: SearchConfig,
    folder: Path,
    *,
    data: Data | None = None,
    task: Task | None = None,
    backbone: nn.Module | None = None,
    callbacks: Sequence[pl.Callback] = (),
    progress: bool = True,
    resume: bool = False,
    trainer_kwargs: Mapping[str, Any] | None = None,
) -> Found:
    """Run the search of a config; `search` with everything made.

    Writes into the folder, beside what `train_supernet` does:

    - architecture.json, and network.pt: its weights, the supernet's, or those of the race where there was one,
    - ranking.json: what a single-path search judged,
    - race/1, race/2, …: what `retrain` writes of each finalist, inherited.pt and half-time.json,
    - history.csv and tensorboard/: probabilities, α and β by epoch,
    - result.json.

    Of several processes the first goes on after the supernet, and the others end.

    Args:
        data: the config's images by default.
        task: the config's by default.
        backbone: the user's module, where the config names no backbone.

    Raises:
        UserError: where the folder holds a finished search, or no architecture meets the budget, where another run uses the
            folder, and as `train_supernet` does.
    """
    if (folder / "result.json").exists():
        raise UserError(f"folder {str(folder)!r} holds a finished search; take another folder")
    if config.finalists > 1 and (trainer_kwargs or {}).get("devices", 1) != 1:
        raise UserError(f"finalists must be 1 on several devices, and be retrained afterwards; got {config.finalists}")
    start, resumed = perf_counter(), begun(folder)
    data = data or data_for(config.data, seed=config.recipe.seed)
    supernet = make_supernet(config, data, task or task_for(config.task), backbone, progress)
    any_within(supernet.table, config.limits)  # before anything is trained
    with alone_in(folder):
        return _run(config, supernet, folder, start, resumed, callbacks, resume, trainer_kwargs, backbone)


def _run(
    config: SearchConfig, supernet: Supernet, folder: Path, start: float, resumed: bool, callbacks: Sequence[pl.Callback],
    resume: bool, trainer_kwargs: Mapping[str, Any] | None, backbone: nn.Module | None,
) -> Found:  # fmt: skip
    if config.method.supernet:
        train_supernet(config, supernet, folder, callbacks=callbacks, resume=resume, trainer_kwargs=trainer_kwargs)
    else:
        begin(config, supernet, folder, resume)
    if not first_process():
        raise SystemExit(0)  # Lightning started this process for the supernet alone; the first one goes on
    shortlist = config.method.shortlist(supernet, config.finalists, config.distance(len(supernet.space.slots)))
    ranking = [Ranked(choice, score, supernet.table.of_architecture(choice)) for choice, score in shortlist.ranking]
    if ranking:
        write_ranking(folder / RANKING, ranking)
    to_shortlist = round(perf_counter() - start, 2)

    metric: dict[str, float] = {}
    best, name = 0, supernet.task.metric
    if config.method.supernet:
        network, score = judge(supernet, shortlist.choices[0])
        metric[f"inherited_val_{name}"] = score
        save_tensors(folder / "network.pt", network.state_dict())
    if len(shortlist.choices) > 1 or not config.method.supernet:
        best, trained = race(config, supernet, shortlist.choices, folder / "race", backbone)
        metric, score = {f"val_{name}": trained.validation}, trained.validation
        shutil.copyfile(folder / "race" / str(best + 1) / "network.pt", folder / "network.pt")
    choice = shortlist.choices[best]
    costs = supernet.table.of_architecture(choice)
    operators = shortlist.operators
    architecture = describe(
        config, supernet, choice, budget=config.limits, metric=metric | costs,
        probabilities=operators.probabilities if operators else {}, scores=operators.scores if operators else {},
    )  # fmt: skip
    architecture.save(folder / "architecture.json")
    notes = dict(shortlist.notes)
    if (folder / COLLAPSE).exists():
        notes["collapse"] = read_document(folder / COLLAPSE, "collapse")
    seconds = round(perf_counter() - start, 2)
    write_document(folder / "result.json", "result", {
        "trial": None, "sequence": 0, "parameters": {}, "search": config.content, "architecture": "architecture.json",
        "metric": score, "costs": costs, "finalists": shortlist.choices, "resumed": resumed, "seconds": seconds,
        "seconds_to_shortlist": to_shortlist, **notes,
    })  # fmt: skip
    network = build(architecture, weights=folder / "network.pt", backbone=copy_of(backbone))
    return Found(
        architecture, network, costs, score, ranking, shortlist.choices, folder, seconds, resumed, notes, backbone
    )  # fmt: skip

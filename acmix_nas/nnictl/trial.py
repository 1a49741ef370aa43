"""One trial of an NNI experiment, and the same without NNI: `python -m acmix_nas trial search|evaluate|train`.

A trial writes its own parameters and its result into its folder, and later steps read these: with several trials at a time,
NNI's records bind parameters to the wrong ones.
"""

from __future__ import annotations

import os
from collections.abc import Mapping
from pathlib import Path
from time import perf_counter
from typing import Any

import pytorch_lightning as pl
from filelock import FileLock
from torch.utils.tensorboard import SummaryWriter

from acmix_nas.architecture import Architecture
from acmix_nas.deploy.profile import count
from acmix_nas.nnictl.results import link_for_web_page
from acmix_nas.searching.config import SearchConfig
from acmix_nas.strategies.base import Supernet
from acmix_nas.training.config import DataConfig
from acmix_nas.training.images import ImageData
from acmix_nas.training.recipe import Recipe
from acmix_nas.training.retrain import sized, task_for, train_architecture
from acmix_nas.util.errors import UserError
from acmix_nas.util.files import new_folder, read_document, read_json, save_tensors, write_document
from acmix_nas.util.settings import flat_names, replace_flat


class Reporter(pl.Callback):
    """Sends an epoch's numbers to NNI's page.

    Args:
        metric: what the scores of the task are called.
    """

    def __init__(self, metric: str) -> None:
        self.metric = metric

    def on_train_epoch_end(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:  # noqa: ARG002
        numbers = {name: float(value) for name, value in trainer.callback_metrics.items()}
        default = numbers.get(f"val_{self.metric}", numbers.get(f"train_{self.metric}"))
        if default is not None:
            report("intermediate", {"default": default, **{k: v for k, v in numbers.items() if "/" not in k}})
            print(f"epoch {trainer.current_epoch + 1} of {trainer.max_epochs}: " + ", ".join(
                f"{k} {v:.4f}" for k, v in numbers.items()), flush=True)  # fmt: skip


def report(kind: str, content: Mapping[str, Any]) -> None:
    """Report to NNI, where a trial runs under it."""
    if "NNI_TRIAL_JOB_ID" in os.environ:
        import nni

        getattr(nni, f"report_{kind}_result")(dict(content))


def begin(output: Path | None) -> tuple[Path, dict[str, Any]]:
    """Return the trial's folder and its parameters. Without NNI there are none."""
    if "NNI_TRIAL_JOB_ID" in os.environ:
        import nni

        folder = output or Path(os.environ["NNI_OUTPUT_DIR"])
        parameters = nni.get_next_parameter()
        link_for_web_page(folder)
        return folder, parameters
    return output or new_folder(Path("runs"), "trial"), {}


def end(folder: Path, parameters: Mapping[str, Any], result: Mapping[str, Any]) -> None:
    """Write what the trial received and found, then tell NNI."""
    about = {
        "trial": os.environ.get("NNI_TRIAL_JOB_ID"),
        "sequence": int(os.environ.get("NNI_TRIAL_SEQ_ID", 0)),
        "parameters": dict(parameters),
    }
    write_document(folder / "result.json", "result", {**result, **about})
    report("final", {"default": result["metric"], **parameters, "seconds": result["seconds"]})
    for what in ("decision", "collapse"):
        if what in result:
            print(result[what]["said"])
    print(f"metric {result['metric']:.4f} in {result['seconds']} s; results in {folder}")


def search_one(config: SearchConfig, output: Path | None, check: Path | None) -> None:
    """Run one search; NNI's parameters are settings of it. With `check`, only try the values of a search space."""
    from acmix_nas.searching.run import run_search
    from acmix_nas.searching.supernets import make_space

    if check is not None:
        for parameters in corners(read_json(check, "search space")):
            (tried,) = replace_flat(parameters, config)
        make_space(tried, ImageData(tried.data))
        return
    folder, parameters = begin(output)
    (config,) = replace_flat(parameters, config)
    run_search(config, folder, callbacks=[Reporter(task_for(config.task).metric)], progress=False, resume=True)
    end(folder, parameters, read_document(folder / "result.json", "result"))


def corners(space: Mapping[str, Any]) -> list[dict[str, Any]]:
    """Return settings in which every value of every choice occurs once. Other types are left to NNI."""
    choices = {name: entry["_value"] for name, entry in space.items() if entry["_type"] == "choice"}
    most = max((len(values) for values in choices.values()), default=1)
    other = {name: entry["_value"][0] for name, entry in space.items() if entry["_type"] != "choice"}
    return [{**other, **{name: values[min(i, len(values) - 1)] for name, values in choices.items()}} for i in range(most)]


def evaluate_one(config: SearchConfig, supernet: Path | None, output: Path | None, check: Path | None) -> None:
    """Evaluate one architecture with the weights of a supernet; NNI's parameters are the operators by slot.

    The supernet is trained by uniform sampling of single paths.

    Raises:
        UserError: for settings that a single architecture has no use for.
    """
    from acmix_nas.searching.supernets import describe, judge

    if config.budget or config.finalists != 1:
        raise UserError("budget and finalists are not for single architectures; a budget belongs to the tuner's classArgs")
    (config,) = replace_flat({"strategy": "single_path"}, config)
    if check is not None:
        check_slots(config, read_json(check, "search space"))
        return
    start = perf_counter()
    folder, parameters = begin(output)
    config, trained = shared_supernet(config, supernet or folder.parent / "supernet")
    choice = parameters or {slot: names[0] for slot, names in trained.candidates.items()}
    network, score = judge(trained, choice)
    costs = trained.table.of_architecture(choice)
    metric = {f"inherited_val_{trained.task.metric}": score, **costs}
    describe(config, trained, choice, metric=metric).save(folder / "architecture.json")
    save_tensors(folder / "network.pt", network.state_dict())
    with SummaryWriter(folder / "tensorboard") as writer:
        for name, value in metric.items():
            writer.add_scalar(name, value)
    seconds = round(perf_counter() - start, 2)
    end(folder, choice, {"architecture": "architecture.json", "metric": score, "costs": costs, "seconds": seconds})


def check_slots(config: SearchConfig, space: Mapping[str, Any]) -> None:
    """Check that a search space of NNI's has one choice per slot, among the candidates.

    Raises:
        UserError: naming the slot.
    """
    from acmix_nas.searching.supernets import make_space

    slots = {slot.name: slot.candidates for slot in make_space(config, ImageData(config.data)).slots}
    for name, entry in space.items():
        if name not in slots:
            raise UserError(f"search space: {name!r} is no slot of {config.backbone}; its slots are {', '.join(slots)}")
        strange = [value for value in entry["_value"] if value not in slots[name]]
        if entry["_type"] != "choice" or strange:
            raise UserError(f"search space: slot {name!r} must be a choice among {', '.join(slots[name])}; got {entry}")
    missing = [name for name in slots if name not in space]
    if missing:
        raise UserError(f"search space: slot {missing[0]!r} of {config.backbone} is missing")


def shared_supernet(config: SearchConfig, folder: Path) -> tuple[SearchConfig, Supernet]:
    """Return the supernet of the experiment: one trial trains it, the others wait for it."""
    from acmix_nas.searching.supernets import load_supernet, make_supernet, train_supernet

    folder.mkdir(parents=True, exist_ok=True)
    with FileLock(folder / "lock"):
        if (folder / "supernet.pt").exists():
            if SearchConfig.load(folder) != config:
                raise UserError(f"supernet {str(folder)!r} was trained with other options; give another folder")
        else:
            supernet = make_supernet(config, ImageData(config.data, config.recipe.seed))
            train_supernet(config, supernet, folder, callbacks=[Reporter(supernet.task.metric)], resume=True)
    return load_supernet(folder)


def train_one(
    backbone: str,
    backbone_args: Mapping[str, Any],
    data_config: DataConfig,
    recipe: Recipe,
    output: Path | None,
    check: Path | None,
    task: str = "classification",
) -> None:
    """Train one network from scratch; NNI's parameters are settings, or else arguments of the backbone.

    A parameter whose value is a mapping stands for what is in it.
    """

    def configured(parameters: Mapping[str, Any]) -> tuple[Architecture, DataConfig, Recipe]:
        given = {"backbone": backbone, **backbone_args, **spread(parameters)}
        known = flat_names(DataConfig, Recipe)
        data, how = replace_flat({name: given.pop(name) for name in known & given.keys()}, data_config, recipe)
        network = Architecture(given.pop("backbone"), slots={}, candidates=(), backbone_args=given)
        return sized(network, data.image_size), data, how

    aim = task_for(task)
    if check is not None:
        for parameters in corners(read_json(check, "search space")):
            network, data, _ = configured(parameters)
            images = ImageData(data)
            count(network, images.input_size, images.num_classes)
        return
    start = perf_counter()
    folder, parameters = begin(output)
    network, data, how = configured(parameters)
    images = ImageData(data, how.seed)
    trained = train_architecture(
        network, images, how, folder, task=aim, callbacks=[Reporter(aim.metric)], progress=False, resume=True
    )  # fmt: skip
    counts = count(trained.architecture, images.input_size)
    found = {
        **read_document(folder / "result.json", "result"),
        "architecture": "architecture.json",
        "metric": trained.validation,
        "costs": {"macs": counts.macs, "parameters": counts.parameters},
        "seconds": round(perf_counter() - start, 2),
    }
    end(folder, parameters, found)


def spread(parameters: Mapping[str, Any]) -> dict[str, Any]:
    """Return parameters with the mappings among them opened."""
    opened: dict[str, Any] = {}
    for name, value in parameters.items():
        opened |= value if isinstance(value, Mapping) else {name: value}
    return opened

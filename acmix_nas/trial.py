"""One trial of an NNI experiment, and the same without NNI: `python -m acmix_nas.trial search|evaluate|train`.

A trial writes its own parameters and its result into its folder, and later steps read these: with several trials at a time,
NNI's records bind parameters to the wrong ones.
"""

from __future__ import annotations

import dataclasses
import os
from collections.abc import Mapping
from pathlib import Path
from time import perf_counter
from typing import Annotated, Any

import pytorch_lightning as pl
import typer
from filelock import FileLock
from torch.utils.tensorboard import SummaryWriter

from acmix_nas.architecture import Architecture
from acmix_nas.classification import Recipe
from acmix_nas.config import SearchConfig
from acmix_nas.cost import CostTable
from acmix_nas.data import DataConfig, ImageData
from acmix_nas.errors import UserError
from acmix_nas.files import new_folder, provenance, read_json, save_tensors, write_json
from acmix_nas.options import BackboneArgs, from_parameters, names, options, pairs
from acmix_nas.profile import count
from acmix_nas.results import link_for_web_page
from acmix_nas.retrain import retrain, sized
from acmix_nas.terminal import app, run

Check = Annotated[Path | None, typer.Option(help="only check the options and this search space (a JSON file), and stop")]
Output = Annotated[Path | None, typer.Option(help="folder to write into; by default NNI's, or a new runs/trial-N")]

trial = app("One trial of an NNI experiment. Its parameters come from NNI, where there is one, over its options.")


class Reporter(pl.Callback):
    """Sends an epoch's numbers to NNI's page."""

    def on_train_epoch_end(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:  # noqa: ARG002
        numbers = {name: float(value) for name, value in trainer.callback_metrics.items()}
        default = numbers.get("val_accuracy", numbers.get("train_accuracy"))
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
    """The trial's folder and its parameters; none without NNI."""
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
    write_json(folder / "result.json", {**provenance(), **result, **about})
    report("final", {"default": result["metric"], **parameters, "seconds": result["seconds"]})
    for what in ("decision", "collapse"):
        if what in result:
            print(result[what]["said"])
    print(f"metric {result['metric']:.4f} in {result['seconds']} s; results in {folder}")


@trial.command("search")
@options(SearchConfig)
def search_trial(searchconfig: SearchConfig, output: Output = None, check: Check = None) -> None:
    """One search; NNI's parameters are options of it, such as seed and penalty."""
    from acmix_nas.search import make_space, search

    if check is not None:
        for parameters in corners(read_json(check, "search space")):
            (config,) = from_parameters(parameters, searchconfig)
        make_space(config, ImageData(config.data).num_classes)
        return
    folder, parameters = begin(output)
    (config,) = from_parameters(parameters, searchconfig)
    end(folder, parameters, search(config, folder, callbacks=[Reporter()], progress=False, resume=True))


def corners(space: Mapping[str, Any]) -> list[dict[str, Any]]:
    """Settings in which every value of every choice occurs once; other types are left to NNI."""
    choices = {name: entry["_value"] for name, entry in space.items() if entry["_type"] == "choice"}
    most = max((len(values) for values in choices.values()), default=1)
    other = {name: entry["_value"][0] for name, entry in space.items() if entry["_type"] != "choice"}
    return [{**other, **{name: values[min(i, len(values) - 1)] for name, values in choices.items()}} for i in range(most)]


@trial.command()
@options(SearchConfig)
def evaluate(
    searchconfig: SearchConfig,
    supernet: Annotated[
        Path | None, typer.Option(help="folder of the supernet, which the first trial trains; beside the trials by default")
    ] = None,
    output: Output = None, check: Check = None,
) -> None:  # fmt: skip
    """One architecture, with the weights of a supernet; NNI's parameters are the operators by slot.

    The supernet is trained by uniform sampling of single paths; the options say how.
    """
    from acmix_nas.search import describe, judge

    if searchconfig.budget or searchconfig.finalists != 1:
        raise UserError("budget and finalists are not for single architectures; a budget belongs to the tuner's classArgs")
    config = dataclasses.replace(searchconfig, strategy="single_path")
    if check is not None:
        check_slots(config, read_json(check, "search space"))
        return
    start = perf_counter()
    folder, parameters = begin(output)
    config, data, space = shared_supernet(config, supernet or folder.parent / "supernet")
    choice = parameters or {slot.name: slot.candidates[0] for slot in space.slots}
    network, accuracy = judge(space, choice, data)
    size = (data.in_chans, data.image_size, data.image_size)
    table = CostTable.of(space.backbone, space.slots, size)
    costs = table.of_architecture(choice)
    metric = {"inherited_val_accuracy": accuracy, **costs}
    describe(config, data, choice, metric=metric).save(folder / "architecture.json")
    save_tensors(folder / "network.pt", network.state_dict())
    with SummaryWriter(folder / "tensorboard") as writer:
        for name, value in metric.items():
            writer.add_scalar(name, value)
    seconds = round(perf_counter() - start, 2)
    end(folder, choice, {"architecture": "architecture.json", "metric": accuracy, "costs": costs, "seconds": seconds})


def check_slots(config: SearchConfig, space: Mapping[str, Any]) -> None:
    """Whether a search space of NNI's has one choice per slot, among the candidates.

    Raises:
        UserError: naming the slot.
    """
    from acmix_nas.search import make_space

    slots = {slot.name: slot.candidates for slot in make_space(config, ImageData(config.data).num_classes).slots}
    for name, entry in space.items():
        if name not in slots:
            raise UserError(f"search space: {name!r} is no slot of {config.backbone}; its slots are {', '.join(slots)}")
        strange = [value for value in entry["_value"] if value not in slots[name]]
        if entry["_type"] != "choice" or strange:
            raise UserError(f"search space: slot {name!r} must be a choice among {', '.join(slots[name])}; got {entry}")
    missing = [name for name in slots if name not in space]
    if missing:
        raise UserError(f"search space: slot {missing[0]!r} of {config.backbone} is missing")


def shared_supernet(config: SearchConfig, folder: Path) -> tuple[SearchConfig, ImageData, Any]:
    """The supernet of the experiment: one trial trains it, the others wait for it."""
    from acmix_nas.search import load_supernet, make_space, train_supernet

    folder.mkdir(parents=True, exist_ok=True)
    with FileLock(folder / "lock"):
        data = ImageData(config.data, config.recipe.seed)
        if (folder / "supernet.pt").exists():
            trained = SearchConfig.load(folder)
            if trained != config:
                raise UserError(f"supernet {str(folder)!r} was trained with other options; give another folder")
        else:
            space = make_space(config, data.num_classes)
            train_supernet(config, data, space, folder, callbacks=[Reporter()], progress=False, resume=True)
    return load_supernet(folder, data)


@trial.command()
@options(DataConfig, Recipe)
def train(
    dataconfig: DataConfig, recipe: Recipe,
    backbone: Annotated[str, typer.Option(help="a name that timm knows")] = "resnet26_acmix",
    backbone_args: BackboneArgs = None, output: Output = None, check: Check = None,
) -> None:  # fmt: skip
    """One network, from scratch; NNI's parameters are options, such as seed, or else arguments of the backbone.

    A parameter whose value is a mapping stands for what is in it, such as a backbone with its own arguments. The folder is
    that of a retraining. The metric is the accuracy of the validation part; that of the test part is only written down.
    """
    arguments = pairs("--backbone-args", backbone_args or [])

    def configured(parameters: Mapping[str, Any]) -> tuple[Architecture, DataConfig, Recipe]:
        given = {"backbone": backbone, **arguments, **spread(parameters)}
        known = names(DataConfig, Recipe)
        data, how = from_parameters({name: given.pop(name) for name in known & given.keys()}, dataconfig, recipe)
        network = Architecture(given.pop("backbone"), slots={}, candidates=(), backbone_args=given)
        return sized(network, data.image_size), data, how

    if check is not None:
        for parameters in corners(read_json(check, "search space")):
            network, data, _ = configured(parameters)
            count(network, data.image_size, ImageData(data).num_classes)
        return
    start = perf_counter()
    folder, parameters = begin(output)
    network, data, how = configured(parameters)
    result = retrain(network, data, how, folder, callbacks=[Reporter()], progress=False, resume=True)
    counts = count(Architecture.load(folder / "architecture.json"), data.image_size)
    found = {
        **result,
        "architecture": "architecture.json",
        "metric": result["val_accuracy"],
        "costs": {"macs": counts.macs, "parameters": counts.parameters},
        "seconds": round(perf_counter() - start, 2),
    }
    end(folder, parameters, found)


def spread(parameters: Mapping[str, Any]) -> dict[str, Any]:
    """Parameters with the mappings among them opened."""
    opened: dict[str, Any] = {}
    for name, value in parameters.items():
        opened |= value if isinstance(value, Mapping) else {name: value}
    return opened


if __name__ == "__main__":
    run(trial)

"""From an architecture to a trained network, in a folder that every later step can open."""

from __future__ import annotations

import copy
import dataclasses
import json
from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytorch_lightning as pl
import timm
from torch import nn
from torch.utils.data import DataLoader, Dataset

from acmix_nas.architecture import Architecture, build
from acmix_nas.bias import BiasLogger
from acmix_nas.slots.backbones import for_size, is_backbone
from acmix_nas.training.config import DATA, TASKS, DataConfig
from acmix_nas.training.data import Data
from acmix_nas.training.images import ImageData, listed
from acmix_nas.training.loop import Fitted, alone_in, begun, fit, measure, seed_all
from acmix_nas.training.recipe import Recipe
from acmix_nas.training.task import Evaluation, Task
from acmix_nas.util.errors import UserError, did_you_mean
from acmix_nas.util.files import new_folder
from acmix_nas.util.settings import flat_names, replace_flat, settings_of

__all__ = [
    "Trained", "chosen_images", "data_for", "data_of", "evaluate", "open_saved", "refuse_bare_loaders",
    "refuse_image_settings", "retrain", "sized",
    "task_for", "train_architecture",
]  # fmt: skip


@dataclass(frozen=True)
class Trained(Fitted):
    """Hold a trained network, and what it reached.

    Attributes:
        architecture: which operator stands at which slot.
        network: with the weights of the last epoch, or their average, on the CPU.
        folder: with result.json, network.pt, checkpoints and TensorBoard's events.

    Example:
        >>> trained = retrain("runs/search")  # doctest: +SKIP
        >>> trained.validation, trained.test, trained.folder  # doctest: +SKIP
    """

    architecture: Architecture
    network: nn.Module
    folder: Path


def retrain(
    architecture: Architecture | str | Path | Any,
    data: Data | pl.LightningDataModule | DataConfig | str | Path | None = None,
    *,
    task: Task | str | None = None,
    warm: bool = False,
    output: str | Path | None = None,
    backbone: nn.Module | None = None,
    progress: bool = True,
    resume: bool = False,
    devices: int = 1,
    **settings: Any,
) -> Trained:
    """Train an architecture from scratch, or from the weights of its search, and look at the test part once, at the end.

    Args:
        architecture: what `search` returned, an architecture or its file, the folder of a search, or a name of timm's.
        data: a `Data`, a Lightning data module, a folder of images or a registered name; that of the search by default.
        task: an object, or a registered name; that of the search by default.
        warm: whether to start from the weights that the search left.
        output: the folder to write into; a new one under runs/ by default.
        backbone: the module that was searched, where it is not one of timm's; it is copied.
        resume: continue the unfinished run in `output`.
        devices: how many devices of this machine.
        progress: whether bars are shown.
        settings: of the recipe and the images by the names of the command line: `epochs=100`, `lr=1e-3`, `image_size=64`.

    Returns:
        The network and its scores.

    Raises:
        UserError: for a wrong argument, which the message names; nothing is overwritten.

    Example:
        >>> trained = retrain("resnet10t", "digits", epochs=1, image_size=16, progress=False)  # or found, or "runs/search"
        >>> trained.metric, 0 < trained.test < 1
        ('accuracy', True)
    """
    refuse_bare_loaders(data)
    found, weights, module = open_saved(architecture)
    module = backbone if backbone is not None else module
    if warm and weights is None:
        raise UserError(f"warm needs weights: there is no network.pt beside {str(architecture)!r}")
    recipe, config = replace_flat(settings, Recipe(), data if isinstance(data, DataConfig) else DataConfig())
    if isinstance(data, pl.LightningDataModule):
        refuse_image_settings(settings)
        images = data_for(data, seed=recipe.seed)
    else:
        names = found.data.get("class_names") if warm else None  # whose weights know this order
        images = data_for(chosen_images(found, config, data, settings.keys()), recipe.seed, names)
    folder = Path(output) if output is not None else new_folder(Path("runs"), "retrain")
    return train_architecture(
        found, images, recipe, folder, task=task_for(task, found), weights=weights if warm else None, backbone=module,
        progress=progress, resume=resume, trainer_kwargs={"devices": devices},
    )  # fmt: skip


def evaluate(
    run: Trained | str | Path,
    data: Data | pl.LightningDataModule | DataConfig | str | Path | None = None,
    part: str = "test",
    *,
    task: Task | str | None = None,
    backbone: nn.Module | None = None,
    progress: bool = False,
) -> Evaluation:
    """Measure the score of a trained network again.

    Args:
        run: what `retrain` returned, or its folder.
        data: other data of the same outputs; those of the training by default.
        part: "test" or "validation".
        task: an object, or a registered name; that of the training by default.
        backbone: the module that was searched, where `run` is a folder and it is not one of timm's; it is copied.
        progress: whether a bar is shown.

    Returns:
        The score, the loss and the number of samples.

    Raises:
        UserError: where the folder holds no weights, or the data have other outputs.

    Example:
        >>> trained = retrain("resnet10t", epochs=1, image_size=16, progress=False)
        >>> evaluate(trained).score == trained.test, evaluate(trained.folder, part="validation").samples
        (True, 360)
    """
    if isinstance(run, Trained):
        architecture, network = run.architecture, run.network
    else:
        architecture, weights, _ = open_saved(run)
        if weights is None:
            raise UserError(f"{str(run)!r} holds no network.pt; retrain first")
        network = build(architecture, weights=weights, backbone=copy_of(backbone))
    refuse_bare_loaders(data)
    if not isinstance(data, pl.LightningDataModule | DataConfig):
        data = chosen_images(architecture, DataConfig(), data)
    names = architecture.data.get("class_names")
    images = data_for(data, class_names=names)
    classes, here = architecture.data.get("num_classes"), images.described["num_classes"]
    if here != classes:
        raise UserError(f"data have {here} classes, and the network {classes}; give data of the same classes")
    if names and images.class_names and list(names) != images.class_names:
        raise UserError(f"data must have the network's classes in its order, {listed(names)}; got {listed(images.class_names)}")
    channels = architecture.data.get("in_chans", images.in_chans)
    if images.in_chans != channels:
        raise UserError(f"data have {images.in_chans} channels, and the network takes {channels}; give data like its own")
    task = task_for(task, architecture)
    task.check_data(images)
    return measure(network, images, part, task, progress)


def open_saved(saved: Any, weights: Path | None = None) -> tuple[Architecture, Path | None, nn.Module | None]:
    """Return an architecture, the file of its weights, and the module it stands on, where there are any.

    Args:
        saved: an architecture; what a search or a training returned; a folder or a file of either; or a name that timm knows,
            which is a backbone as it stands.

    Raises:
        UserError: for anything else.
    """
    if isinstance(saved, Architecture):
        return saved, weights, None
    if hasattr(saved, "architecture") and hasattr(saved, "folder"):
        beside = Path(saved.folder) / "network.pt"
        return saved.architecture, weights or (beside if beside.exists() else None), getattr(saved, "backbone", None)
    path = Path(saved)
    if not path.exists():
        if not is_backbone(str(saved)):
            raise UserError(
                "architecture must be architecture.json, the folder of a search or a training, or a name that timm knows; "
                f"there is no {str(saved)!r}{did_you_mean(str(saved), timm.list_models())}"
            )
        return Architecture(str(saved), slots={}, candidates=()), weights, None
    file = path / "architecture.json" if path.is_dir() else path
    beside = file.with_name(file.name.replace("architecture", "network")).with_suffix(".pt")
    return Architecture.load(file), weights or (beside if beside.exists() else None), None


def task_for(task: Task | str | None, architecture: Architecture | None = None) -> Task:
    """Return a task, by its registered name or as it is; that of the architecture where none is given.

    Raises:
        UserError: for an unknown name, and where the architecture was trained for a task that has none.
    """
    if task is None and architecture is not None:
        task = architecture.task
        if task is None:
            raise UserError("task must be given: the search ran on a task of your own, which has no registered name")
        if task not in TASKS and (origin := architecture.origins.get("tasks", {}).get(task)):
            raise UserError(f"task must be given: the search ran on {task!r}, which {origin} adds; install that package")
    if isinstance(task, Task):
        return task
    made = TASKS.get(task or TASKS.default)()
    made.name = task or TASKS.default
    return made


def data_for(data: pl.LightningDataModule | DataConfig, seed: int = 0, class_names: Sequence[str] | None = None) -> Data:
    """Return the loaders of a config, or of data of the user's own, in the order of a seed.

    Args:
        class_names: those of a training, whose labels the images of a config take.

    Raises:
        UserError: where the images cannot be read.
    """
    if isinstance(data, DataConfig):
        return ImageData(data, seed, class_names)
    loaders = copy.copy(data) if isinstance(data, Data) else Data.of(data)
    for part in loaders.parts:
        if loaders.length(part) is None:
            raise UserError(f"{part} must have a length, so that an epoch has an end: give its data set a __len__")
    loaders.seed = seed if loaders.seed is None else loaders.seed
    return loaders


def refuse_bare_loaders(data: object) -> None:
    """Check that data sets and loaders come as `Data`, which says what the three parts are.

    Raises:
        UserError: where they come as they are.
    """
    if isinstance(data, DataLoader | Dataset | Sequence | Mapping) and not isinstance(data, str):
        kind = type(data).__name__
        raise UserError(f"data must be Data(train, validation, test), a name or a folder; got a {kind}: use acmix_nas.Data")


def refuse_image_settings(settings: Collection[str]) -> None:
    """Check that no setting is about images that this package reads, where the user brings data.

    Raises:
        UserError: naming the first that is.
    """
    for name in settings:
        if name in flat_names(DataConfig):
            raise UserError(f"{name} is for images that are read by name; your data have their own settings: leave it out")


def chosen_images(
    architecture: Architecture, config: DataConfig, data: DataConfig | str | Path | None, given: Collection[str] = ()
) -> DataConfig:
    """Return the images that a user means: those of the search, unless they say others.

    Args:
        config: what else to take, such as augmentation and the size of a batch.
        data: a name or a folder; None stands for the images of the search.
        given: settings of the config, by flat name, that the user gave.
    """
    chosen = {setting.path[-1] for name, setting in settings_of(DataConfig).items() if name in given}
    if isinstance(data, DataConfig):
        return config
    if data is not None:
        config, chosen = dataclasses.replace(config, name=str(data)), {*chosen, "name"}
    return data_of(architecture, config, chosen)


def data_of(architecture: Architecture, config: DataConfig | None = None, chosen: Collection[str] = ()) -> DataConfig:
    """Return the images of the search, unless others were chosen.

    Args:
        config: what else to take, such as augmentation and the size of a batch.
        chosen: fields of `config` that stand over what the architecture says.
    """
    fields = {f.name for f in dataclasses.fields(DataConfig)} - set(chosen)
    if "name" in chosen:
        fields -= {"root", "data_seed"}  # they belong to the name
    elif architecture.data.get("own") or not _readable(str(architecture.data.get("name", "digits"))):
        searched = str(architecture.data["name"])
        origin = architecture.origins.get("data", {}).get(searched)
        why = f"which {origin} adds; install that package" if origin else "which cannot be read by name"
        raise UserError(f"data must be given: the search ran on {searched!r}, {why}")
    said = {name: value for name, value in architecture.data.items() if name in fields}
    return dataclasses.replace(config or DataConfig(), **said)


def _readable(name: str) -> bool:
    return name in DATA or Path(name).expanduser().is_dir() or name.partition("/")[0].lower() in ("torch", "hfds")


def sized(architecture: Architecture, image_size: int | tuple[int, int]) -> Architecture:
    """Return an architecture whose backbone is built for images of this side, where timm builds it for one size only."""
    if architecture.backbone is None:
        return architecture
    arguments = for_size(architecture.backbone, architecture.backbone_args, image_size)
    return dataclasses.replace(architecture, backbone_args=arguments)


def check_same(architecture: Architecture, file: Path) -> None:
    """Check that this is the network that a run was begun with: others may have parameters of the same shapes.

    Raises:
        UserError: where it is not.
    """
    begun_with = Architecture.load(file)
    for what in ("backbone", "backbone_args", "slots", "heads"):
        # As JSON, where a tuple is a list.
        ours, theirs = (json.dumps(getattr(one, what), sort_keys=True) for one in (architecture, begun_with))
        if ours != theirs:
            raise UserError(
                f"architecture must be what the run was begun with, {str(file)!r}; its {what} differ: resume with that file, "
                "or train into another folder"
            )


def train_architecture(
    architecture: Architecture,
    data: Data,
    recipe: Recipe,
    folder: Path,
    *,
    task: Task | None = None,
    weights: Path | None = None,
    backbone: nn.Module | None = None,
    backbone_args: Mapping[str, Any] | None = None,
    callbacks: Sequence[pl.Callback] = (),
    progress: bool = True,
    resume: bool = False,
    until: int | None = None,
    trainer_kwargs: Mapping[str, Any] | None = None,
) -> Trained:
    """Train an architecture, or a backbone as it stands; `retrain` with everything made.

    Writes into the folder, beside what `fit` does: architecture.json (with the classes and size of these images), and
    history.csv with α and β by epoch.

    Args:
        weights: a state dict to start from; from scratch by default.
        backbone: the module to build on, where the search ran on one of the user's; it is copied.
        backbone_args: more for timm's `create_model`, such as `drop_path_rate`.
        resume: see `fit`.
        until: pause after so many epochs, see `fit`.

    Raises:
        UserError: as `fit` and `build` do, where the folder holds another architecture, and where another run uses it.
    """
    with alone_in(folder):
        task = task_for(task, architecture)
        task.check_data(data)
        goes_on = begun(folder, resume)
        arguments = {**architecture.backbone_args, **(backbone_args or {})}
        name = task.name
        origins = {
            **architecture.origins,
            "data": DATA.origins([str(data.name)]),
            "tasks": TASKS.origins([name] if name else []),
        }
        architecture = dataclasses.replace(
            architecture, data=data.described, task=name, backbone_args=arguments, origins=origins
        )
        architecture = sized(architecture, data.input_size[1:])
        file = folder / "architecture.json"
        if file.exists():  # of what goes on, or was refused or interrupted before its first checkpoint
            check_same(architecture, file)
        seed_all(recipe.seed)
        made = {} if architecture.backbone is None else task.network_args(data)
        network = build(architecture, weights=weights, backbone=copy_of(backbone), **made)
        if not goes_on:
            architecture.save(file)
        bias = BiasLogger(folder, every=recipe.epochs)
        fitted = fit(
            network, data, recipe, folder, task=task,
            callbacks=[bias, *callbacks], progress=progress, resume=resume, until=until, trainer_kwargs=trainer_kwargs,
        )  # fmt: skip
        return Trained(**vars(fitted), architecture=architecture, network=network, folder=folder)


def copy_of(module: nn.Module | None) -> nn.Module | None:
    """Return a copy of a module."""
    return None if module is None else copy.deepcopy(module)

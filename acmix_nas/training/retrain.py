"""From an architecture file to a trained network, in a folder that every later step can open."""

from __future__ import annotations

import dataclasses
import json
from collections.abc import Collection, Mapping, Sequence
from pathlib import Path
from typing import Any

import pytorch_lightning as pl

from acmix_nas.architecture import Architecture, build
from acmix_nas.bias import BiasLogger
from acmix_nas.slots.backbones import for_size
from acmix_nas.training.classification import Recipe
from acmix_nas.training.data import DataConfig, ImageData
from acmix_nas.training.loop import begun, fit, seed_all
from acmix_nas.util.errors import UserError

__all__ = ["data_of", "retrain", "sized"]


def data_of(architecture: Architecture, config: DataConfig | None = None, chosen: Collection[str] = ()) -> DataConfig:
    """The images of the search, unless others were chosen.

    Args:
        config: what else to take, such as augmentation and the size of a batch.
        chosen: fields of `config` that stand over what the architecture says.
    """
    fields = {f.name for f in dataclasses.fields(DataConfig)} - set(chosen)
    if "name" in chosen:
        fields -= {"root", "data_seed"}  # they belong to the name
    said = {name: value for name, value in architecture.data.items() if name in fields}
    return dataclasses.replace(config or DataConfig(), **said)


def sized(architecture: Architecture, image_size: int) -> Architecture:
    """An architecture whose backbone is built for images of this side, where timm builds it for one size only."""
    if architecture.backbone is None:
        return architecture
    arguments = for_size(architecture.backbone, architecture.backbone_args, image_size)
    return dataclasses.replace(architecture, backbone_args=arguments)


def check_same(architecture: Architecture, file: Path) -> None:
    """Whether this is the network that a run was begun with: others may have parameters of the same shapes.

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


def retrain(
    architecture: Architecture,
    data_config: DataConfig,
    recipe: Recipe,
    folder: Path,
    *,
    weights: Path | None = None,
    backbone_args: Mapping[str, Any] | None = None,
    callbacks: Sequence[pl.Callback] = (),
    progress: bool = True,
    resume: bool = False,
    until: int | None = None,
    trainer_kwargs: Mapping[str, Any] | None = None,
) -> dict[str, Any]:
    """Train an architecture, or a backbone as it stands, and look at the test part once, at the end.

    Writes into the folder, beside what `fit` does: architecture.json (with the classes and size of these images), and
    history.csv with α and β by epoch.

    Args:
        weights: a state dict to start from; from scratch by default.
        resume: as of `fit`.
        until: pause after so many epochs, see `fit`.
        backbone_args: more for timm's `create_model`, such as `drop_path_rate`.

    Raises:
        UserError: as `fit`, `build` and `ImageData` do, and where the folder holds another architecture.
    """
    goes_on = begun(folder, resume)
    data = ImageData(data_config, recipe.seed)
    arguments = {**architecture.backbone_args, **(backbone_args or {})}
    architecture = dataclasses.replace(architecture, data=data.described, backbone_args=arguments)
    architecture = sized(architecture, data.image_size)
    file = folder / "architecture.json"
    if file.exists():  # of what goes on, or was refused or cut off before its first checkpoint
        check_same(architecture, file)
    seed_all(recipe.seed)
    network = build(architecture, weights=weights)
    if not goes_on:
        architecture.save(file)
    bias = BiasLogger(folder, every=recipe.epochs)
    return fit(
        network, data, recipe, folder,
        callbacks=[bias, *callbacks], progress=progress, resume=resume, until=until, trainer_kwargs=trainer_kwargs,
    )  # fmt: skip

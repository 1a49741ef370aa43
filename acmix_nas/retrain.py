"""From an architecture file to a trained network, in a folder that every later step can open."""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import pytorch_lightning as pl

from acmix_nas.architecture import Architecture, build
from acmix_nas.backbone import load_weights
from acmix_nas.bias import BiasLogger
from acmix_nas.data import DataConfig, ImageData
from acmix_nas.train import Recipe, fit, seed_all

__all__ = ["retrain"]


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
    trainer_kwargs: Mapping[str, Any] | None = None,
) -> dict[str, Any]:
    """Train an architecture, and look at the test part once, at the end.

    Writes into the folder, beside what `fit` does: architecture.json (with the classes and size of these images), and
    history.csv with α and β by epoch.

    Args:
        weights: a state dict to start from; from scratch by default.
        backbone_args: more for timm's `create_model`, such as `drop_path_rate`.

    Raises:
        UserError: as `fit`, `build` and `ImageData` do.
    """
    data = ImageData(data_config, recipe.seed)
    images = {"name": data_config.name, "num_classes": data.num_classes, "image_size": data.image_size}
    arguments = {**architecture.backbone_args, **(backbone_args or {})}
    architecture = dataclasses.replace(architecture, data=images, backbone_args=arguments)
    seed_all(recipe.seed)
    network = build(architecture)
    if weights is not None:
        load_weights(network, weights)
    if not (folder / "result.json").exists():
        architecture.save(folder / "architecture.json")
    bias = BiasLogger(folder, every=recipe.epochs)
    return fit(
        network, data, recipe, folder,
        callbacks=[bias, *callbacks], progress=progress, resume=resume, trainer_kwargs=trainer_kwargs,
    )  # fmt: skip

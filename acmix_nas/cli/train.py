"""Commands that train an architecture, and measure what it has learned."""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping
from pathlib import Path
from typing import Annotated, Any

from acmix_nas.cli.options import Given, Inherited, command
from acmix_nas.cli.shared import Devices, Saved, folder_for, opened, out, resumable
from acmix_nas.training.config import DataConfig
from acmix_nas.training.recipe import Recipe
from acmix_nas.util.errors import UserError
from acmix_nas.util.settings import settings_of

SHOWN = ("data", "image_size", "batch_size", "epochs", "lr", "seed")
"""The options of a training that its help shows first."""
SEARCHED = Inherited(("name", "root", "data_seed", "image_size", "crop_pct", "mean", "std"), "that of the search, if any")


@command(shown=(*SHOWN, "backbone_args", "warm", "weights", "devices", "output", "resume"))
def retrain(
    architecture: Saved, /, data: Annotated[DataConfig, SEARCHED], recipe: Recipe, devices: Devices, given: Given, *,
    warm: bool = False, weights: Path | None = None, backbone_args: Mapping[str, Any] = {},
    output: Path | None = None, resume: bool = False,
) -> None:  # fmt: skip
    """Train an architecture, on the images of its search by default. The test part is seen once, at the end.

    Args:
        warm: start from the weights of the search instead of from scratch.
        weights: checkpoint to start from with --warm; by default network.pt beside the architecture.
        backbone_args: more arguments for timm's create_model, as in drop_path_rate=0.1.
        output: folder to write into; by default a new one under runs/.
        resume: continue the unfinished run in --output.
    """
    from acmix_nas.training.loop import first_process
    from acmix_nas.training.retrain import data_of
    from acmix_nas.training.retrain import retrain as run_training

    found, checkpoint = opened(architecture, weights)
    folder = folder_for(output, "retrain", resume)
    if warm and checkpoint is None:
        raise UserError(f"--warm needs weights: there is no network.pt beside {str(architecture)!r}; give --weights")
    chosen = {setting.path[-1] for setting in settings_of(DataConfig).values() if setting.name in given}
    with resumable(folder):
        result = run_training(
            found, data_of(found, data, chosen), recipe, folder, weights=checkpoint if warm else None,
            backbone_args=backbone_args, resume=resume, trainer_kwargs=devices.trainer_kwargs,
        )  # fmt: skip
    if not first_process():
        return
    out.print(
        f"test accuracy {result['test_accuracy']:.2%} (validation {result['val_accuracy']:.2%}) "
        f"after {result['epochs']} epochs in {result['train_seconds']:.0f} s\nwritten to {folder}\n"
        f"next: acmix-nas profile {folder}, acmix-nas export-onnx {folder}, tensorboard --logdir {folder}"
    )


def evaluate(folder: Path, /, *, part: str = "test", data: str | None = None) -> None:
    """Measure the accuracy of a retrained network again.

    Args:
        folder: folder of a retraining.
        part: test or validation.
        data: other images of the same classes; by default those of the training.
    """
    from acmix_nas.architecture import build
    from acmix_nas.training.data import ImageData
    from acmix_nas.training.loop import evaluate as run_evaluation
    from acmix_nas.training.retrain import data_of

    architecture, weights = opened(folder)
    if weights is None:
        raise UserError(f"{str(folder)!r} holds no network.pt; retrain first")
    config = data_of(architecture)
    images = ImageData(dataclasses.replace(config, name=data, data_seed=0) if data else config)
    classes = architecture.data.get("num_classes")
    if images.num_classes != classes:
        raise UserError(f"--data has {images.num_classes} classes, and the network {classes}; give images of the same classes")
    found = run_evaluation(build(architecture, weights=weights), images, part, progress=True)
    out.print(f"{part} accuracy {found['accuracy']:.2%}, loss {found['loss']:.4f}, of {found['images']} images")

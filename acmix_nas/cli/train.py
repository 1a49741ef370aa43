"""Commands that train an architecture, and measure what it has learned."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Annotated, Any

from cyclopts import Parameter

from acmix_nas.cli.options import Given, Inherited, command, with_names
from acmix_nas.cli.shared import Devices, Saved, folder_for, out, resumable
from acmix_nas.training.config import DATA, TASKS, DataConfig
from acmix_nas.training.recipe import Recipe
from acmix_nas.util.errors import UserError

SHOWN = ("data", "image_size", "batch_size", "epochs", "lr", "seed")
"""The options of a training that its help shows first."""
Images = Annotated[
    str | None,
    Parameter(help=with_names("other images of the same classes; by default those of the training", DATA.names())),
]
TaskName = Annotated[
    str | None,
    Parameter(help=with_names("what the network was trained for; by default the task of the training", TASKS.names())),
]
SEARCHED = Inherited(("name", "root", "data_seed", "image_size", "crop_pct", "mean", "std"), "that of the search, if any")


@command(shown=(*SHOWN, "backbone_args", "warm", "weights", "devices", "output", "resume"))
def retrain(
    architecture: Saved, /, data: Annotated[DataConfig, SEARCHED], recipe: Recipe, devices: Devices, given: Given, *,
    task: Annotated[str | None, TASKS] = None, warm: bool = False, weights: Path | None = None,
    backbone_args: Mapping[str, Any] = {},
    output: Path | None = None, resume: bool = False,
) -> None:  # fmt: skip
    """Train an architecture, on the images of its search by default. The test part is seen once, at the end.

    Args:
        task: what the network is trained for; by default the task of the search.
        warm: start from the weights of the search instead of from scratch.
        weights: checkpoint to start from with --warm; by default network.pt beside the architecture.
        backbone_args: more arguments for timm's create_model, as in drop_path_rate=0.1.
        output: folder to write into; by default a new one under runs/.
        resume: continue the unfinished run in --output.
    """
    from acmix_nas.training.loop import first_process
    from acmix_nas.training.retrain import chosen_images, data_for, open_saved, task_for, train_architecture

    found, checkpoint, _ = open_saved(architecture, weights)
    folder = folder_for(output, "retrain", resume)
    if warm and checkpoint is None:
        raise UserError(f"--warm needs weights: there is no network.pt beside {str(architecture)!r}; give --weights")
    names = found.data.get("class_names") if warm else None  # whose weights know this order
    images = data_for(chosen_images(found, data, None, given), recipe.seed, names)
    with resumable(folder):
        trained = train_architecture(
            found, images, recipe, folder, task=task_for(task, found), weights=checkpoint if warm else None,
            backbone_args=backbone_args, resume=resume, trainer_kwargs=devices.trainer_kwargs,
        )  # fmt: skip
    if not first_process():
        return
    test = "" if trained.test is None else f"test {trained.metric} {trained.test:.2%} "
    epochs = "epoch" if trained.epochs == 1 else "epochs"
    out.print(
        f"{test}(validation {trained.validation:.2%}) after {trained.epochs} {epochs} in {trained.seconds:.0f} s\n"
        f"written to {folder}\n"
        f"next: acmix-nas profile {folder}, acmix-nas export-onnx {folder}, tensorboard --logdir {folder}",
        soft_wrap=True,
    )


def evaluate(folder: Path, /, *, part: str = "test", data: Images = None, task: TaskName = None) -> None:
    """Measure the score of a retrained network again.

    Args:
        folder: folder of a retraining.
        part: test or validation.
    """
    from acmix_nas.training.retrain import evaluate as measure
    from acmix_nas.training.retrain import open_saved, task_for

    aim = task_for(task, open_saved(folder)[0])
    found = measure(folder, data, part, task=aim, progress=True)
    out.print(f"{part} {aim.metric} {found.score:.2%}, loss {found.loss:.4f}, of {found.samples} samples")

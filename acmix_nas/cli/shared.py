"""What several commands share: where they write, what they open, on which devices they train."""

from __future__ import annotations

import atexit
import os
from collections.abc import Iterable, Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, ClassVar

from cyclopts import Parameter
from rich.console import Console

from acmix_nas.util.errors import UserError
from acmix_nas.util.files import new_folder
from acmix_nas.util.signals import signals_raise
from acmix_nas.util.terminal import console

if TYPE_CHECKING:
    from rich.table import Table

    from acmix_nas.architecture import Architecture
    from acmix_nas.research.benchmark.spaces import Space

__all__ = [
    "Device", "Devices", "Flag", "Fused", "ImageSize", "Output", "Saved", "Weights", "costs_table", "folder_for", "name_of",
    "out", "resumable", "size_for", "slots_table",
]  # fmt: skip

out = Console(markup=False)  # a folder may have brackets in its name
SAVED = "architecture.json, the folder of a search or retraining that holds one, or a name that timm knows"
CHOSEN = "ACMIX_NAS_OUTPUT"
"""Tells the other processes of a training, which run the same command line, which new folder the first one chose."""

Flag = Annotated[bool, Parameter(negative=(), show_default=False)]
Saved = Annotated[Path, Parameter(help=SAVED)]
Output = Annotated[Path | None, Parameter(help="folder to write into; by default a new one under runs/")]
Weights = Annotated[Path | None, Parameter(help="checkpoint of the weights; by default network.pt beside the architecture")]
Fused = Annotated[
    bool, Parameter(help="take the fastest exact form, measured on this machine", negative=(), show_default=False)
]
ImageSize = Annotated[
    str | None, Parameter(help="side of the images in pixels, or height and width as in 800x1280; by default as searched")
]
Device = Annotated[str | None, Parameter(help="cpu, cuda, …; by default the GPU, where there is one")]


@dataclass(frozen=True)
class Devices:
    """The devices of a training.

    Args:
        devices: how many devices of this machine.
        accelerator: auto, cpu, gpu, …: Lightning's names.
        parallel: how several devices work together, auto, ddp, …: Lightning's strategies.
    """

    PANEL: ClassVar[str] = "devices"

    devices: int = 1
    accelerator: str = "auto"
    parallel: str = "auto"

    @property
    def trainer_kwargs(self) -> dict[str, Any]:
        """Return the arguments of Lightning's Trainer."""
        return {"devices": self.devices, "accelerator": self.accelerator, "strategy": self.parallel}


def folder_for(output: Path | None, name: str, resume: bool = False) -> Path:
    """Return the folder that was asked for, or a new one."""
    if output is not None:
        if output.exists() and not output.is_dir():
            raise UserError(f"--output must be a folder; {str(output)!r} is a file")
        return output
    if resume:
        raise UserError("--resume needs --output, the folder of the unfinished run")
    from acmix_nas.training.loop import first_process

    if first_process():
        folder = new_folder(Path("runs"), name)
        os.environ[CHOSEN] = str(folder)
        atexit.register(remove_if_empty, folder)
    return Path(os.environ[CHOSEN])


@contextmanager
def resumable(folder: Path) -> Iterator[None]:
    """Say how a run goes on that was interrupted by Ctrl-C, SIGTERM or SIGHUP, if there is something to go on from."""
    from acmix_nas.training.loop import first_process

    try:
        with signals_raise():
            yield
    except (KeyboardInterrupt, SystemExit):
        if first_process():
            kept = any(folder.rglob("last.ckpt"))
            goes_on = f"the same command with --resume --output {folder} goes on"
            nothing = f"nothing was kept: there was no checkpoint yet in {folder}"
            console.print(f"interrupted: {goes_on if kept else nothing}", markup=False, soft_wrap=True)
        raise


def remove_if_empty(folder: Path) -> None:
    """Take back a new folder that a mistake left without content."""
    with suppress(OSError):
        folder.rmdir()


def size_for(architectures: Iterable[Architecture], image_size: str | None) -> tuple[int, int, int]:
    """Return (channels, height, width) of the images: of the size given, or else of the first architecture that says one."""
    said = next((architecture.input_size for architecture in architectures if "image_size" in architecture.data), None)
    if image_size is not None:
        sides = [int(side) for side in image_size.split("x") if side.isdigit()]
        if len(sides) != len(image_size.split("x")) or len(sides) not in (1, 2) or min(sides) < 1:
            raise UserError(f"--image-size must be a side in pixels, or height and width as in 800x1280; got {image_size!r}")
        return (said[0] if said else 3, sides[0], sides[-1])
    if said is None:
        raise UserError("--image-size must be given: the architecture does not say on what images it was searched")
    return said


def name_of(path: Path, among: list[Path]) -> str:
    """Return a short name that tells the paths apart; the name of a network of timm's stays."""
    if among.count(path) > 1:
        raise UserError(f"{str(path)!r} is named twice; name it once")
    if not path.exists():
        return str(path)
    folders = [(p if p.is_dir() else p.parent).resolve() for p in among if p.exists()]
    here = (path if path.is_dir() else path.parent).resolve()
    return here.name if [folder.name for folder in folders].count(here.name) == 1 else str(path)


def slots_table(architecture: Architecture) -> Table:
    """Return a table of the slots: the operator, and its probability."""
    from rich.table import Table

    table = Table("slot", "operator", "probability")
    for slot, operator in architecture.slots.items():
        probability = architecture.probabilities.get(slot, {}).get(operator)
        table.add_row(slot, operator, "–" if probability is None else f"{probability:.3f}")
    return table


def costs_table(space: Space) -> Table:
    """Return the least, the middle and the largest of each cost over a space, and its budget."""
    from rich.table import Table

    from acmix_nas.costs.budget import show

    table = Table("cost", "least", "middle", "largest", "budget")
    for name, ends in space.ends().items():
        table.add_row(
            name, *(show(name, value) for value in ends), show(name, space.budget[name]) if name in space.budget else "–"
        )
    table.caption = f"{space.size} architectures of {space.name}"
    return table

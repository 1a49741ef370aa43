"""A folder of images: which file shows which class, and how whatever Pillow opens becomes an image of eight bits."""

from __future__ import annotations

import os
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import NamedTuple

import numpy as np
from PIL import Image, ImageOps
from rich.progress import track
from timm.utils.misc import natural_key
from torch.utils.data import Dataset

from acmix_nas.util.errors import UserError
from acmix_nas.util.terminal import console

__all__ = ["Files", "FolderOfClasses", "check_files", "eight_bits", "find_classes", "say_skipped"]

# Pillow names these formats, and cannot read them by itself: it asks another program (Ghostscript) or nobody.
NOT_READ = ("BUFR", "EPS", "GRIB", "HDF5", "MPEG", "WMF")
NAMED = 5
"""So many files are named where some are left out."""


class FolderOfClasses(NamedTuple):
    """The images of a folder with a folder for each class.

    Attributes:
        paths: of the images, in natural order ("2.png" before "10.png").
        labels: the number of each one's class.
        class_names: the first folders below, in natural order; deeper folders tell no classes apart.
        skipped: files that are no images, and folders without any.
    """

    paths: list[str]
    labels: list[int]
    class_names: list[str]
    skipped: list[str]


class UnreadableImageError(UserError):
    """One line also where a worker process raised it: torch then makes the worker's whole traceback the message."""

    def __init__(self, message: str) -> None:
        super().__init__(message.strip().splitlines()[-1].rpartition("UnreadableImageError: ")[2])


class Files(Dataset[tuple[Image.Image, int]]):
    """Images of files, read when they are asked for: turned as their EXIF orientation says, of eight bits a channel.

    Raises:
        UserError: naming a file that cannot be read.
    """

    def __init__(self, paths: Sequence[str], labels: Sequence[int]) -> None:
        self.paths, self.labels = paths, labels

    def __len__(self) -> int:
        return len(self.paths)

    def __getitem__(self, index: int) -> tuple[Image.Image, int]:
        path = self.paths[index]
        try:
            with Image.open(path) as image:
                return eight_bits(ImageOps.exif_transpose(image)), self.labels[index]
        except (OSError, SyntaxError, ValueError, Image.DecompressionBombError) as error:  # what Pillow raises
            raise UnreadableImageError(f"data: {path!r} must be a readable image ({error}); mend or remove it") from error


def eight_bits(image: Image.Image) -> Image.Image:
    """Return an image of at most eight bits a channel. Deeper ones are scaled from their own least and largest value.

    Pillow's own conversion cuts off whatever is above 255.

    Example:
        >>> deep = Image.fromarray(np.array([[1000, 2000, 5000]], dtype=np.uint16))
        >>> np.asarray(eight_bits(deep)).tolist()
        [[0, 64, 255]]
    """
    if image.mode not in ("I", "F") and not image.mode.startswith("I;16"):
        return image
    values = np.nan_to_num(np.asarray(image, dtype=np.float64), posinf=0.0, neginf=0.0)
    low, high = values.min(), values.max()
    scaled = (values - low) * (255 / (high - low)) if high > low else np.zeros_like(values)
    return Image.fromarray(np.round(scaled).astype(np.uint8))


def find_classes(place: Path) -> FolderOfClasses:
    """Find the images of a folder that holds a folder for each class.

    Raises:
        UserError: where there is no image, or one beside the folders.
    """
    known = _extensions()
    samples: list[tuple[str, str]] = []
    skipped: list[str] = []
    for entry in sorted(place.iterdir(), key=lambda entry: natural_key(entry.name)):
        if entry.name.startswith("."):
            continue
        if entry.is_dir():
            files = list(_files_below(entry))
        elif entry.suffix.lower() in known:
            raise UserError(f"data: {str(place)!r} must hold one folder of images per class; there are images beside them")
        else:
            files = [entry]
        images = [file for file in files if file.suffix.lower() in known]
        samples += [(str(file), entry.name) for file in images]
        skipped += [str(file.relative_to(place)) for file in files if file.suffix.lower() not in known]
        if not files:
            skipped.append(f"{entry.name}/")
    if not samples:
        raise UserError(f"data: {str(place)!r} must hold one folder of images per class; there is no image in it")
    samples.sort(key=lambda sample: natural_key(sample[0]))
    names = sorted({name for _, name in samples}, key=natural_key)
    return FolderOfClasses([path for path, _ in samples], [names.index(name) for _, name in samples], names, skipped)


def _files_below(folder: Path) -> Iterator[Path]:
    seen = set()
    for here, below, files in os.walk(folder, followlinks=True):
        real = Path(here).resolve()
        if real in seen:
            below.clear()  # a link to a folder above itself
            continue
        seen.add(real)
        yield from (Path(here, file) for file in files if not file.startswith("."))


def _extensions() -> set[str]:
    Image.init()
    return {end for end, kind in Image.registered_extensions().items() if kind in Image.OPEN and kind not in NOT_READ}


def check_files(paths: Sequence[str], whole: bool = False) -> None:
    """Check, before anything is trained, that files can be read.

    Args:
        whole: whether all pixels are read, or only what says that they are images.

    Raises:
        UserError: with their number and the first of them.
    """
    files, broken = Files(paths, [0] * len(paths)), []
    looked = track(
        range(len(paths)), "looking at the images", console=console, transient=True, disable=not console.is_terminal
    )  # fmt: skip
    for index in looked:
        try:
            if whole:
                _ = files[index]
            else:
                with Image.open(paths[index]):
                    pass
        except (OSError, SyntaxError, ValueError, Image.DecompressionBombError):
            broken.append(paths[index])
    if broken:
        raise UserError(
            f"data: {broken[0]!r} must be a readable image; {len(broken)} of {len(paths)} files are not: mend or remove them"
        )


def say_skipped(place: Path, skipped: Sequence[str]) -> None:
    """Say which files of a folder are left out, if any."""
    if skipped:
        more = ", …" if len(skipped) > NAMED else ""
        named = ", ".join(skipped[:NAMED])
        console.print(f"data: {len(skipped)} of {str(place)!r} hold no image and are left out: {named}{more}", markup=False)

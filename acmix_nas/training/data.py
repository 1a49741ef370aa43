"""Images in three parts: what the weights train on, what the search and the epochs are judged on, and what is seen last."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pytorch_lightning as pl
import torch
from PIL import Image
from sklearn.datasets import load_digits
from sklearn.model_selection import train_test_split
from timm.data import create_dataset, create_transform
from timm.data.readers.reader_image_folder import find_images_and_targets
from torch.utils.data import DataLoader, Dataset, DistributedSampler, Subset, TensorDataset

from acmix_nas.research.cued import CUED, PARTS, cued_images
from acmix_nas.training.config import DataConfig
from acmix_nas.util.errors import UserError, first_line

__all__ = ["DataConfig", "ImageData"]

# What a part's folder may be called.
FOLDERS = {"train": ("train",), "validation": ("validation", "valid", "val"), "test": ("test",)}
# Digits up to this size are transformed once and kept (about 200 MB at 96 pixels): an epoch then costs milliseconds.
KEPT_SIZE = 96
# What comes with the package's requirements and is small: made and transformed once.
EMBEDDED = ("digits", *CUED)


class ImageData(pl.LightningDataModule):
    """The parts train, validation (the search's) and test of a data set, as loaders of ((B, 3, S, S), (B,)) batches.

    `digits`: scikit-learn's 1,797 images of 8×8 pixels, enlarged; stratified 60/20/20. `cued-digits` and `cued-shapes`: see
    `acmix_nas.research.cued`; their images are 20×20 and are resized to any other size. A folder, or a data set of timm's:
    train, validation and test where it has all three, with labels; where it has train and one other, that other is the
    test part and a stratified fifth of train is the validation part; where it has only classes, stratified 60/20/20. Every
    split is fixed: the seed only shuffles. The order of an epoch depends on (seed, epoch) alone, by a sampler that Lightning
    tells the epoch, so a run continued at an epoch's end sees what an uninterrupted one sees.

    Raises:
        UserError: where the data cannot be read; the message names the file or the folder.
    """

    in_chans = 3

    def __init__(self, config: DataConfig, seed: int = 0) -> None:
        super().__init__()
        self.config, self.seed, self.image_size = config, seed, config.image_size
        sources, self.class_names = _read(config)
        self.num_classes = len(self.class_names)
        if self.num_classes < 2:
            raise UserError(f"data {config.name!r} must have at least two classes; it has only {self.class_names}")
        self.parts: dict[str, Dataset[Any]] = {}
        for part, source in _split(config.name, sources).items():
            augmented = config.augmented and part == "train"
            images = _Transformed(source.images, _transform(config, augmented))
            kept = config.name in EMBEDDED and not augmented and config.image_size <= KEPT_SIZE
            self.parts[part] = _keep(images) if kept else images

    @property
    def described(self) -> dict[str, Any]:
        """What a later step needs in order to read the same images, and the number of their classes."""
        config = self.config
        seeded = {"data_seed": config.data_seed} if config.drawn else {}
        return {
            "name": config.name, "root": config.root, **seeded, "image_size": config.image_size, "crop_pct": config.crop_pct,
            "mean": list(config.mean), "std": list(config.std), "num_classes": self.num_classes,
        }  # fmt: skip

    def train_dataloader(self) -> DataLoader[Any]:
        return self._shuffled("train")

    def search_dataloader(self) -> DataLoader[Any]:
        """The validation part, shuffled as for training: what a search trains its architecture on."""
        return self._shuffled("validation")

    def val_dataloader(self) -> DataLoader[Any]:
        return DataLoader(self.parts["validation"], **self._options())

    def test_dataloader(self) -> DataLoader[Any]:
        return DataLoader(self.parts["test"], **self._options())

    def _shuffled(self, part: str) -> DataLoader[Any]:
        distributed = torch.distributed.is_available() and torch.distributed.is_initialized()
        world = torch.distributed.get_world_size() if distributed else 1
        rank = torch.distributed.get_rank() if distributed else 0
        # The sampler shuffles by seed + epoch: without the factor, seed 1 would repeat the orders of seed 0, one epoch on.
        sampler: DistributedSampler[Any] = DistributedSampler(
            self.parts[part], world, rank, seed=self.seed * 100_003, drop_last=world > 1
        )
        full = len(sampler) > self.config.batch_size
        return _LateLoader(self.parts[part], sampler=sampler, drop_last=full, **self._options())

    def _options(self) -> dict[str, Any]:
        config = self.config
        return {"batch_size": config.batch_size, "num_workers": config.workers, "pin_memory": torch.cuda.is_available()}


class _LateLoader(DataLoader[Any]):
    """Orders its images and starts its workers when the first batch is asked for, not when it is iterated.

    Lightning (2.6) iterates the loaders of a continued run before it tells their samplers the epoch, so that workers would
    be given the order of epoch 0; and their seeds would be drawn before the epoch has been seeded.
    """

    def __iter__(self) -> Iterator[Any]:  # type: ignore[override]
        yield from super().__iter__()


@dataclass(frozen=True)
class _Source:
    """Images, read when asked for as (PIL image, label), and all their labels."""

    images: Any
    labels: Sequence[int]

    def subset(self, indices: Sequence[int]) -> _Source:
        return _Source(Subset(self.images, indices), [self.labels[i] for i in indices])


class _UnreadableImageError(UserError):
    """One line also where a worker process raised it: torch then makes the worker's whole traceback the message."""

    def __init__(self, message: str) -> None:
        super().__init__(message.strip().splitlines()[-1].rpartition("_UnreadableImageError: ")[2])


class _Files(Dataset[tuple[Image.Image, int]]):
    def __init__(self, paths: Sequence[str], labels: Sequence[int]) -> None:
        self.paths, self.labels = paths, labels

    def __len__(self) -> int:
        return len(self.paths)

    def __getitem__(self, index: int) -> tuple[Image.Image, int]:
        path = self.paths[index]
        try:
            with Image.open(path) as image:
                return image.convert("RGB"), self.labels[index]
        except (OSError, SyntaxError, ValueError) as error:  # what Pillow raises for broken files
            raise _UnreadableImageError(f"data: {path!r} must be a readable image ({error}); mend or remove it") from error


class _Transformed(Dataset[tuple[torch.Tensor, int]]):
    def __init__(self, images: Any, transform: Callable[[Image.Image], torch.Tensor]) -> None:
        self.images, self.transform = images, transform

    def __len__(self) -> int:
        return len(self.images)

    def __getitem__(self, index: int) -> tuple[torch.Tensor, int]:
        image, label = self.images[index]
        return self.transform(image.convert("RGB")), int(label)


def _keep(images: _Transformed) -> TensorDataset:
    tensors, labels = zip(*(images[i] for i in range(len(images))), strict=True)
    return TensorDataset(torch.stack(tensors), torch.tensor(labels))


def _transform(config: DataConfig, augmented: bool) -> Callable[[Image.Image], torch.Tensor]:
    """timm's: the shorter side is resized to the image size over crop_pct and the middle is cut out, unless augmented."""
    common: dict[str, Any] = {"interpolation": "bicubic", "mean": config.mean, "std": config.std}
    if not augmented:
        return create_transform(config.image_size, crop_pct=config.crop_pct, **common)
    try:
        # timm takes None for no colour jitter, and does not say so in its types.
        jitter: Any = config.color_jitter or None
        return create_transform(
            config.image_size, is_training=True, hflip=config.hflip, color_jitter=jitter,
            auto_augment=config.auto_augment, re_prob=config.re_prob, re_mode=config.re_mode,
            scale=config.scale or (1.0, 1.0), ratio=None if config.scale else (1.0, 1.0), **common,
        )  # fmt: skip
    except (AssertionError, IndexError, KeyError, TypeError, ValueError) as error:
        # timm checks these with assertions, and not all of them.
        raise UserError(
            f"timm refuses the augmentation auto_augment={config.auto_augment!r}, scale={config.scale}: {error!r}"
        ) from error


def _split(name: str, sources: dict[str, _Source]) -> dict[str, _Source]:
    """The three parts, cut from train where the data set does not bring them."""
    train, held_out = sources["train"], [sources[part] for part in ("validation", "test") if part in sources]
    if len(held_out) == 2:
        return sources
    if held_out:
        test = held_out[0]
        train, validation = _stratified(name, train, 0.2)
    else:
        train, test = _stratified(name, train, 0.2)
        train, validation = _stratified(name, train, 0.25)
    return {"train": train, "validation": validation, "test": test}


def _stratified(name: str, source: _Source, share: float) -> tuple[_Source, _Source]:
    indices = range(len(source.labels))
    try:
        rest, taken = train_test_split(indices, test_size=share, stratify=source.labels, random_state=0)
    except ValueError as error:
        raise UserError(f"data {name!r} has too few images to be split: {error} Add images, or give all the parts") from error
    return source.subset(sorted(rest)), source.subset(sorted(taken))


def _read(config: DataConfig) -> tuple[dict[str, _Source], list[str]]:
    """What the data set brings, by part ("train" always), and the names of its classes."""
    prefix = config.name.partition("/")[0].lower() if "/" in config.name else ""
    if config.name == "digits":
        digits = load_digits()
        labels = digits.target.tolist()
        images = [Image.fromarray(pixels) for pixels in np.round(digits.images * (255 / 16)).astype(np.uint8)]
        return {"train": _Source(list(zip(images, labels, strict=True)), labels)}, [str(n) for n in digits.target_names]
    if config.drawn:
        return {part: _draw(config, part) for part in PARTS}, list(CUED[config.name].classes)
    if config.name == "folder" and config.root is None:
        raise UserError("data 'folder' needs root, the folder of the images; got root=None")
    folder = Path(config.root if config.name == "folder" and config.root else config.name).expanduser()
    if folder.is_dir():
        return _read_folders(folder)
    if prefix in ("torch", "hfds"):
        return _read_timm(config, prefix)
    raise UserError(
        f"data must be 'digits', {', '.join(map(repr, CUED))}, a folder of images, or a data set of timm's that begins with "
        f"torch/ or hfds/; got {str(folder)!r}, and there is no such folder"
    )


def _draw(config: DataConfig, part: str) -> _Source:
    pixels, labels = cued_images(config.name, part, config.data_seed)
    images = [Image.fromarray(canvas) for canvas in pixels]
    return _Source(list(zip(images, labels.tolist(), strict=True)), labels.tolist())


def _read_folders(folder: Path) -> tuple[dict[str, _Source], list[str]]:
    found = {
        part: next(folder / name for name in names if (folder / name).is_dir())
        for part, names in FOLDERS.items()
        if any((folder / name).is_dir() for name in names)
    }
    if found and "train" not in found:
        raise UserError(f"data: {str(folder)!r} has {found.popitem()[1].name}/ and must then have train/ too")
    sources: dict[str, _Source] = {}
    names: list[str] = []
    for part, place in (found or {"train": folder}).items():
        samples, classes = find_images_and_targets(str(place))
        if not samples:
            raise UserError(f"data: {str(place)!r} must hold one folder of images per class; there is no image in it")
        if "" in classes:
            raise UserError(f"data: {str(place)!r} must hold one folder of images per class; there are images beside them")
        here = list(classes)  # in the order of their indices
        names = names or here
        if unknown := sorted(set(here) - set(names)):
            raise UserError(f"data: {str(place)!r} must have no class that train/ lacks; it has {', '.join(unknown)}")
        labels = [names.index(here[index]) for _, index in samples]
        sources[part] = _Source(_Files([path for path, _ in samples], labels), labels)
    return sources, names


def _read_timm(config: DataConfig, prefix: str) -> tuple[dict[str, _Source], list[str]]:
    if prefix == "torch" and config.root is None:
        raise UserError(f"data {config.name!r} needs root, the folder where it lies; got root=None")
    sources: dict[str, _Source] = {}
    names: list[str] = []
    # torchvision's sets have two parts, and timm gives the same for "validation" and "test".
    for part in ("train", "validation") if prefix == "torch" else ("train", "validation", "test"):
        try:
            images = create_dataset(config.name, root=config.root, split=part, download=config.download)
        except (AssertionError, ImportError, OSError, RuntimeError, TypeError, ValueError) as error:
            if part != "train" and isinstance(error, ValueError):
                continue  # Hugging Face's word for a part that the set does not have
            raise UserError(f"data {config.name!r} (root={config.root!r}) could not be opened: {first_line(error)}") from error
        if prefix == "torch":
            labels, classes = getattr(images, "targets", None), getattr(images, "classes", None)
            if labels is None or classes is None:
                raise UserError(f"data {config.name!r} must say its labels and classes; torchvision's does not")
        else:
            labels, classes = images.reader.dataset[images.reader.label_key], list(images.reader.class_to_idx)
        source = _Source(images, [int(label) for label in labels])
        if min(source.labels, default=0) < 0:
            if part == "train":
                raise UserError(f"data {config.name!r} must have labels in its train part; some there are negative, for none")
            continue  # the test part of a competition, whose labels are held back
        sources[part] = source
        names = names or [str(name) for name in classes]
    return sources, names

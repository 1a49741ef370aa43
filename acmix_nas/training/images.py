"""Images in three parts, from a registered data set, a folder, or one of timm's data sets, prepared by timm's transforms."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from PIL import Image
from sklearn.datasets import load_digits
from sklearn.model_selection import train_test_split
from timm.data import create_dataset, create_transform
from torch.utils.data import Dataset, Subset, TensorDataset

from acmix_nas.training.config import DATA, DataConfig
from acmix_nas.training.data import Data
from acmix_nas.training.folders import Files, check_files, find_classes, say_skipped
from acmix_nas.util.errors import UserError, first_line
from acmix_nas.util.terminal import console

__all__ = ["ImageData", "ImageSet", "Reader", "Source", "listed", "register_data"]

# What a part's folder may be called.
FOLDERS = {"train": ("train",), "validation": ("validation", "valid", "val"), "test": ("test",)}
# Small data sets up to this size are transformed once and kept (about 200 MB at 96 pixels): an epoch then costs milliseconds.
KEPT_SIZE = 96
MODES = {1: "L", 3: "RGB", 4: "RGBA"}


@dataclass(frozen=True)
class Source:
    """Images of one part, read when asked for as (PIL image, label), and all their labels."""

    images: Any
    labels: Sequence[int]

    def subset(self, indices: Sequence[int]) -> Source:
        """Return the images of these indices."""
        return Source(Subset(self.images, indices), [self.labels[i] for i in indices])

    def relabelled(self, number: Sequence[int]) -> Source:
        """Return the images with `number[label]` for each label."""
        return Source(_Relabelled(self.images, number), [number[label] for label in self.labels])


@dataclass(frozen=True)
class ImageSet:
    """What a data set brings: its parts ("train" always) and the names of its classes, in the order of the labels."""

    parts: dict[str, Source]
    class_names: list[str]

    def named(self, class_names: Sequence[str], what: str) -> ImageSet:
        """Return the images with the labels that their classes have in this order.

        Raises:
            UserError: where a class is not among these.
        """
        if set(self.class_names) - set(class_names):
            raise UserError(
                f"data {what!r} must have classes of the network, {listed(class_names)}; they have {listed(self.class_names)}"
            )
        number = [class_names.index(name) for name in self.class_names]
        return ImageSet({part: source.relabelled(number) for part, source in self.parts.items()}, list(class_names))


@dataclass(frozen=True)
class Reader:
    """How a data set is read.

    Attributes:
        read: gives the images of a config.
        drawn: whether the config's `data_seed` draws the images.
        small: whether all images fit into memory, transformed.
    """

    read: Callable[[DataConfig], ImageSet]
    drawn: bool = False
    small: bool = False

    @property
    def __wrapped__(self) -> Callable[[DataConfig], ImageSet]:
        """Return the function, by which a registry tells where a data set comes from."""
        return self.read


def register_data(
    name: str, *, drawn: bool = False, small: bool = False
) -> Callable[[Callable[[DataConfig], ImageSet]], Reader]:  # fmt: skip
    """Return a decorator that registers a function from a config to an `ImageSet` as a data set.

    Args:
        name: what the user writes; a name that ends in "/…", such as "torch/cifar10", is looked up by what stands before.
        drawn, small: see `Reader`.

    Raises:
        UserError: where another data set has the name.

    Example:
        >>> @register_data("black")
        ... def read_black(config):
        ...     images = [(Image.new("L", (8, 8)), number % 2) for number in range(20)]
        ...     return ImageSet({"train": Source(images, [label for _, label in images])}, ["even", "odd"])
        >>> ImageData(DataConfig("black", image_size=16)).num_classes
        2
    """

    def keep(read: Callable[[DataConfig], ImageSet]) -> Reader:
        return DATA.register(name)(Reader(read, drawn, small))

    return keep


def reader_of(config: DataConfig) -> Reader:
    """Return how the data set of this name is read.

    Raises:
        UserError: where there is no such data set and no such folder.
    """
    prefix = config.name.partition("/")[0].lower() if "/" in config.name else ""
    if config.name in DATA and config.name not in ("torch", "hfds"):
        return DATA.get(config.name)
    if Path(config.name).expanduser().is_dir():
        return DATA.get("folder")
    if prefix in ("torch", "hfds"):
        return DATA.get(prefix)
    known = ", ".join(repr(name) for name in DATA.names() if name not in ("torch", "hfds", "folder"))
    raise UserError(
        f"data must be {known}, a folder of images, or a data set of timm's that begins with "
        f"torch/ or hfds/; got {str(Path(config.name).expanduser())!r}, and there is no such folder"
    )


class ImageData(Data):
    """Read an image data set in its parts train, validation (the search's) and test, in batches ((B, C, S, S), (B,)).

    `digits` are scikit-learn's 1,797 images of 8×8 pixels, enlarged and split 60/20/20. A folder, or a data set of timm's, has
    train, validation and test where it has all three, with labels; where it has train and one other, that other is the
    test part and a stratified fifth of train is the validation part; where it has only classes, stratified 60/20/20. Every
    split is fixed: the seed only shuffles.

    Args:
        config: which images, and how they are prepared.
        seed: of the order of an epoch.
        class_names: the order of the classes, where it is known from a training; labels follow it by name.

    Raises:
        UserError: where the data cannot be read, which the message names, or have other classes.

    Example:
        >>> data = ImageData(DataConfig("digits", image_size=16))
        >>> data.input_size, data.num_classes
        ((3, 16, 16), 10)
    """

    def __init__(self, config: DataConfig, seed: int = 0, class_names: Sequence[str] | None = None) -> None:
        reader = reader_of(config)
        if config.data_seed and not reader.drawn:
            drawn = ", ".join(name for name in DATA.names() if DATA.get(name).drawn)
            raise UserError(f"data_seed must be 0, or positive with {drawn}; got data_seed={config.data_seed}, {config.name!r}")
        images = reader.read(config)
        if class_names is not None:
            images = images.named(class_names, config.name)
        if len(images.class_names) < 2:
            raise UserError(f"data {config.name!r} must have at least two classes; it has only {images.class_names}")
        parts: dict[str, Any] = {}
        for part, source in _split(config.name, images.parts).items():
            if absent := [name for label, name in enumerate(images.class_names) if label not in set(source.labels)]:
                console.print(f"data: the {part} part of {config.name!r} has no image of {listed(absent)}", markup=False)
            augmented = config.augmented and part == "train"
            transformed = _Transformed(source.images, _transform(config, augmented), MODES[config.in_chans])
            kept = reader.small and not augmented and config.image_size <= KEPT_SIZE
            parts[part] = _keep(transformed) if kept else transformed
        size = (config.in_chans, config.image_size, config.image_size)
        super().__init__(
            **parts, input_size=size, class_names=images.class_names, batch_size=config.batch_size, seed=seed, name=config.name
        )  # fmt: skip
        for loading in self._loading.values():
            loading["num_workers"] = config.workers
        self.config, self.drawn = config, reader.drawn

    @property
    def described(self) -> dict[str, Any]:
        seeded = {"data_seed": self.config.data_seed} if self.drawn else {}
        classes = {"num_classes": self.num_classes, "class_names": self.class_names}
        return {**self.config.described, **seeded, **classes}

    @property
    def settings(self) -> dict[str, Any]:
        return asdict(self.config)


class _Relabelled(Dataset[tuple[Image.Image, int]]):
    def __init__(self, images: Any, number: Sequence[int]) -> None:
        self.images, self.number = images, number

    def __len__(self) -> int:
        return len(self.images)

    def __getitem__(self, index: int) -> tuple[Image.Image, int]:
        image, label = self.images[index]
        return image, self.number[int(label)]


def listed(names: Sequence[str]) -> str:
    """Return names for a message, not more than a line of them."""
    return ", ".join(names[:10]) + (f", … ({len(names)} in all)" if len(names) > 10 else "")


class _Transformed(Dataset[tuple[torch.Tensor, int]]):
    def __init__(self, images: Any, transform: Callable[[Image.Image], torch.Tensor], mode: str) -> None:
        self.images, self.transform, self.mode = images, transform, mode

    def __len__(self) -> int:
        return len(self.images)

    def __getitem__(self, index: int) -> tuple[torch.Tensor, int]:
        image, label = self.images[index]
        return self.transform(image.convert(self.mode)), int(label)


def _keep(images: _Transformed) -> TensorDataset:
    tensors, labels = zip(*(images[i] for i in range(len(images))), strict=True)
    return TensorDataset(torch.stack(tensors), torch.tensor(labels))


def _transform(config: DataConfig, augmented: bool) -> Callable[[Image.Image], torch.Tensor]:
    """Make timm's transform.

    Unless augmented, the shorter side is resized to the image size over crop_pct, and the middle is cut out.
    """
    common: dict[str, Any] = {"interpolation": "bicubic", "mean": config.mean, "std": config.std}
    transform: Callable[[Image.Image], torch.Tensor]
    if not augmented:
        transform = create_transform(config.image_size, crop_pct=config.crop_pct, **common)
        return transform
    try:
        # timm takes None for no colour jitter, and does not say so in its types.
        jitter: Any = config.color_jitter or None
        transform = create_transform(
            config.image_size, is_training=True, hflip=config.hflip, color_jitter=jitter,
            auto_augment=config.auto_augment, re_prob=config.re_prob, re_mode=config.re_mode,
            scale=config.scale or (1.0, 1.0), ratio=None if config.scale else (1.0, 1.0), **common,
        )  # fmt: skip
    except (AssertionError, IndexError, KeyError, TypeError, ValueError) as error:
        # timm checks these with assertions, and not all of them.
        raise UserError(
            f"timm refuses the augmentation auto_augment={config.auto_augment!r}, scale={config.scale}: {error!r}"
        ) from error
    return transform


def _split(name: str, sources: dict[str, Source]) -> dict[str, Source]:
    """Return the three parts, cut from train where the data set does not bring them."""
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


def _stratified(name: str, source: Source, share: float) -> tuple[Source, Source]:
    indices = range(len(source.labels))
    try:
        rest, taken = train_test_split(indices, test_size=share, stratify=source.labels, random_state=0)
    except ValueError as error:
        raise UserError(f"data {name!r} has too few images to be split: {error} Add images, or give all the parts") from error
    return source.subset(sorted(rest)), source.subset(sorted(taken))


@register_data("digits", small=True)
def read_digits(config: DataConfig) -> ImageSet:  # noqa: ARG001  there is but one of them
    """Return scikit-learn's 1,797 digits."""
    digits = load_digits()
    labels = digits.target.tolist()
    images = [Image.fromarray(pixels) for pixels in np.round(digits.images * (255 / 16)).astype(np.uint8)]
    return ImageSet({"train": Source(list(zip(images, labels, strict=True)), labels)}, [str(n) for n in digits.target_names])


@register_data("folder")
def read_folder(config: DataConfig) -> ImageSet:
    """Return the images of a folder: train/, val/ and test/ with a folder per class, or only the folders of the classes."""
    if config.name == "folder" and config.root is None:
        raise UserError("data 'folder' needs root, the folder of the images; got root=None")
    folder = Path(config.root if config.name == "folder" and config.root else config.name).expanduser()
    if not folder.is_dir():
        raise UserError(f"data: there is no folder {str(folder)!r}")
    parts, names = _read_folders(folder)
    check_files([path for source in parts.values() for path in source.images.paths], whole=config.verify)
    return ImageSet(parts, names)


def _read_folders(folder: Path) -> tuple[dict[str, Source], list[str]]:
    found = {
        part: next(folder / name for name in names if (folder / name).is_dir())
        for part, names in FOLDERS.items()
        if any((folder / name).is_dir() for name in names)
    }
    if found and "train" not in found:
        raise UserError(f"data: {str(folder)!r} has {found.popitem()[1].name}/ and must then have train/ too")
    sources: dict[str, Source] = {}
    names: list[str] = []
    for part, place in (found or {"train": folder}).items():
        there = find_classes(place)
        say_skipped(place, there.skipped)
        names = names or there.class_names
        if unknown := [name for name in there.class_names if name not in names]:
            raise UserError(f"data: {str(place)!r} must have no class that train/ lacks; it has {', '.join(unknown)}")
        labels = [names.index(there.class_names[label]) for label in there.labels]
        sources[part] = Source(Files(there.paths, labels), labels)
    return sources, names


@register_data("torch")
def read_torchvision(config: DataConfig) -> ImageSet:
    """Return one of torchvision's data sets, by timm's name for it, "torch/cifar10"."""
    return ImageSet(*_read_timm(config, "torch"))


@register_data("hfds")
def read_hugging_face(config: DataConfig) -> ImageSet:
    """Return one of Hugging Face's data sets, by timm's name for it, "hfds/…"."""
    return ImageSet(*_read_timm(config, "hfds"))


def _read_timm(config: DataConfig, prefix: str) -> tuple[dict[str, Source], list[str]]:
    if prefix == "torch" and config.root is None:
        raise UserError(f"data {config.name!r} needs root, the folder where it lies; got root=None")
    sources: dict[str, Source] = {}
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
        source = Source(images, [int(label) for label in labels])
        if min(source.labels, default=0) < 0:
            if part == "train":
                raise UserError(f"data {config.name!r} must have labels in its train part; some there are negative, for none")
            continue  # the test part of a competition, whose labels are held back
        sources[part] = source
        names = names or [str(name) for name in classes]
    return sources, names

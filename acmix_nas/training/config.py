"""Which images a run uses. Nothing here needs PyTorch, so that the command line can show it at once."""

from __future__ import annotations

import math
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any, ClassVar

from acmix_nas.util.errors import UserError, one_of
from acmix_nas.util.registry import Registry

if TYPE_CHECKING:
    from acmix_nas.training.images import Reader
    from acmix_nas.training.task import Task

__all__ = ["DATA", "TASKS", "DataConfig"]

DATA: Registry[Reader] = Registry("data", "acmix_nas.data", "digits")
TASKS: Registry[type[Task]] = Registry("task", "acmix_nas.tasks", "classification")
CHANNELS = (1, 3, 4)
ERASERS = ("const", "pixel")
AUGMENTATION = {"panel": "augmentation"}
IMAGENET_MEAN, IMAGENET_STD = (0.485, 0.456, 0.406), (0.229, 0.224, 0.225)


@dataclass(frozen=True)
class DataConfig:
    """Say which images are used and how they are prepared. Augmentation has the names of timm's options and is off by default.

    Args:
        name: "digits", a folder of images, a registered data set such as "cued-digits", or one of timm's: "folder",
            "torch/cifar10", "hfds/…".
        root: folder of timm's data sets.
        download: whether torchvision may fetch a "torch/…" data set into that folder.
        data_seed: draws the images of data sets that are drawn, such as "cued-digits"; no other data set has one.
        in_chans: channels of the images, 1 (grey), 3, or 4 (with transparency).
        image_size: side of the square images, in pixels.
        batch_size: images per step and device; batch normalisation needs two.
        workers: processes that load images; 0 loads in the main process.
        verify: whether all pixels of a folder's images are read once before anything is trained, not only what says that they
            are images.
        hflip: probability of a horizontal flip.
        scale: share of the image's area that a random crop keeps, (least, most).
        color_jitter: strength of brightness, contrast and saturation.
        auto_augment: such as "rand-m9-mstd0.5".
        re_prob: probability of random erasing.
        re_mode: what erases, "const" (black) or "pixel" (noise).
        crop_pct: share of the shorter side that is cut out of the middle, where images are not augmented.
        mean: of the channels, from 0 to 1; ImageNet's by default.
        std: of the channels.

    Raises:
        UserError: where a value has no meaning; the message names it.

    Example:
        >>> DataConfig("photos", image_size=64).batch_size
        64
    """

    PANEL: ClassVar[str] = "images"

    name: str = field(default="digits", metadata={"option": "data", "names": DATA})
    root: str | None = field(default=None, metadata={"option": "data_root"})
    download: bool = False
    data_seed: int = 0
    in_chans: int = 3
    image_size: int = 32
    batch_size: int = 64
    workers: int = 0
    verify: bool = False
    hflip: float = field(default=0.0, metadata=AUGMENTATION)
    scale: tuple[float, float] | None = field(default=None, metadata=AUGMENTATION)
    color_jitter: float = field(default=0.0, metadata=AUGMENTATION)
    auto_augment: str | None = field(default=None, metadata=AUGMENTATION)
    re_prob: float = field(default=0.0, metadata=AUGMENTATION)
    re_mode: str = field(default="const", metadata=AUGMENTATION)
    crop_pct: float = 1.0
    mean: tuple[float, ...] = IMAGENET_MEAN
    std: tuple[float, ...] = IMAGENET_STD

    def __post_init__(self) -> None:
        if self.in_chans not in CHANNELS:
            raise one_of("in_chans", self.in_chans, CHANNELS)
        for name in ("scale", "mean", "std"):  # lists, where they come from a file
            if getattr(self, name) is not None:
                object.__setattr__(self, name, tuple(getattr(self, name)))
        if self.in_chans != 3:  # a grey image has the mean of the three, and so has transparency
            for name in ("mean", "std"):
                values = getattr(self, name)
                if len(values) == 3:
                    one = round(sum(values) / 3, 6)
                    object.__setattr__(self, name, (one,) if self.in_chans == 1 else (*values, one))
        for name, number in (("scale", 2), ("mean", self.in_chans), ("std", self.in_chans)):
            values = getattr(self, name)
            if values is not None and len(values) != number:
                raise UserError(f"{name} must have {number} numbers; got {name}={values}")
        for name, least in (("image_size", 8), ("batch_size", 2), ("workers", 0), ("data_seed", 0)):
            if getattr(self, name) < least:
                raise UserError(f"{name} must be at least {least}; got {name}={getattr(self, name)}")
        low, high = self.scale or (1.0, 1.0)
        for name, right, meaning in (
            ("crop_pct", 0 < self.crop_pct <= 1, "positive and at most 1"),
            ("hflip", 0 <= self.hflip <= 1, "from 0 to 1"),
            ("re_prob", 0 <= self.re_prob <= 1, "from 0 to 1"),
            ("color_jitter", 0 <= self.color_jitter <= 1, "from 0 to 1"),
            ("scale", 0 < low <= high <= 1, "two shares of the area, the smaller one first"),
            ("mean", all(map(math.isfinite, self.mean)), "finite numbers"),
            ("std", all(0 < one < math.inf for one in self.std), "positive numbers"),
        ):
            if not right:
                raise UserError(f"{name} must be {meaning}; got {name}={getattr(self, name)}")
        if self.re_mode not in ERASERS:
            raise one_of("re_mode", self.re_mode, ERASERS)

    @property
    def augmented(self) -> bool:
        """Return whether the training images differ from epoch to epoch."""
        return bool(self.hflip or self.scale or self.color_jitter or self.auto_augment or self.re_prob)

    @property
    def described(self) -> dict[str, Any]:
        """Return what a later step needs to read the same images."""
        seeded = {"data_seed": self.data_seed} if self.data_seed else {}
        # Found again from any working folder.
        folder = self.name if self.name in DATA or not Path(self.name).expanduser().is_dir() else _absolute(self.name)
        return {
            "name": folder, "root": self.root and _absolute(self.root), **seeded,
            "in_chans": self.in_chans, "image_size": self.image_size,
            "crop_pct": self.crop_pct, "mean": list(self.mean), "std": list(self.std),
        }  # fmt: skip


def _absolute(folder: str) -> str:
    return str(Path(folder).expanduser().resolve())

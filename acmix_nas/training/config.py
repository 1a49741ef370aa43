"""Which images, and how they are prepared. Nothing here needs PyTorch, so that the command line can show it at once."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import ClassVar

from acmix_nas.util.errors import UserError, one_of

__all__ = ["DataConfig"]

ERASERS = ("const", "pixel")
AUGMENTATION = {"panel": "augmentation"}


@dataclass(frozen=True)
class DataConfig:
    """Which images, and how they are prepared. Augmentation is named as timm's training options and is off by default.

    Args:
        name: "digits", "cued-digits", "cued-shapes", a folder of images, or a timm data set: "folder" (which lies in `root`),
            "torch/cifar10", "hfds/…".
        root: where timm's data sets lie.
        download: whether torchvision may fetch a "torch/…" data set into `root`.
        data_seed: draws the images of "cued-digits" and "cued-shapes"; no other data set has one.
        image_size: side of the square images, in pixels.
        batch_size: images per step and device.
        workers: processes that load images; 0 loads in the main process.
        hflip: probability of a horizontal flip.
        scale: share of the image's area that a random crop keeps, (least, most).
        color_jitter: strength of brightness, contrast and saturation.
        auto_augment: such as "rand-m9-mstd0.5".
        re_prob: probability of random erasing.
        re_mode: what erases, "const" (black) or "pixel" (noise).
        crop_pct: share of the shorter side that is cut out of the middle, where images are not augmented.
        mean: of the channels, from 0 to 1.
        std: of the channels.
    """

    PANEL: ClassVar[str] = "images"

    name: str = field(default="digits", metadata={"option": "data"})
    root: str | None = field(default=None, metadata={"option": "data_root"})
    download: bool = False
    data_seed: int = 0
    image_size: int = 32
    batch_size: int = 64
    workers: int = 0
    hflip: float = field(default=0.0, metadata=AUGMENTATION)
    scale: tuple[float, float] | None = field(default=None, metadata=AUGMENTATION)
    color_jitter: float = field(default=0.0, metadata=AUGMENTATION)
    auto_augment: str | None = field(default=None, metadata=AUGMENTATION)
    re_prob: float = field(default=0.0, metadata=AUGMENTATION)
    re_mode: str = field(default="const", metadata=AUGMENTATION)
    crop_pct: float = 1.0
    mean: tuple[float, float, float] = (0.485, 0.456, 0.406)
    std: tuple[float, float, float] = (0.229, 0.224, 0.225)

    def __post_init__(self) -> None:
        for name in ("scale", "mean", "std"):  # lists, where they come from a file
            if getattr(self, name) is not None:
                object.__setattr__(self, name, tuple(getattr(self, name)))
        for name, values, number in (("scale", self.scale, 2), ("mean", self.mean, 3), ("std", self.std, 3)):
            if values is not None and len(values) != number:
                raise UserError(f"{name} must have {number} numbers; got {name}={values}")
        for what, least in (("image_size", 8), ("batch_size", 1), ("workers", 0)):
            if getattr(self, what) < least:
                raise UserError(f"{what} must be at least {least}; got {what}={getattr(self, what)}")
        if self.data_seed < 0 or (self.data_seed and not self.drawn):
            from acmix_nas.research.cued import CUED

            drawn = " or ".join(CUED)
            raise UserError(f"data_seed must be 0, or positive with {drawn}; got data_seed={self.data_seed}, {self.name!r}")
        if not 0 < self.crop_pct <= 1:
            raise UserError(f"crop_pct must be positive and at most 1; got crop_pct={self.crop_pct}")
        if self.re_mode not in ERASERS:
            raise one_of("re_mode", self.re_mode, ERASERS)

    @property
    def drawn(self) -> bool:
        """Whether the images are drawn by the data seed."""
        from acmix_nas.research.cued import CUED

        return self.name in CUED

    @property
    def augmented(self) -> bool:
        """Whether the training images differ from epoch to epoch."""
        return bool(self.hflip or self.scale or self.color_jitter or self.auto_augment or self.re_prob)

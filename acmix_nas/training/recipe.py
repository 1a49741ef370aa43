"""How a network is trained. Nothing here needs PyTorch, so that the command line can show it at once."""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

from acmix_nas.util.errors import UserError, one_of

__all__ = ["Recipe"]

SCHEDULES = ("cosine", "tanh", "poly", "none")
LARGEST = 1e3
"""A learning rate or a strength above it is a slip of the pen."""
PRECISIONS = ("32-true", "bf16-mixed", "16-mixed")


@dataclass(frozen=True)
class Recipe:
    """Say how a network is trained. The defaults suit a thousand small images.

    Args:
        epochs: how often every training image is seen.
        optimizer: any of timm's names. Weight decay leaves out biases, norms and scalars such as α and β.
        lr: learning rate at its peak.
        weight_decay: as the optimizer understands it.
        momentum: of the optimizers that have one.
        schedule: "cosine", "tanh", "poly" (a straight line) or "none", stepped after every update.
        warmup_epochs: of the epochs, in which the rate rises to `lr`.
        min_lr: where the schedule ends.
        label_smoothing: share of a label that goes to all classes.
        mixup: α of Mixup; 0 is off.
        cutmix: α of CutMix; 0 is off.
        ema_decay: of the average of the weights, which is then evaluated and kept; 0 is off.
        clip_grad: largest norm of the gradient.
        precision: "32-true", "bf16-mixed" or "16-mixed".
        seed: of the weights, the order of the images and their augmentation.

    Raises:
        UserError: where a value has no meaning; the message names it.

    Example:
        >>> Recipe(epochs=30, lr=1e-3).schedule
        'cosine'
    """

    PANEL: ClassVar[str] = "training"

    epochs: int = 12
    optimizer: str = "adamw"
    lr: float = 3e-3
    weight_decay: float = 0.05
    momentum: float = 0.9
    schedule: str = "cosine"
    warmup_epochs: int = 1
    min_lr: float = 1e-5
    label_smoothing: float = 0.1
    mixup: float = 0.0
    cutmix: float = 0.0
    ema_decay: float = 0.0
    clip_grad: float | None = None
    precision: str = "32-true"
    seed: int = 0

    def __post_init__(self) -> None:
        for field, right, meaning in (
            ("epochs", self.epochs >= 1, "at least 1"),
            ("lr", 0 < self.lr <= LARGEST, f"positive and at most {LARGEST:g}"),
            ("weight_decay", 0 <= self.weight_decay <= LARGEST, f"from 0 to {LARGEST:g}"),
            ("warmup_epochs", 0 <= self.warmup_epochs <= self.epochs, f"from 0 to epochs={self.epochs}"),
            ("min_lr", 0 <= self.min_lr <= self.lr, f"from 0 to lr={self.lr}"),
            ("label_smoothing", 0 <= self.label_smoothing < 1, "0 or more and less than 1"),
            ("mixup", 0 <= self.mixup <= LARGEST, f"from 0 to {LARGEST:g}"),
            ("cutmix", 0 <= self.cutmix <= LARGEST, f"from 0 to {LARGEST:g}"),
            ("ema_decay", 0 <= self.ema_decay < 1, "0 or more and less than 1"),
            ("clip_grad", self.clip_grad is None or self.clip_grad > 0, "positive, or None"),
            ("seed", 0 <= self.seed < 2**32, "from 0 to below 2**32"),
        ):
            if not right:
                raise UserError(f"{field} must be {meaning}; got {field}={getattr(self, field)}")
        if self.schedule not in SCHEDULES:
            raise one_of("schedule", self.schedule, SCHEDULES)
        if self.precision not in PRECISIONS:
            raise one_of("precision", self.precision, PRECISIONS)

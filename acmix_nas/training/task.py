"""What a network is trained for: how a batch becomes a loss, how outputs become a score, how predictions are shown."""

from __future__ import annotations

import copy
from abc import ABC, abstractmethod
from collections.abc import Callable, Iterable
from typing import Any, ClassVar, NamedTuple, TypeVar

import torch
from lightning_fabric.utilities.apply_func import move_data_to_device
from timm.data import Mixup
from timm.loss import LabelSmoothingCrossEntropy, SoftTargetCrossEntropy
from torch import Tensor, nn
from torch.nn import functional as F
from typing_extensions import Self

from acmix_nas.training.config import TASKS
from acmix_nas.training.data import Data
from acmix_nas.training.recipe import Recipe
from acmix_nas.util.errors import UserError

__all__ = ["Classification", "Evaluation", "Step", "Task", "register_task"]


class Step(NamedTuple):
    """The loss of a batch, with a gradient, and the score of each of its samples, (B,)."""

    loss: Tensor
    scores: Tensor


class Evaluation(NamedTuple):
    """The score of a part (the larger the better), its mean loss, and how many samples it has."""

    score: float
    loss: float
    samples: int


class Task(ABC):
    """Say what a network is trained for. A task of your own needs `loss` and `scores`; all else has defaults.

    The search, its race, its ranking and `retrain` know a task by these methods only.

    Attributes:
        metric: what the score is called in results: `val_accuracy`, `test_accuracy`.
        name: the registered name that it was made by; None for an object of your own, which may have arguments.
        clear_drop: a fall of the score that no ordinary epoch shows; `Guard` takes it for a collapse.

    Example:
        >>> class Brightness(Task):
        ...     metric = "closeness"
        ...     def loss(self, outputs, batch):
        ...         return ((outputs[:, 0] - batch[1]) ** 2).mean()
        ...     def scores(self, outputs, batch):
        ...         return 1 / (1 + (outputs[:, 0] - batch[1]).abs())
        >>> import torch
        >>> Brightness().scores(torch.zeros(2, 1), (None, torch.tensor([0.0, 1.0])))
        tensor([1.0000, 0.5000])
    """

    metric: ClassVar[str] = "score"
    clear_drop: ClassVar[float] = 0.05
    name: str | None = None

    @property
    def identity(self) -> dict[str, Any]:
        """Return what tells this task from others, for a run that is resumed: its class, and its plain settings."""
        settings = {key: value for key, value in vars(self).items() if key != "name"}
        plain = {key: value for key, value in settings.items() if isinstance(value, bool | int | float | str)}
        return {"task": f"{type(self).__module__}.{type(self).__qualname__}", **plain}

    @abstractmethod
    def loss(self, outputs: Any, batch: Any) -> Tensor:
        """Return the mean loss of a batch, a scalar."""

    @abstractmethod
    def scores(self, outputs: Any, batch: Any) -> Tensor:
        """Return a score for each sample, (B,); the larger the better, from 0 to 1 where `Guard` watches."""

    def inputs(self, batch: Any) -> Any:
        """Return what the network takes of a batch: its first part."""
        return batch[0]

    def prepare(self, recipe: Recipe, data: Data) -> Self:  # noqa: ARG002  for those that have a use for the data
        """Return the task as this recipe trains it.

        Raises:
            UserError: where the recipe asks for what the task cannot do.
        """
        for option in ("mixup", "cutmix"):
            if getattr(recipe, option):
                raise UserError(f"{option} must be 0 with this task, which has no labels to mix; got {getattr(recipe, option)}")
        return self

    def check_outputs(self, outputs: Any, data: Data) -> None:  # noqa: B027  any outputs will do
        """Check the shapes of what a network returns for a batch of these data. By default any will do.

        Args:
            outputs: on the meta device, without values.

        Raises:
            UserError: where they do not suit the task.
        """

    def check_data(self, data: Data) -> None:  # noqa: B027  any data will do
        """Check, before anything is trained, what data say of themselves. By default any will do.

        Raises:
            UserError: where they do not suit the task.
        """

    def network_args(self, data: Data) -> dict[str, Any]:
        """Return what timm's `create_model` takes for these data."""
        channels = {} if data.in_chans == 3 else {"in_chans": data.in_chans}
        return {"num_classes": data.num_classes, **channels}

    def training_step(self, network: nn.Module, batch: Any) -> Step:
        """Return the loss that the weights go down, and the scores, of a training batch."""
        outputs = network(self.inputs(batch))
        return Step(self.loss(outputs, batch), self.scores(outputs, batch))

    def evaluate(self, network: nn.Module, batches: Iterable[Any], device: torch.device) -> Evaluation:
        """Return the score and the loss over all batches; the network is in evaluation mode and on the device."""
        score = loss = 0.0
        samples = 0
        for batch in batches:
            batch = move_data_to_device(batch, device)
            outputs = network(self.inputs(batch))
            outputs = outputs.float() if isinstance(outputs, Tensor) else outputs
            scores = self.scores(outputs, batch)
            score += scores.sum().item()
            loss += self.loss(outputs, batch).item() * len(scores)
            samples += len(scores)
        return Evaluation(score / samples, loss / samples, samples)

    def show(self, outputs: Any, data: Data) -> list[str]:  # noqa: ARG002
        """Return what a network predicts, a line for each sample of a batch of outputs."""
        return [" ".join(f"{value:.3g}" for value in row.flatten().tolist()) for row in outputs]


T = TypeVar("T", bound=type[Task])


def register_task(name: str) -> Callable[[T], T]:
    """Return a decorator that registers a `Task` under a name. By its name, it is made without arguments.

    Args:
        name: how `search`, `retrain` and `--task` ask for it.

    Raises:
        UserError: where another task has the name.

    Example:
        >>> @register_task("top2")
        ... class TopTwo(Classification):
        ...     def scores(self, outputs, batch):
        ...         return (outputs.topk(2).indices == batch[1][:, None]).any(1).float()
        >>> TASKS.get("top2")().metric
        'accuracy'
    """
    return TASKS.register(name)


@register_task("classification")
class Classification(Task):
    """Tell which class an image shows. Batches are (images (B, C, H, W), labels (B,)); outputs are logits (B, classes)."""

    metric = "accuracy"

    def __init__(self) -> None:
        self.criterion: nn.Module = nn.CrossEntropyLoss()
        self.mixup: Mixup | None = None

    def prepare(self, recipe: Recipe, data: Data) -> Self:
        prepared = copy.copy(self)
        prepared.criterion = LabelSmoothingCrossEntropy(recipe.label_smoothing)
        if recipe.mixup or recipe.cutmix:
            prepared.mixup = Mixup(
                recipe.mixup, recipe.cutmix, label_smoothing=recipe.label_smoothing, num_classes=data.num_classes
            )
            prepared.criterion = SoftTargetCrossEntropy()
        return prepared

    def check_outputs(self, outputs: Any, data: Data) -> None:
        shape = tuple(outputs.shape) if isinstance(outputs, Tensor) else type(outputs).__name__
        if not isinstance(outputs, Tensor) or outputs.ndim != 2 or outputs.shape[1] != data.num_classes:
            raise UserError(
                f"backbone must return (batch, {data.num_classes}), a number for each class of the data; it returns {shape}"
            )

    def check_data(self, data: Data) -> None:
        for part in data.parts:
            labels = data.labels(part)
            if labels is None or not len(labels):
                continue
            if labels.is_floating_point() or labels.is_complex():
                raise UserError(f"labels of {part} must be whole numbers; got {labels.dtype}: use .long()")
            least, most = int(labels.min()), int(labels.max())
            if least < 0 or most >= data.num_classes:
                last = data.num_classes - 1
                raise UserError(f"labels of {part} must be from 0 to {last}, as num_classes says; got {least} to {most}")

    def loss(self, outputs: Tensor, batch: Any) -> Tensor:
        return F.cross_entropy(outputs, batch[1])

    def scores(self, outputs: Tensor, batch: Any) -> Tensor:
        correct: Tensor = outputs.argmax(1) == batch[1]
        return correct.float()

    def training_step(self, network: nn.Module, batch: Any) -> Step:
        images, labels = batch
        targets = labels
        if self.mixup is not None:
            even = len(labels) // 2 * 2  # timm mixes pairs
            images, labels = images[:even], labels[:even]
            images, targets = self.mixup(images, labels)
        logits = network(images)
        return Step(self.criterion(logits, targets), self.scores(logits, (images, labels)))

    def show(self, outputs: Tensor, data: Data) -> list[str]:
        probabilities = outputs.softmax(1)
        names = data.class_names or [str(number) for number in range(outputs.shape[1])]
        return [f"{names[int(row.argmax())]} ({row.max():.0%})" for row in probabilities]

"""Data in three parts: what the weights train on, what scores a search and its epochs, and what is seen last."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from typing import Any

import pytorch_lightning as pl
import torch
from torch import Tensor
from torch.utils.data import (
    DataLoader,
    Dataset,
    DistributedSampler,
    IterableDataset,
    RandomSampler,
    SequentialSampler,
    Subset,
    TensorDataset,
)
from typing_extensions import Self

from acmix_nas.util.errors import UserError, one_of

__all__ = ["PARTS", "Data"]

PARTS = ("train", "validation", "test")
PASSED_ON = (
    "batch_size", "num_workers", "collate_fn", "pin_memory", "persistent_workers", "worker_init_fn", "timeout",
    "prefetch_factor", "multiprocessing_context",
)  # fmt: skip
"""What a loader made anew takes over from the one that was given."""

HOOKS = ("on_before_batch_transfer", "transfer_batch_to_device", "on_after_batch_transfer")
"""What a Lightning data module may do with a batch that its loaders do not."""

Part = Dataset[Any] | DataLoader[Any]


class Data(pl.LightningDataModule):
    """Hold the loaders of three parts, the shape of an input, and what the outputs are.

    A batch is whatever the task reads: classification wants (images (B, C, H, W), labels (B,)). A loader of a data set that
    can be indexed is made anew, so that the order of an epoch depends on (seed, epoch) alone: a run that is interrupted and
    resumed sees what an uninterrupted one sees, and several devices share the images.

    Args:
        train: a data set of samples, or a loader of batches.
        validation: likewise; a search trains its architecture and ranks by it.
        test: likewise; seen once, after a training. None where there is none.
        input_size: (channels, height, width) of one input; that of the first sample of `train` by default.
        num_classes: of the outputs; by default the length of the data set's `classes`, where it has them.
        class_names: of the outputs, in order.
        batch_size: of the loaders made from data sets.
        seed: of the order of the training part; that of the recipe by default.
        name: what results call these data.

    Raises:
        UserError: for a part that is neither; when asked for, of an input without a shape, or where the number of classes is
            not known.

    Example:
        >>> import torch
        >>> from torch.utils.data import TensorDataset
        >>> images = TensorDataset(torch.randn(8, 12, 16, 16), torch.arange(8) % 2)
        >>> data = Data(images, images, num_classes=2, batch_size=4)
        >>> data.input_size, len(data.train_dataloader())
        ((12, 16, 16), 2)
    """

    def __init__(
        self,
        train: Part,
        validation: Part,
        test: Part | None = None,
        *,
        input_size: Sequence[int] | None = None,
        num_classes: int | None = None,
        class_names: Sequence[str] | None = None,
        batch_size: int = 64,
        seed: int | None = None,
        name: str = "own data",
    ) -> None:
        super().__init__()
        given = {"train": train, "validation": validation, "test": test}
        self.seed, self.name = seed, name
        self.parts: dict[str, Any] = {}
        self._loading: dict[str, dict[str, Any]] = {}
        self._fixed: dict[str, DataLoader[Any]] = {}
        for part, source in given.items():
            if source is None:
                continue
            if isinstance(source, DataLoader):
                self.parts[part] = source.dataset
                self._loading[part] = {option: getattr(source, option) for option in PASSED_ON}
                ordered = part != "train" and type(source.sampler) is SequentialSampler
                if (
                    source.batch_size is None
                    or isinstance(source.dataset, IterableDataset)
                    or not (ordered or _shuffles(source))
                ):
                    self._fixed[part] = source
            elif hasattr(source, "__getitem__") and hasattr(source, "__len__") and not isinstance(source, IterableDataset):
                self.parts[part] = source
                self._loading[part] = {"batch_size": batch_size, "pin_memory": torch.cuda.is_available()}
            else:
                raise UserError(
                    f"{part} must be a data set with an index and a length, or a DataLoader; got {type(source).__name__}"
                )
            if self.length(part) == 0:
                raise UserError(f"{part} must have samples; it is empty")
        self._input_size = None if input_size is None else tuple(input_size)
        classes = class_names if class_names is not None else getattr(self.parts["train"], "classes", None)
        self.class_names = [str(one) for one in classes] if classes is not None else []
        self._num_classes = num_classes if num_classes is not None else len(self.class_names) or None

    @classmethod
    def of(cls, module: pl.LightningDataModule, **others: Any) -> Self:
        """Return the data of a Lightning data module. Other arguments are those of `Data`.

        Raises:
            UserError: where the module changes batches after its loaders.
        """
        for hook in HOOKS:
            if getattr(type(module), hook) is not getattr(pl.LightningDataModule, hook):
                raise UserError(
                    f"{type(module).__name__}.{hook} would not run; do in the data set or in collate_fn what it does"
                )
        module.prepare_data()
        for stage in ("fit", "test"):
            module.setup(stage)
        test = module.test_dataloader() if type(module).test_dataloader is not pl.LightningDataModule.test_dataloader else None
        others.setdefault("num_classes", getattr(module, "num_classes", None))
        return cls(module.train_dataloader(), module.val_dataloader(), test, **others)

    @property
    def input_size(self) -> tuple[int, int, int]:
        """Return (channels, height, width) of one input."""
        if self._input_size is None:
            shape = getattr(self._first_input(), "shape", None)
            if shape is None or len(shape) != 3:
                raise UserError("input_size must be given, as in input_size=(3, 32, 32): the first sample is no image tensor")
            self._input_size = tuple(shape)
        channels, height, width = self._input_size
        return channels, height, width

    def _first_input(self) -> Any:
        try:
            return next(iter(self._fixed["train"]))[0][0] if "train" in self._fixed else self.parts["train"][0][0]
        except (IndexError, KeyError, TypeError):
            return None  # a sample is no pair of an input and its label

    @property
    def in_chans(self) -> int:
        """Return the channels of an input."""
        return self.input_size[0]

    @property
    def num_classes(self) -> int:
        """Return the number of outputs."""
        if self._num_classes is None:
            raise UserError("num_classes must be given: the training data set does not say its classes")
        return self._num_classes

    @property
    def described(self) -> dict[str, Any]:
        """Return what an architecture file says of these data."""
        channels, height, width = self.input_size
        size = height if height == width else [height, width]
        named = {"class_names": self.class_names} if self.class_names else {}
        return {
            "name": self.name,
            "own": True,
            "in_chans": channels,
            "image_size": size,
            "num_classes": self._num_classes,
            **named,
        }

    @property
    def settings(self) -> Mapping[str, Any]:
        """Return what a training on these data depends on, as its checkpoints keep it."""
        return self.described

    def train_dataloader(self) -> DataLoader[Any]:
        """Return the training part, shuffled."""
        return self._shuffled("train")

    def search_dataloader(self) -> DataLoader[Any]:
        """Return the validation part, shuffled as for training: a search trains its architecture on it."""
        return self._shuffled("validation")

    def val_dataloader(self) -> DataLoader[Any]:
        """Return the validation part, in order."""
        return self._in_order("validation")

    def test_dataloader(self) -> DataLoader[Any]:
        """Return the test part, in order."""
        if "test" not in self.parts:
            raise UserError(f"data {self.name!r} must have a test part; it has {', '.join(self.parts)}")
        return self._in_order("test")

    def length(self, part: str) -> int | None:
        """Return the batches of a loader that is used as it is, or else the samples; None where it does not say."""
        try:
            return len(self._fixed.get(part, self.parts[part]))
        except TypeError:
            return None

    def labels(self, part: str) -> Tensor | None:
        """Return the labels of a part, (samples,), where its data set says them without reading samples; else None."""
        found = _labels_of(self.parts[part])
        return found if found is not None and found.ndim == 1 else None

    def loader(self, part: str) -> DataLoader[Any]:
        """Return the validation or the test part, in order.

        Raises:
            UserError: for another part, or where there is no test part.
        """
        loaders = {"validation": self.val_dataloader, "test": self.test_dataloader}
        if part not in loaders:
            raise one_of("part", part, loaders)
        return loaders[part]()

    def _in_order(self, part: str) -> DataLoader[Any]:
        return self._fixed[part] if part in self._fixed else DataLoader(self.parts[part], **self._loading[part])

    def _shuffled(self, part: str) -> DataLoader[Any]:
        if part in self._fixed:
            return self._fixed[part]
        distributed = torch.distributed.is_available() and torch.distributed.is_initialized()
        world = torch.distributed.get_world_size() if distributed else 1
        rank = torch.distributed.get_rank() if distributed else 0
        # The sampler shuffles by seed + epoch: without the factor, seed 1 would repeat the orders of seed 0, one epoch on.
        sampler: DistributedSampler[Any] = DistributedSampler(
            self.parts[part], world, rank, seed=(self.seed or 0) * 100_003, drop_last=world > 1
        )
        full = len(sampler) > self._loading[part]["batch_size"]
        return _LateLoader(self.parts[part], sampler=sampler, drop_last=full, **self._loading[part])


def _shuffles(loader: DataLoader[Any]) -> bool:
    """Return whether a loader shows all samples in a random order, which another seed may give as well."""
    sampler = loader.sampler
    return type(sampler) is RandomSampler and not sampler.replacement and len(sampler) == len(loader.dataset)  # type: ignore[arg-type]


def _labels_of(source: Any) -> Tensor | None:
    if isinstance(source, Subset):
        whole = _labels_of(source.dataset)
        return None if whole is None else whole[torch.as_tensor(list(source.indices))]
    if isinstance(source, TensorDataset):
        return source.tensors[1] if len(source.tensors) > 1 else None
    said = getattr(source, "targets", getattr(source, "labels", None))
    try:
        return None if said is None else torch.as_tensor(said)
    except (RuntimeError, TypeError, ValueError):
        return None  # they are no numbers


class _LateLoader(DataLoader[Any]):
    """Orders its images and starts its workers when the first batch is asked for, not when it is iterated.

    Lightning (2.6) iterates the loaders of a resumed run before it tells their samplers the epoch, so that workers would
    be given the order of epoch 0; and their seeds would be drawn before the epoch has been seeded.
    """

    def __iter__(self) -> Iterator[Any]:  # type: ignore[override]
        yield from super().__iter__()

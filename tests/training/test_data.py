"""Data of the user's own: data sets, loaders, Lightning data modules."""

from __future__ import annotations

from typing import Any

import pytest
import pytorch_lightning as pl
import torch
from torch.utils.data import DataLoader, IterableDataset, TensorDataset

from acmix_nas.training.data import Data
from acmix_nas.util.errors import UserError


def images(number: int = 10, channels: int = 3, side: int = 8) -> TensorDataset:
    return TensorDataset(torch.randn(number, channels, side, side), torch.arange(number) % 2)


@pytest.mark.parametrize("channels", [1, 3, 12])
def test_the_shape_of_an_input_is_that_of_the_first_sample(channels: int) -> None:
    assert Data(images(channels=channels), images(channels=channels), num_classes=2).input_size == (channels, 8, 8)


def test_loaders_are_made_anew_in_an_order_of_seed_and_epoch() -> None:
    given = DataLoader(images(), batch_size=4, shuffle=True)
    orders = []
    for seed in (0, 0, 1):
        loader: Any = Data(given, images(), num_classes=2, seed=seed).train_dataloader()
        loader.sampler.set_epoch(3)
        orders.append(torch.cat([x[:, 0, 0, 0] for x, _ in loader]))
    assert loader.batch_size == 4
    assert torch.equal(orders[0], orders[1])
    assert not torch.equal(orders[0], orders[2])


def test_a_loader_keeps_its_collation() -> None:
    given = DataLoader(images(), batch_size=5, shuffle=True, collate_fn=lambda samples: {"number": len(samples)})
    assert next(iter(Data(given, images(), input_size=(3, 8, 8), num_classes=2).train_dataloader())) == {"number": 5}


class Stream(IterableDataset[Any]):
    def __iter__(self) -> Any:
        return iter([(torch.zeros(3, 8, 8), 0), (torch.ones(3, 8, 8), 1)])


def test_a_stream_is_taken_as_it_is() -> None:
    given: DataLoader[Any] = DataLoader(Stream(), batch_size=2)
    data = Data(given, images(), num_classes=2)
    assert data.train_dataloader() is given
    assert data.input_size == (3, 8, 8)


class Module(pl.LightningDataModule):
    num_classes = 2

    def train_dataloader(self) -> Any:
        return DataLoader(images(), batch_size=4)

    def val_dataloader(self) -> Any:
        return DataLoader(images(6), batch_size=3)


def test_a_lightning_data_module_is_data() -> None:
    data = Data.of(Module())
    assert (data.num_classes, len(data.val_dataloader()), sorted(data.parts)) == (2, 2, ["train", "validation"])


def test_classes_are_those_of_the_data_set() -> None:
    part = images()
    part.classes = ["cat", "dog"]  # type: ignore[attr-defined]
    data = Data(part, images())
    assert (data.num_classes, data.class_names) == (2, ["cat", "dog"])


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (lambda: Data(3, images()), "train must be a Dataset or a DataLoader; got int"),  # type: ignore[arg-type]  # the mistake
        (lambda: Data(images(), images()).num_classes, "num_classes must be given"),
        (lambda: Data(TensorDataset(torch.zeros(4)), images(), num_classes=2).input_size, "input_size must be given"),
        (lambda: Data(images(), images()).test_dataloader(), "must have a test part; it has train, validation"),
        (lambda: Data(images(), images()).loader("train"), "part must be one of validation, test; got 'train'"),
    ],
)
def test_mistakes_are_named(make: Any, message: str) -> None:
    with pytest.raises(UserError, match=message):
        make()

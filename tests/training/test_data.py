"""Data of the user's own: data sets, loaders, Lightning data modules."""

from __future__ import annotations

from typing import Any

import pytest
import pytorch_lightning as pl
import torch
from torch.utils.data import DataLoader, IterableDataset, RandomSampler, Subset, SubsetRandomSampler, TensorDataset

from acmix_nas.training.data import Data
from acmix_nas.training.retrain import data_for
from acmix_nas.training.task import Classification
from acmix_nas.util.errors import UserError
from tests.small import known


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
        (lambda: Data(3, images()), "train must be a data set with an index and a length, or a DataLoader; got int"),  # type: ignore[arg-type]  # the mistake
        (lambda: Data(images(), images()).num_classes, "num_classes must be given"),
        (lambda: Data(TensorDataset(torch.zeros(4)), images(), num_classes=2).input_size, "input_size must be given"),
        (lambda: Data(images(), images()).test_dataloader(), "must have a test part; it has train, validation"),
        (lambda: Data(images(), images()).loader("train"), "part must be one of validation, test; got 'train'"),
    ],
)
def test_mistakes_are_named(make: Any, message: str) -> None:
    with pytest.raises(UserError, match=message):
        make()


def test_a_loader_keeps_its_own_samples() -> None:
    whole = images(40)
    first, last = SubsetRandomSampler(range(32)), SubsetRandomSampler(range(32, 40))
    data = Data(
        DataLoader(whole, 8, sampler=first), DataLoader(whole, 4, sampler=last),
        DataLoader(whole, 4, sampler=RandomSampler(whole, num_samples=8)), num_classes=2,
    )  # fmt: skip
    assert [sum(len(y) for _, y in loader) for loader in (data.train_dataloader(), data.val_dataloader())] == [32, 8]
    assert sum(len(y) for _, y in data.search_dataloader()) == sum(len(y) for _, y in data.test_dataloader()) == 8


def test_a_loader_that_is_made_anew_keeps_its_options() -> None:
    def begin(number: int) -> None:
        del number

    given = DataLoader(images(), 4, shuffle=True, num_workers=1, worker_init_fn=begin, timeout=7, prefetch_factor=3)
    made = Data(given, images(), num_classes=2).train_dataloader()
    assert (made.worker_init_fn, made.timeout, made.prefetch_factor) == (begin, 7, 3)


def test_a_module_that_changes_batches_is_refused() -> None:
    class Normalised(Module):
        def on_after_batch_transfer(self, batch: Any, dataloader_idx: int) -> Any:
            del dataloader_idx
            return batch

    with pytest.raises(UserError, match=r"Normalised\.on_after_batch_transfer would not run; do in the data set"):
        Data.of(Normalised())


@pytest.mark.parametrize(
    ("labels", "said"),
    [
        (torch.tensor([0, 1, 7]), "labels of train must be from 0 to 1, as num_classes says; got 0 to 7"),
        (torch.tensor([0, -1, 1]), "labels of train must be from 0 to 1, as num_classes says; got -1 to 1"),
        (torch.tensor([0.0, 1.0, 1.0]), r"labels of train must be whole numbers; got torch\.float32: use \.long\(\)"),
    ],
)
def test_labels_that_are_no_classes_are_refused(labels: torch.Tensor, said: str) -> None:
    part = TensorDataset(torch.randn(3, 3, 8, 8), labels)
    with pytest.raises(UserError, match=said):
        Classification().check_data(Data(Subset(part, [0, 1, 2]), images(), num_classes=2))


def test_labels_of_any_data_set_that_says_them_are_known() -> None:
    data = Data(Subset(images(), [2, 0]), images(), num_classes=2)
    assert known(data.labels("train")).tolist() == [int(images()[2][1]), int(images()[0][1])]
    data.parts["train"] = type("Named", (), {"targets": ["cat", "dog"]})()
    assert data.labels("train") is None


def test_samples_that_are_no_pairs_need_a_size() -> None:
    part: Any = [{"image": torch.randn(3, 8, 8), "label": 0}] * 4
    with pytest.raises(UserError, match="input_size must be given"):
        _ = Data(part, part, num_classes=2).input_size
    assert Data(part, part, input_size=(3, 8, 8), num_classes=2).input_size == (3, 8, 8)


def test_an_empty_part_is_refused() -> None:
    with pytest.raises(UserError, match="validation must have samples; it is empty"):
        Data(images(), Subset(images(), []), num_classes=2)


def test_a_stream_without_a_length_cannot_train() -> None:
    with pytest.raises(UserError, match="train must have a length, so that an epoch has an end"):
        data_for(Data(DataLoader(Stream(), batch_size=2), images(), num_classes=2))


def test_the_users_data_stay_as_they_are() -> None:
    data = Data(images(), images(), num_classes=2)
    assert (data_for(data, seed=3).seed, data.seed) == (3, None)
    assert data_for(Data(images(), images(), num_classes=2, seed=5), seed=3).seed == 5

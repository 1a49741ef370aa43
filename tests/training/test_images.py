"""Which images land in which part, in which order, and what a wrong data set is told."""

from __future__ import annotations

from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
import pytorch_lightning as pl
import torch
from PIL import Image
from torch.utils.data import DataLoader, DistributedSampler
from torchvision.datasets import CIFAR10

from acmix_nas.training.config import DataConfig
from acmix_nas.training.images import ImageData
from acmix_nas.util.errors import UserError


def paint(folder: Path, count: int, colour: int, side: int = 12) -> None:
    folder.mkdir(parents=True)
    for number in range(count):
        Image.fromarray(np.full((side, side + 4, 3), colour, dtype=np.uint8)).save(folder / f"{number}.png")


def data_of(folder: Path, **config: Any) -> ImageData:
    return ImageData(DataConfig(name=str(folder), image_size=8, batch_size=4, **config))


def sizes(data: ImageData) -> dict[str, int]:
    return {part: len(images) for part, images in data.parts.items()}


def labels_of(loader: DataLoader[Any]) -> list[int]:
    return [int(label) for _, labels in loader for label in labels]


@pytest.fixture(scope="module")
def digits() -> ImageData:
    return ImageData(DataConfig())


def test_digits_are_split_60_20_20_with_every_class_in_every_part(digits: ImageData) -> None:
    assert sizes(digits) == {"train": 1077, "validation": 360, "test": 360}
    for loader in (digits.val_dataloader(), digits.test_dataloader()):
        counts = np.bincount(labels_of(loader), minlength=10)
        assert counts.min() >= 34
        assert counts.max() <= 38
    assert (digits.num_classes, digits.in_chans, digits.class_names[3]) == (10, 3, "3")


def test_digits_parts_share_no_image(digits: ImageData) -> None:
    seen = [{image.numpy().tobytes() for image, _ in digits.parts[part]} for part in digits.parts]
    assert sum(map(len, seen)) == len(set.union(*seen))
    assert sum(map(len, seen)) > 1790


def test_digits_are_three_channels_of_the_asked_size_and_normalised() -> None:
    images, labels = next(iter(ImageData(DataConfig(image_size=24, mean=(0, 0, 0), std=(1, 1, 1))).val_dataloader()))
    assert images.shape == (64, 3, 24, 24)
    assert labels.dtype == torch.int64
    assert 0 <= images.min() < 0.05
    assert 0.95 < images.max() <= 1


def test_the_split_does_not_depend_on_the_seed() -> None:
    first, second = (ImageData(DataConfig(image_size=8), seed).test_dataloader() for seed in (0, 7))
    assert all(torch.equal(a[0], b[0]) for a, b in zip(first, second, strict=True))


@pytest.mark.parametrize("loader", ["train_dataloader", "search_dataloader"])
def test_order_depends_on_seed_and_epoch_alone(loader: str) -> None:
    def order(seed: int, epoch: int) -> list[int]:
        batches = getattr(ImageData(DataConfig(image_size=8), seed), loader)()
        batches.sampler.set_epoch(epoch)
        torch.rand(epoch + 1)  # what else draws random numbers does not matter
        return labels_of(batches)

    assert order(3, 1) == order(3, 1)
    assert order(3, 1) != order(3, 2)
    assert order(3, 1) != order(4, 0)  # plain seed + epoch would repeat


def test_training_drops_the_last_incomplete_batch_and_evaluation_does_not(digits: ImageData) -> None:
    assert {len(labels) for _, labels in digits.train_dataloader()} == {64}
    assert {len(labels) for _, labels in digits.search_dataloader()} == {64}
    assert len(labels_of(digits.val_dataloader())) == 360


def test_a_training_part_smaller_than_a_batch_is_kept() -> None:
    assert len(labels_of(ImageData(DataConfig(image_size=8, batch_size=2000)).train_dataloader())) == 1077


class Orders(pl.LightningModule):
    """Records what each epoch shows, for plain and for combined loaders."""

    def __init__(self) -> None:
        super().__init__()
        self.automatic_optimization = False
        self.epochs: list[list[int]] = []

    def on_train_epoch_start(self) -> None:
        self.epochs.append([])

    def training_step(self, batch: Any, batch_idx: int) -> None:  # noqa: ARG002
        for part in batch.values():
            self.epochs[-1] += part[1].tolist()

    def configure_optimizers(self) -> None:
        return None


@pytest.mark.filterwarnings("ignore")
def test_lightning_tells_the_samplers_of_combined_loaders_the_epoch() -> None:
    data, module = ImageData(DataConfig(image_size=8, batch_size=256), seed=5), Orders()
    loaders = {"train": data.train_dataloader(), "val": data.search_dataloader()}
    pl.Trainer(
        accelerator="cpu", max_epochs=2, logger=False, enable_checkpointing=False, enable_progress_bar=False,
        enable_model_summary=False,
    ).fit(module, loaders)  # fmt: skip
    train, search = data.train_dataloader(), data.search_dataloader()
    for epoch, seen in enumerate(module.epochs):
        for loader in (train, search):
            assert isinstance(loader.sampler, DistributedSampler)
            loader.sampler.set_epoch(epoch)
        (first,) = list(search)  # the shorter one is cycled
        expected = [label for _, labels in train for label in [*labels.tolist(), *first[1].tolist()]]
        assert seen == expected
    assert module.epochs[0] != module.epochs[1]


def test_augmentation_changes_training_images_only() -> None:
    data = ImageData(DataConfig(hflip=0.5, scale=(0.5, 1.0), auto_augment="rand-m9-mstd0.5", re_prob=0.5))
    images: Any = data.parts["train"]
    assert not torch.equal(images[0][0], images[0][0])
    assert torch.equal(data.parts["validation"][0][0], ImageData(DataConfig()).parts["validation"][0][0])


@pytest.mark.parametrize("mode", ["const", "pixel"])
def test_what_is_erased_becomes_black_or_noise(mode: str) -> None:
    erased: Any = ImageData(DataConfig(re_prob=1.0, re_mode=mode, image_size=33)).parts["train"]
    plain: Any = ImageData(DataConfig(image_size=33)).parts["train"]
    image, original = erased[0][0], plain[0][0]
    values = image[image != original].unique()
    assert len(values) > 0
    assert (len(values) == 1) == (mode == "const")


def test_the_middle_of_an_image_is_cut_out(tmp_path: Path) -> None:
    framed = Image.new("RGB", (64, 64), (255, 255, 255))
    framed.paste(Image.new("RGB", (44, 44)), (10, 10))
    for name in ("cat", "dog"):
        (tmp_path / name).mkdir()
        for i in range(5):
            framed.save(tmp_path / name / f"{i}.png")
    whole, middle = (
        ImageData(DataConfig(str(tmp_path), image_size=24, crop_pct=crop_pct)).parts["test"][0][0] for crop_pct in (1.0, 0.6)
    )
    assert whole.max() > 2  # the white frame
    assert middle.max() < 0


def test_a_later_step_reads_the_same_images() -> None:
    config = DataConfig(image_size=24, crop_pct=0.9, mean=(0, 0, 0), std=(1, 1, 1))
    described = ImageData(config).described
    classes = ("num_classes", "class_names")
    assert DataConfig(**{name: value for name, value in described.items() if name not in classes}) == config


def test_a_flip_alone_does_not_crop() -> None:
    flipped: Any = ImageData(DataConfig(hflip=1.0)).parts["train"]
    plain: Any = ImageData(DataConfig()).parts["train"]
    torch.testing.assert_close(flipped[0][0].flip(-1), plain[0][0])


@pytest.mark.parametrize("name", ["validation", "valid", "val"])
def test_a_folder_with_three_parts_is_taken_as_it_is(tmp_path: Path, name: str) -> None:
    for part, count in (("train", 3), (name, 2), ("test", 1)):
        paint(tmp_path / part / "cat", count, 0)
        paint(tmp_path / part / "dog", count, 255)
    data = data_of(tmp_path)
    assert sizes(data) == {"train": 6, "validation": 4, "test": 2}
    assert data.class_names == ["cat", "dog"]
    assert [float(image.mean()) > 0 for image, _ in data.parts["test"]] == [False, True]


@pytest.mark.parametrize("other", ["val", "test"])
def test_with_one_part_beside_train_that_is_the_test_part(tmp_path: Path, other: str) -> None:
    for part, count in (("train", 10), (other, 3)):
        paint(tmp_path / part / "cat", count, 0)
        paint(tmp_path / part / "dog", count, 255)
    data = data_of(tmp_path)
    assert sizes(data) == {"train": 16, "validation": 4, "test": 6}
    assert sorted(labels_of(data.val_dataloader())) == [0, 0, 1, 1]


def test_a_folder_of_classes_is_split_60_20_20(tmp_path: Path) -> None:
    paint(tmp_path / "cat", 5, 0)
    paint(tmp_path / "dog", 5, 255)
    assert sizes(ImageData(DataConfig(name="folder", root=str(tmp_path)))) == {"train": 6, "validation": 2, "test": 2}


def test_labels_follow_the_classes_of_train_where_another_part_lacks_one(tmp_path: Path) -> None:
    for name in ("ant", "bee", "cow"):
        paint(tmp_path / "train" / name, 5, 0)
    paint(tmp_path / "test" / "cow", 2, 0)
    assert labels_of(data_of(tmp_path).test_dataloader()) == [2, 2]


def test_timm_opens_torchvision_data(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def stub(self: Any, root: str, train: bool, download: bool) -> None:
        assert (root, download) == (str(tmp_path), False)
        self.targets, self.classes = [0, 1] * (10 if train else 3), ["cat", "dog"]
        self.data = np.zeros((len(self.targets), 32, 32, 3), dtype=np.uint8)
        self.transform = self.target_transform = None

    monkeypatch.setattr(CIFAR10, "__init__", stub)
    data = ImageData(DataConfig("torch/cifar10", root=str(tmp_path)))
    assert sizes(data) == {"train": 16, "validation": 4, "test": 6}
    assert next(iter(data.test_dataloader()))[0].shape == (6, 3, 32, 32)


class Pets(list[Any]):
    """What timm gives of a part of a Hugging Face data set of 60 + 20 + 20 images; −1 is no label."""

    def __init__(self, part: str, unlabelled: str) -> None:
        super().__init__([None] * (60 if part == "train" else 20))
        labels = [-1 if part == unlabelled else index % 2 for index in range(len(self))]
        self.reader = SimpleNamespace(dataset={"label": labels}, label_key="label", class_to_idx={"cat": 0, "dog": 1})


def test_a_part_without_labels_is_left_out(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("acmix_nas.training.images.create_dataset", lambda *_, split, **__: Pets(split, unlabelled="test"))
    assert sizes(ImageData(DataConfig("hfds/someone/pets"))) == {"train": 48, "validation": 12, "test": 20}


def test_labels_are_needed_for_training(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("acmix_nas.training.images.create_dataset", lambda *_, split, **__: Pets(split, unlabelled="train"))
    with pytest.raises(UserError, match="must have labels in its train part"):
        ImageData(DataConfig("hfds/someone/pets"))


@pytest.mark.parametrize(
    ("config", "words"),
    [
        ({"name": "nonsense"}, "'digits', 'cued-digits', 'cued-shapes', a folder .*got 'nonsense'"),
        ({"name": "/no/such/folder"}, "got '/no/such/folder', and there is no such folder"),
        ({"name": "folder"}, "needs root"),
        ({"name": "torch/cifar10"}, "needs root"),
        ({"name": "torch/cifar10", "root": "/no/such"}, "'/no/such'.*not found"),
        ({"name": "torch/nonsense", "root": "/no/such"}, "torch/nonsense"),
        ({"image_size": 7}, "image_size must be at least 8; got image_size=7"),
        ({"crop_pct": 1.2}, "crop_pct must be positive and at most 1; got crop_pct=1.2"),
        ({"re_mode": "black"}, "re_mode must be one of const, pixel; got 'black'"),
        ({"batch_size": 1}, "batch_size must be at least 2; got batch_size=1"),
        ({"hflip": 1e308}, "hflip must be from 0 to 1; got hflip=1e\\+308"),
        ({"re_prob": -0.1}, "re_prob must be from 0 to 1"),
        ({"scale": (0.9, 0.1)}, "scale must be two shares of the area, the smaller one first; got scale="),
        ({"color_jitter": float("nan")}, "color_jitter must be from 0 to 1; got color_jitter=nan"),
        ({"mean": (0.0, float("inf"), 0.0)}, "mean must be finite numbers"),
        ({"std": (1.0, 0.0, 1.0)}, "std must be positive numbers"),
        ({"auto_augment": "nonsense"}, "auto_augment='nonsense'"),
    ],
)
def test_wrong_settings_are_one_line(config: dict[str, Any], words: str) -> None:
    with pytest.raises(UserError, match=words) as caught:
        ImageData(DataConfig(**config))
    assert "\n" not in str(caught.value)


def test_wrong_folders_are_one_line(tmp_path: Path) -> None:
    def refused(name: str, words: str) -> None:
        with pytest.raises(UserError, match=words) as caught:
            data_of(tmp_path / name)
        assert "\n" not in str(caught.value)

    (tmp_path / "empty").mkdir()
    refused("empty", "empty.*there is no image in it")
    paint(tmp_path / "single" / "cat", 5, 0)
    refused("single", "at least two classes.*cat")
    paint(tmp_path / "flat", 5, 0)
    refused("flat", "images beside them")
    paint(tmp_path / "few" / "cat", 1, 0)
    paint(tmp_path / "few" / "dog", 1, 0)
    refused("few", "too few images")
    paint(tmp_path / "headless" / "val" / "cat", 1, 0)
    refused("headless", "val/ and must then have train/")
    paint(tmp_path / "stranger" / "train" / "cat", 5, 0)
    paint(tmp_path / "stranger" / "train" / "dog", 5, 0)
    paint(tmp_path / "stranger" / "val" / "cow", 1, 0)
    refused("stranger", "train/ lacks; it has cow")


@pytest.mark.parametrize("workers", [0, 1])
def test_an_unreadable_image_is_named_in_one_line(tmp_path: Path, workers: int) -> None:
    for part in ("train", "val", "test"):
        paint(tmp_path / part / "cat", 1, 0)
        paint(tmp_path / part / "dog", 1, 0)
    broken = tmp_path / "test" / "dog" / "0.png"
    Image.fromarray(np.random.default_rng(0).integers(0, 256, (32, 32), dtype=np.uint8)).save(broken)
    broken.write_bytes(broken.read_bytes()[:600])  # its head says that it is an image
    with pytest.raises(UserError, match=r"^data: '.*test/dog/0\.png' must be a readable image") as caught:
        list(data_of(tmp_path, workers=workers).test_dataloader())
    assert "\n" not in str(caught.value)

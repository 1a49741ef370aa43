"""A training takes the images of the search unless others are chosen, and backbones as they stand at any size."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import pytest
import pytorch_lightning as pl
import torch
from torch import nn
from torch.utils.data import DataLoader, TensorDataset

from acmix_nas.architecture import Architecture, build
from acmix_nas.training.config import DataConfig
from acmix_nas.training.data import Data
from acmix_nas.training.images import ImageData
from acmix_nas.training.recipe import Recipe
from acmix_nas.training.retrain import Trained, data_of, evaluate, retrain, sized, task_for, train_architecture
from acmix_nas.training.task import Classification
from acmix_nas.util.errors import UserError
from tests.small import SLOTS

DATA = DataConfig(image_size=16, batch_size=256)
SEARCHED = Architecture("resnet14t", {}, (), data={"name": "folder", "root": "photos", "image_size": 48, "num_classes": 3})


def test_images_are_those_of_the_search() -> None:
    assert data_of(SEARCHED, DataConfig(batch_size=7)) == DataConfig("folder", root="photos", image_size=48, batch_size=7)


def test_images_that_are_chosen_stand_over_those_of_the_search() -> None:
    assert data_of(SEARCHED, DataConfig("digits"), ["name"]) == DataConfig("digits", image_size=48)


class Nameless(Classification):
    """A task that is registered under no name."""


def test_the_task_is_that_of_the_search(tmp_path: Path) -> None:
    trained = one_epoch(tmp_path, task=Nameless())
    assert Architecture.load(tmp_path / "architecture.json").task is None
    assert task_for(None, one_epoch(tmp_path / "named").architecture).metric == "accuracy"
    with pytest.raises(UserError, match="task must be given: the search ran on a task of your own"):
        evaluate(trained)
    assert evaluate(trained, task=Nameless()).score == trained.test


def test_a_task_of_another_package_is_asked_for() -> None:
    architecture = Architecture("resnet14t", {}, (), task="depth", origins={"tasks": {"depth": "depths 2.1"}})
    with pytest.raises(UserError, match=r"the search ran on 'depth', which depths 2\.1 adds; install that package"):
        task_for(None, architecture)
    with pytest.raises(UserError, match="task must be one of classification"):
        task_for(None, Architecture("resnet14t", {}, (), task="depth"))


@pytest.mark.parametrize(
    ("backbone", "image_size", "expected"),
    [
        ("vit_tiny_patch16_224", 64, {"depth": 1, "img_size": 64}),
        ("vit_tiny_patch16_224", 224, {"depth": 1}),
        ("resnet18", 64, {"depth": 1}),
    ],
)
def test_what_is_built_for_one_size_is_told_the_size(backbone: str, image_size: int, expected: dict[str, int]) -> None:
    assert sized(Architecture(backbone, {}, (), {"depth": 1}), image_size).backbone_args == expected


def test_a_searched_architecture_is_told_the_size_of_other_images() -> None:
    architecture = Architecture("vit_tiny_patch16_224", {"blocks.0.attn": "global"}, ("global",), {"img_size": 32})
    assert sized(architecture, 64).backbone_args == {"img_size": 64}
    assert sized(architecture, 32) == architecture


def test_a_backbone_as_it_stands_is_trained_and_built_again(tmp_path: Path) -> None:
    architecture = Architecture("resnet10t", {}, (), {"channels": [8, 8, 16, 16]})
    data = ImageData(DataConfig(image_size=16, batch_size=256))
    result = train_architecture(
        architecture, data, Recipe(epochs=1), tmp_path, backbone_args={"drop_path_rate": 0.1}, progress=False
    )
    assert 0 <= (result.test or 0) <= 1
    saved = Architecture.load(tmp_path / "architecture.json")
    assert saved.backbone_args == {"channels": [8, 8, 16, 16], "drop_path_rate": 0.1}
    assert saved.data["num_classes"] == 10
    build(saved, weights=tmp_path / "network.pt")
    assert not (tmp_path / "history.csv").exists()  # without ACmix there is no leaning


def one_epoch(folder: Path, channels: Sequence[int] = (8, 8, 16, 16), operator: str | None = None, **options: Any) -> Trained:
    architecture = Architecture("resnet10t", {}, (), {"channels": channels})
    if operator is not None:
        architecture = Architecture(
            "resnet14t", dict.fromkeys(SLOTS, operator), ("local", "global"), {"channels": channels}, ("layer*",)
        )
    return train_architecture(architecture, ImageData(DATA), Recipe(epochs=1), folder, progress=False, **options)


class Interrupt(pl.Callback):
    """Ctrl-C in the first epoch, or as the last one ends."""

    def __init__(self, begun: bool) -> None:
        self.begun = begun

    def on_train_batch_start(self, *_: Any) -> None:
        if not self.begun:
            raise KeyboardInterrupt

    def on_train_end(self, *_: Any) -> None:
        raise KeyboardInterrupt


@pytest.mark.parametrize("resume", [False, True])
def test_what_is_refused_leaves_the_architecture_of_the_unfinished_run(resume: bool, tmp_path: Path) -> None:
    with pytest.raises(KeyboardInterrupt):
        one_epoch(tmp_path, callbacks=[Interrupt(begun=True)])
    before = (tmp_path / "architecture.json").read_text()
    with pytest.raises(UserError, match="its backbone_args differ" if resume else "holds an unfinished run"):
        one_epoch(tmp_path, channels=(8, 8, 8, 8), resume=resume)
    assert (tmp_path / "architecture.json").read_text() == before


@pytest.mark.parametrize("resume", [False, True])
@pytest.mark.parametrize(("name", "said"), [("architecture.json", "is not JSON"), ("network.pt", "exists already")])
def test_what_an_export_left_in_the_folder_is_not_overwritten(name: str, said: str, resume: bool, tmp_path: Path) -> None:
    (tmp_path / name).write_text("precious")
    with pytest.raises(UserError, match=f"{name}' {said}"):
        one_epoch(tmp_path, resume=resume)
    assert [(path.name, path.read_text()) for path in tmp_path.iterdir()] == [(name, "precious")]


def test_another_architecture_than_the_folders_is_refused(tmp_path: Path) -> None:
    kept = Architecture("resnet10t", {}, (), {"channels": [8, 8, 8, 8]}).save(tmp_path / "architecture.json").read_text()
    with pytest.raises(UserError, match="its backbone_args differ"):
        one_epoch(tmp_path)
    assert (tmp_path / "architecture.json").read_text() == kept


@pytest.mark.parametrize("resume", [False, True])
def test_a_run_cut_off_before_its_first_checkpoint_begins_anew(resume: bool, tmp_path: Path) -> None:
    with pytest.raises(KeyboardInterrupt):
        one_epoch(tmp_path, callbacks=[Interrupt(begun=False)])
    assert (tmp_path / "architecture.json").exists()
    assert one_epoch(tmp_path, resume=resume).epochs == 1


def test_only_the_same_network_is_resumed_even_where_shapes_agree(tmp_path: Path) -> None:
    with pytest.raises(KeyboardInterrupt):
        one_epoch(tmp_path, operator="local", callbacks=[Interrupt(begun=True)])
    with pytest.raises(UserError, match="its slots differ"):
        one_epoch(tmp_path, operator="global", resume=True)
    assert one_epoch(tmp_path, operator="local", resume=True).epochs == 1


def test_loaders_alone_are_told_to_come_as_data() -> None:
    part = TensorDataset(torch.zeros(2, 3, 8, 8), torch.tensor([0, 1]))
    for bare in (part, DataLoader(part)):
        with pytest.raises(UserError, match=r"use acmix_nas\.Data"):
            retrain("resnet18", bare)  # type: ignore[arg-type]


def test_a_module_of_ones_own_is_evaluated_from_its_folder(tmp_path: Path) -> None:
    torch.manual_seed(0)
    part = TensorDataset(torch.randn(8, 4, 8, 8), torch.arange(8) % 2)
    data = Data(part, part, part, num_classes=2, batch_size=4)
    net = nn.Sequential(nn.Conv2d(4, 8, 3, padding=1), nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(8, 2))
    slots = {"0": "local"}
    architecture = Architecture(None, slots, ("local",), pattern=("*",), data={"num_classes": 2})
    trained = retrain(architecture, data, backbone=net, epochs=1, output=tmp_path / "run", progress=False)
    assert evaluate(tmp_path / "run", data, backbone=net).score == trained.test


def own(channels: int = 3, classes: int = 5, name: str = "own data") -> Data:
    part = TensorDataset(torch.randn(10, channels, 16, 16), torch.arange(10) % classes)
    return Data(part, part, part, num_classes=classes, batch_size=5, name=name)


def test_data_of_ones_own_are_not_those_of_that_name(tmp_path: Path) -> None:
    module = nn.Sequential(nn.Conv2d(3, 4, 3), nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(4, 5))
    architecture = Architecture(None, {}, ())
    trained = retrain(architecture, own(name="digits"), backbone=module, epochs=1, output=tmp_path / "run", progress=False)
    with pytest.raises(UserError, match="data must be given: the search ran on 'digits'"):
        evaluate(trained)
    with pytest.raises(UserError, match="data have 1 channels, and the network takes 3; give data like its own"):
        evaluate(trained, own(channels=1))
    assert evaluate(trained, own()).samples == 10


class Aimed(Classification):
    """A task with an argument."""

    def __init__(self, aim: float) -> None:
        super().__init__()
        self.aim = aim


def test_a_task_with_arguments_is_asked_for_and_resumed_only_as_it_was(tmp_path: Path) -> None:
    with pytest.raises(KeyboardInterrupt):
        one_epoch(tmp_path, task=Aimed(5.0), callbacks=[Interrupt(begun=True)])
    assert (tmp_path / "checkpoints" / "last.ckpt").exists()
    with pytest.raises(UserError, match="task"):
        one_epoch(tmp_path, task=Aimed(-3.0), resume=True)
    assert one_epoch(tmp_path, task=Aimed(5.0), resume=True).architecture.task is None

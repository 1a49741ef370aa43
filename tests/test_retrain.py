"""A training takes the images of the search unless others are chosen, and backbones as they stand at any size."""

from __future__ import annotations

from pathlib import Path

import pytest

from acmix_nas.architecture import Architecture, build
from acmix_nas.classification import Recipe
from acmix_nas.data import DataConfig
from acmix_nas.retrain import data_of, retrain, sized

SEARCHED = Architecture("resnet14t", {}, (), data={"name": "folder", "root": "photos", "image_size": 48, "num_classes": 3})


def test_images_are_those_of_the_search() -> None:
    assert data_of(SEARCHED, DataConfig(batch_size=7)) == DataConfig("folder", root="photos", image_size=48, batch_size=7)


def test_images_that_are_chosen_stand_over_those_of_the_search() -> None:
    assert data_of(SEARCHED, DataConfig("digits"), ["name"]) == DataConfig("digits", image_size=48)


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


def test_a_size_that_was_said_stays() -> None:
    architecture = Architecture("vit_tiny_patch16_224", {}, (), {"img_size": 32})
    assert sized(architecture, 64) is architecture


def test_a_searched_architecture_is_left_as_it_is() -> None:
    architecture = Architecture("vit_tiny_patch16_224", {"blocks.0.attn": "global"}, ("global",))
    assert sized(architecture, 64) is architecture


def test_a_backbone_as_it_stands_is_trained_and_built_again(tmp_path: Path) -> None:
    architecture = Architecture("resnet10t", {}, (), {"channels": [8, 8, 16, 16]})
    data = DataConfig(image_size=16, batch_size=256)
    result = retrain(architecture, data, Recipe(epochs=1), tmp_path, backbone_args={"drop_path_rate": 0.1}, progress=False)
    assert 0 <= result["test_accuracy"] <= 1
    saved = Architecture.load(tmp_path / "architecture.json")
    assert saved.backbone_args == {"channels": [8, 8, 16, 16], "drop_path_rate": 0.1}
    assert saved.data["num_classes"] == 10
    build(saved, weights=tmp_path / "network.pt")
    assert not (tmp_path / "history.csv").exists()  # without ACmix there is no leaning

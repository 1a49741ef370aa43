"""The demo: its references, its trainings, and what it says of bad input. `test_readme` runs the whole of it."""

from __future__ import annotations

from pathlib import Path

import pytest

from acmix_nas.architecture import Architecture
from acmix_nas.bias import read_history
from acmix_nas.classification import Recipe
from acmix_nas.data import DataConfig
from acmix_nas.demo import demo, references, spread, train_all, trained
from acmix_nas.errors import UserError
from tests.small import SLOTS

FOUND = Architecture(
    "resnet14t", dict(zip(SLOTS, ["conv", "window", "acmix_window", "conv"], strict=True)),
    ["conv", "window_k4", "window", "acmix_window"], {"channels": [8, 8, 16, 16]}, ("layer*",),
)  # fmt: skip


def test_references_are_convolution_attention_and_acmix() -> None:
    found = references(FOUND)
    assert list(found) == ["all conv", "all window_k4", "all acmix_window_k4"]
    assert set(found["all acmix_window_k4"].slots.values()) == {"acmix_window_k4"}


def test_every_network_is_trained_with_every_seed(tmp_path: Path) -> None:
    data, recipe = DataConfig(image_size=16, batch_size=256), Recipe(epochs=1)
    results = train_all({"found": FOUND, "all conv": FOUND.uniform("conv")}, data, recipe, tmp_path, seeds=2)
    assert {name: [row["seed"] for row in rows] for name, rows in results.items()} == {"found": [0, 1], "all conv": [0, 1]}
    assert results["found"][0]["test_accuracy"] != results["found"][1]["test_accuracy"]
    assert {o.slot for o in read_history(trained(tmp_path, "found", 1) / "history.csv")} == {SLOTS[2]}
    assert (trained(tmp_path, "all conv", 0) / "network.pt").exists()


def test_a_folder_in_use_is_left_alone(tmp_path: Path) -> None:
    (tmp_path / "precious").write_text("x")
    with pytest.raises(UserError, match="is not empty; choose a new folder"):
        demo(Path("experiments/digits-darts.yml"), tmp_path, 1, 10.0)
    with pytest.raises(UserError, match="seeds must be at least 1"):
        demo(Path("experiments/digits-darts.yml"), tmp_path / "new", 0, 10.0)
    assert [file.name for file in tmp_path.iterdir()] == ["precious"]


def test_spread_is_mean_and_standard_deviation() -> None:
    assert spread([97.0, 99.0], "%") == "98.0 ± 1.4 %"
    assert spread([97.0], "%") == "97.0 %"

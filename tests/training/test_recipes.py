"""Every recipe loads, says what it was made for, and trains: one epoch, a small network, small images."""

from __future__ import annotations

import json
import re
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import timm
import yaml
from PIL import Image

from acmix_nas.cli.main import main

FOLDER = Path(__file__).parents[2] / "experiments" / "recipes"
RECIPES = sorted(FOLDER.glob("*.yml"))
# A network of the recipe's family, small.
SMALL: dict[str, tuple[str, dict[str, Any]]] = {
    "resnet": ("resnet26_acmix", {"layers": [1, 1, 1, 1], "channels": [8, 8, 16, 16]}),
    "san": ("san10_acmix", {"layers": [1, 1], "channels": [16, 32], "windows": [3, 7], "stem_channels": 8}),
    "swin-tiny": ("swin_tiny_acmix", {"embed_dim": 12, "depths": [2, 1], "num_heads": [2, 3], "window_size": 4}),
    "swin-small": ("swin_small_acmix", {"embed_dim": 12, "depths": [2, 1], "num_heads": [2, 3], "window_size": 4}),
    "pvt": (
        "pvt_tiny_acmix",
        {
            "img_size": 32, "embed_dims": [8, 16], "depths": [1, 1], "num_heads": [1, 2], "mlp_ratios": [2, 2],
            "reductions": [2, 1],
        },
    ),
}  # fmt: skip


@pytest.fixture(scope="module")
def photos(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("photos")
    random = np.random.default_rng(0)
    for name in ("ant", "bee", "cow"):
        (folder / name).mkdir()
        for i in range(11):
            Image.fromarray(random.integers(0, 256, (43, 37, 3), dtype=np.uint8)).save(folder / name / f"{i}.png")
    return folder


def test_every_recipe_is_tried() -> None:
    assert {recipe.stem for recipe in RECIPES} == SMALL.keys()


@pytest.mark.parametrize("recipe", RECIPES, ids=lambda recipe: recipe.stem)
def test_a_recipe_trains(recipe: Path, photos: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    backbone, arguments = SMALL[recipe.stem]
    small = ["--epochs", "1", "--warmup-epochs", "0", "--batch-size", "8", "--image-size", "32", "--workers", "0"]
    pairs = [text for name, value in arguments.items() for text in ("--backbone-args", f"{name}={json.dumps(value)}")]
    command = ["retrain", backbone, "--data", str(photos), "--config", str(recipe), "--output", str(tmp_path / "run")]
    monkeypatch.setattr(sys, "argv", ["acmix-nas", *command, *small, *pairs])
    with pytest.raises(SystemExit) as ended:
        main()
    assert not ended.value.code
    result = json.loads((tmp_path / "run" / "result.json").read_text())
    architecture = json.loads((tmp_path / "run" / "architecture.json").read_text())
    content = yaml.safe_load(recipe.read_text()).items()
    said = {key: value for key, value in content if f"--{key.replace('_', '-')}" not in small}
    assert architecture["backbone_args"] == said.pop("backbone_args", {}) | arguments
    assert {**result["recipe"], **result["data"]}.items() >= said.items()


@pytest.mark.parametrize("recipe", RECIPES, ids=lambda recipe: recipe.stem)
def test_a_recipe_says_for_how_many_images_it_was_made(recipe: Path) -> None:
    text = recipe.read_text()
    head = " ".join(line.removeprefix("#").strip() for line in text.splitlines() if line.startswith("#"))
    made_for = re.search(r"(\d+) images a step in all: (\d+) devices with batch_size (\d+)", head)
    assert made_for
    total, devices, each = map(int, made_for.groups())
    assert total == devices * each
    assert each == yaml.safe_load(text)["batch_size"]
    assert "nobody has run it on ImageNet" in head
    command = re.search(r"acmix-nas retrain (\S+) --data \S+ --config (\S+) .*--devices (\d+)", head)
    assert command
    assert timm.is_model(command[1])
    assert FOLDER.parent.parent / command[2] == recipe
    assert int(command[3]) == devices

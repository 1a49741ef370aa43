"""The demo: its experiment, references and trainings, and what it says of bad input. `test_readme` runs the whole of it."""

from __future__ import annotations

import dataclasses
import shlex
from collections.abc import Mapping
from multiprocessing import active_children
from pathlib import Path
from typing import Any

import pytest
import yaml

from acmix_nas.cli.main import main
from acmix_nas.nnictl import trial
from acmix_nas.research.benchmark import CUED
from acmix_nas.research.demo import EXPERIMENT, Trainings, demo, references, trained
from acmix_nas.searching.config import SearchConfig
from acmix_nas.training.recipe import Recipe
from acmix_nas.util.errors import UserError
from acmix_nas.util.terminal import mean_and_deviation
from tests.research.benchmark.test_tabulate import SMALL


def test_the_experiment_searches_the_space_of_the_table(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    asked: list[SearchConfig] = []

    def search(config: SearchConfig, *_: object, **__: object) -> Mapping[str, Any]:
        asked.append(config)
        return {"metric": 0.0, "seconds": 0.0}

    monkeypatch.setattr(trial, "search", search)
    command = yaml.safe_load((Path(__file__).parents[2] / EXPERIMENT).read_text())["trialCommand"]
    _, arguments = command.split(" acmix_nas ")
    with pytest.raises(SystemExit) as ended:
        main([*shlex.split(arguments), "--output", str(tmp_path)])
    assert ended.value.code == 0
    expected = dataclasses.replace(CUED.search("single_path", 0), budget=("macs=1.2M",), finalists=4)
    assert asked[0].limits == CUED.budget
    same = {"arc_learning_rate": asked[0].arc_learning_rate}  # of which single paths make no use
    assert asked == [dataclasses.replace(expected, **same)]


def test_references_have_one_operator_everywhere() -> None:
    found = references(CUED)
    assert list(found) == ["all conv", "all global", "all acmix_global"]
    assert set(found["all acmix_global"].slots.values()) == {"acmix_global"}


def test_every_network_is_trained_with_every_seed_as_they_come(tmp_path: Path) -> None:
    space = dataclasses.replace(SMALL, config=dataclasses.replace(SMALL.config, recipe=Recipe(epochs=1), race_epochs=1))
    first, second = (space.architecture(choice) for choice in space.choices())
    with Trainings(space, tmp_path, seeds=2) as trainings:
        trainings.start({"first": first})
        trainings.start({"second": second})
        results = trainings.results()
    assert {name: [row["seed"] for row in rows] for name, rows in results.items()} == {"first": [0, 1], "second": [0, 1]}
    assert results["first"][0]["test_accuracy"] != results["first"][1]["test_accuracy"]
    assert (trained(tmp_path, "second", 1) / "network.pt").exists()


def test_nothing_runs_on_when_the_block_is_left(tmp_path: Path) -> None:
    others = set(active_children())  # a data loader's workers, say, which live until it is collected
    with Trainings(SMALL, tmp_path, seeds=3) as trainings:
        trainings.start({"one": SMALL.architecture(SMALL.choices()[0])})
        assert set(active_children()) - others
    assert not set(active_children()) - others


def test_a_folder_in_use_is_left_alone(tmp_path: Path) -> None:
    (tmp_path / "precious").write_text("x")
    with pytest.raises(UserError, match="is not empty; choose a new folder"):
        demo(tmp_path, 1, 10.0)
    with pytest.raises(UserError, match="seeds must be at least 1"):
        demo(tmp_path / "new", 0, 10.0)
    assert [file.name for file in tmp_path.iterdir()] == ["precious"]


def test_mean_and_standard_deviation() -> None:
    assert mean_and_deviation([97.0, 99.0], " %") == "98.0 ± 1.4 %"
    assert mean_and_deviation([97.0], " %") == "97.0 %"

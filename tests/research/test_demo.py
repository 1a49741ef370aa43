"""The demo: its experiment, references and trainings, and what it says of bad input. `test_words` runs the whole of it."""

from __future__ import annotations

import dataclasses
import shlex
from collections.abc import Callable, Mapping
from dataclasses import replace
from multiprocessing import active_children
from pathlib import Path
from typing import Any

import pytest
import torch
import yaml
from typing_extensions import Self

from acmix_nas.architecture import Architecture, build
from acmix_nas.bias import Observation
from acmix_nas.bias.history import append_history
from acmix_nas.cli.main import main
from acmix_nas.nnictl.experiment import ExperimentError
from acmix_nas.research.benchmark import CUED
from acmix_nas.research.benchmark.spaces import Space
from acmix_nas.research.demo import EXPERIMENT, demo, lead, references
from acmix_nas.research.pace import FULL, Plan
from acmix_nas.research.trainings import Trainings, train_one, trained
from acmix_nas.searching.config import SearchConfig
from acmix_nas.training.recipe import Recipe
from acmix_nas.util.errors import UserError
from acmix_nas.util.files import write_document
from acmix_nas.util.terminal import BrokenRun, mean_and_deviation
from tests.research.benchmark.test_tabulate import SMALL

BRIEF = replace(SMALL, config=replace(SMALL.config, recipe=Recipe(epochs=1), race_epochs=1))
MIXED = replace(BRIEF, config=replace(BRIEF.config, candidates=("conv", "acmix_global")))


def test_the_experiment_searches_the_space_of_the_table(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    asked: list[SearchConfig] = []

    def search(config: SearchConfig, folder: Path, **_: object) -> None:
        asked.append(config)
        write_document(folder / "result.json", "result", {"metric": 0.0, "seconds": 0.0})

    monkeypatch.setattr("acmix_nas.searching.run.run_search", search)
    command = yaml.safe_load((Path(__file__).parents[2] / EXPERIMENT).read_text())["trialCommand"]
    _, arguments = command.split(" acmix_nas ")
    with pytest.raises(SystemExit) as ended:
        main([*shlex.split(arguments), "--output", str(tmp_path)])
    assert ended.value.code == 0
    expected = dataclasses.replace(CUED.search("single_path", 0), budget=("macs=1.2M",), finalists=4)
    assert asked[0].limits == CUED.budget
    assert asked == [expected]


def test_references_have_one_operator_everywhere() -> None:
    found = references(CUED)
    assert list(found) == ["all conv", "all global", "all acmix_global"]
    assert set(found["all acmix_global"].slots.values()) == {"acmix_global"}


def test_every_network_is_trained_with_every_seed_as_they_come(tmp_path: Path) -> None:
    first, second = (BRIEF.architecture(choice) for choice in BRIEF.choices())
    with Trainings(tmp_path) as trainings:
        trainings.start(BRIEF, {"first": first}, 2)
        trainings.start(BRIEF, {"second": second}, 2)
        trainings.wait()
    results = trainings.finished()
    assert {name: [row["seed"] for row in rows] for name, rows in results.items()} == {"first": [0, 1], "second": [0, 1]}
    assert results["first"][0]["test_accuracy"] != results["first"][1]["test_accuracy"]
    assert (trained(tmp_path, "second", 1) / "network.pt").exists()
    assert trainings.unfinished() == []


def test_a_training_that_fails_is_named_and_the_others_end(tmp_path: Path) -> None:
    first, second = (BRIEF.architecture(choice) for choice in BRIEF.choices())
    (tmp_path / "networks" / "first" / "seed-0").mkdir(parents=True)
    (tmp_path / "networks" / "first" / "seed-0" / "result.json").write_text("{}")
    with Trainings(tmp_path) as trainings:
        assert trainings.step_seconds(BRIEF, [first, second]) > 0
        trainings.start(BRIEF, {"first": first, "second": second}, 1)
        with pytest.raises(BrokenRun, match=r"^1 of 2 trainings did not finish; the first is first, seed 0: folder"):
            trainings.wait()
    assert list(trainings.finished()) == ["second"]
    assert trainings.unfinished() == [("first", 0)]


def test_nothing_runs_on_when_the_block_is_left(tmp_path: Path) -> None:
    others = set(active_children())  # a data loader's workers, say, which live until it is collected
    with Trainings(tmp_path) as trainings:
        trainings.start(SMALL, {"one": SMALL.architecture(SMALL.choices()[0])}, 3)
        assert set(active_children()) - others
    assert not set(active_children()) - others
    assert len(trainings.unfinished()) == 3


def test_a_folder_in_use_is_left_alone(tmp_path: Path) -> None:
    (tmp_path / "precious").write_text("x")
    with pytest.raises(UserError, match="is not empty; choose a new folder"):
        demo(tmp_path, 15)
    with pytest.raises(UserError, match="seeds must be at least 1"):
        demo(tmp_path / "new", 15, seeds=0)
    with pytest.raises(UserError, match="minutes must be positive; got minutes=0"):
        demo(tmp_path / "new", 0)
    assert [file.name for file in tmp_path.iterdir()] == ["precious"]


# What has finished is shown


class Now(Trainings):
    """Trains at once, in this process, but not what is called so."""

    left_out: str | None = None

    def __enter__(self) -> Self:
        self.results: dict[str, list[dict[str, Any]]] = {}
        self.left: list[tuple[str, int]] = []
        return self

    def __exit__(self, *error: Any) -> None:
        pass

    def step_seconds(self, *_: Any) -> float:
        return 0.03

    def start(self, space: Space, architectures: Mapping[str, Architecture], seeds: int) -> None:
        for name, architecture in architectures.items():
            if name == self.left_out:
                self.left += [(name, seed) for seed in range(seeds)]
                continue
            jobs = ((space, architecture, seed, trained(self.folder, name, seed)) for seed in range(seeds))
            self.results[name] = [train_one(*job) for job in jobs]

    def wait(self) -> None:
        if self.left:
            raise BrokenRun("a training did not finish")

    def finished(self) -> dict[str, list[dict[str, Any]]]:
        return self.results

    def unfinished(self) -> list[tuple[str, int]]:
        return self.left


@pytest.fixture
def shortly(monkeypatch: pytest.MonkeyPatch) -> Callable[..., None]:
    """Make the demo's space small, and its experiment end so: with an error, or a trial that found the second reference."""

    def prepare(error: BaseException | None = None, left_out: str | None = None) -> None:
        def launch(_: Path, *, working_directory: Path, trial_options: str, begun: Callable[[], None]) -> Path:
            assert trial_options == "--epochs 16"
            begun()
            if error is not None:
                raise error
            found = MIXED.architecture(MIXED.choices()[1])
            found = replace(found, data={**found.data, "image_size": 16})
            trial = working_directory / "id" / "environments" / "local-env" / "trials" / "abc"
            found.save(trial / "architecture.json")
            torch.save(build(found).state_dict(), trial / "network.pt")
            append_history(trial / "history.csv", [Observation(1, "blocks.3.slot", "acmix_global", 0.7, 0.5, 0.25)])
            about = {"trial": "abc", "sequence": 0, "parameters": {}, "metric": 0.5, "seconds": 1}
            write_document(trial / "result.json", "result", {**about, "architecture": "architecture.json"})
            return trial.parents[3]

        monkeypatch.setattr(Now, "left_out", left_out)
        for name, value in {"launch": launch, "Trainings": Now, "CUED": MIXED, "choose": lambda *_: Plan(16, 1, 1)}.items():
            monkeypatch.setattr(f"acmix_nas.research.demo.{name}", value)

    return prepare


def test_all_of_it_is_shown_with_what_it_was_run(
    shortly: Callable[..., None], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    shortly()
    demo(tmp_path / "out", 15)
    said = capsys.readouterr()
    assert "about 1 min, until " in said.err
    assert "with 16 of 40 epochs of the supernet" in said.err
    assert "run with 16 of 40 epochs of the supernet, 1 of 12 epochs of each training from scratch, 1 of 2 seeds" in said.out
    assert "found: acmix_global" in said.out
    assert "the best reference (after so few epochs this may change)" in said.out
    assert "missing" not in said.out
    table = (tmp_path / "out" / "profile" / "profile.md").read_text()
    assert "test accuracy, 1 epochs from scratch" in table
    assert "all conv" in table
    assert "found" in table
    for file in ("search/heat_map_search.png", "retrained/figure5.png"):
        assert (tmp_path / "out" / "bias" / file).exists()


@pytest.mark.parametrize("error", [ExperimentError("trial abc failed"), KeyboardInterrupt()])
def test_a_failed_or_interrupted_search_leaves_what_has_finished(
    shortly: Callable[..., None], error: BaseException, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    shortly(error, left_out="all conv")
    with pytest.raises(type(error)):
        demo(tmp_path / "out", 15)
    said = capsys.readouterr()
    assert ("interrupted" if isinstance(error, KeyboardInterrupt) else "failed: trial abc failed") in said.err
    assert "missing: the search, all conv, seed 0" in said.out
    assert "run with 16 of 40 epochs" in said.out
    assert "found" not in said.out
    table = (tmp_path / "out" / "profile" / "profile.md").read_text()
    assert "all acmix_global" in table
    assert "all conv" not in table
    assert (tmp_path / "out" / "bias" / "retrained" / "figure5.png").exists()
    assert not (tmp_path / "out" / "bias" / "search").exists()


def test_a_training_that_does_not_finish_leaves_the_others(
    shortly: Callable[..., None], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    shortly(left_out="found")
    with pytest.raises(BrokenRun, match="did not finish"):
        demo(tmp_path / "out", 15)
    said = capsys.readouterr()
    assert "missing: found, seed 0" in said.out
    assert "with the search's weights it has" in said.out
    assert "from scratch it is" not in said.out
    row = next(line for line in (tmp_path / "out" / "profile" / "profile.md").read_text().splitlines() if line[2:7] == "found")
    assert row.split("|")[2].strip() == "–"


def test_where_nothing_had_begun_there_is_nothing_to_show(
    monkeypatch: pytest.MonkeyPatch, shortly: Callable[..., None], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    shortly()

    def launch(*_: Any, **__: Any) -> Path:
        raise UserError("experiment config: no file")

    monkeypatch.setattr("acmix_nas.research.demo.launch", launch)
    with pytest.raises(UserError):
        demo(tmp_path / "out", 15)
    assert "missing" not in capsys.readouterr().out
    assert not (tmp_path / "out").exists()


def test_the_lead_has_an_error_where_the_table_knows_its_noise() -> None:
    accuracies = {"found": [90.0, 92.0], "all conv": [80.0], "all global": [85.0]}
    assert lead(accuracies, FULL)[0].startswith("from scratch it is 6.0 ± ")
    assert lead(accuracies, Plan(16, 6, 1))[0].startswith("from scratch it is 6.0 points above all global")
    assert lead({"found": [80.0], "all global": [85.0]}, Plan(16, 6, 1))[0].startswith(
        "from scratch it is 5.0 points below all"
    )
    assert lead({"found": [90.0]}, FULL) == []
    assert lead({"all conv": [90.0]}, FULL) == []


def test_mean_and_standard_deviation() -> None:
    assert mean_and_deviation([97.0, 99.0], " %") == "98.0 ± 1.4 %"
    assert mean_and_deviation([97.0], " %") == "97.0 %"

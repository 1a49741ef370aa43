"""Trainings alone: that they repeat, go on after an interruption, and lose nothing."""

from __future__ import annotations

import time
from dataclasses import replace
from importlib import import_module
from pathlib import Path

import pytest

from acmix_nas.research.benchmark.spaces import CUED, Choice, Space
from acmix_nas.research.benchmark.table import Run, Table
from acmix_nas.research.benchmark.tabulate import spent, tabulate, train_alone
from acmix_nas.training.images import ImageData
from acmix_nas.training.recipe import Recipe
from acmix_nas.training.retrain import train_architecture
from acmix_nas.util.errors import UserError

SMALL = Space(
    "small",
    replace(
        CUED.config, candidates=("conv", "global"), slots=("blocks.3.slot",),
        data=replace(CUED.config.data, name="digits", image_size=16), recipe=Recipe(epochs=2), race_epochs=2,
    ),
    10,
)  # fmt: skip


def test_a_training_repeats_itself_and_the_seed_changes_it() -> None:
    first, second, other = (train_alone(SMALL, ("conv",), seed) for seed in (0, 0, 1))
    assert replace(first, seconds=0.0) == replace(second, seconds=0.0)
    assert first.test != other.test
    assert len(first.validation) == len(first.test) == 2
    assert first.test[-1] > 0.3


def test_it_is_the_training_that_retrain_runs(tmp_path: Path) -> None:
    alone = train_alone(SMALL, ("global",), 1)
    images = ImageData(SMALL.images(1), 1)
    retrained = train_architecture(SMALL.architecture(("global",)), images, SMALL.alone(1), tmp_path, progress=False)
    assert retrained.validation == pytest.approx(alone.validation[-1], abs=1e-5)
    assert retrained.test == pytest.approx(alone.test[-1], abs=1e-5)


def test_an_interrupted_table_goes_on_with_what_is_missing(tmp_path: Path) -> None:
    whole = tabulate(SMALL, tmp_path / "whole.json", seeds=2, workers=1, progress=False)
    cut = replace(whole, runs=tuple(replace(run, seconds=-1.0) for run in whole.runs[:2]))
    again = tabulate(SMALL, cut.save(tmp_path / "cut.json"), seeds=2, workers=1, progress=False)
    assert [run.seconds for run in again.runs[:2]] == [-1, -1]  # kept as they were
    assert {replace(run, seconds=0) for run in again.runs} == {replace(run, seconds=0) for run in whole.runs}
    assert [made["runs"] for made in again.made] == [4, 2]


def test_every_training_is_on_disk_before_the_next(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    train = train_alone

    def interrupted(space: Space, choice: Choice, seed: int) -> Run:
        if seed == 1:
            raise KeyboardInterrupt
        return train(space, choice, seed)

    monkeypatch.setattr(import_module("acmix_nas.research.benchmark.tabulate"), "train_alone", interrupted)
    with pytest.raises(KeyboardInterrupt):
        tabulate(SMALL, tmp_path / "table.json", seeds=2, workers=1, progress=False)
    assert len(Table.load(tmp_path / "table.json").runs) == 2


def test_processes_give_what_one_gives(tmp_path: Path) -> None:
    one, two = (tabulate(SMALL, tmp_path / f"{n}.json", seeds=1, workers=n, progress=False) for n in (1, 2))
    assert {run.choice for run in two.runs} == {run.choice for run in one.runs}
    for choice in one.choices:  # threads sum in another order
        assert two.accuracy(choice) == pytest.approx(one.accuracy(choice), abs=0.05)


def test_a_sample_trains_only_what_was_drawn(tmp_path: Path) -> None:
    assert len(tabulate(SMALL, tmp_path / "table.json", seeds=1, sample=1, workers=1, progress=False).choices) == 1


def test_another_space_is_not_written_into_the_same_folder(tmp_path: Path) -> None:
    tabulate(SMALL, tmp_path / "table.json", seeds=1, sample=1, workers=1, progress=False)
    other = replace(SMALL, config=replace(SMALL.config, race_epochs=3))
    with pytest.raises(UserError, match="another space"):
        tabulate(other, tmp_path / "table.json", seeds=1, sample=1, workers=1, progress=False)


@pytest.mark.parametrize(("arguments", "said"), [({"seeds": 0}, "seeds"), ({"workers": 0}, "workers")])
def test_no_training_at_all_is_refused(tmp_path: Path, arguments: dict[str, int], said: str) -> None:
    with pytest.raises(UserError, match=f"{said} must be at least 1"):
        tabulate(SMALL, tmp_path / "table.json", progress=False, **arguments)  # type: ignore[arg-type]


def test_seconds_are_measured_anew_and_nothing_else_changes(tmp_path: Path) -> None:
    path = tmp_path / "table.json"
    first = tabulate(SMALL, path, seeds=2, workers=1, progress=False)
    replace(first, runs=tuple(replace(run, seconds=1e6) for run in first.runs)).save(path)
    again = tabulate(SMALL, path, seeds=2, workers=1, progress=False, seconds=True)
    assert {replace(run, seconds=0) for run in again.runs} == {replace(run, seconds=0) for run in first.runs}
    assert all(0 < run.seconds < 1e3 for run in again.runs)
    assert again.made[-1]["seconds"] == 4
    assert Table.load(path).runs == again.runs


@pytest.mark.parametrize("seeds", [1, 2])
def test_a_table_is_read_with_how_its_space_is_searched(seeds: int, tmp_path: Path) -> None:
    """Whether anything was left to train or not: an assessment searches by it."""
    space = replace(SMALL, arc_learning_rate=0.123)
    tabulate(space, tmp_path / "table.json", seeds=1, sample=1, workers=1, progress=False)
    again = tabulate(space, tmp_path / "table.json", seeds=seeds, sample=1, workers=1, progress=False)
    assert again.space.arc_learning_rate == 0.123


def test_what_waits_spends_nothing() -> None:
    began = spent()
    time.sleep(0.3)
    assert spent() - began < 0.1


def test_latencies_are_measured_once_and_kept(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
    path = tmp_path / "table.json"
    assert tabulate(SMALL, path, seeds=1, sample=1, workers=1, progress=False).latencies is None
    tabulate(SMALL, path, seeds=1, sample=1, workers=1, progress=False, latency=True)  # nothing is left to train
    first = Table.load(path).latencies
    assert first is not None
    assert first.operators["blocks.3.slot"].keys() == {"conv", "global"}
    assert first.rest > 0
    assert {"made_by", "machine", "threads"} <= first.made.keys()
    assert tabulate(SMALL, path, seeds=1, workers=1, progress=False, latency=True).latencies == first

"""What is a collapse and what is none; which distribution counts afterwards; and that an interruption changes neither."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import pytorch_lightning as pl
import torch

from acmix_nas.architecture import Architecture
from acmix_nas.bias import read_history
from acmix_nas.searching.run import run_search
from acmix_nas.searching.supernets import SearchModule
from acmix_nas.strategies import Guard
from acmix_nas.training.task import Step
from acmix_nas.util.errors import UserError
from acmix_nas.util.files import read_json
from tests.searching.test_run import config

pytestmark = pytest.mark.usefixtures("few_digits")


def mixed(first: float) -> dict[str, dict[str, float]]:
    """Return probabilities in which one operator is first at the first slot, the other at the second."""
    return {"a": {"conv": first, "local": 1 - first}, "b": {"conv": 1 - first, "local": first}}


def taken(first: float) -> dict[str, dict[str, float]]:
    """Return probabilities in which one operator is first at both slots."""
    return {slot: {"conv": first, "local": 1 - first} for slot in "ab"}


def bad(accuracies: list[float], rows: list[dict[str, dict[str, float]]]) -> list[bool]:
    guard = Guard()
    return [guard.is_bad(accuracy, row) for accuracy, row in zip(accuracies, rows, strict=True)]


def test_an_accuracy_clearly_below_the_best_is_bad() -> None:
    assert bad([0.5, 0.8, 0.76, 0.74, 0.79, 0.9, 0.84], [mixed(0.6)] * 7) == [False, False, False, True, False, False, True]


def test_where_one_operator_takes_over_half_as_much_will_do() -> None:
    growing = [taken(0.6 + 0.02 * i) for i in range(4)]
    assert bad([0.8, 0.79, 0.77, 0.76], growing) == [False, False, True, True]
    assert not any(bad([0.8, 0.79, 0.77, 0.76], growing[::-1]))  # it shrinks
    assert not any(bad([0.8, 0.79, 0.77, 0.76], [mixed(0.6 + 0.02 * i) for i in range(4)]))  # not everywhere
    assert not any(bad([0.8, 0.81, 0.82, 0.83], growing))  # it is right


@pytest.mark.parametrize("arguments", [{"patience": 0}, {"patience": -1}])
def test_mistakes_are_named(arguments: dict[str, Any]) -> None:
    with pytest.raises(UserError, match="patience must be at least 1"):
        Guard(**arguments)


ACCURACIES = (0.3, 0.5, 0.2, 0.1, 0.1)
"""By epoch: the second is the last good one, and patience of two ends the search after the fourth."""


@pytest.fixture
def collapsing(monkeypatch: pytest.MonkeyPatch) -> None:
    """Make the steps of the architecture record these accuracies, whatever they see."""
    real = SearchModule._record

    def record(module: SearchModule, part: str, step: Step) -> None:
        if not module.held_out:
            real(module, part, step)
            return
        accuracy = ACCURACIES[module.trainer.current_epoch]
        module.log("val_accuracy", torch.tensor(accuracy), on_step=False, on_epoch=True, batch_size=len(step.scores))

    monkeypatch.setattr(SearchModule, "_record", record)


class Interrupt(pl.Callback):
    """Ctrl-C before an epoch."""

    def __init__(self, epoch: int) -> None:
        self.epoch = epoch

    def on_train_epoch_start(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:  # noqa: ARG002
        if trainer.current_epoch == self.epoch:
            raise KeyboardInterrupt


@pytest.mark.usefixtures("collapsing")
@pytest.mark.parametrize("strategy", ["darts", pytest.param("gumbel", marks=pytest.mark.slow)])
def test_a_collapsed_search_ends_with_its_last_good_distribution(strategy: str, tmp_path: Path) -> None:
    settings = config(strategy=strategy, epochs=5, arc_warmup=0, patience=2)
    found_out = run_search(settings, tmp_path / "whole", progress=False)
    history = read_history(tmp_path / "whole" / "history.csv")
    assert max(o.epoch for o in history) == 4
    good = {(o.slot, o.operator): o.probability for o in history if o.epoch == 2}
    found = Architecture.load(tmp_path / "whole" / "architecture.json")
    assert {(s, name): p for s, row in found.probabilities.items() for name, p in row.items()} == pytest.approx(good, abs=1e-5)
    assert found.slots == {slot: max(row, key=lambda name: row[name]) for slot, row in found.probabilities.items()}
    collapse = read_json(tmp_path / "whole" / "result.json", "result")["collapse"]
    assert (collapse["epoch"], collapse["good"]) == (4, 2)
    assert collapse["said"] == found_out.notes["collapse"]["said"]
    assert "stopped after epoch 4, with val_accuracy 10.00% after a best of 50.00%" in collapse["said"]
    assert "the distribution after epoch 2" in collapse["said"]
    # Interrupted between the bad epochs, it goes on with all that it knew.
    with pytest.raises(KeyboardInterrupt):
        run_search(settings, tmp_path / "cut", callbacks=[Interrupt(3)], progress=False)
    run_search(settings, tmp_path / "cut", progress=False, resume=True)
    states = [torch.load(tmp_path / name / "supernet.pt", weights_only=True) for name in ("whole", "cut")]
    assert all(torch.equal(value, states[1][key]) for key, value in states[0].items())
    # Interrupted after the end, it does not train on.
    for name in ("supernet.pt", "result.json", "architecture.json", "collapse.json"):
        (tmp_path / "cut" / name).unlink()
    again = run_search(settings, tmp_path / "cut", progress=False, resume=True)
    assert again.notes["collapse"]["said"] == collapse["said"]
    states[1] = torch.load(tmp_path / "cut" / "supernet.pt", weights_only=True)
    assert all(torch.equal(value, states[1][key]) for key, value in states[0].items())


@pytest.mark.usefixtures("collapsing")
def test_without_patience_it_goes_on_and_without_watching_it_says_nothing(tmp_path: Path) -> None:
    found = run_search(config(epochs=4, arc_warmup=0, patience=0, watch=False), tmp_path, progress=False)
    assert max(o.epoch for o in read_history(tmp_path / "history.csv")) == 4
    assert found.notes == {}


@pytest.mark.parametrize("strategy", ["darts", "gumbel", "proxyless"])
def test_a_search_says_how_decided_it_is(strategy: str, tmp_path: Path) -> None:
    decision = run_search(config(strategy=strategy), tmp_path, progress=False).notes["decision"]
    found = Architecture.load(tmp_path / "architecture.json")
    assert decision == read_json(tmp_path / "result.json", "result")["decision"]
    assert list(decision["leads"]) == list(found.slots)
    assert 0.5 < decision["entropy"] <= 1
    assert decision["operator"] in found.slots.values()

"""A search from configuration to files, with every strategy; interrupted and continued, it ends as if it had not been."""

from __future__ import annotations

import dataclasses
import itertools
import math
import subprocess
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import pytest
import pytorch_lightning as pl
import torch
from torch import nn
from torch.utils.data import TensorDataset

from acmix_nas import build
from acmix_nas.architecture import Architecture
from acmix_nas.bias import read_history
from acmix_nas.costs.choose import any_within, best_within
from acmix_nas.costs.registry import Entries
from acmix_nas.costs.survey import Survey
from acmix_nas.costs.table import CostTable
from acmix_nas.deploy.latency import Latency
from acmix_nas.searching.again import FinishedSearch
from acmix_nas.searching.config import SearchConfig
from acmix_nas.searching.run import run_search, search
from acmix_nas.searching.supernets import judge, load_supernet, make_space, make_supernet, train_supernet
from acmix_nas.strategies.base import STRATEGIES, Supernet
from acmix_nas.training.config import DataConfig
from acmix_nas.training.data import Data
from acmix_nas.training.images import ImageData
from acmix_nas.training.loop import Fitted
from acmix_nas.training.module import TrainingModule
from acmix_nas.training.recipe import Recipe
from acmix_nas.training.retrain import train_architecture
from acmix_nas.training.task import Classification
from acmix_nas.util.errors import UserError
from acmix_nas.util.files import read_document, read_json
from acmix_nas.util.settings import flat_names, replace_flat
from acmix_nas.util.terminal import BrokenRun
from tests.small import SLOTS

DATA = DataConfig(image_size=16, batch_size=128)
pytestmark = pytest.mark.usefixtures("few_digits")


def slow(*values: Any) -> Any:
    """Mark a case that says little more than its neighbours, and takes many searches."""
    return pytest.param(*values, marks=pytest.mark.slow)


def config(**changes: Any) -> SearchConfig:
    """Make the config of a small search. Settings of other strategies than the named one are left out."""
    strategy = changes.setdefault("strategy", "darts")
    own = flat_names(STRATEGIES.get(strategy))
    defaults = {"epochs": 2, "seed": 0, "arc_learning_rate": 0.05, "samples": 3}
    base = SearchConfig("resnet14t", {"channels": [8, 8, 16, 16]}, slots=("layer*",), data=DATA, finalists=2)
    flat = {name: value for name, value in {**defaults, "finalists": 1, **changes}.items() if name not in WHOLE}
    mine = {name: value for name, value in flat.items() if name in own or name not in ("arc_learning_rate", "samples")}
    whole = {name: value for name, value in changes.items() if name in WHOLE}
    made: SearchConfig
    (made,) = replace_flat(mine, dataclasses.replace(base, **whole))
    return made


WHOLE = ("data", "recipe")


def trained(settings: SearchConfig, folder: Path, callbacks: Sequence[pl.Callback] = ()) -> Supernet:
    """Train the supernet of a search."""
    supernet = make_supernet(settings, ImageData(settings.data, settings.recipe.seed))
    train_supernet(settings, supernet, folder, callbacks=callbacks)
    return supernet


def score_of(folder: Path) -> float:
    """Return what the training in a folder reached on the validation part."""
    return Fitted.read(read_document(folder / "result.json", "result")).validation


@pytest.fixture
def data(few_digits: None) -> ImageData:  # noqa: ARG001
    return ImageData(DATA)


@pytest.mark.parametrize("strategy", STRATEGIES.names())
def test_every_strategy_leaves_an_architecture_that_works(strategy: str, tmp_path: Path, data: ImageData) -> None:
    random = strategy == "random"
    found = run_search(config(strategy=strategy, finalists=2 if random else 1, race_epochs=2), tmp_path, progress=False)
    architecture = Architecture.load(tmp_path / "architecture.json")
    assert sorted(architecture.slots) == SLOTS
    assert architecture.metric["val_accuracy" if random else "inherited_val_accuracy"] == found.score > 0.1
    assert (strategy in ("random", "single_path")) == (not architecture.probabilities)
    for row in architecture.probabilities.values():
        assert math.isclose(sum(row.values()), 1.0, abs_tol=1e-5)
    # The weights that it inherits fit, and give the accuracy that is reported.
    network = build(tmp_path / "architecture.json", weights=tmp_path / "network.pt").eval()
    with torch.no_grad():
        right = sum(int((network(x).argmax(1) == y).sum()) for x, y in data.val_dataloader())
    assert right / 120 == pytest.approx(found.score, abs=0.01)
    if random:
        return  # there was no supernet to observe
    history = read_history(tmp_path / "history.csv")
    assert {o.epoch for o in history} == {0, 1, 2}
    assert len(history) == 3 * 4 * 3


@pytest.mark.parametrize("strategy", ["darts", slow("single_path")])
def test_mixtures_train_in_lower_precision(strategy: str, tmp_path: Path) -> None:
    # Not at 16: oneDNN's gradient in bfloat16 of a strided convolution of a single pixel is whatever the memory held.
    images = dataclasses.replace(DATA, image_size=32)
    settings = config(strategy=strategy, arc_warmup=1, data=images, precision="bf16-mixed")
    assert run_search(settings, tmp_path, progress=False).score > 0.1


def test_the_same_seed_gives_the_same_search(tmp_path: Path) -> None:
    files = []
    for name in ("a", "b"):
        run_search(config(epochs=2), tmp_path / name, progress=False)
        files.append(torch.load(tmp_path / name / "supernet.pt", weights_only=True))
    assert all(torch.equal(files[0][key], files[1][key]) for key in files[0])
    run_search(config(epochs=2, seed=1), tmp_path / "c", progress=False)
    other = torch.load(tmp_path / "c" / "supernet.pt", weights_only=True)
    assert not all(torch.equal(files[0][key], other[key]) for key in files[0])


class Interrupt(pl.Callback):
    """Ctrl-C in the middle of an epoch."""

    def on_train_batch_start(self, trainer: pl.Trainer, *_: Any) -> None:
        if trainer.current_epoch == 2 and trainer.fit_loop.epoch_loop.batch_idx == 1:
            raise KeyboardInterrupt


@pytest.mark.parametrize(
    "changes",
    [
        {"strategy": "single_path"},
        {"strategy": "darts"},
        slow({"strategy": "gumbel"}),
        slow({"strategy": "proxyless"}),
        slow({"darts_order": 2, "penalty": 0.1}),
    ],
    ids=lambda changes: " ".join(map(str, changes.values())),
)
def test_killed_and_continued_equals_uninterrupted(changes: dict[str, Any], tmp_path: Path) -> None:
    settings = config(epochs=4, **changes)
    whole = run_search(settings, tmp_path / "whole", progress=False)
    with pytest.raises(KeyboardInterrupt):
        run_search(settings, tmp_path / "cut", callbacks=[Interrupt()], progress=False)
    assert not (tmp_path / "cut" / "supernet.pt").exists()
    with pytest.raises(UserError, match="holds an unfinished search; resume it"):
        run_search(settings, tmp_path / "cut", progress=False)
    with pytest.raises(UserError, match="of other settings"):
        run_search(dataclasses.replace(settings, share="none"), tmp_path / "cut", progress=False, resume=True)
    continued = run_search(settings, tmp_path / "cut", progress=False, resume=True)
    assert (continued.score, continued.resumed, whole.resumed) == (whole.score, True, False)
    states = [torch.load(tmp_path / name / "supernet.pt", weights_only=True) for name in ("whole", "cut")]
    for key, value in states[0].items():
        torch.testing.assert_close(states[1][key], value, atol=0, rtol=0, msg=key)
    assert read_history(tmp_path / "cut" / "history.csv") == read_history(tmp_path / "whole" / "history.csv")


def test_a_search_that_died_after_its_training_is_finished(tmp_path: Path) -> None:
    whole = run_search(config(strategy="single_path"), tmp_path, progress=False)
    for name in ("architecture.json", "network.pt", "result.json"):
        (tmp_path / name).unlink()
    with pytest.raises(UserError, match="holds an unfinished search"):
        run_search(config(strategy="single_path"), tmp_path, progress=False)
    again = run_search(config(strategy="single_path"), tmp_path, progress=False, resume=True)
    assert (again.score, again.costs) == (whole.score, whole.costs)


def test_with_the_task_zeroed_the_penalty_moves_the_probabilities(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Through NNI's own step: the live softmax is all that the loss depends on."""
    real = TrainingModule.training_step
    monkeypatch.setattr(TrainingModule, "training_step", lambda self, batch, i: 0.0 * real(self, batch, i))
    settings = config(penalty=1.0, epochs=3, arc_warmup=0, arc_learning_rate=0.1)
    run_search(settings, tmp_path, progress=False)
    found = Architecture.load(tmp_path / "architecture.json")
    space = make_space(settings, ImageData(settings.data))
    table = CostTable.of(space.backbone, space.slots, (3, 16, 16))
    for slot, row in found.probabilities.items():
        costs = {operator: values["macs"] for operator, values in table.costs[slot].items()}
        assert max(row, key=lambda op: row[op]) == min(costs, key=lambda op: costs[op]), slot
    expected = table.expected({slot: torch.tensor(list(row.values())) for slot, row in found.probabilities.items()})
    assert expected < 0.95


@pytest.mark.parametrize("strategy", ["single_path", slow("darts"), slow("random")])
def test_what_is_found_is_within_the_budget(strategy: str, tmp_path: Path) -> None:
    settings = config(strategy=strategy, finalists=2, race_epochs=1)
    table = CostTable.of(*_backbone_and_slots(settings), (3, 16, 16))
    limit = (2 * table.least("macs") + table.most("macs")) / 3
    settings = dataclasses.replace(settings, budget=(f"macs={limit}",))
    found = run_search(settings, tmp_path, progress=False)
    assert found.costs["macs"] <= limit
    assert Architecture.load(tmp_path / "architecture.json").budget == {"macs": pytest.approx(limit)}
    assert all(table.total(choice) <= limit for choice in found.finalists)
    accuracies = [read_json(tmp_path / "race" / str(n) / "result.json", "")["val_accuracy"] for n in (1, 2)]
    assert found.score == max(accuracies)


def test_perturbation_chooses_under_the_budget_and_can_be_asked_again(tmp_path: Path) -> None:
    backbone_args = {"channels": [8, 8, 16, 16], "zero_init_last": False}  # so that every slot matters from the start
    settings = config(selection="perturbation", backbone_args=backbone_args)
    found = run_search(settings, tmp_path, progress=False)
    chosen = Architecture.load(tmp_path / "architecture.json")
    assert chosen.slots == {slot: max(row, key=lambda name: row[name]) for slot, row in chosen.scores.items()}
    assert all(max(row.values()) - min(row.values()) > 1e-3 for row in chosen.scores.values())
    limits = {"macs": found.costs["macs"] - 1}
    again = FinishedSearch.load(tmp_path).best(limits).choice
    assert again == best_within(chosen.scores, FinishedSearch.load(tmp_path).table, limits) != chosen.slots
    with_budget = dataclasses.replace(settings, budget=(f"macs={limits['macs']}",))
    assert run_search(with_budget, tmp_path / "budget", progress=False).finalists == [again]


def _backbone_and_slots(settings: SearchConfig) -> tuple[Any, Any]:
    space = make_space(settings, ImageData(settings.data))
    return space.backbone, space.slots


def test_a_budget_that_nothing_meets_ends_the_search_before_it_begins(tmp_path: Path) -> None:
    with pytest.raises(UserError, match="is met by no architecture; the cheapest has"):
        run_search(config(budget=["macs=1k"]), tmp_path / "x", progress=False)
    assert not (tmp_path / "x").exists()


def test_a_large_space_is_ranked_by_evolution(tmp_path: Path) -> None:
    run_search(config(strategy="single_path", samples=5), tmp_path, progress=False)
    ranking = read_json(tmp_path / "ranking.json", "ranking")["ranking"]
    accuracies = [row["score"] for row in ranking]
    assert len(ranking) == len({tuple(row["slots"].values()) for row in ranking}) == 5
    assert accuracies == sorted(accuracies, reverse=True)
    assert Architecture.load(tmp_path / "architecture.json").slots == ranking[0]["slots"]


@pytest.mark.parametrize("samples", [5, 50])
def test_where_fewer_are_within_the_budget_than_samples_all_of_them_are_ranked(samples: int, tmp_path: Path) -> None:
    settings = config(strategy="single_path", candidates=("conv", "local"), samples=samples)
    table = CostTable.of(*_backbone_and_slots(settings), (3, 16, 16))
    totals = sorted(
        table.total(dict(zip(table.costs, operators, strict=True))) for operators in itertools.product(*table.costs.values())
    )
    run_search(dataclasses.replace(settings, budget=(f"macs={totals[2] + 1}",)), tmp_path, progress=False)
    ranking = read_json(tmp_path / "ranking.json", "ranking")["ranking"]
    assert sorted(row["costs"]["macs"] for row in ranking) == [total for total in totals if total <= totals[2] + 1]


def test_a_budget_that_draws_do_not_find_begins_with_the_cheapest(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("acmix_nas.strategies.evolution.TRIES", 0)
    settings = config(strategy="single_path", samples=5)
    table = CostTable.of(*_backbone_and_slots(settings), (3, 16, 16))
    run_search(settings, tmp_path, progress=False)
    (row,) = read_json(tmp_path / "ranking.json", "ranking")["ranking"]
    assert row["slots"] == any_within(table, {})


def test_random_search_trains_even_the_only_architecture_there_is(tmp_path: Path) -> None:
    found = run_search(
        config(strategy="random", candidates=("conv",), finalists=2, race_epochs=1), tmp_path, progress=False
    )  # fmt: skip
    assert found.score == read_json(tmp_path / "race" / "1" / "result.json", "")["val_accuracy"]
    assert (tmp_path / "network.pt").exists()


def test_a_random_search_goes_on_only_where_it_is_asked_to_and_with_its_settings(tmp_path: Path) -> None:
    settings = config(strategy="random", finalists=2, race_epochs=1)
    run_search(settings, tmp_path, progress=False)
    (tmp_path / "result.json").unlink()
    with pytest.raises(UserError, match="holds an unfinished search; resume it"):
        run_search(settings, tmp_path, progress=False)
    with pytest.raises(UserError, match="of other settings"):
        run_search(dataclasses.replace(settings, race_epochs=2), tmp_path, progress=False, resume=True)
    assert SearchConfig.load(tmp_path) == settings


def test_what_another_command_left_is_not_overwritten(tmp_path: Path) -> None:
    (tmp_path / "network.pt").write_text("precious")
    for strategy in ("random", "darts"):
        with pytest.raises(UserError, match=r"network.pt' exists already"):
            run_search(config(strategy=strategy, finalists=2), tmp_path, progress=False)
    assert [file.name for file in tmp_path.iterdir()] == ["network.pt"]


def test_a_penalty_may_count_latency(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def table(_: Latency, of: Survey) -> Entries:
        return Entries({slot.name: {name: float(name != "local") for name in slot.candidates} for slot in of.slots}, 0.0)

    monkeypatch.setattr(Latency, "table", table)
    settings = config(penalty=100.0, cost="latency", arc_warmup=0, arc_learning_rate=0.3)
    assert set(run_search(settings, tmp_path, progress=False).finalists[0].values()) == {"local"}


def test_a_race_goes_on_where_it_was_interrupted(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    settings = config(strategy="single_path", samples=4, finalists=2, warm_epochs=2)
    whole = run_search(settings, tmp_path, progress=False)
    (tmp_path / "result.json").unlink()
    trained = []
    monkeypatch.setattr("acmix_nas.searching.race.train_architecture", lambda *arguments, **_: trained.append(arguments))
    again = run_search(settings, tmp_path, progress=False, resume=True)
    assert trained == []
    assert again.score == whole.score


@pytest.mark.parametrize("epoch", [slow(0), 1])
def test_a_warm_finalist_goes_on_from_its_last_epoch(epoch: int, tmp_path: Path) -> None:
    settings = config(strategy="single_path", samples=4, finalists=2, warm_epochs=2)
    whole = run_search(settings, tmp_path / "whole", progress=False)
    train = train_architecture
    patched = pytest.MonkeyPatch()
    patched.setattr(
        "acmix_nas.searching.race.train_architecture", lambda *a, **k: train(*a, **{**k, "callbacks": [InterruptEpoch(epoch)]})
    )
    with pytest.raises(KeyboardInterrupt):
        run_search(settings, tmp_path / "cut", progress=False)
    patched.undo()
    continued = run_search(settings, tmp_path / "cut", progress=False, resume=True)
    assert (continued.score, continued.finalists) == (whole.score, whole.finalists)
    ended = [torch.load(tmp_path / name / "network.pt", weights_only=True) for name in ("whole", "cut")]
    assert all(torch.equal(ended[0][key], ended[1][key]) for key in ended[0])


class InterruptEpoch(pl.Callback):
    """Ctrl-C at the start of this epoch."""

    def __init__(self, epoch: int) -> None:
        self.epoch = epoch

    def on_train_batch_start(self, trainer: pl.Trainer, *_: Any) -> None:
        if trainer.current_epoch == self.epoch:
            raise KeyboardInterrupt


def test_a_race_goes_on_with_no_other_finalists(tmp_path: Path) -> None:
    settings = config(strategy="random", finalists=2, race_epochs=1)
    run_search(settings, tmp_path, progress=False)
    for name in ("result.json", "race/1/architecture.json"):
        (tmp_path / name).unlink()
    found = Architecture.load(tmp_path / "architecture.json")
    all_conv = dict.fromkeys(found.slots, "conv")
    dataclasses.replace(found, slots=all_conv).save(tmp_path / "race" / "1" / "architecture.json")
    with pytest.raises(UserError, match="is another than when the race began"):
        run_search(settings, tmp_path, progress=False, resume=True)


@pytest.mark.parametrize(
    ("strategy", "race_start", "warm"),
    [
        ("single_path", None, True),
        slow("single_path", "scratch", False),
        ("darts", None, False),
        slow("darts", "inherited", True),
    ],
)
def test_finalists_begin_with_what_they_inherit_or_from_scratch(
    strategy: str, race_start: str | None, warm: bool, tmp_path: Path
) -> None:
    """With steps too small to see, a warm finalist keeps the weights of the supernet; one from scratch never had them."""
    settings = config(
        strategy=strategy, samples=4, finalists=2, race_start=race_start, race_epochs=1, warm_epochs=1, warm_lr=1e-12,
    )  # fmt: skip
    settings = dataclasses.replace(settings, recipe=Recipe(epochs=2, warmup_epochs=0, min_lr=0.0, weight_decay=0.0))
    found = run_search(settings, tmp_path, progress=False)
    trained = read_json(tmp_path / "race" / "1" / "result.json", "")
    assert (trained["epochs"], trained["recipe"]["lr"]) == (1, 1e-12 if warm else settings.recipe.lr)
    _, supernet = load_supernet(tmp_path)
    weights = torch.load(tmp_path / "race" / "1" / "network.pt", weights_only=True)
    inherited = supernet.space.inherit(found.finalists[0]).state_dict()
    same = [torch.allclose(weights[name], inherited[name], rtol=0, atol=1e-8) for name in weights if weights[name].ndim == 4]
    assert all(same) if warm else not any(same)


@pytest.mark.parametrize(("strategy", "race_epochs", "warm_epochs"), [slow("random", 2, 9), ("single_path", 9, 2)])
def test_a_race_is_cut_at_half_time_and_changes_no_training(
    strategy: str, race_epochs: int, warm_epochs: int, tmp_path: Path
) -> None:
    lengths = {"race_epochs": race_epochs, "warm_epochs": warm_epochs, "race_cut": 1}
    settings = config(strategy=strategy, samples=5, finalists=3, apart=1, **lengths)
    cut = run_search(settings, tmp_path / "cut", progress=False)
    whole = run_search(dataclasses.replace(settings, race_cut=0), tmp_path / "whole", progress=False)
    assert cut.finalists == whole.finalists
    half = [read_json(tmp_path / "cut" / "race" / str(n) / "half-time.json", "")["val_accuracy"] for n in (1, 2, 3)]
    (ended,) = (n for n in (1, 2, 3) if (tmp_path / "cut" / "race" / str(n) / "result.json").exists())
    assert half[ended - 1] == max(half)
    paused, through = (read_json(tmp_path / one / "race" / str(ended) / "result.json", "") for one in ("cut", "whole"))
    assert (paused["val_accuracy"], paused["test_accuracy"]) == (through["val_accuracy"], through["test_accuracy"])
    assert cut.score == paused["val_accuracy"]
    checkpoints = [tmp_path / "cut" / "race" / str(n) / "checkpoints" / "last.ckpt" for n in (1, 2, 3)]
    steps = [torch.load(file, weights_only=False)["global_step"] for file in checkpoints]
    assert sorted(steps) == [max(steps) // 2] * 2 + [max(steps)]  # the others were trained for half of the epochs


def test_a_race_on_several_devices_is_refused(tmp_path: Path) -> None:
    with pytest.raises(UserError, match="finalists must be 1 on several devices"):
        run_search(config(finalists=2), tmp_path, progress=False, trainer_kwargs={"devices": 2})


def test_a_loss_that_is_no_number_ends_the_search(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    real = TrainingModule.training_step
    monkeypatch.setattr(TrainingModule, "training_step", lambda self, batch, i: float("nan") * real(self, batch, i))
    monkeypatch.setattr(TrainingModule, "_record", record_nan)
    with pytest.raises(BrokenRun, match="train_loss is nan after epoch 1"):
        run_search(config(strategy="single_path"), tmp_path, progress=False)
    assert not (tmp_path / "supernet.pt").exists()


def record_nan(module: TrainingModule, part: str, *_: Any) -> None:
    module.log(f"{part}_loss", torch.tensor(float("nan")), on_epoch=True, batch_size=1)


@pytest.mark.slow
@pytest.mark.parametrize("strategy", ["darts", "single_path"])
def test_two_processes_share_the_images_and_write_one_folder(strategy: str, tmp_path: Path) -> None:
    command = [
        str(Path(sys.executable).with_name("acmix-nas")), "search", "--backbone", "resnet14t", "--slots", "layer*",
        "--backbone-args", "channels=[8,8,16,16]", "--image-size", "16", "--epochs", "2", "--strategy", strategy,
        "--samples", "2", "--devices", "2", "--accelerator", "cpu",
    ]  # fmt: skip
    done = subprocess.run(command, capture_output=True, text=True, check=False, cwd=tmp_path)
    assert done.returncode == 0, done.stderr
    assert done.stdout.count("validation score") == 1
    (folder,) = (tmp_path / "runs").iterdir()
    assert Architecture.load(folder / "architecture.json").slots
    assert "8/8" in done.stderr + done.stdout  # 1,078 images in batches of 64, halved


def test_a_finished_search_is_not_overwritten(tmp_path: Path) -> None:
    run_search(config(epochs=2), tmp_path, progress=False)
    for resume in (False, True):
        with pytest.raises(UserError, match="holds a finished search"):
            run_search(config(epochs=2), tmp_path, progress=False, resume=resume)


def test_a_supernet_comes_back_and_judges(tmp_path: Path, data: ImageData) -> None:
    run_search(config(strategy="single_path", epochs=3), tmp_path, progress=False)
    loaded, supernet = load_supernet(tmp_path, data)
    space = supernet.space
    assert loaded == config(strategy="single_path", epochs=3)
    before = {key: value.clone() for key, value in space.state_dict().items()}
    choice = Architecture.load(tmp_path / "architecture.json").slots
    _, accuracy = judge(supernet, choice)
    assert accuracy == pytest.approx(read_json(tmp_path / "result.json", "result")["metric"], abs=0.02)
    assert all(torch.equal(value, before[key]) for key, value in space.state_dict().items())


def test_a_transformer_is_searched_at_the_size_of_the_images(tmp_path: Path) -> None:
    arguments = {"embed_dim": 8, "depths": [1, 1, 1, 1], "num_heads": [1, 1, 2, 2]}
    settings = config(
        backbone="swin_tiny_patch4_window7_224", backbone_args=arguments, slots=("*",), candidates=("home", "conv"), epochs=1,
        arc_warmup=0, data=dataclasses.replace(DATA, image_size=32),
    )  # fmt: skip
    assert settings.arguments(32)["img_size"] == 32
    run_search(settings, tmp_path, progress=False)
    network = build(tmp_path / "architecture.json", weights=tmp_path / "network.pt").eval()
    assert network(torch.zeros(1, 3, 32, 32)).shape == (1, 10)


def test_the_seed_gives_the_weights() -> None:
    a, b = (make_space(config(), ImageData(DATA)).state_dict() for _ in range(2))
    assert all(torch.equal(a[key], b[key]) for key in a)


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"strategy": "dart"}, "strategy must be one of single_path, darts, gumbel, proxyless, random; got 'dart'"),
        ({"strategy": "gumbel", "penalty": 0.1}, "penalty needs strategy darts; got strategy='gumbel'"),
        ({"darts_order": 3}, "darts_order must be one of 1, 2; got 3"),
        ({"strategy": "gumbel", "darts_order": 2}, "darts_order needs strategy darts; got strategy='gumbel'"),
        ({"darts_order": 2, "precision": "bf16-mixed"}, "darts_order 2 needs precision 32-true"),
        ({"strategy": "gumbel", "temperature": (1.0, 2.0)}, "temperature must be two positive numbers, .* got 1.0, 2.0"),
        ({"selection": "best"}, "selection must be one of argmax, perturbation; got 'best'"),
        ({"patience": -1}, "patience must be 0 or more; got patience=-1"),
        ({"arc_warmup": 2}, "arc_warmup must be from 0 to below epochs=2"),
        ({"arc_learning_rate": 0.0}, "arc_learning_rate must be positive"),
        ({"backbone_args": {"num_classes": 3}}, "must not say num_classes"),
        ({"backbone_args": {"act_layer": object()}}, "plain values"),
        ({"strategy": "single_path", "samples": 0}, "samples must be at least 1"),
        ({"finalists": 0}, "finalists must be at least 1"),
        ({"race_epochs": 0}, "race_epochs must be at least 1"),
        ({"warm_epochs": 0}, "warm_epochs must be at least 1"),
        ({"warm_lr": 0.0}, "warm_lr must be positive"),
        ({"race_start": "warm"}, "race_start must be one of inherited, scratch"),
        ({"strategy": "random", "finalists": 2, "race_start": "inherited"}, "race_start must be scratch with strategy random"),
        ({"strategy": "random"}, "finalists must be at least 2 with strategy random"),
        ({"budget": ["watts=3"]}, "budget must be one of"),
        ({"penalty": 0.1, "cost": "watts"}, "cost must be one of"),
        ({"precision": "16-mixed", "clip_grad": 5.0}, "clip_grad must be left out with strategy darts in 16-mixed"),
        ({"ema_decay": 0.9}, "ema_decay must be 0 in a search"),
        ({"share": "some"}, "share must be one of all, attention, none; got 'some'"),
        ({"epoch": 3}, "parameter 'epoch' is no option here; did you mean 'epochs'"),
    ],
)
def test_mistakes_are_named(changes: dict[str, Any], message: str) -> None:
    with pytest.raises(UserError, match=message):
        config(**changes)


@pytest.mark.parametrize(
    ("channels", "classes", "said"),
    [(12, 5, r"backbone does not take inputs of shape \(1, 12, 16, 16\)"), (3, 4, r"backbone must return \(batch, 4\)")],
)
def test_a_module_that_does_not_suit_the_data_is_refused_before_training(
    channels: int, classes: int, said: str, tmp_path: Path
) -> None:
    module = nn.Sequential(nn.Conv2d(3, 8, 3, padding=1), nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(8, 5))
    part = TensorDataset(torch.randn(4, channels, 16, 16), torch.arange(4))
    with pytest.raises(UserError, match=said):
        search(module, Data(part, part, num_classes=classes), output=tmp_path / "search", progress=False)
    assert not (tmp_path / "search").exists()


class Aimed(Classification):
    """A task with an argument."""

    def __init__(self, aim: float) -> None:
        super().__init__()
        self.aim = aim


@pytest.mark.parametrize("other", ["task", "data", "backbone"])
def test_a_search_goes_on_only_with_what_it_was_begun_with(other: str, tmp_path: Path) -> None:
    def module(kind: type[nn.Module] = nn.ReLU) -> nn.Module:
        return nn.Sequential(nn.Conv2d(3, 4, 3, padding=1), kind(), nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(4, 2))

    part = TensorDataset(torch.randn(4, 3, 8, 8), torch.arange(4) % 2)
    first: dict[str, Any] = {"data": Data(part, part, num_classes=2), "task": Aimed(5.0), "backbone": module()}
    others: dict[str, Any] = {
        "data": Data(part, part, num_classes=2, name="others"),
        "task": Aimed(-3.0),
        "backbone": module(nn.Tanh),
    }
    settings: dict[str, Any] = {"strategy": "random", "finalists": 2, "race_epochs": 1, "output": tmp_path, "progress": False}
    search(**first, **settings)
    (tmp_path / "result.json").unlink()
    with pytest.raises(UserError, match=f"holds a search of other {other}; resume it with those"):
        search(**{**first, other: others[other]}, **settings, resume=True)
    assert search(**first, **settings, resume=True).resumed


SMALL_VIT = {"embed_dim": 24, "num_heads": 3, "class_token": False, "global_pool": "avg"}


def test_a_transformer_takes_images_that_are_no_squares(tmp_path: Path) -> None:
    part = TensorDataset(torch.randn(4, 3, 16, 32), torch.arange(4) % 2)
    found = search(
        "vit_tiny_patch16_224", Data(part, part, num_classes=2), backbone_args={**SMALL_VIT, "depth": 1},
        candidates=["home"], epochs=1, samples=1, output=tmp_path, progress=False,
    )  # fmt: skip
    assert found.architecture.backbone_args["img_size"] == [16, 32]

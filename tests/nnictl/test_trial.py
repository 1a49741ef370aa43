"""The trial runs with and without NNI, writes what it received and found, and checks a search space before a start."""

from __future__ import annotations

import json
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import NamedTuple

import pytest

from acmix_nas.architecture import Architecture, build
from acmix_nas.bias import read_history
from acmix_nas.cli.main import main
from acmix_nas.nnictl import trial as trials
from acmix_nas.nnictl.results import read_results
from acmix_nas.nnictl.trial import check_slots, corners, shared_supernet, spread
from acmix_nas.searching.config import SearchConfig
from acmix_nas.training.config import DataConfig
from acmix_nas.training.recipe import Recipe
from acmix_nas.util.errors import UserError
from acmix_nas.util.files import read_json
from tests.small import SLOTS

OPTIONS = [
    "--backbone", "resnet14t", "--backbone-args", "channels=[8,8,16,16]", "--slots", "layer*",
    "--image-size", "16", "--batch-size", "128", "--epochs", "2",
]  # fmt: skip
CONFIG = SearchConfig(
    "resnet14t", {"channels": [8, 8, 16, 16]}, slots=("layer*",), strategy="single_path",
    data=DataConfig(image_size=16, batch_size=128), recipe=Recipe(epochs=2),
)  # fmt: skip
SPACE = {slot: {"_type": "choice", "_value": ["conv", "local", "acmix_local"]} for slot in SLOTS}


class Done(NamedTuple):
    """How a command ended."""

    status: int
    stdout: str
    stderr: str


Trial = Callable[..., Done]


@pytest.fixture
def trial(capsys: pytest.CaptureFixture[str]) -> Trial:
    """Run a trial's command in this process."""

    def run(*arguments: str) -> Done:
        with pytest.raises(SystemExit) as ended:
            main(["trial", *arguments])
        return Done(int(ended.value.code or 0), *capsys.readouterr())

    return run


def test_a_search_runs_without_nni(tmp_path: Path) -> None:
    """As NNI starts it, in a process of its own."""
    arguments = ["search", *OPTIONS, "--output", str(tmp_path), "--strategy", "darts", "--penalty", "0.1"]
    command = [sys.executable, "-m", "acmix_nas", "trial", *arguments]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    assert "epoch 2 of 2: " in done.stdout
    result = read_json(tmp_path / "result.json", "result")
    assert next(iter(result)) == "made_by"
    assert result["made_by"].startswith("python -m acmix_nas trial search --backbone resnet14t")
    assert (result["parameters"], result["trial"]) == ({}, None)
    assert f"metric {result['metric']:.4f}" in done.stdout
    assert sorted(Architecture.load(tmp_path / "architecture.json").slots) == SLOTS
    assert len(read_history(tmp_path / "history.csv")) == 3 * 4 * 3
    assert read_results(tmp_path)[0].metric == result["metric"]


TRAIN = [
    "train", "--backbone", "resnet26_acmix", "--backbone-args", "layers=[1,1,1,1]", "--backbone-args", "channels=[8,8,16,16]",
    "--image-size", "16", "--batch-size", "128", "--epochs", "2",
]  # fmt: skip


@pytest.mark.parametrize(
    "received",
    [
        {"mixing": "convex", "shifts": "fixed", "seed": 3},
        {"network": {"backbone": "resnet26_acmix", "mixing": "convex", "shifts": "fixed"}, "seed": 3},
    ],
)
def test_a_training_takes_its_parameters_as_options_or_arguments(
    received: dict[str, object], trial: Trial, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(trials, "begin", lambda output: (output, received))
    backbone = ["--backbone", "resnet18"] if "network" in received else []
    assert trial(*TRAIN, *backbone, "--output", str(tmp_path)).status == 0
    result = read_json(tmp_path / "result.json", "result")
    architecture = Architecture.load(tmp_path / "architecture.json")
    assert (architecture.backbone, dict(architecture.slots)) == ("resnet26_acmix", {})
    assert architecture.backbone_args == {
        "layers": [1, 1, 1, 1], "channels": [8, 8, 16, 16], "mixing": "convex", "shifts": "fixed",
    }  # fmt: skip
    assert result["recipe"]["seed"] == 3
    assert result["parameters"] == received
    assert result["metric"] == result["val_accuracy"]
    assert 0 <= result["test_accuracy"] <= 1
    network = build(architecture, weights=tmp_path / "network.pt")
    assert result["costs"]["parameters"] == sum(parameter.numel() for parameter in network.parameters())
    assert read_results(tmp_path)[0].metric == result["metric"]
    history = read_history(tmp_path / "history.csv")
    assert {(o.slot, o.epoch) for o in history} == {(f"layer{n}.0.conv2", epoch) for n in range(1, 5) for epoch in range(3)}
    assert all(o.alpha is not None and o.beta == pytest.approx(1 - o.alpha) for o in history)


def test_mappings_among_the_parameters_are_opened() -> None:
    assert spread({"network": {"backbone": "a", "depth": 2}, "seed": 1}) == {"backbone": "a", "depth": 2, "seed": 1}


def test_architectures_share_one_supernet(trial: Trial, tmp_path: Path) -> None:
    results = []
    for name in ("a", "b"):
        done = trial("evaluate", *OPTIONS, "--supernet", str(tmp_path / "supernet"), "--output", str(tmp_path / name))
        assert done.status == 0, done.stderr
        results.append(read_json(tmp_path / name / "result.json", "result"))
        assert ("epoch 1 of 2" in done.stdout) == (name == "a")  # the second one finds the supernet trained
    assert results[0]["metric"] == results[1]["metric"]
    assert results[0]["parameters"] == dict.fromkeys(SLOTS, "conv")


def test_a_supernet_of_other_options_is_refused(tmp_path: Path) -> None:
    shared_supernet(CONFIG, tmp_path)
    other = SearchConfig("resnet14t", {"channels": [8, 8, 16, 16]}, slots=("layer*",), strategy="single_path", data=CONFIG.data)
    with pytest.raises(UserError, match="was trained with other options"):
        shared_supernet(other, tmp_path)


@pytest.mark.parametrize("option", [["--budget", "macs=1M"], ["--finalists", "3"]])
def test_what_a_single_architecture_has_no_use_for_is_refused(option: list[str], trial: Trial, tmp_path: Path) -> None:
    done = trial("evaluate", *option, "--output", str(tmp_path / "x"))
    assert done.status == 2
    assert "a budget belongs to the tuner" in done.stderr


def test_the_space_of_the_slots_passes_the_check() -> None:
    check_slots(CONFIG, SPACE)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"layer9.conv2": SPACE[SLOTS[0]]}, "'layer9.conv2' is no slot of resnet14t; its slots are layer1.0.conv2"),
        (
            {SLOTS[0]: {"_type": "choice", "_value": ["conv", "cnov"]}},
            "slot 'layer1.0.conv2' must be a choice among conv, local",
        ),
        ({SLOTS[0]: {"_type": "uniform", "_value": [0, 1]}}, "slot 'layer1.0.conv2' must be a choice"),
        ({SLOTS[1]: None}, "slot 'layer2.0.conv2' of resnet14t is missing"),
    ],
)
def test_a_wrong_space_is_named(change: dict[str, object], message: str) -> None:
    space = {name: entry for name, entry in {**SPACE, **change}.items() if entry is not None}
    with pytest.raises(UserError, match=message):
        check_slots(CONFIG, space)


@pytest.mark.parametrize(
    ("arguments", "space", "message"),
    [
        (["search", *OPTIONS], {"penality": {"_type": "choice", "_value": [0]}}, "parameter 'penality' is no option"),
        (
            ["search", *OPTIONS, "--strategy", "darts"],
            {"penalty": {"_type": "choice", "_value": [0, -1]}},
            "penalty must be a number of 0 or more",
        ),
        (["search", *OPTIONS, "--candidates", "cnov"], {}, "operator must be conv"),
        (["evaluate", *OPTIONS], {"x": {"_type": "choice", "_value": [0]}}, "'x' is no slot"),
        (TRAIN, {"mixing": {"_type": "choice", "_value": ["sum", "summ"]}}, "mixing must be one of"),
        (TRAIN, {"backbone": {"_type": "choice", "_value": ["resnet18", "resnet1O"]}}, "got 'resnet1O'"),
        (TRAIN, {"penalty": {"_type": "choice", "_value": [0.5]}}, "does not take these arguments"),
        (TRAIN, {"lr": {"_type": "choice", "_value": [0.1, -0.1]}}, "lr must be positive"),
    ],
)
def test_the_check_ends_in_one_line(
    arguments: list[str], space: dict[str, object], message: str, trial: Trial, tmp_path: Path
) -> None:
    file = tmp_path / "space.json"
    file.write_text(json.dumps(space))
    done = trial(*arguments, "--check", str(file))
    assert done.status == 2
    assert done.stderr.startswith("error: ")
    assert message in done.stderr
    assert done.stderr.count("\n") == 1
    assert list(tmp_path.iterdir()) == [file]


def test_corners_name_every_value_once() -> None:
    space = {
        "a": {"_type": "choice", "_value": [1, 2, 3]}, "b": {"_type": "choice", "_value": [4, 5]},
        "c": {"_type": "uniform", "_value": [0.1, 0.9]},
    }  # fmt: skip
    settings = corners(space)
    assert {s["a"] for s in settings} == {1, 2, 3}
    assert {s["b"] for s in settings} == {4, 5}
    assert {s["c"] for s in settings} == {0.1}

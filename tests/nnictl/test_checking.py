"""An experiment that cannot run is refused before it starts, in one line."""

from __future__ import annotations

import json
import math
import sys
from pathlib import Path
from typing import Any

import psutil
import pytest
import yaml

from acmix_nas.nnictl import checking
from acmix_nas.nnictl.checking import check
from acmix_nas.operators.acmix import MIXINGS
from acmix_nas.operators.convolution import SHIFTS
from acmix_nas.util.errors import UserError
from tests.nnictl.conftest import CONFIG, Write, one_line

ROOT = Path(__file__).parents[2]
pytestmark = pytest.mark.usefixtures("home")


def test_a_good_config_comes_back_with_absolute_paths(write: Write, tmp_path: Path) -> None:
    config = write(searchSpace=None, searchSpaceFile="space.json")
    (config.parent / "space.json").write_text(json.dumps(CONFIG["searchSpace"]))
    settings = check(config)
    assert settings["trialCodeDirectory"] == str(tmp_path / "code")
    assert settings["experimentWorkingDirectory"] == str(tmp_path / "nni-experiments")
    assert settings["searchSpace"] == CONFIG["searchSpace"]


@pytest.mark.parametrize(
    ("changes", "words"),
    [
        ({"searchSpace": {}}, "search space"),
        ({"searchSpace": 3}, "search space must map names"),
        ({"searchSpace": {"x": [1, 2]}}, "'x' must hold _type and _value"),
        ({"searchSpace": {"x": {"_type": "chioce", "_value": [1]}}}, "must be one of choice"),
        ({"searchSpace": {"x": {"_type": "choice", "_value": []}}}, "filled list"),
        ({"tuner": {"name": "Grid"}}, "must be one of .*TPE.*got 'Grid'"),
        ({"tuner": {"name": "Medianstop"}}, "must be one of"),
        ({"tuner": "TPE"}, "tuner must be a mapping"),
        ({"tuner": None}, "tuner must be set"),
        ({"trialConcurrency": 0}, "at least 1; got 0"),
        ({"trialConcurrency": None}, "trial_concurrency is not set"),
        ({"maxTrialNumber": 0}, "max_trial_number > 0"),
        ({"trialComand": "x"}, "trialcomand"),
        ({"trialCodeDirectory": "nowhere"}, "nowhere.*not a directory"),
        ({"trainingService": {"platform": "local", "reuseMode": True}}, "reuseMode"),
        ({"trainingService": {"platform": "moon"}}, "moon"),
    ],
)
def test_what_cannot_run_is_refused_in_one_line(write: Write, changes: dict[str, Any], words: str) -> None:
    config = write(**changes)
    with pytest.raises(UserError, match=words) as error:
        check(config)
    assert one_line(error)
    assert str(config) in str(error.value)


def test_a_refused_config_leaves_nni_fit_for_the_next(write: Write) -> None:
    config = write(trialComand="x")
    for _ in range(2):  # NNI keeps the folder of a config that it could not load, and then refuses every other
        with pytest.raises(UserError, match="trialcomand"):
            check(config)


def test_a_tuner_class_that_cannot_be_imported_is_refused(write: Write) -> None:
    config = write(tuner={"className": "nowhere.Tuner", "codeDirectory": "."})
    with pytest.raises(UserError, match=r"nowhere\.Tuner.*No module named 'nowhere'") as error:
        check(config)
    assert one_line(error)


def test_a_tuner_that_refuses_the_space_is_refused(write: Write) -> None:
    config = write(tuner={"name": "Batch"}, searchSpace={"x": {"_type": "uniform", "_value": [0, 1]}})
    with pytest.raises(UserError, match="'Batch' cannot be built") as error:
        check(config)
    assert one_line(error)


def test_options_for_the_trials_end_their_command(write: Write) -> None:
    settings = check(write(), "--image-size 64")
    assert settings["trainingService"]["trialCommand"] == "python trial.py --image-size 64"


def test_options_for_the_trials_are_checked_with_them(write: Write, monkeypatch: pytest.MonkeyPatch) -> None:
    asked: list[Any] = []

    def answer(command: Any, *_: Any) -> tuple[int, str]:
        asked.append(command)
        return 0, ""

    monkeypatch.setattr(checking, "_ask", answer)
    check(write(), "--image-size 64 ")
    assert asked[-1].startswith("python trial.py --image-size 64 --check ")


@pytest.mark.parametrize(
    "name", ["paper-mixing", *(pytest.param(name, marks=pytest.mark.slow) for name in ("paper-shift", "paper-bias"))]
)
def test_the_experiments_of_the_paper_pass_their_check(name: str) -> None:
    settings = check(ROOT / "experiments" / f"{name}.yml", "--epochs 1 --warmup-epochs 0 --image-size 16")
    space = settings["searchSpace"]
    assert settings["maxTrialNumber"] == math.prod(len(entry["_value"]) for entry in space.values())
    assert len(space["seed"]["_value"]) >= 3


def test_an_experiment_under_a_budget_passes_its_check_and_one_that_none_meets_does_not(tmp_path: Path) -> None:
    path = ROOT / "experiments" / "digits-budget.yml"
    assert check(path)["tuner"]["classArgs"]["budget"] == ["macs=5.3M"]
    content = yaml.safe_load(path.read_text())
    content["tuner"]["classArgs"]["budget"] = ["macs=1k"]
    (tmp_path / "config.yml").write_text(yaml.safe_dump(content))
    with pytest.raises(UserError, match=r"EvolutionTuner' cannot be built: .*met by no architecture") as error:
        check(tmp_path / "config.yml")
    assert one_line(error)


def test_the_forms_of_the_experiments_are_those_of_acmix() -> None:
    spaces = {
        name: yaml.safe_load((ROOT / "experiments" / f"{name}.yml").read_text())["searchSpace"]
        for name in ("paper-mixing", "paper-shift")
    }
    assert spaces["paper-mixing"]["mixing"]["_value"] == list(MIXINGS)
    assert spaces["paper-shift"]["shifts"]["_value"] == list(SHIFTS)


def test_the_last_line_of_the_trials_own_check_is_the_error(write: Write) -> None:
    config = write(searchSpace={"y": {"_type": "choice", "_value": [1]}})
    with pytest.raises(UserError, match=r"^the trial knows no slot y$"):
        check(config)


def test_a_check_that_does_not_end_is_ended(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setattr(checking, "CHECK_SECONDS", 0.5)  # without computing
    before = set(psutil.Process().children(recursive=True))
    status, line = checking._ask("sleep 300; echo late", tmp_path, CONFIG)
    assert status == 1
    assert line == "sleep 300; echo late does not end, and has computed nothing for 0.5 s"
    assert set(psutil.Process().children(recursive=True)) == before


def test_a_check_that_computes_is_waited_for(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setattr(checking, "CHECK_SECONDS", 1.0)
    code = "import time\nwhile time.process_time() < 3: pass\nprint('well')"
    assert checking._ask([sys.executable, "-c", code], tmp_path, CONFIG) == (0, "well")


def test_a_missing_config_is_one_line(tmp_path: Path) -> None:
    with pytest.raises(UserError, match=r"no file .*none\.yml"):
        check(tmp_path / "none.yml")


@pytest.mark.parametrize("text", ["a: [1", "- a", "\t: a"])
def test_a_config_of_another_kind_is_one_line(tmp_path: Path, text: str) -> None:
    (tmp_path / "config.yml").write_text(text)
    with pytest.raises(UserError, match=r"config\.yml") as error:
        check(tmp_path / "config.yml")
    assert one_line(error)

"""An experiment is refused before it starts, or it runs, is stopped whatever happens, and its trials' files are read."""

from __future__ import annotations

import json
import math
import os
import signal
import socket
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import psutil
import pytest
import yaml

from acmix_nas.nnictl import experiment
from acmix_nas.nnictl.experiment import ExperimentError, check, launch
from acmix_nas.nnictl.results import find_experiment, read_results
from acmix_nas.operators.acmix import MIXINGS
from acmix_nas.operators.convolution import SHIFTS
from acmix_nas.util.errors import UserError

ROOT = Path(__file__).parents[2]
TRIAL = """
import json, os, pathlib, subprocess, sys
if "--check" in sys.argv:
    space = json.loads(pathlib.Path(sys.argv[-1]).read_text())
    print("a first line")
    sys.exit("the trial knows no slot y" if "y" in space else 0)

import nni
parameters = nni.get_next_parameter()
if parameters["x"] == 0.5:
    print("printed before the end")
    raise ValueError("the trial broke")
subprocess.Popen(["sleep", "300"])  # what a trial starts must end with the experiment
output = pathlib.Path(os.environ["NNI_OUTPUT_DIR"])
(output / "result.json").write_text(json.dumps({
    "trial": nni.get_trial_id(), "sequence": nni.get_sequence_id(), "parameters": parameters, "metric": parameters["x"],
    "seconds": 0.1, "architecture": "architecture.json", "threads": os.environ["OMP_NUM_THREADS"], "python": sys.executable,
}))
nni.report_final_result({"default": parameters["x"]})
"""
CONFIG = {
    "experimentName": "fake",
    "searchSpace": {"x": {"_type": "choice", "_value": [0.25, 0.75]}},
    "trialCommand": "python trial.py",
    "trialCodeDirectory": ".",
    "trialConcurrency": 2,
    "maxTrialNumber": 2,
    "tuner": {"name": "GridSearch"},
    "trainingService": {"platform": "local"},
}
Write = Callable[..., Path]


@pytest.fixture(autouse=True)
def home(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """NNI's list of experiments lies in the home folder: not in the user's while tests run."""
    monkeypatch.setenv("HOME", str(tmp_path))
    monkeypatch.delenv("OMP_NUM_THREADS", raising=False)
    return tmp_path


@pytest.fixture
def write(tmp_path: Path) -> Write:
    def config(**changes: Any) -> Path:
        (tmp_path / "code").mkdir()
        (tmp_path / "code" / "trial.py").write_text(TRIAL)
        content = {key: value for key, value in {**CONFIG, **changes}.items() if value is not None}
        path = tmp_path / "code" / "config.yml"
        path.write_text(yaml.safe_dump(content))
        return path

    return config


@pytest.fixture
def nothing_left() -> Iterator[None]:
    before = set(psutil.pids())
    yield
    words = ("nni_node", "-m nni", "trial.py", "sleep 300")
    new = (process for process in psutil.process_iter(["cmdline"]) if process.pid not in before)
    lines = [" ".join(process.info["cmdline"] or ()) for process in new]
    assert [line for line in lines if any(word in line for word in words)] == []


def one_line(error: pytest.ExceptionInfo[UserError]) -> bool:
    return "\n" not in str(error.value)


# Real runs


@pytest.mark.usefixtures("nothing_left")
def test_an_experiment_runs_to_its_end_and_is_stopped(write: Write, tmp_path: Path) -> None:
    config = write()
    before = config.read_text()
    folder = launch(config, working_directory=tmp_path / "elsewhere", progress=False, timeout=120)

    assert folder.parent == tmp_path / "elsewhere"
    assert find_experiment(folder.name) == folder
    results = read_results(folder)
    assert [(result.metric, result.parameters) for result in results] == [(0.75, {"x": 0.75}), (0.25, {"x": 0.25})]
    assert {result.sequence for result in results} == {0, 1}
    environment = json.loads((results[0].folder / "result.json").read_text())
    assert environment["threads"] == "1" or int(environment["threads"]) == len(os.sched_getaffinity(0)) // 2
    assert Path(environment["python"]).parent == Path(experiment.sys.executable).parent
    assert results[0].folder == folder / "environments" / "local-env" / "trials" / results[0].trial
    assert config.read_text() == before


@pytest.mark.usefixtures("nothing_left")
def test_a_failed_trial_ends_the_experiment_with_the_last_lines_of_its_log(write: Write) -> None:
    config = write(searchSpace={"x": {"_type": "choice", "_value": [0.5]}}, trialConcurrency=1, maxTrialNumber=50)
    with pytest.raises(ExperimentError, match="failed") as error:
        launch(config, progress=False, timeout=120)
    assert "printed before the end" in str(error.value)
    assert str(error.value).endswith("ValueError: the trial broke")


# Before the start


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
    monkeypatch.setattr(experiment, "_ask", lambda command, *_: asked.append(command) or (0, ""))
    check(write(), "--image-size 64 ")
    assert asked[-1].startswith("python trial.py --image-size 64 --check ")


@pytest.mark.parametrize("name", ["paper-mixing", "paper-shift", "paper-bias"])
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
    monkeypatch.setattr(experiment, "CHECK_SECONDS", 0.5)
    before = set(psutil.Process().children(recursive=True))
    status, line = experiment._ask("sleep 300; echo late", tmp_path, CONFIG)
    assert status == 1
    assert line == "sleep 300; echo late did not end within 0.5 s"
    assert set(psutil.Process().children(recursive=True)) == before


def test_a_missing_config_is_one_line(tmp_path: Path) -> None:
    with pytest.raises(UserError, match=r"no file .*none\.yml"):
        check(tmp_path / "none.yml")


@pytest.mark.parametrize("text", ["a: [1", "- a", "\t: a"])
def test_a_config_of_another_kind_is_one_line(tmp_path: Path, text: str) -> None:
    (tmp_path / "config.yml").write_text(text)
    with pytest.raises(UserError, match=r"config\.yml") as error:
        check(tmp_path / "config.yml")
    assert one_line(error)


def test_a_busy_port_is_refused_by_its_number(tmp_path: Path) -> None:
    with socket.socket() as server:
        server.bind(("localhost", 0))
        server.listen()
        port = server.getsockname()[1]
        with pytest.raises(UserError, match=f"port {port} .*give another") as error:
            launch(tmp_path / "config.yml", port=port)
    assert one_line(error)


def test_a_free_port_is_free() -> None:
    with socket.socket() as server:
        server.bind(("localhost", experiment._free_port()))


# While it runs


def answers(monkeypatch: pytest.MonkeyPatch, state: dict[str, Any], jobs: list[dict[str, Any]]) -> None:
    monkeypatch.setattr("nni.experiment.rest.get", lambda _port, api: state if api == "/check-status" else jobs)


def test_an_error_of_nnis_ends_with_the_tuners_log(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    answers(monkeypatch, {"status": "ERROR", "errors": ["tuner did not connect"]}, [])
    (tmp_path / "log").mkdir()
    (tmp_path / "log" / "dispatcher.log").write_text("".join(f"line {number}.\n" for number in range(100)))
    with pytest.raises(ExperimentError, match="tuner did not connect") as error:
        experiment._watch(tmp_path, 1, 10, None, False)
    assert str(error.value).endswith("line 99.")
    assert "line 80." in str(error.value)
    assert "line 79." not in str(error.value)


def test_the_timeout_raises(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    answers(monkeypatch, {"status": "RUNNING", "errors": []}, [])
    with pytest.raises(ExperimentError, match="did not end within 0 s"):
        experiment._watch(tmp_path, 1, 0, None, False)


def test_a_tuner_that_has_no_more_trials_ends_it(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setattr(experiment, "IDLE_SECONDS", 0)
    answers(monkeypatch, {"status": "TUNER_NO_MORE_TRIAL", "errors": []}, [{"status": "SUCCEEDED"}])
    experiment._watch(tmp_path, 1, 0, None, False)
    answers(monkeypatch, {"status": "TUNER_NO_MORE_TRIAL", "errors": []}, [{"status": "RUNNING"}])
    with pytest.raises(ExperimentError, match="did not end"):
        experiment._watch(tmp_path, 1, 0, None, False)


def test_a_server_that_has_gone_raises(tmp_path: Path) -> None:
    with pytest.raises(ExperimentError, match="has gone"):
        experiment._watch(tmp_path, experiment._free_port(), 10, None, False)


def test_the_best_metric_is_shown_whatever_a_trial_reports() -> None:
    reported = [0.5, {"default": 0.75, "macs": 3.0}, float("nan"), {"macs": 1}]
    jobs = [{"finalMetricData": [{"data": json.dumps(json.dumps(value))}]} for value in reported]
    assert experiment._best([{}, *jobs]) == "best 0.75"
    assert experiment._best([{}]) == ""


def test_a_signal_to_end_raises_and_is_given_back() -> None:
    with pytest.raises(SystemExit), experiment._signals_raise():
        os.kill(os.getpid(), signal.SIGTERM)
    assert signal.getsignal(signal.SIGTERM) is signal.SIG_DFL

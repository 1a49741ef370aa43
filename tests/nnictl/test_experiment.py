"""An experiment runs, is stopped whatever happens, and its trials' files are read."""

from __future__ import annotations

import itertools
import json
import os
import socket
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import psutil
import pytest

from acmix_nas.nnictl import experiment
from acmix_nas.nnictl.experiment import ExperimentError, LateTunerError, launch
from acmix_nas.nnictl.results import find_experiment, read_results
from acmix_nas.util.errors import UserError
from tests.nnictl.conftest import Write, one_line
from tests.small import PATIENCE, known

pytestmark = pytest.mark.usefixtures("home")


@pytest.fixture
def nothing_left() -> Iterator[None]:
    before = set(psutil.pids())
    yield
    words = ("nni_node", "-m nni", "trial.py", "sleep 300")
    new = (process for process in psutil.process_iter(["cmdline"]) if process.pid not in before)
    lines = [" ".join(process.info["cmdline"] or ()) for process in new]
    assert [line for line in lines if any(word in line for word in words)] == []


@pytest.mark.usefixtures("nothing_left")
def test_an_experiment_runs_to_its_end_and_is_stopped(write: Write, monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    config = write()
    (tmp_path / "slow.js").write_text("const end = Date.now() + 8000; while (Date.now() < end);")
    monkeypatch.setenv("NODE_OPTIONS", f"--require {tmp_path / 'slow.js'}")  # nnictl by itself waits three seconds
    before = config.read_text()
    folder = launch(config, working_directory=tmp_path / "elsewhere", progress=False, timeout=PATIENCE)

    assert folder.parent == tmp_path / "elsewhere"
    assert find_experiment(folder.name) == folder
    results = read_results(folder)
    assert [(result.metric, result.parameters) for result in results] == [(0.75, {"x": 0.75}), (0.25, {"x": 0.25})]
    assert {result.sequence for result in results} == {0, 1}
    environment = json.loads((results[0].folder / "result.json").read_text())
    assert environment["threads"] == "1" or int(environment["threads"]) == len(os.sched_getaffinity(0)) // 2
    assert Path(environment["python"]).parent == Path(sys.executable).parent
    assert results[0].folder == folder / "environments" / "local-env" / "trials" / known(results[0].trial)
    assert config.read_text() == before


@pytest.mark.usefixtures("nothing_left")
def test_a_failed_trial_ends_the_experiment_with_the_last_lines_of_its_log(
    write: Write, capsys: pytest.CaptureFixture[str]
) -> None:
    space = {"x": {"_type": "choice", "_value": [0.25, 0.5]}}
    config, begun = write(searchSpace=space, trialConcurrency=1, maxTrialNumber=50), []
    with pytest.raises(ExperimentError, match="failed") as error:
        launch(config, progress=False, timeout=PATIENCE, begun=lambda: begun.append(1))
    assert "printed before the end" in str(error.value)
    assert str(error.value).endswith("ValueError: the trial broke")
    said = capsys.readouterr().err
    assert "x=0.25" in said
    assert "0.2500" in said
    assert "finished trials are kept: acmix-nas export" in said
    assert begun == [1]


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


def watch(folder: Path, port: int = 1, timeout: float | None = None, platform: str = "local", **others: Any) -> None:
    experiment._watch(folder, port, timeout, {"trainingService": {"platform": platform}}, False, **others)


def test_an_error_of_nnis_ends_with_the_tuners_log(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    answers(monkeypatch, {"status": "ERROR", "errors": ["tuner did not connect"]}, [])
    (tmp_path / "log").mkdir()
    (tmp_path / "log" / "dispatcher.log").write_text("".join(f"line {number}.\n" for number in range(100)))
    with pytest.raises(ExperimentError, match="tuner did not connect") as error:
        watch(tmp_path)
    assert str(error.value).endswith("line 99.")
    assert "line 80." in str(error.value)
    assert "line 79." not in str(error.value)


def test_the_timeout_raises(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    answers(monkeypatch, {"status": "RUNNING", "errors": []}, [])
    with pytest.raises(ExperimentError, match="did not end within 0 s"):
        watch(tmp_path, timeout=0)


def test_a_tuner_that_has_no_more_trials_ends_it(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setattr(experiment, "IDLE_SECONDS", 0)
    monkeypatch.setattr(experiment, "IDLE_SHARE", 1.0)
    monkeypatch.setattr(experiment, "IDLE_SECONDS", 0.1)
    answers(monkeypatch, {"status": "TUNER_NO_MORE_TRIAL", "errors": []}, [{"status": "SUCCEEDED"}])
    watch(tmp_path)
    answers(monkeypatch, {"status": "TUNER_NO_MORE_TRIAL", "errors": []}, [{"trialJobId": "a", "status": "RUNNING"}])
    with pytest.raises(ExperimentError, match="did not end"):
        watch(tmp_path, timeout=1)


def test_a_tuner_that_computes_may_propose_another_trial(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setattr(experiment, "IDLE_SECONDS", 0.1)
    seconds = itertools.count()
    monkeypatch.setattr(experiment, "computed", lambda _: next(seconds))
    answers(monkeypatch, {"status": "TUNER_NO_MORE_TRIAL", "errors": []}, [{"status": "SUCCEEDED"}])
    with pytest.raises(ExperimentError, match="did not end"):
        watch(tmp_path, timeout=2)


RUNNING = [{"trialJobId": "a", "status": "RUNNING"}]


def test_an_experiment_in_which_nothing_moves_is_given_up(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setattr(experiment, "SILENCE_SECONDS", 0.5)
    answers(monkeypatch, {"status": "RUNNING", "errors": []}, RUNNING)
    with pytest.raises(ExperimentError, match=r"was given up: nothing in it has moved for 0\.5 s"):
        watch(tmp_path)


@pytest.mark.parametrize(("jobs", "platform"), [([{"trialJobId": "a", "status": "WAITING"}], "local"), (RUNNING, "remote")])
def test_where_nothing_can_be_seen_it_has_a_day(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path, jobs: list[dict[str, Any]], platform: str
) -> None:
    monkeypatch.setattr(experiment, "SILENCE_SECONDS", 0.5)
    answers(monkeypatch, {"status": "RUNNING", "errors": []}, jobs)
    with pytest.raises(ExperimentError, match="did not end within 3 s"):
        watch(tmp_path, timeout=3, platform=platform)
    monkeypatch.setattr(experiment, "QUEUE_SECONDS", 0.5)
    with pytest.raises(ExperimentError, match="was given up"):
        watch(tmp_path, platform=platform)


def test_an_experiment_may_take_any_time_while_something_moves(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setattr(experiment, "SILENCE_SECONDS", 0.5)
    log = tmp_path / "environments" / "local-env" / "trials" / "a" / "trial.log"
    log.parent.mkdir(parents=True)
    states = iter(["RUNNING"] * 4 + ["DONE"])

    def get(_port: int, api: str) -> Any:
        if api != "/check-status":
            return RUNNING
        with log.open("a") as stream:
            stream.write("an epoch\n")
        return {"status": next(states), "errors": []}

    monkeypatch.setattr("nni.experiment.rest.get", get)
    start = time.monotonic()
    watch(tmp_path)
    assert time.monotonic() - start > 4
    assert next(states, None) is None


def test_whatever_a_trial_does_is_a_movement(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    metrics: list[str] = []
    seconds = [0.0]
    monkeypatch.setattr("nni.experiment.rest.get", lambda *_: list(metrics))
    monkeypatch.setattr(experiment, "computed", lambda _: seconds[0])
    folder = tmp_path / "environments" / "local-env" / "trials" / "a" / "checkpoints"
    states = [experiment._moved(tmp_path, 1, [])]

    def moved(jobs: list[dict[str, Any]] = RUNNING) -> bool:
        states.append(experiment._moved(tmp_path, 1, jobs))
        return states[-1] != states[-2]

    assert moved()
    assert not moved()
    folder.mkdir(parents=True)
    (folder / "last.ckpt").write_text("1")
    assert moved()
    os.utime(folder / "last.ckpt", ns=(1, 1))  # another of the same size
    assert moved()
    metrics.append("0.5")
    assert moved()
    seconds[0] += 0.001 * experiment.SILENCE_SECONDS
    assert not moved()
    seconds[0] += 0.01 * experiment.SILENCE_SECONDS
    assert moved()
    assert moved([{"trialJobId": "a", "status": "SUCCEEDED"}])
    assert not moved([{"trialJobId": "a", "status": "SUCCEEDED"}])


def test_the_begin_is_told_once_when_the_first_trial_is_there(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    told: list[int] = []
    numbers = iter([0, 0, 1, 1, 2])

    def get(_port: int, api: str) -> Any:
        if api == "/check-status":
            return {"status": "RUNNING" if len(seen) < 4 else "DONE", "errors": []}
        seen.append(len(told))
        return RUNNING * next(numbers)

    seen: list[int] = []
    monkeypatch.setattr("nni.experiment.rest.get", get)
    watch(tmp_path, begun=lambda: told.append(1))
    assert seen == [0, 0, 0, 1, 1]
    assert told == [1]


# The start


@pytest.fixture
def starts(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Callable[..., int]:
    """Launch an experiment whose first starts end so; the number of starts."""

    def launched(*errors: Exception) -> int:
        number, left = 0, list(errors)

        @contextmanager
        def running(*_: Any) -> Iterator[str]:
            nonlocal number
            number += 1
            yield f"id{number}"

        def watched(*_: Any) -> None:
            if left:
                raise left.pop(0)

        monkeypatch.setattr(experiment, "check", lambda *_: {"experimentWorkingDirectory": str(tmp_path)})
        monkeypatch.setattr(experiment, "_running", running)
        monkeypatch.setattr(experiment, "_watch", watched)
        assert launch(tmp_path / "config.yml", progress=False) == tmp_path / f"id{number}"
        return number

    return launched


def test_a_tuner_that_came_too_late_is_started_once_more(starts: Callable[..., int]) -> None:
    late = LateTunerError("late")
    assert starts() == 1
    assert starts(late) == 2
    assert starts(late, late) == 3
    with pytest.raises(LateTunerError):
        starts(late, late, late)
    with pytest.raises(ExperimentError, match="broken"):
        starts(ExperimentError("broken"))


def test_only_nnis_ten_seconds_are_worth_another_start(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    said = "tuner_command_channel: Tuner did not connect in 10 seconds. Please check tuner (dispatcher) log."
    answers(monkeypatch, {"status": "ERROR", "errors": [said]}, [])
    with pytest.raises(LateTunerError):
        watch(tmp_path)
    answers(monkeypatch, {"status": "ERROR", "errors": ["Dispatcher stream error, tuner may have crashed."]}, [])
    with pytest.raises(ExperimentError) as error:
        watch(tmp_path)
    assert not isinstance(error.value, LateTunerError)


def test_a_server_that_ends_at_once_is_not_waited_for(write: Write, monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    (tmp_path / "die.js").write_text("process.exit(3);")
    monkeypatch.setenv("NODE_OPTIONS", f"--require {tmp_path / 'die.js'}")
    with pytest.raises(ExperimentError, match="nnictl could not start the experiment"):
        launch(write(), progress=False)


def test_a_server_that_has_gone_raises(tmp_path: Path) -> None:
    with pytest.raises(ExperimentError, match="has gone"):
        watch(tmp_path, experiment._free_port())


def test_the_best_metric_is_shown_whatever_a_trial_reports() -> None:
    reported = [0.5, {"default": 0.75, "macs": 3.0}, float("nan"), {"macs": 1}]
    jobs = [{"finalMetricData": [{"data": json.dumps(json.dumps(value))}]} for value in reported]
    assert experiment._best([{}, *jobs]) == "best 0.75"
    assert experiment._best([{}]) == ""

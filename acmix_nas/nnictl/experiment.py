"""An NNI experiment as one call: check its config, start it with nnictl, watch it, always stop it, read what its trials wrote.

`nnictl create --config FILE` works by itself; it also takes what can never run, ends well when every trial has failed, and
leaves its server running. NNI's own record of a trial's parameters is wrong for concurrent trials and is never read.
"""

from __future__ import annotations

import json
import math
import re
import socket
import subprocess
import sys
import time
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeElapsedColumn

from acmix_nas.nnictl.checking import check, environment
from acmix_nas.nnictl.patience import SHARE, Still, computed, ended
from acmix_nas.nnictl.processes import end, left_behind, servers, started
from acmix_nas.nnictl.results import read_results, table
from acmix_nas.util.errors import UserError
from acmix_nas.util.files import write_json
from acmix_nas.util.signals import signals_raise
from acmix_nas.util.terminal import BrokenRun

__all__ = ["ExperimentError", "launch"]

START_SECONDS = 120.0
"""The same of `nnictl create`."""
STARTS = 3
"""So often an experiment is started whose tuner is not there within NNI's ten seconds, which no setting changes."""
SILENCE_SECONDS = 3600.0
"""An experiment in which nothing has moved for so long is given up."""
QUEUE_SECONDS = 24 * 3600.0
"""The same where this machine cannot see what moves: no trial runs yet, for want of a device, or trials run elsewhere."""
STOP_SECONDS = 60.0
IDLE_SECONDS = 10.0
IDLE_SHARE = 0.05
"""A tuner that uses less than this share of a core is not about to propose a trial."""
UNFINISHED = ("WAITING", "RUNNING", "UNKNOWN")
LOG_LINES = 20

# nnictl as it is, but it waits for its server for as long as that lives, in place of three seconds.
NNICTL = """
import time
from nni.experiment import launcher, rest
from nni.tools.nnictl.nnictl import parse_args

start, check = launcher._start_rest_server, launcher._check_rest_server

def started(*args):
    global server
    server = start(*args)
    return server

def answered(port, url_prefix):
    pause = 0.5
    while server.poll() is None:
        try:
            return rest.get(port, "/check-status", url_prefix)
        except OSError:
            time.sleep(pause)
            pause = min(1.5 * pause, 5)
    check(port, url_prefix=url_prefix)

launcher._start_rest_server, launcher._check_rest_server, rest.timeout = started, answered, 300
parse_args()
"""


class ExperimentError(BrokenRun):
    """An experiment that started and went wrong; the message ends with what the logs say last."""


class LateTunerError(ExperimentError):
    """NNI did not wait for the tuner; on a busy machine the next start may be in time."""


def _is_free(port: int) -> bool:
    with socket.socket() as server:
        server.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        try:
            server.bind(("", port))
        except (OSError, OverflowError):
            return False
    return True


def _free_port() -> int:
    while True:
        with socket.socket() as server:
            server.bind(("", 0))
            port: int = server.getsockname()[1]
        if _is_free(port) and _is_free(port + 1):  # NNI takes the next one too where trials run on other machines
            return port


def launch(
    config: Path,
    *,
    port: int | None = None,
    timeout: float | None = None,
    progress: bool = True,
    working_directory: Path | None = None,
    trial_options: str = "",
    begun: Callable[[], None] | None = None,
) -> Path:
    """Run an experiment from its start to its end; whatever happens, its server and its trials are stopped.

    It ends at the first trial that fails: the trials before it have left their results, and the others would fail alike.
    It may take any time while something moves. It is given up when for an hour no trial has started or ended, computed, written
    or reported anything; for a day, where no trial runs yet or trials run on other machines. What has finished is kept, and
    shown where the experiment ends otherwise than it should.

    Args:
        port: of NNI's web page; None takes a free one.
        timeout: seconds until an experiment that does not end is stopped; None for no limit.
        progress: whether to show the page's address and the progress, on stderr.
        working_directory: where the experiment's folder is made, instead of the config's `experimentWorkingDirectory`.
        trial_options: see `check`.
        begun: called once, when the first trial is there. The start is what NNI has too little patience for.

    Returns:
        The experiment's folder.

    Raises:
        UserError: where the config cannot run, or the port is taken.
        ExperimentError: where a trial or NNI failed, or the time was up.
    """
    if port is not None and not _is_free(port):
        raise UserError(f"port {port} cannot be used, another program may hold it; give another, or none to take a free one")
    with signals_raise():
        settings = check(config, trial_options)
        if working_directory is not None:
            settings["experimentWorkingDirectory"] = str(working_directory.expanduser().resolve())
        port = _free_port() if port is None else port
        for start in range(1, STARTS + 1):
            try:
                with _running(settings, port) as experiment:
                    folder = Path(settings["experimentWorkingDirectory"], experiment)
                    with _finished_shown(folder):
                        _watch(folder, port, timeout, settings, progress, begun)
                break
            except LateTunerError:
                if start == STARTS:
                    raise
                Console(stderr=True, quiet=not progress).print("the tuner was not there within NNI's ten seconds: once more")
    return folder


@contextmanager
def _finished_shown(folder: Path) -> Iterator[None]:
    """Show what trials have found, where the block fails or is interrupted."""
    try:
        yield
    except BaseException:
        with suppress(UserError):  # there is none
            console = Console(stderr=True, markup=False)
            console.print(table(read_results(folder)))
            console.print(f"finished trials are kept: acmix-nas export {folder}", markup=False, soft_wrap=True)
        raise


@contextmanager
def _running(settings: dict[str, Any], port: int) -> Iterator[str]:
    """Yield the id of an experiment that runs inside this block and no longer."""
    with TemporaryDirectory() as name:
        # What was checked is what runs: its paths are absolute, so the file may lie anywhere.
        checked, output = write_json(Path(name, "config.json"), settings), Path(name, "output.txt")
        with output.open("wb") as stream:
            # In a session of its own Ctrl-C does not reach it: half started, it would leave a server that nobody knows.
            create = subprocess.Popen(
                [sys.executable, "-W", "ignore", "-c", NNICTL, "create", "--config", str(checked), "--port", str(port)],
                env=environment(settings), stdin=subprocess.DEVNULL, stdout=stream, stderr=subprocess.STDOUT,
                start_new_session=True,
            )  # fmt: skip
        try:
            ended(create, START_SECONDS)
            experiment = _experiment_id(output)
            if create.returncode != 0 or experiment is None:
                raise ExperimentError("nnictl could not start the experiment" + _tail([output]))
            yield experiment
        finally:
            ended(create, START_SECONDS)  # where the wait above was interrupted
            create.kill()
            experiment = _experiment_id(output)
            if experiment is not None:
                _stop(experiment)


def _experiment_id(output: Path) -> str | None:
    found = re.search(r"Experiment ID: (?:\x1b\[\d+m)?([\w-]+)", _text(output))
    return found[1] if found else None


def _watch(
    folder: Path,
    port: int,
    timeout: float | None,
    settings: dict[str, Any],
    progress: bool,
    begun: Callable[[], None] | None = None,
) -> None:
    from nni.experiment import rest

    local = settings["trainingService"]["platform"] == "local"
    console = Console(stderr=True, quiet=not progress, markup=False)
    console.print(f"experiment {folder.name}, web page http://localhost:{port}, folder {folder}", soft_wrap=True)
    columns = TextColumn("trials"), BarColumn(), MofNCompleteColumn(), TextColumn("{task.description}"), TimeElapsedColumn()
    jobs: list[dict[str, Any]] = []
    start = looked = time.monotonic()
    whole, tuner = Still(), Still()
    with Progress(*columns, console=console) as bar:
        task = bar.add_task("", total=settings.get("maxTrialNumber"))
        while True:
            try:
                state, jobs = rest.get(port, "/check-status"), rest.get(port, "/trial-jobs")
            except OSError as error:  # also what requests raises
                if not servers(folder.name):
                    raise ExperimentError(f"NNI's server has gone{_tail([folder / 'log' / 'nnictl_stderr.log'])}") from error
                state = {"status": "BUSY"}
            finished = sum(job["status"] not in UNFINISHED for job in jobs)
            bar.update(task, completed=finished, description=_best(jobs))
            _check_failures(folder, state, jobs)
            if jobs and begun is not None:
                begun()
                begun = None
            # A tuner without more trials never becomes DONE below maxTrialNumber; it may wait for a last result, so wait too.
            more = state["status"] != "TUNER_NO_MORE_TRIAL" or finished < len(jobs)
            if more:
                tuner = Still()
            idle = 0.0 if more else tuner.seconds(computed(started(folder.name)) // (IDLE_SHARE * IDLE_SECONDS))
            if state["status"] in ("DONE", "STOPPED") or idle > IDLE_SECONDS:
                return
            now = time.monotonic()
            if timeout is not None and now - start > timeout:
                raise ExperimentError(f"{folder} did not end within {timeout:g} s, and was stopped")
            limit = SILENCE_SECONDS if local and not _queued(jobs) else QUEUE_SECONDS
            if now - looked > limit / 100:  # it takes a moment
                looked = now
                if whole.seconds(_moved(folder, port, jobs)) > limit:
                    raise ExperimentError(f"{folder} was given up: nothing in it has moved for {limit:g} s")
            time.sleep(1)


def _check_failures(folder: Path, state: dict[str, Any], jobs: list[dict[str, Any]]) -> None:
    """Raise an error where a trial or NNI has failed."""
    for job in jobs:
        if job["status"] == "FAILED":
            logs = [Path(job.get("logPath", ""), log) for log in ("trial.log", "trial.stderr")]
            what = f"trial {job['trialJobId']} (sequence {job.get('sequenceId')}) of {folder} failed"
            raise ExperimentError(what + _tail(logs))
    if state["status"] == "ERROR":
        logs = [folder / "log" / log for log in ("dispatcher.log", "nnictl_stderr.log")]
        said = " ".join(state["errors"])
        error = LateTunerError if "Tuner did not connect" in said else ExperimentError
        raise error(f"NNI stopped {folder} with an error: {said}{_tail(logs)}")


def _queued(jobs: list[dict[str, Any]]) -> bool:
    """Return True if trials wait and none runs: another program may have the devices."""
    states = {job["status"] for job in jobs} & {*UNFINISHED}
    return bool(states) and "RUNNING" not in states


def _moved(folder: Path, port: int, jobs: list[dict[str, Any]]) -> tuple[Any, ...]:
    """Return what differs whenever a trial has started or ended, computed, written or reported something."""
    from nni.experiment import rest

    reported = None
    with suppress(OSError):
        reported = rest.get(port, "/metric-data-latest")
    written = []
    for job in jobs:
        if job["status"] in UNFINISHED:
            for file in folder.glob(f"environments/*/trials/{job['trialJobId']}/**/*"):
                with suppress(OSError):  # gone meanwhile
                    written.append((str(file), file.stat().st_mtime_ns))
    steps = computed(started(folder.name)) // (SHARE * SILENCE_SECONDS)
    return [job["status"] for job in jobs], reported, sorted(written), steps


def _best(jobs: list[dict[str, Any]]) -> str:
    values = (json.loads(json.loads(data["data"])) for job in jobs for data in job.get("finalMetricData", ()))
    reported = (value.get("default") if isinstance(value, dict) else value for value in values)
    metrics = [metric for metric in reported if isinstance(metric, int | float) and not math.isnan(metric)]
    return f"best {max(metrics):.4g}" if metrics else ""


def _text(path: Path) -> str:
    return path.read_text(encoding="utf-8", errors="replace")


def _tail(logs: Iterable[Path]) -> str:
    """Return the last lines of each log that holds any, under its name."""
    texts = {log: _text(log).strip() for log in logs if log.is_file()}
    return "".join("\n".join(["", f"{log}:", *text.splitlines()[-LOG_LINES:]]) for log, text in texts.items() if text)


def _stop(experiment: str) -> None:
    """Stop an experiment and all its processes.

    The server gets the signal that `nnictl stop` sends, and a minute to end its trials and write its records, as there. But
    nnictl knows only servers that have come to NNI's list. It waits for the whole minute where nothing reaps an ended process
    (in many containers). It also leaves what the trials have started.
    """
    below = started(experiment)
    left = end(servers(experiment), STOP_SECONDS) + end(below + left_behind(experiment))
    if left:
        raise ExperimentError(f"processes of experiment {experiment} cannot be ended: {', '.join(str(p.pid) for p in left)}")

"""What is checked of an experiment before it starts: its config, its tuner and its trial."""

from __future__ import annotations

import os
import shlex
import subprocess
import sys
import traceback
from pathlib import Path
from tempfile import TemporaryDirectory, TemporaryFile
from typing import Any

import psutil
import yaml

from acmix_nas.nnictl.patience import ended
from acmix_nas.nnictl.processes import end
from acmix_nas.util.errors import UserError, one_of
from acmix_nas.util.files import write_json

__all__ = ["check", "environment"]

CHECK_SECONDS = 120.0
"""A check that has not computed for so long is ended."""

# Builds the tuner once and gives it the search space, as NNI's server will do, in a process of its own. An advisor is only
# imported: it connects to the server as soon as it is built.
TUNER_CHECK = """
import importlib, json, sys
from nni.runtime.msg_dispatcher_base import MsgDispatcherBase
from nni.tools.package_utils import get_algo_meta

tuner, space = json.load(open(sys.argv[1])).values()
sys.path.append(tuner.get("codeDirectory", "."))
known = get_algo_meta(tuner["name"]) if "name" in tuner else None
module, _, name = (known.class_name if known else tuner["className"]).rpartition(".")
kind = getattr(importlib.import_module(module), name)
if not issubclass(kind, MsgDispatcherBase):
    kind(**{**(known and known.class_args or {}), **tuner.get("classArgs", {})}).update_search_space(space)
"""


def check(config: Path, trial_options: str = "") -> dict[str, Any]:
    """Validate an experiment's config, its tuner and its trial, before anything starts.

    The tuner is built once with the search space, and the trial is run once as `<trialCommand> --check <search-space.json>`.

    Args:
        trial_options: goes to the end of `trialCommand`, where an option stands over the same one before it; lists of texts
            and mappings are added to.

    Returns:
        The config in NNI's own full form, with absolute paths and the search space in it.

    Raises:
        UserError: for whatever in it cannot run, in one line.
    """
    settings = _canonical(config)
    service, tuner, space = settings["trainingService"], settings["tuner"], settings["searchSpace"]
    if service["platform"] == "local" and service["reuseMode"]:
        raise UserError(f"{config}: reuseMode is broken for platform local in NNI 3.0; leave it out or set it to false")
    _check_space(config, space)
    _check_tuner_name(config, tuner)
    with TemporaryDirectory() as name:
        folder = Path(name)
        both = write_json(folder / "tuner.json", {"tuner": tuner, "space": space})
        status, line = _ask([sys.executable, "-W", "ignore", "-c", TUNER_CHECK, str(both)], folder, settings)
        if status:
            raise UserError(f"{config}: tuner {tuner.get('className') or tuner['name']!r} cannot be built: {line}")
        if trial_options:
            if not service.get("trialCommand"):
                raise UserError(f"{config}: options for trials need a trialCommand, which platform {service['platform']} lacks")
            service["trialCommand"] = f"{service['trialCommand']} {trial_options.strip()}"
        if service.get("trialCommand"):  # Kubernetes platforms have one per role
            only = write_json(folder / "search-space.json", space)
            command = f"{service['trialCommand']} --check {shlex.quote(str(only))}"
            status, line = _ask(command, Path(service["trialCodeDirectory"]), settings)
            if status:
                raise UserError(line)
    return settings


def _canonical(config: Path) -> dict[str, Any]:
    try:
        content = yaml.safe_load(config.read_text(encoding="utf-8"))
    except (FileNotFoundError, IsADirectoryError):
        raise UserError(f"experiment config: no file {str(config)!r}") from None
    except (UnicodeDecodeError, yaml.YAMLError) as error:
        raise UserError(f"{config} is not YAML: {' '.join(str(error).split())}") from None
    if not isinstance(content, dict):
        raise UserError(f"{config} must hold a mapping, as NNI's experiment configs do; it holds a {type(content).__name__}")
    for key in ("trainingService", "tuner"):
        if key in content and not isinstance(content[key], dict):
            raise UserError(f"{config}: {key} must be a mapping; got {content[key]!r}")
    concurrency = content.get("trialConcurrency", 1)
    if isinstance(concurrency, int) and concurrency < 1:
        raise UserError(f"{config}: trialConcurrency must be at least 1; got {concurrency}")

    from nni.experiment.config import ExperimentConfig, utils

    utils.set_base_path(config.parent.absolute())
    try:
        if "trainingService" in content:
            utils.training_service_config_factory(content["trainingService"].get("platform"))
        settings: dict[str, Any] = ExperimentConfig(**content).json()
        return settings
    except Exception as error:  # NNI raises AttributeError, ValueError, TypeError and bare assertions
        what = str(error) or (traceback.extract_tb(error.__traceback__)[-1].line or "").replace("self.", "")
        raise UserError(f"{config}: {' '.join(what.split())}") from None
    finally:
        utils.unset_base_path()


def _check_space(config: Path, space: Any) -> None:
    from nni.common.hpo_utils.validation import common_search_space_types

    if not isinstance(space, dict) or not space:
        raise UserError(f"{config}: the search space must map names to {{_type, _value}}, one or more; got {space!r}")
    for name, entry in space.items():
        if not isinstance(entry, dict) or not {"_type", "_value"} <= entry.keys():
            raise UserError(f"{config}: search space {name!r} must hold _type and _value; got {entry!r}")
        if entry["_type"] not in common_search_space_types:
            raise one_of(f"{config}: _type of search space {name!r}", entry["_type"], common_search_space_types)
        if not isinstance(entry["_value"], list) or not entry["_value"]:
            raise UserError(f"{config}: _value of search space {name!r} must be a filled list; got {entry['_value']!r}")


def _check_tuner_name(config: Path, tuner: dict[str, Any]) -> None:
    from nni.tools.package_utils import get_algo_meta, get_all_algo_meta

    if "name" in tuner:
        meta = get_algo_meta(tuner["name"])
        if meta is None or meta.algo_type != "tuner":
            known = (other.name for other in get_all_algo_meta() if other.algo_type == "tuner")
            raise one_of(f"{config}: tuner name", tuner["name"], known)


def environment(settings: dict[str, Any]) -> dict[str, str]:
    """Return variables for trials: they find this Python first, and share the cores.

    The virtual environment need not be active.
    """
    from joblib import cpu_count  # of this process, not of the machine

    path = os.pathsep.join([str(Path(sys.executable).parent), os.environ.get("PATH", os.defpath)])
    threads = str(max(1, cpu_count() // settings["trialConcurrency"]))
    return {"OMP_NUM_THREADS": threads, **os.environ, "PATH": path}


def _ask(command: str | list[str], folder: Path, settings: dict[str, Any]) -> tuple[int, str]:
    """Run a short command in a folder: its exit status, and the last line that it printed."""
    what = command if isinstance(command, str) else "the check"
    with TemporaryFile() as output:  # a pipe would stay open for as long as anything that the command has started
        process = subprocess.Popen(
            command, shell=isinstance(command, str), cwd=folder, env=environment(settings),
            stdin=subprocess.DEVNULL, stdout=output, stderr=subprocess.STDOUT,
        )  # fmt: skip
        try:
            if not ended(process, CHECK_SECONDS):
                return 1, f"{what} does not end, and has computed nothing for {CHECK_SECONDS:g} s"
        finally:
            if process.poll() is None:
                end([*psutil.Process(process.pid).children(recursive=True), psutil.Process(process.pid)])
        output.seek(0)
        lines = [line.strip() for line in output.read().decode(errors="replace").splitlines() if line.strip()]
    status = process.returncode
    return status, lines[-1] if lines else f"{what} ended with exit status {status} and said nothing"

"""A small experiment, whose trial only reports its parameter."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import yaml

from acmix_nas.util.errors import UserError

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
    "format": "acmix-nas result", "version": 1,
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


@pytest.fixture
def home(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Keep NNI's list of experiments out of the user's home folder while tests run."""
    monkeypatch.setenv("HOME", str(tmp_path))
    monkeypatch.delenv("OMP_NUM_THREADS", raising=False)
    return tmp_path


@pytest.fixture
def write(tmp_path: Path) -> Write:
    """Return a function that writes its config, with changes, and its trial."""

    def config(**changes: Any) -> Path:
        (tmp_path / "code").mkdir()
        (tmp_path / "code" / "trial.py").write_text(TRIAL)
        content = {key: value for key, value in {**CONFIG, **changes}.items() if value is not None}
        path = tmp_path / "code" / "config.yml"
        path.write_text(yaml.safe_dump(content))
        return path

    return config


def one_line(error: pytest.ExceptionInfo[UserError]) -> bool:
    return "\n" not in str(error.value)

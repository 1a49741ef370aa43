"""Every command and every line of Python in the README runs as it is written.

Our own commands run in this process, one after the other: a process for each would import PyTorch each time, for minutes.
"""

from __future__ import annotations

import json
import os
import re
import runpy
import shlex
import shutil
import subprocess
import sys
import time
import urllib.request
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import yaml
from PIL import Image
from sklearn.datasets import load_digits

from acmix_nas.architecture import Architecture
from acmix_nas.cli.main.main import main
from tests.small import PATIENCE

ROOT = Path(__file__).parent.parent
TEXT = (ROOT / "README.md").read_text()
COMMANDS = [
    line.split("  #")[0].strip()
    for block in re.findall(r"```sh\n(.*?)```", TEXT, re.DOTALL)
    for line in block.replace("\\\n", " ").splitlines()
    if line.strip() and not line.startswith("#")
]
PYTHON = re.findall(r"```python\n(.*?)```", TEXT, re.DOTALL)
# What runs an experiment, or the whole of this suite, or does not end by itself; the slow tests below run the first kind.
EXPERIMENTS = ("acmix-nas experiment experiments/digits", "acmix-nas export runs/nni")
PAPER = ("acmix-nas experiment experiments/paper", "acmix-nas paper table6 runs", "acmix-nas paper fig5 runs")
ASSESSMENT = ("acmix-nas tabulate ", "acmix-nas assess ", "acmix-nas queries ")
LONG = ("make ", "nnictl ", "tensorboard ", *EXPERIMENTS, *PAPER, *ASSESSMENT)


def shell(command: str, folder: Path) -> str:
    path = f"{Path(sys.executable).parent}{os.pathsep}{os.environ['PATH']}"
    environment = {**os.environ, "PATH": path, "HOME": str(folder / "home"), "COLUMNS": "120"}
    done = subprocess.run(
        command, shell=True, capture_output=True, text=True, check=False, cwd=folder, env=environment, timeout=PATIENCE
    )  # fmt: skip
    assert done.returncode == 0, f"{command}\n{done.stdout}\n{done.stderr}"
    assert "Traceback" not in done.stderr
    return done.stdout


Here = Callable[[str], str]


@pytest.fixture
def here(folder: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> Here:
    """Run a command of ours, or a script of Python, in this process; gives what it prints."""
    monkeypatch.chdir(folder)
    monkeypatch.setenv("HOME", str(folder / "home"))
    monkeypatch.setenv("COLUMNS", "120")

    def run(command: str) -> str:
        program, *arguments = shlex.split(command)
        monkeypatch.setattr(sys, "argv", [program, *arguments])
        if program == "python":
            runpy.run_path(arguments[0], run_name="__main__")
            return capsys.readouterr().out
        assert program == "acmix-nas"
        with pytest.raises(SystemExit) as ended:
            main()
        said = capsys.readouterr()
        assert ended.value.code == 0, f"{command}\n{said.out}\n{said.err}"
        assert "Traceback" not in said.err
        return said.out

    return run


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Where a user stands: the experiments, and a folder of PNG files with a folder per class."""
    place = tmp_path_factory.mktemp("user")
    shutil.copytree(ROOT / "experiments", place / "experiments")
    digits = load_digits()
    for i, (pixels, label) in enumerate(zip(digits.images[:600], digits.target[:600], strict=True)):
        (place / "photos" / str(label)).mkdir(parents=True, exist_ok=True)
        image = Image.fromarray(np.uint8(pixels * 255 / 16)).resize((40, 32))
        image.save(place / "photos" / str(label) / f"{i}.png")
    return place


def test_the_readme_has_commands() -> None:
    assert len(COMMANDS) >= 12
    assert len(PYTHON) == 2


def test_commands_and_python(folder: Path, here: Here) -> None:
    """One after the other, as they read: the later ones use what the earlier ones wrote."""
    for command in COMMANDS:
        if not command.startswith(LONG):
            assert here(command), command
    assert set(Architecture.load(folder / "runs" / "search" / "architecture.json").slots.values()) <= {
        "conv", "local", "acmix_local",
    }  # fmt: skip
    for file in ("retrain/network.pt", "profile/profile.md", "bias/figure5.png", "network.onnx", "mine-trained/result.json"):
        assert (folder / "runs" / file).stat().st_size > 0, file
    (folder / "table.py").write_text(PYTHON[1])
    assert "global" in here("python table.py")
    (folder / "readme.py").write_text(PYTHON[0] + "\nimport torch\nassert len(pyramid(torch.rand(1, 3, 64, 64))) == 5\n")
    here("python readme.py")


@pytest.mark.slow
def test_experiments(folder: Path) -> None:
    """The commands of an experiment, and the second config; minutes."""
    long = [command for command in COMMANDS if command.startswith(EXPERIMENTS)]
    assert len(long) == 2
    for command in long:
        shell(command, folder)
    assert (folder / "runs" / "best" / "network.pt").exists()
    shell("acmix-nas experiment experiments/digits-evolution.yml --working-directory runs/nni2", folder)
    shell("acmix-nas export runs/nni2/_latest --top 3 --output runs/best3", folder)
    assert len(list((folder / "runs" / "best3").glob("architecture-*.json"))) == 3


@pytest.mark.slow
def test_experiments_of_the_paper(folder: Path) -> None:
    """Tables 6 and Figure 5 as the README has them; some 15 minutes."""
    commands = [command for command in COMMANDS if command.startswith(PAPER)]
    assert len(commands) == 4
    said = [shell(command, folder) for command in commands]
    assert "attention" in said[1]
    assert said[1].count("±") >= 6
    assert len(list((folder / "runs" / "figure5").rglob("figure5.png"))) == 2


@pytest.mark.slow
def test_an_assessment_of_ones_own_space(folder: Path, here: Here) -> None:
    """The README's command on a search of digits, with a smaller sample; the commands on `cued` take hours."""
    commands = [command for command in COMMANDS if command.startswith(ASSESSMENT)]
    assert len(commands) == 4
    here("acmix-nas search --backbone cued_net --slots blocks.3.slot --epochs 3 --race-epochs 2 --output runs/small")
    said = here(commands[2].replace("runs/search", "runs/small").replace("--sample 20", "--sample 3"))
    assert "regret" in said
    assert (folder / "mine" / "assessment.md").exists()


def test_queries_of_the_table(folder: Path, here: Here) -> None:
    """The README's command, with fewer runs."""
    (command,) = (command for command in COMMANDS if command.startswith("acmix-nas queries"))
    said = here(command.replace("--runs 100", "--runs 2"))
    assert "EvolutionTuner" in said
    assert (folder / "queries.md").exists()


@pytest.mark.slow
def test_nnictl_by_itself(folder: Path) -> None:
    """`nnictl create` as written (on a port that is free), until the experiment is done."""
    command = next(command for command in COMMANDS if command.startswith("nnictl create"))
    said = shell(command.replace("8080", "18080"), folder)
    experiment = re.search(r"Experiment ID: (\w+)", re.sub(r"\x1b\[\d+m", "", said))  # nnictl prints colours
    assert experiment, said
    try:
        end = time.monotonic() + PATIENCE
        while time.monotonic() < end:
            time.sleep(3)
            with urllib.request.urlopen("http://localhost:18080/api/v1/nni/trial-jobs") as answer:
                jobs = [job["status"] for job in json.load(answer)]
            assert set(jobs) <= {"WAITING", "RUNNING", "SUCCEEDED"}
            if jobs.count("SUCCEEDED") == 4:
                break
        else:
            raise AssertionError(jobs)
    finally:
        shell(f"nnictl stop {experiment[1]}", folder)
    assert shell(f"acmix-nas export {experiment[1]} --output runs/by-id", folder)


@pytest.mark.slow
def test_the_demo(tmp_path: Path) -> None:
    """`make demo` in a fresh clone with nothing installed, twice: the second run touches nothing of the first."""
    subprocess.run(["git", "clone", "-q", str(ROOT), str(tmp_path / "clone")], check=True)
    clone = tmp_path / "clone"
    assert "TensorBoard:" in shell("make demo", clone)
    first = {file: file.stat().st_mtime_ns for file in (clone / "runs" / "demo-1").rglob("*") if file.is_file()}
    shell("make demo", clone)
    assert (clone / "runs" / "demo-2" / "profile" / "profile.md").exists()
    assert all(file.stat().st_mtime_ns == when for file, when in first.items())


def test_every_config_says_how_to_run_it() -> None:
    for config in (ROOT / "experiments").glob("*.yml"):
        text = config.read_text()
        head = text[: text.index("experimentName")]
        assert "reaches:" in head
        assert "costs:" in head
        assert "TODO" not in head
        assert f"nnictl create --config experiments/{config.name}" in head
        assert yaml.safe_load(text)["trialConcurrency"] == 1

"""Without NNI everything but the search works; what needs NNI says so in one line, with status 2.

One process, in which NNI cannot be imported, runs all the commands: to start a process for each takes minutes.
"""

from __future__ import annotations

import json
import platform
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from acmix_nas.architecture import Architecture
from acmix_nas.cli.main import how_to_get_nni
from tests.nnictl.test_trial import TRAIN

ROOT = Path(__file__).parent.parent
COMMANDS = """
import contextlib, io, json, sys
sys.modules["nni"] = None
import torch, acmix_nas
import acmix_nas.models
from acmix_nas import ACmix, build, evaluate, export_onnx, fuse, profile, retrain
from acmix_nas.cli.main import main

outcomes = []
for program, *arguments in json.load(sys.stdin):
    sys.argv = [program, *arguments]
    with contextlib.redirect_stderr(io.StringIO()) as said, contextlib.redirect_stdout(io.StringIO()):
        from acmix_nas.util.terminal import console
        console.file = sys.stderr
        status = 0
        try:
            main()
        except SystemExit as ended:
            status = ended.code or 0
    outcomes.append((status, said.getvalue()))
print(json.dumps(outcomes))
"""
WORKS = {
    "retrain": ["acmix-nas", "retrain", "network.json", "--epochs", "1", "--batch-size", "128", "--output", "trained"],
    "profile": ["acmix-nas", "profile", "trained", "--fused", "--output", "profile"],
    "evaluate": ["acmix-nas", "evaluate", "trained"],
    "export-onnx": ["acmix-nas", "export-onnx", "trained", "network.onnx", "--fused"],
    "bias": ["acmix-nas", "bias", "trained", "--output", "bias"],
    "trial train": ["acmix-nas", "trial", *TRAIN, "--output", "trial"],
}
NEEDS = {
    "search": ["acmix-nas", "search", "--backbone", "resnet14t"],
    "experiment": ["acmix-nas", "experiment", str(ROOT / "experiments" / "cued.yml")],
    "assess": ["acmix-nas", "assess", "--strategy", "darts"],
    "queries": ["acmix-nas", "queries"],
    "bench search": ["acmix-nas", "bench", "search"],
    "trial search": ["acmix-nas", "trial", "search"],
    "trial evaluate": ["acmix-nas", "trial", "evaluate"],
}


@pytest.fixture(scope="module")
def outcomes(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Any]:
    folder = tmp_path_factory.mktemp("without")
    slots = {"layer1.0.conv2": "acmix_local", "layer2.0.conv2": "local"}
    data = {"name": "digits", "num_classes": 10, "image_size": 16}
    channels = {"channels": [8, 8, 16, 16]}
    Architecture("resnet14t", slots, ["local", "acmix_local"], channels, tuple(slots), data=data).save(folder / "network.json")
    done = subprocess.run(
        [sys.executable, "-c", COMMANDS], input=json.dumps([*WORKS.values(), *NEEDS.values()]),
        cwd=folder, capture_output=True, text=True, check=False,
    )  # fmt: skip
    assert done.returncode == 0, done.stderr
    return dict(zip([*WORKS, *NEEDS], json.loads(done.stdout), strict=True))


@pytest.mark.parametrize("command", WORKS)
def test_it_works(outcomes: dict[str, Any], command: str) -> None:
    status, said = outcomes[command]
    assert status == 0, said


@pytest.mark.parametrize("command", NEEDS)
def test_it_says_that_it_needs_nni(outcomes: dict[str, Any], command: str) -> None:
    status, said = outcomes[command]
    assert status == 2
    assert said.startswith("error: this command needs NNI")
    assert said.count("\n") == 1


def test_on_other_machines_it_says_why(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(platform, "machine", lambda: "aarch64")
    assert how_to_get_nni() == ", which can be installed on x86-64 machines only; this one is aarch64"

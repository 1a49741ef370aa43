"""One of each from another package: strategy, cost, task, data set and backbone, with its operator; alone and all together."""

from __future__ import annotations

import json
import re
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
import torch

import acmix_nas
from acmix_nas.architecture import Architecture
from acmix_nas.costs.registry import COSTS
from acmix_nas.costs.table import CostTable
from acmix_nas.operators import OPERATORS
from acmix_nas.slots.backbones import backbone_origin, open_backbone
from acmix_nas.strategies.base import STRATEGIES
from acmix_nas.training.config import DATA, TASKS
from acmix_nas.util.errors import UserError
from acmix_nas.util.files import read_document
from acmix_nas.util.registry import Registry
from tests.small import PATIENCE

ORIGIN = "acmix-outside 0.1"
ORIGINS = {
    "operators": {"axial": ORIGIN}, "strategies": {"local_search": ORIGIN}, "costs": {"activations": ORIGIN},
    "tasks": {"top2": ORIGIN}, "data": {"shapes": ORIGIN}, "backbones": {"pebble": ORIGIN},
}  # fmt: skip
REGISTERED: dict[str, tuple[Registry[Any], str]] = {
    "axial": (OPERATORS, "axial"), "local_search": (STRATEGIES, "local_search"), "activations": (COSTS, "activations"),
    "top2": (TASKS, "top2"), "shapes": (DATA, "shapes"),
}  # fmt: skip
LIMIT = 6.0  # KiB; the architectures have 4 to 8

outside = pytest.mark.usefixtures("outside")


@outside
@pytest.mark.parametrize("name", REGISTERED)
def test_it_is_known_before_it_is_imported(name: str) -> None:
    registry, module = REGISTERED[name]
    assert name in registry.names()
    assert f"acmix_outside.{module}" not in sys.modules
    assert registry.origin(name) == ORIGIN
    assert f"acmix_outside.{module}" in sys.modules


@pytest.mark.parametrize("name", REGISTERED)
def test_it_is_unknown_where_it_is_not_installed(name: str) -> None:
    registry, _ = REGISTERED[name]
    assert name not in registry.names()
    with pytest.raises(UserError, match=f"got '{name}'"):
        registry.get(name)


@pytest.mark.parametrize(
    ("registry", "first"), [(STRATEGIES, "single_path"), (COSTS, "macs"), (TASKS, "classification"), (DATA, "digits")]
)
@outside
def test_the_default_stands_first(registry: Registry[Any], first: str) -> None:
    assert registry.names()[0] == first
    with pytest.raises(UserError, match=f"must be one of {first}, .*; got 'none'"):
        registry.get("none")


@outside
def test_a_data_set_of_a_name_that_is_taken_is_refused() -> None:
    read = DATA.get("shapes").read
    assert DATA.get("digits").small
    with pytest.raises(UserError, match=r"data 'digits' is registered already, by acmix_nas\.training\.images"):
        acmix_nas.register_data("digits")(read)


@outside
def test_a_backbone_has_an_origin() -> None:
    assert backbone_origin("pebble") == ORIGIN
    assert [backbone_origin(name) for name in ("resnet18", "resnet26_acmix", "cued_net", "none", None)] == [None] * 5


@outside
def test_the_task_counts_the_first_two() -> None:
    logits = torch.tensor([[3.0, 2.0, 1.0]]).repeat(3, 1)
    assert TASKS.get("top2")().scores(logits, (None, torch.arange(3))).tolist() == [1.0, 1.0, 0.0]


@outside
def test_the_data_set_is_drawn_by_its_seed() -> None:
    def images(seed: int) -> torch.Tensor:
        data = acmix_nas.ImageData(acmix_nas.DataConfig("shapes", image_size=16, data_seed=seed))
        assert (data.num_classes, [len(part) for part in data.parts.values()]) == (4, [120, 40, 40])
        return torch.stack([image for image, _ in data.parts["test"]])

    assert torch.equal(images(1), images(1))
    assert not torch.equal(images(1), images(2))


@outside
def test_the_cost_is_the_size_of_the_maps() -> None:
    network, slots = open_backbone("pebble", {}, heads=2, candidates=["conv", "axial", "acmix_axial"])
    table = CostTable.of(network, slots, (3, 16, 16), ["activations"])
    assert table.values("activations") == {"blocks.0.0": [2, 2, 4], "blocks.1.0": [1, 1, 2], "blocks.2.0": [1, 1, 2]}


@pytest.mark.parametrize(("group", "what", "name"), [("operators", "operator", "spiral"), ("backbones", "backbone", "boulder")])
def test_a_file_that_needs_another_package_says_which(group: str, what: str, name: str, tmp_path: Path) -> None:
    file = Architecture("resnet18", {}, ()).save(tmp_path / "a.json")
    content = json.loads(file.read_text())
    file.write_text(json.dumps({**content, "origins": {group: {name: "acmix-others 2.1"}}}))
    with pytest.raises(UserError, match=rf"names the {what} '{name}', which acmix-others 2\.1 adds; install that package"):
        Architecture.load(file)


def test_a_search_on_data_of_another_package_says_which() -> None:
    found = Architecture("resnet18", {}, (), data={"name": "swirls"}, origins={"data": {"swirls": "acmix-others 2.1"}})
    with pytest.raises(UserError, match=r"ran on 'swirls', which acmix-others 2\.1 adds; install that package"):
        acmix_nas.retrain(found)


@outside
def test_all_six_are_searched_retrained_profiled_fused_and_exported(tmp_path: Path) -> None:
    found = acmix_nas.search(
        "pebble", "shapes", task="top2", strategy="local_search", budget={"activations": LIMIT}, climbs=1, heads=2,
        candidates=["conv", "axial", "acmix_axial"], image_size=16, epochs=1, output=tmp_path / "search", progress=False,
    )  # fmt: skip
    content = json.loads((tmp_path / "search" / "architecture.json").read_text())
    assert content["origins"] == ORIGINS
    assert found.costs["activations"] <= LIMIT
    assert found.score == found.architecture.metric["inherited_val_top2"] == found.ranking[0].score
    judged = {tuple(one.slots.values()): one.score for one in found.ranking}
    best = dict(found.ranking[0].slots)
    for slot in best:
        for name in found.architecture.candidates:
            neighbour = tuple({**best, slot: name}.values())
            assert neighbour in judged or sum(1 + one.startswith("acmix") for one in neighbour) > 4  # over the budget

    trained = acmix_nas.retrain(found, epochs=1, output=tmp_path / "trained", progress=False)
    assert trained.metric == "top2"
    assert json.loads((tmp_path / "trained" / "architecture.json").read_text())["origins"] == ORIGINS
    assert acmix_nas.evaluate(trained).score == trained.test
    (profiled,) = acmix_nas.profile({"pebble": trained.network}, 16, batch_size=2, repeats=1, warmup=0, progress=False)
    assert profiled.parameters == found.costs["parameters"]
    images = torch.randn(2, 3, 16, 16)
    fused = acmix_nas.fuse(trained.network, images, repeats=1).network
    torch.testing.assert_close(fused(images), trained.network.eval()(images), atol=1e-4, rtol=1e-4)
    assert acmix_nas.export_onnx(fused, tmp_path / "network.onnx", 16) < 1e-4


LINES = """
import contextlib, io, json, sys
from acmix_nas.cli.main import run
for line in json.load(sys.stdin):
    with contextlib.redirect_stdout(io.StringIO()) as said:
        run(line)
    print(json.dumps(said.getvalue()))
"""


def run_lines(folder: Path, *lines: str) -> list[str]:
    """Run command lines, one after the other in one process, and return what each says."""
    done = subprocess.run(
        [sys.executable, "-c", LINES], input=json.dumps([line.split() for line in lines]), cwd=folder,
        capture_output=True, text=True, check=False, timeout=PATIENCE,
    )  # fmt: skip
    assert done.returncode == 0, done.stderr
    return [json.loads(line) for line in done.stdout.splitlines()]


def entry(said: str, option: str) -> str:
    """Return what help says of an option, on one line."""
    plain = " ".join(said.replace("│", " ").split())
    found = re.search(rf"{option} (?!-)(.*?) (?=--[a-z])", plain + " --end")
    assert found, f"no {option} in {plain}"
    return found[1]


@outside
def test_help_names_them(tmp_path: Path) -> None:
    search, everything, retrain, evaluate, derive = run_lines(
        tmp_path, "search --help", "search --help-all", "retrain --help-all", "evaluate --help", "derive --help"
    )
    for said in (search, everything):
        assert "[single_path, " in entry(said, "--strategy")
        assert "local_search" in entry(said, "--strategy")
        assert "axial" in entry(said, "--candidates")
        assert "[macs, " in entry(said, "--budget")
        assert "activations" in entry(said, "--budget")
        assert "shapes" in entry(said, "--data")
    assert "anew" in entry(everything, "--climbs")
    assert "(of local_search) [default: 2]" in entry(everything, "--climbs")
    assert "top2" in entry(everything, "--task")
    assert "activations" in entry(everything, "--cost")
    for said in (retrain, evaluate):
        assert "top2" in entry(said, "--task")
        assert "shapes" in entry(said, "--data")
    assert "activations" in entry(derive, "--budget")
    assert "activations" in entry(derive, "--pareto")


@outside
def test_the_command_line_and_trials_take_all_six(tmp_path: Path) -> None:
    images = "--data shapes --task top2 --image-size 16 --epochs 1"
    config = f"--backbone pebble {images} --heads 2 --candidates conv,axial,acmix_axial"
    search = f"{config} --strategy local_search --climbs 1 --budget activations={LIMIT:g}KiB"
    (tmp_path / "strategies.json").write_text(
        json.dumps(
            {
                "strategy": {"_type": "choice", "_value": ["single_path", "local_search"]},
                "data_seed": {"_type": "choice", "_value": [0, 1]},
            }
        )
    )
    names = {"_type": "choice", "_value": ["conv", "axial", "acmix_axial"]}
    (tmp_path / "slots.json").write_text(json.dumps({f"blocks.{number}.0": names for number in range(3)}))
    said = run_lines(
        tmp_path,
        f"trial search {search.replace('--climbs 1 ', '')} --check strategies.json",
        f"trial evaluate {config} --check slots.json",
        f"trial train --backbone pebble {images} --output alone",
        f"search {search} --output searched",
        "retrain searched --epochs 1 --output trained",
        "evaluate trained",
        "derive searched --pareto activations --output front",
        "profile trained --fused --output profiled",
        "export-onnx trained network.onnx --fused",
    )
    assert "train_top2" in said[2]
    assert read_document(tmp_path / "alone" / "result.json", "result")["metric_name"] == "top2"
    assert "activations" in said[3]
    assert json.loads((tmp_path / "searched" / "architecture.json").read_text())["origins"] == ORIGINS
    assert "test top2 " in said[4]
    assert json.loads((tmp_path / "trained" / "architecture.json").read_text())["origins"] == ORIGINS
    assert "top2" in said[5]
    assert (tmp_path / "front" / "architecture-1.json").exists()
    assert "trained, fused" in said[7]
    assert "differs from PyTorch" in said[8]

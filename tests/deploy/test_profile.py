"""Profiles: counts add up, every network takes its turn, memory is what tensors hold, files are complete."""

from __future__ import annotations

import io
import json
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import pytest
import timm
import torch
from rich.console import Console
from torch import Tensor, nn
from torch.utils.flop_counter import FlopCounterMode

from acmix_nas.architecture import Architecture, build
from acmix_nas.costs.counted import OperatorCounts, operator_counts
from acmix_nas.costs.survey import survey
from acmix_nas.costs.table import CostTable
from acmix_nas.deploy.profile import (
    Conditions,
    Counts,
    Profile,
    as_json,
    count,
    markdown,
    peak_memory,
    profile,
    report,
    stages,
    table,
)
from acmix_nas.slots.finding import find_slots
from acmix_nas.util.errors import UserError
from acmix_nas.util.intervals import Quartiles
from tests.small import RESNET, SEVEN, SLOTS

MIXED = dict(zip(SLOTS, ("conv", "local", "acmix_window", "global"), strict=True))
ARCHITECTURE = Architecture(RESNET["backbone"], MIXED, SEVEN, {"channels": [8, 8, 16, 16]}, (RESNET["slots"],))
CONDITIONS = Conditions("abacus", 2, (3, 32, 32), 8, 30)


def of(name: str, counts: Counts | None = None) -> Profile:
    latency = {1: Quartiles(1.234, 1.2, 12.6), 8: Quartiles(4.0, 3.0, 5.0)}
    return Profile(name, 1_234_567, counts, latency, 3 * 2**19, CONDITIONS)


def shown(profiles: list[Profile], extra: dict[str, dict[str, str]] | None = None) -> str:
    console = Console(width=250, record=True, file=io.StringIO(), markup=False)
    console.print(table(profiles, extra), stages(profiles))
    return console.export_text()


def test_counts_of_convolutions_are_those_of_a_counter() -> None:
    convolutions = replace(ARCHITECTURE, slots=dict.fromkeys(ARCHITECTURE.slots, "conv"))
    counted = count(convolutions, (3, 33, 40), num_classes=5)
    with FlopCounterMode(display=False) as counter:
        build(convolutions, 5).to("meta").eval()(torch.empty(1, 3, 33, 40, device="meta"))
    assert counted.macs == counter.get_total_flops() / 2
    assert counted.stage2 == 0


def test_counts_agree_with_the_cost_table_and_the_network() -> None:
    counted = count(ARCHITECTURE, (3, 48, 48), num_classes=5)
    backbone = timm.create_model(RESNET["backbone"], channels=RESNET["channels"], num_classes=5)
    slots = find_slots(backbone, RESNET["slots"], candidates=SEVEN)
    sizes = survey(backbone, slots, (3, 48, 48)).sizes
    assert counted.macs == CostTable.of(backbone, slots, (3, 48, 48)).total(MIXED)
    assert counted.stage1 == sum(operator_counts(slot, MIXED[slot.name], *sizes[slot.name]).stage1 for slot in slots)
    assert counted.parameters == sum(p.numel() for p in build(ARCHITECTURE, 5).parameters())


def test_stages_of_the_network_are_sums_of_their_slots() -> None:
    choice = {f"layer{i}.{j}.conv2": operator for i in (1, 2) for j, operator in enumerate(("acmix_local", "conv"))}
    patterns = ("layer1.*", "layer2.*")
    counted = count(Architecture("resnet26", choice, SEVEN, pattern=patterns), (3, 32, 32))
    backbone = timm.create_model("resnet26")
    costs = CostTable.of(backbone, find_slots(backbone, patterns, candidates=SEVEN), (3, 32, 32)).costs
    assert list(counted.stages) == ["layer1", "layer2"]
    for stage, counts in counted.stages.items():
        assert isinstance(counts, OperatorCounts)
        assert counts.macs == sum(costs[slot][operator]["macs"] for slot, operator in choice.items() if slot.startswith(stage))


def test_a_module_of_the_users_can_be_counted() -> None:
    backbone = nn.Sequential(nn.Conv2d(3, 8, 3, padding=1), nn.Flatten(1), nn.Linear(8 * 16, 2))
    architecture = Architecture(None, {"0": "local"}, ["local"])
    assert count(architecture, (3, 4, 4), backbone=backbone).rest == 8 * 16 * 2
    assert isinstance(backbone[0], nn.Conv2d)
    with pytest.raises(UserError, match="pass that module as backbone"):
        count(architecture, (3, 4, 4))


class Recorder(nn.Module):
    def __init__(self, name: str, log: list[tuple[str, int, bool, bool]]) -> None:
        super().__init__()
        self.name, self.log = name, log

    def __deepcopy__(self, memo: object) -> Recorder:
        return Recorder(self.name, self.log)

    def forward(self, x: Tensor) -> Tensor:
        self.log.append((self.name, len(x), self.training, torch.is_inference_mode_enabled()))
        return x.sum()


def test_networks_take_turns_in_evaluation_mode() -> None:
    log: list[tuple[str, int, bool, bool]] = []
    profile({"a": Recorder("a", log), "b": Recorder("b", log)}, (3, 4, 4), 3, repeats=2, warmup=1, device="cpu", progress=False)
    turn = [(name, batch) for batch in (1, 3) for name in "aabb"]  # the first forward of each is not timed
    warmup, memory = [("a", 1), ("b", 1), ("a", 3), ("b", 3)], [("a", 3), ("b", 3)]
    assert [(name, batch) for name, batch, _, _ in log] == [*warmup, *turn, *turn, *memory]
    assert not any(training for _, _, training, _ in log)
    assert all(inference for _, _, _, inference in log[: -len(memory)])


class Busy(nn.Module):
    """Takes so much longer for every image."""

    def forward(self, x: Tensor) -> Tensor:
        for _ in range(20 * len(x)):
            torch.randn(64, 64) @ torch.randn(64, 64)
        return x


def test_measures_of_a_network() -> None:
    idle, busy = profile({"idle": nn.Identity(), "busy": Busy()}, (1, 8, 6), 4, repeats=5, device="cpu", progress=False)
    assert list(busy.latency) == [1, 4]
    assert busy.latency[4].low <= busy.latency[4].median <= busy.latency[4].high
    assert idle.latency[1].median < busy.latency[1].median < busy.latency[4].median
    assert busy.images_per_second == pytest.approx(4000 / busy.latency[4].median)
    assert busy.conditions == Conditions(busy.conditions.device, torch.get_num_threads(), (1, 8, 6), 4, 5)
    assert busy.conditions.device


def test_memory_is_the_peak_of_the_tensors() -> None:
    class Grows(nn.Module):
        def forward(self, x: Tensor) -> Tensor:
            x = torch.cat([x, x]).relu_()  # 2: an operation in place adds nothing
            y = torch.cat([x, x, x]).view(-1)  # 2 + 6, and a view adds nothing
            del x
            return y[:1] + 1  # 6 and one number

    images = torch.ones(1, 3, 10, 10)
    assert peak_memory(Grows(), images) == 8 * images.nbytes


def test_memory_is_reproducible_and_leaves_weights_out() -> None:
    network, images = build(ARCHITECTURE, 5).eval(), torch.randn(4, 3, 32, 32)
    assert peak_memory(network, images) == peak_memory(network, images)
    assert peak_memory(nn.Linear(1000, 1), torch.ones(1, 1000)) == 4


@pytest.mark.gpu
def test_cuda() -> None:
    (measured,) = profile({"found": build(ARCHITECTURE, 5)}, (3, 32, 32), 4, repeats=5, progress=False)
    assert measured.conditions.device == torch.cuda.get_device_name()
    assert measured.latency[1].median > 0
    # The stem's maps, 32 × 16 × 16, are the largest; at least one goes in where another comes out.
    assert 4 * 32 * 16 * 16 * 4 < measured.memory < 2**30


def test_the_table_is_in_human_units() -> None:
    counted = Counts(1_234_567, 999_600, 2_345_678, 1_200_000_000, count(ARCHITECTURE, (3, 32, 32)).stages)
    text = shown([of("found", counted), of("plain")], {"test accuracy": {"found": "97.2 ± 0.3 %"}})
    lines = [[cell.strip() for cell in line.strip("│ ").split("│")] for line in text.splitlines() if line.startswith("│")]
    rows = {label: cells for label, *cells in lines}
    assert rows["test accuracy"] == ["97.2 ± 0.3 %", "–"]
    assert rows["parameters"] == ["1.23 M", "1.23 M"]
    assert [rows[f"MACs {part}"] for part in ("Stage I", "Stage II", "rest", "total")] == [
        ["1.00 M", "–"], ["2.35 M", "–"], ["1.20 G", "–"], ["1.20 G", "–"],
    ]  # fmt: skip
    assert rows["latency b1 [ms]"][0] == "1.23 (1.20–12.6)"
    assert rows["images/s"][0] == "2000"
    assert "layer3" in text


def test_markdown_has_the_rows_of_the_table() -> None:
    lines = markdown([of("a|b", count(ARCHITECTURE, (3, 32, 32))), of("plain")], {"seconds": {"plain": "7"}}).splitlines()
    assert lines[0].startswith("| network | seconds | parameters | MACs Stage I | MACs Stage II | MACs rest | MACs total | lat")
    assert lines[2].startswith(r"| a\|b | – | 1.23 M | ")
    assert lines[3].startswith("| plain | 7 | 1.23 M | – | – | – | – | 1.23 (1.20–12.6) | ")
    assert "| network | layer1 | layer2 | layer3 | layer4 |" in lines


def test_a_report_says_how_it_was_made(tmp_path: Path) -> None:
    counted = count(ARCHITECTURE, (3, 32, 32))
    extra = {"test accuracy": {"found": "97 %"}}
    files = report([of("found", counted)], tmp_path / "new", extra)
    assert [file.name for file in files] == ["profile.md", "profile.json"]
    first = files[0].read_text().splitlines()[0]
    assert all(part in first for part in ("Made by", "abacus", "2 CPU threads"))
    content = json.loads(files[1].read_text())
    assert content["made_by"] in first
    assert content["extra"] == extra
    assert content["conditions"]["threads"] == 2
    found = content["networks"]["found"]
    assert found == as_json([of("found", counted)])["networks"]["found"]
    assert found["counts"]["stages"]["layer2"]["stage2"] == counted.stages["layer2"].stage2
    assert found["latency"]["8"] == {"median": 4.0, "low": 3.0, "high": 5.0}


@pytest.mark.parametrize("name", ["profile.md", "profile.json"])
def test_nothing_is_overwritten(tmp_path: Path, name: str) -> None:
    (tmp_path / name).write_text("mine")
    with pytest.raises(UserError, match="nothing is overwritten"):
        report([of("found")], tmp_path)
    assert [file.read_text() for file in tmp_path.iterdir()] == ["mine"]


@pytest.mark.parametrize(
    ("call", "message"),
    [
        (lambda: profile({}, (3, 8, 8), 0), "batch_size must be at least 1; got 0"),
        (lambda: profile({}, (3, 8, 8), repeats=0), "repeats must be at least 1; got 0"),
        (lambda: profile({}, (3, 8, 8), device="abacus"), "device must be cpu or cuda; got 'abacus'"),
        (lambda: profile({}, (3, 8, 8), device="meta"), "device must be cpu or cuda; got 'meta'"),
        (lambda: profile({}, (3, 8, 8), device="cuda:99"), "device 'cuda:99' is not there"),
        (lambda: profile({"a": nn.ReLU()}, (3, 8, 8), counts={"a": Counts(3, 0, 0, 0, {})}), "'a' have 3 .*, its network 0"),
        (lambda: profile({}, (3, 8, 8), counts={"b": Counts(3, 0, 0, 0, {})}), "'b' have 3 parameters, its network None"),
        (lambda: table([]), "from one run"),
        (lambda: table([of("a"), replace(of("b"), conditions=replace(CONDITIONS, threads=1))]), "from one run"),
        (lambda: table([of("a")], {"accuracy": {"b": "1"}}), "'accuracy' has a cell for 'b', which was not profiled"),
    ],
)  # fmt: skip
def test_mistakes_are_named(call: Callable[[], object], message: str) -> None:
    with pytest.raises(UserError, match=message):
        call()

"""Subjects can all be built and called; they take turns; memory is what a call holds at its peak."""

from __future__ import annotations

import gc
import os
import subprocess
import sys
from collections.abc import Callable
from types import SimpleNamespace

import pytest
import torch
from torch import nn

from acmix_nas.research.speed import cases
from acmix_nas.research.speed.cases import DEFAULT, FAULT_FREE, MEMORY, Comparison, Spec
from acmix_nas.research.speed.runner import ALLOCATOR
from acmix_nas.research.speed.subjects import DartsStep, Evaluation, Subject, Training, build
from acmix_nas.research.speed.worker import answer, interleave, peak_memory
from tests.small import known

CPU = torch.device("cpu")
pytestmark = pytest.mark.skipif(sys.platform != "linux", reason="resident memory is Linux's")

TINY: dict[str, Callable[[], list[Comparison]]] = {
    "operators": lambda: cases.operators(((8, 9), (16, 5)), (1, 3)),
    "supernet": lambda: cases.supernet(((8, 9),), 2),
    "search": lambda: cases.search(32, 2, (8, 8, 16, 16)),
    "deploy": lambda: cases.deploy(("resnet26_acmix",), 32, (1,), channels=[8, 8, 16, 16]),
}


def specs(what: str) -> list[Spec]:
    """Return every different spec of a benchmark, at tiny sizes."""
    found = [spec for comparison in TINY[what]() for point in comparison.points for spec in point.subjects.values()]
    return [spec for i, spec in enumerate(found) if spec not in found[:i]]


class Noted(Subject):
    def __init__(self, name: str, log: list[str]) -> None:
        self.name, self.log = name, log

    def __call__(self) -> None:
        self.log.append(self.name)

    def clear(self) -> None:
        self.log.append(f"clear {self.name}")


def test_subjects_take_turns_in_a_rotating_order_after_a_warm_up(monkeypatch: pytest.MonkeyPatch) -> None:
    log: list[str] = []
    stamps = iter(range(100))

    def clock() -> float:
        assert not gc.isenabled()
        return next(stamps) ** 2 / 1e3

    monkeypatch.setattr("acmix_nas.research.speed.worker.perf_counter", clock)
    times = interleave({name: Noted(name, log) for name in "abc"}, 4, CPU, warmup=2)
    assert "".join(log[1::2]) == "bcacababcbcacababc"
    assert log[::2] == [f"clear {name}" for name in log[1::2]]
    # The clock stands at 4i² and (2i + 1)² around call i, which is so known by its time, 4i + 1.
    calls = {"a": [6, 11, 13, 15], "b": [7, 9, 14, 16], "c": [8, 10, 12, 17]}
    assert times == {name: pytest.approx([4 * i + 1 for i in row]) for name, row in calls.items()}
    assert gc.isenabled()


@pytest.mark.parametrize("what", TINY)
def test_every_subject_of_a_benchmark_runs(what: str, monkeypatch: pytest.MonkeyPatch) -> None:
    if what == "deploy":
        identity = SimpleNamespace(fuse=lambda network, _: SimpleNamespace(network=network))
        monkeypatch.setitem(sys.modules, "acmix_nas.deploy.fusion", identity)
    for spec in specs(what):
        subject = build(spec, CPU, torch.float32)
        subject()
        if isinstance(subject, Training):
            parameters = dict(subject.module.named_parameters())
        elif isinstance(subject, DartsStep):
            parameters = {str(i): p for i, p in enumerate([*subject.architecture, *subject.weights]) if p.requires_grad}
        else:
            continue
        assert all(p.grad is not None for p in parameters.values()), spec
        subject.clear()
        assert all(p.grad is None for p in parameters.values()), spec


def test_a_fused_network_may_round_as_coarsely_as_its_type() -> None:
    torch.manual_seed(0)
    size = {"embed_dim": 12, "depths": (2, 2), "num_heads": (2, 4), "window_size": 4}
    spec = Spec("network", {"name": "swin_tiny_acmix", "side": 32, "fused": True, **size}, 1, train=False)
    build(spec, CPU, torch.bfloat16)()


@pytest.mark.parametrize("what", TINY)
def test_every_subject_that_a_ratio_names_is_at_every_point(what: str) -> None:
    for comparison in TINY[what]():
        for wanted in comparison.ratios:
            for point in comparison.points:
                assert {wanted.over, *wanted.under} <= set(point.subjects)
        assert len({point.label for point in comparison.points}) == len(comparison.points)
    assert len({comparison.title for comparison in TINY[what]()}) == len(TINY[what]())


def test_naive_and_ours_compute_the_same_from_the_same_input() -> None:
    size = {"channels": 8, "side": 9}
    pair = [build(Spec(kind, size, 2), CPU, torch.float64) for kind in ("acmix", "naive_acmix", "patchwise", "naive_patchwise")]
    outputs = []
    for subject in pair:
        assert isinstance(subject, Training)
        outputs.append(subject.module(subject.x))
    torch.testing.assert_close(outputs[0], outputs[1])
    torch.testing.assert_close(outputs[2], outputs[3])


def test_evaluation_keeps_no_graph() -> None:
    seen: list[tuple[bool, bool]] = []

    class Looks(nn.Module):
        def forward(self, x: torch.Tensor) -> torch.Tensor:
            seen.append((self.training, torch.is_inference_mode_enabled()))
            return x

    Evaluation(Looks(), torch.ones(1))()
    assert seen == [(False, True)]


@pytest.mark.parametrize("stock", [False, True])
def test_both_halves_of_a_step_see_images_of_their_own(stock: bool) -> None:
    seen: list[float] = []
    wanted: list[bool] = []

    class Sees(nn.Linear):
        chosen: nn.Parameter

        def forward(self, x: torch.Tensor) -> torch.Tensor:
            seen.append(x.mean().item())
            wanted.append(self.weight.requires_grad)
            return super().forward(x.flatten(1)) * self.chosen

    space = Sees(3, 2)
    space.chosen = nn.Parameter(torch.ones(2))
    images = torch.stack((torch.zeros(4, 3, 1, 1), torch.ones(4, 3, 1, 1)))
    step = DartsStep(space, [space.chosen], images, torch.zeros(2, 4, dtype=torch.long), stock)
    step()
    assert seen == [0, 1]
    assert wanted == [stock, True]
    # The weights' gradient is that of the second half alone, as after NNI's zero_grad.
    torch.testing.assert_close(known(space.weight.grad)[:, 0], space.bias.grad)


MEASURE = """
import torch
from acmix_nas.research.speed.worker import peak_memory

def call(mib):
    for _ in range(3):
        torch.ones(mib * 2**18)

torch.ones(64 * 2**18)  # an earlier peak, which must not hide these
for mib in (8, 40):
    print(peak_memory(lambda: call(mib), torch.device("cpu")) / 2**20)
"""


def test_memory_sees_the_peak_of_an_allocation() -> None:
    """In a process and with an allocator as the benchmark's: memory that an earlier call left to the heap would hide it."""
    done = subprocess.run(
        [sys.executable, "-c", MEASURE], env={**os.environ, **ALLOCATOR[MEMORY]}, capture_output=True, text=True, check=True
    )  # fmt: skip
    assert [float(line) for line in done.stdout.split()] == pytest.approx([8, 40], abs=1)


def test_memory_of_what_allocates_nothing_is_small() -> None:
    assert peak_memory(lambda: None, CPU) < 2**18


def test_the_worker_answers_with_the_time_of_every_round() -> None:
    request = {
        "device": "cpu", "dtype": "float32", "threads": 1,
        "subjects": {"conv": {"kind": "conv3x3", "arguments": {"channels": 16, "side": 64}, "batch": 8}},
    }  # fmt: skip
    times = answer({**request, "repeats": 3})["milliseconds"]
    assert len(times["conv"]) == 3
    assert min(times["conv"]) > 0


def test_what_a_comparison_needs_follows_from_its_ratios() -> None:
    acmix, by_batch, *_ = cases.operators()
    assert acmix.measures == [FAULT_FREE, DEFAULT, MEMORY]
    assert acmix.weighed == ["ours", "naive"]
    assert by_batch.measures == [FAULT_FREE]
    assert by_batch.weighed == []


def test_targets_read_as_they_are_meant() -> None:
    assert cases.at_least(4).met(4)
    assert not cases.at_least(4).met(3.99)
    assert cases.at_most(0.2).met(0.2)
    assert not cases.at_most(0.2).met(0.21)
    assert [str(cases.at_least(4)), str(cases.at_most(1 / 5))] == ["≥ 4", "≤ 0.2"]


@pytest.mark.gpu
def test_cuda() -> None:
    request = {
        "device": "cuda", "dtype": "float32", "threads": 1,
        "subjects": {"ours": {"kind": "acmix", "arguments": {"channels": 16, "side": 28}, "batch": 8}},
    }  # fmt: skip
    assert min(answer({**request, "repeats": 3})["milliseconds"]["ours"]) > 0
    output = 8 * 16 * 28 * 28 * 4
    assert output <= answer(request)["bytes"] < 200 * output

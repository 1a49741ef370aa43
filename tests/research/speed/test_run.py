"""A benchmark from its name to its files: conditions, ratios with targets, every round; and the mistakes that it finds."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from acmix_nas.research.speed import runner
from acmix_nas.research.speed.cases import COMPARISONS, DEFAULT, FAULT_FREE, MEMORY, Bound, Comparison, Point, Ratio, Spec
from acmix_nas.research.speed.report import Measured, Report, rows
from acmix_nas.research.speed.runner import Settings, environment, jobs, run
from acmix_nas.util.errors import UserError
from acmix_nas.util.files import provenance
from acmix_nas.util.terminal import BrokenRun

SPEC = Spec("conv3x3", {"channels": 4, "side": 5}, 2)
BOTH = {"slow": SPEC, "quick": replace(SPEC, batch=4)}
COMPARISON = Comparison(
    "Made up",
    [Point("small", BOTH), Point("large", BOTH)],
    [
        Ratio("slow", ("quick",), {FAULT_FREE: Bound(4, True), DEFAULT: Bound(100, True)}),
        Ratio("quick", ("slow",), {MEMORY: None}),
    ],
)
VALUES = {  # slow and quick, at each point
    FAULT_FREE: [([4.0, 4.0, 4.0], [2.0, 2.0, 2.0]), ([16.0, 16.0, 16.0], [2.0, 2.0, 2.0])],
    DEFAULT: [([8.0, 8.0, 8.0], [2.0, 2.0, 2.0])] * 2,
    MEMORY: [([2.0**20], [2.0**20])] * 2,
}
MEASURED = [
    Measured(COMPARISON.title, point.label, name, measure, spec.batch, values)
    for measure, at_points in VALUES.items()
    for point, both in zip(COMPARISON.points, at_points, strict=True)
    for (name, spec), values in zip(point.subjects.items(), both, strict=True)
]
CONDITIONS: dict[str, Any] = {
    "machine": {"device": "abacus", "cpu": "abacus", "cores": 3}, "device": "cpu", "dtype": "float32", "threads": 2,
    "repeats": 3,
}  # fmt: skip


def made_up() -> Report:
    return Report("operators", {**provenance(), **CONDITIONS}, rows(COMPARISON, MEASURED), MEASURED)


def test_ratios_are_per_image_and_compared_with_their_targets() -> None:
    fault_free, default, memory = made_up().rows
    assert fault_free.estimate[:3] == pytest.approx((8, 8, 8))
    assert fault_free.estimate[3] == (4, 16)
    assert [row.met for row in (fault_free, default, memory)] == [True, False, None]
    assert default.estimate.value == pytest.approx(8)
    assert memory.estimate == (0.5, None, None, (0.5, 0.5))


def test_a_measure_that_was_not_taken_has_no_row() -> None:
    found = rows(COMPARISON, [m for m in MEASURED if m.measure != DEFAULT])
    assert [row.measure for row in found] == [FAULT_FREE, MEMORY]


def test_the_report_in_words() -> None:
    lines = made_up().markdown().splitlines()
    for word in ("abacus", "3 cores", "2 CPU threads", "float32", "torch 2", provenance()["made_by"]):
        assert word in lines[2]
    assert f"| Made up | slow / quick | {FAULT_FREE} | ≥ 4 | 8 | 8–8 | yes | 4 / 16 |" in lines
    assert f"| Made up | slow / quick | {DEFAULT} | ≥ 100 | 8 | 8–8 | no | 8 / 8 |" in lines
    assert f"| Made up | quick / slow | {MEMORY} | – | 0.5 | – | – | 0.5 / 0.5 |" in lines
    assert f"| Made up | large | slow | {FAULT_FREE} | 2 | 16 (16–16) ms |" in lines
    assert f"| Made up | small | quick | {MEMORY} | 4 | 1 MiB |" in lines


def test_the_report_in_numbers(tmp_path: Path) -> None:
    numbers, text = made_up().write(tmp_path / "new")
    assert [numbers.name, text.name] == ["bench-operators.json", "bench-operators.md"]
    content = json.loads(numbers.read_text())
    assert list(content)[:3] == ["made_by", "date", "versions"]
    assert content["machine"]["cores"] == 3
    assert content["ratios"][0] == {
        "comparison": "Made up", "ratio": "slow / quick", "of": FAULT_FREE, "value": pytest.approx(8), "low": pytest.approx(8),
        "high": pytest.approx(8), "points": [4, 16], "target": "≥ 4", "met": True,
    }  # fmt: skip
    assert content["measured"][2]["values"] == [16, 16, 16]


def test_jobs_are_all_subjects_together_and_memory_alone() -> None:
    small = [(job.measure, list(job.subjects)) for job in jobs([COMPARISON], "cpu") if job.point == "small"]
    together = ["slow", "quick"]
    assert small == [(FAULT_FREE, together), (DEFAULT, together), (MEMORY, ["quick"]), (MEMORY, ["slow"])]
    assert DEFAULT not in [job.measure for job in jobs([COMPARISON], "cuda")]


def test_the_allocator_is_the_one_that_is_meant(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("MALLOC_ARENA_MAX", "LD_PRELOAD", "GLIBC_TUNABLES"):
        monkeypatch.setenv(name, "other")
    variables = {measure: environment(measure, 3) for measure in (FAULT_FREE, DEFAULT, MEMORY)}
    assert not any(value == "other" for chosen in variables.values() for value in chosen.values())
    assert not any(name.startswith("MALLOC") for name in variables[DEFAULT])
    assert variables[FAULT_FREE]["MALLOC_MMAP_MAX_"] == "0"
    assert variables[DEFAULT]["OMP_NUM_THREADS"] == "3"


def test_from_end_to_end(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    size = {"channels": 8, "side": 32}
    subjects = {"ours": Spec("acmix", size, 4), "naive": Spec("naive_acmix", size, 4)}
    tiny = Comparison(
        "Tiny",
        [Point("8 × 32×32", subjects)],
        [Ratio("naive", ("ours",), {FAULT_FREE: Bound(1e9, True)}), Ratio("naive", ("naive",), {MEMORY: None})],
    )
    monkeypatch.setitem(COMPARISONS, "operators", lambda: [tiny])
    report = run("operators", output=tmp_path, threads=1, repeats=2)
    content = json.loads((tmp_path / "bench-operators.json").read_text())
    assert (content["threads"], content["repeats"], content["dtype"]) == (1, 2, "float32")
    assert content["machine"]["cores"] >= 1
    times = {m.subject: m.values for m in report.measured if m.measure == FAULT_FREE}
    assert list(times) == ["ours", "naive"]
    assert all(len(values) == 2 and min(values) > 0 for values in times.values())
    (memory,) = [m.values[0] for m in report.measured if m.measure == MEMORY]
    assert memory > 49 * 4 * 8 * 32 * 32 * 4  # the unfolded keys at least
    assert (report.rows[0].met, report.rows[1].estimate.value) == (False, 1)
    assert "Tiny" in capsys.readouterr().out
    with pytest.raises(UserError, match="nothing is overwritten"):
        run("operators", output=tmp_path, threads=1)


def test_a_process_that_fails_says_why() -> None:
    odd = Point("p", {"odd": Spec("conv3x3", {"channels": 4, "size": 5}, 1)})
    wrong = Comparison("Wrong", [odd], [Ratio("odd", ("odd",), {FAULT_FREE: None})])
    with pytest.raises(BrokenRun, match=r"odd: the process ended with status 1\n(.*\n)*.*side"):
        list(runner.measure([wrong], Settings("cpu", "float32", 1, 2)))


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"what": "all"}, "what must be one of operators, supernet, search, deploy; got 'all'"),
        ({"device": "tpu"}, "device must be one of cpu, cuda; got 'tpu'"),
        ({"dtype": "int8"}, "dtype must be one of float32, bfloat16, float64; got 'int8'"),
        ({"threads": 0}, "threads must be from 1 to .* got 0"),
        ({"threads": 10**6}, "threads must be from 1 to .* got 1000000"),
        ({"repeats": 1}, "repeats must be at least 2, for an interval; got 1"),
    ],
)
def test_mistakes_are_named(arguments: dict[str, Any], message: str, tmp_path: Path) -> None:
    with pytest.raises(UserError, match=message) as error:
        run(**{"what": "operators", "threads": 1, "output": tmp_path, **arguments})
    assert "\n" not in str(error.value)
    assert not list(tmp_path.iterdir())


def test_a_device_that_is_not_there(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("torch.cuda.is_available", lambda: False)
    with pytest.raises(UserError, match="device 'cuda' is not there"):
        run("operators", output=tmp_path, threads=1, device="cuda")


def test_another_system_is_refused(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("platform.libc_ver", lambda: ("", ""))
    with pytest.raises(UserError, match="bench needs Linux with glibc"):
        run("operators", output=tmp_path, threads=1)


@pytest.mark.parametrize("suffix", ["json", "md"])
def test_nothing_is_overwritten(suffix: str, tmp_path: Path) -> None:
    (tmp_path / f"bench-deploy.{suffix}").write_text("mine")
    with pytest.raises(UserError, match="nothing is overwritten"):
        run("deploy", output=tmp_path, threads=1)
    with pytest.raises(UserError, match="output must be a folder"):
        run("deploy", output=tmp_path / f"bench-deploy.{suffix}", threads=1)
    assert [file.read_text() for file in tmp_path.iterdir()] == ["mine"]

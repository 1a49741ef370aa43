"""What is written of sums and whole networks."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
from matplotlib.image import imread

from acmix_nas.research.benchmark import additive as module
from acmix_nas.research.benchmark.additive import additive
from acmix_nas.util.errors import UserError
from tests.research.benchmark.test_tabulate import SMALL


@pytest.fixture(autouse=True)
def own_cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))


def test_the_report_holds_the_table_and_every_network(tmp_path: Path) -> None:
    found, screen = additive(SMALL, tmp_path / "out", number=3, device="cpu")
    content = json.loads((tmp_path / "out" / "latency.json").read_text())
    assert list(content["operators"]) == ["blocks.3.slot"]
    for choice, summed in zip(content["choices"], content["summed"], strict=True):
        (operator,) = choice.values()
        assert summed == pytest.approx(content["rest"] + content["operators"]["blocks.3.slot"][operator])
    assert content["measured"] == list(found.measured)
    text = (tmp_path / "out" / "latency.md").read_text()
    assert "| slot | conv | global |" in text
    assert f"{found.error:.1%} in the median" in text
    assert screen.row_count == 1
    assert imread(tmp_path / "out" / "latency.png").std() > 0.01


def test_nothing_is_measured_where_a_report_lies_already(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "check", None)
    (tmp_path / "latency.md").touch()
    with pytest.raises(UserError, match=r"latency.md' exists already"):
        additive(SMALL, tmp_path)

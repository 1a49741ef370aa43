"""The paper's tables: the formulas give its figures, and experiments stand beside them."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
from rich.console import Console
from torch import nn

from acmix_nas.operators import ACmix, GlobalPath, LocalAttention, Operator, Output, Projection, WindowPath
from acmix_nas.research.paper import STAGED, Staged, executed, figures, parameters, summed, tables, theory
from acmix_nas.util.errors import UserError
from acmix_nas.util.files import write_document


def text(name: str, experiment: Path | None = None) -> str:
    console = Console(width=220, record=True, markup=False, file=open("/dev/null", "w"))  # noqa: SIM115, PTH123
    console.print(tables(name, experiment))
    return console.export_text()


@pytest.mark.parametrize("module", STAGED["resnet50"])
def test_formulas_give_the_papers_macs_of_resnet50(module: str) -> None:
    """Table 1; ACmix's Stage II is 0.363 G by the formula, and 0.35 in print, where the sum of the shifts is left out."""
    found = summed(STAGED["resnet50"][module], theory, 1e9)
    assert found == pytest.approx(figures()["stage_cost_gmacs"]["resnet50"][module], abs=0.014)


@pytest.mark.parametrize("module", STAGED["swin_tiny"])
def test_formulas_give_the_papers_macs_of_swin(module: str) -> None:
    found = summed(STAGED["swin_tiny"][module], theory, 1e9)
    assert found == pytest.approx(figures()["stage_cost_gmacs"]["swin_tiny"][module], abs=0.015)


@pytest.mark.parametrize("module", STAGED["san19"])
def test_stage1_of_san_is_the_papers(module: str) -> None:
    """Its Stage II is less by equation 18 than in print (0.56 and 0.76 instead of 0.72 and 0.89)."""
    found = summed(STAGED["san19"][module], theory, 1e9)
    assert found.stage1 == pytest.approx(figures()["stage_cost_gmacs"]["san19"][module][0], abs=0.005)


@pytest.mark.parametrize("module", STAGED["resnet50"])
def test_parameters_are_the_papers(module: str) -> None:
    found = summed(STAGED["resnet50"][module], parameters, 1e6)
    assert found == pytest.approx(figures()["stage_parameters_m"]["resnet50"][module], abs=0.05)


def test_theory_of_one_module() -> None:
    area, channels = 6 * 10, 8
    fc_and_shift = (3 * 9 + 81 + 9) * channels * area
    assert theory(nn.Conv2d(5, 8, 3, padding=1), 6, 10) == (9 * 5 * 8 * area, 9 * 8 * area)
    assert theory(LocalAttention(8, 8, heads=2, window=5), 6, 10) == (3 * 64 * area, 2 * 25 * 8 * area)
    assert theory(ACmix(8, 8, heads=2, window=5), 6, 10) == (3 * 64 * area, 2 * 25 * 8 * area + fc_and_shift)
    swin = Operator(Projection(8, 24), Output(WindowPath(8, 2, 5)))
    assert theory(swin, 6, 10) == (3 * 64 * area, 2 * 25 * 8 * area + 64 * area)


def test_executed_counts_what_runs() -> None:
    operator = Operator(Projection(8, 24), GlobalPath(8, 2, position="none"))
    area = 6 * 10
    assert executed(operator, 6, 10) == Staged(3 * 64 * area, 2 * area * 8 * area)


def trial(folder: Path, number: int, accuracy: float, **parameters: Any) -> Path:
    """Write what a trial leaves behind."""
    folder = folder / f"trial{number}"
    folder.mkdir(parents=True)
    write_document(folder / "result.json", "result", {
        "trial": str(number), "sequence": number, "parameters": parameters, "metric": accuracy, "seconds": 10.0 + number,
        "architecture": "architecture.json", "test_accuracy": accuracy,
    })  # fmt: skip
    return folder


def test_an_experiment_stands_beside_the_papers_figures(tmp_path: Path) -> None:
    for number, (mixing, accuracy) in enumerate([("sum", 0.5), ("sum", 0.7), ("learned", 0.9)]):
        trial(tmp_path, number, accuracy, mixing=mixing, seed=number)
    lines = {line.split("│")[1].strip(): line for line in text("table6", tmp_path).splitlines() if "│" in line}
    assert "60.0 ± 14.1 %" in lines["sum"]
    assert "81.5" in lines["sum"]
    assert "90.0 %" in lines["learned"]
    assert "%" not in lines["convex"]


def test_an_experiment_of_another_table_is_refused(tmp_path: Path) -> None:
    trial(tmp_path, 0, 0.5, seed=0)
    with pytest.raises(UserError, match="has no parameter 'shifts'"):
        tables("table7", tmp_path)


def test_an_unknown_table_is_refused() -> None:
    with pytest.raises(UserError, match=r"table must be .*table1.*fig5.*got 'table9'"):
        tables("table9")

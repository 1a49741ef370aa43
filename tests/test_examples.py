"""The notebooks in examples: they run from the first cell to the last, and are kept without outputs."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import nbformat
import pytest
from nbclient import NotebookClient

ROOT = Path(__file__).parent.parent
NOTEBOOKS = sorted((ROOT / "examples").glob("*.ipynb"))
CELL = 1800
"""Seconds that one cell may take on a busy machine."""


def read(file: Path) -> Any:
    return nbformat.reads(file.read_text(encoding="utf-8"), as_version=4)  # type: ignore[no-untyped-call]


every_notebook = pytest.mark.parametrize("file", NOTEBOOKS, ids=lambda file: file.stem)


def test_there_are_four() -> None:
    assert [file.stem[0] for file in NOTEBOOKS] == list("1234")


@every_notebook
def test_outputs_are_not_kept(file: Path) -> None:
    for cell in read(file).cells:
        assert not cell.get("outputs")
        assert cell.get("execution_count") is None


@pytest.mark.slow
@every_notebook
def test_it_runs(file: Path, tmp_path: Path) -> None:
    notebook = read(file)
    NotebookClient(notebook, timeout=CELL, resources={"metadata": {"path": str(tmp_path)}}).execute()
    assert any(cell.get("outputs") for cell in notebook.cells)

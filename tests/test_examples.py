"""The notebooks in examples: they run from the first cell to the last, and are kept without outputs."""

from __future__ import annotations

import ast
from importlib import import_module
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


@every_notebook
def test_what_it_names_is_there(file: Path) -> None:
    """Whether or not it runs here: the code is Python, and what it takes from the package exists."""
    cells = [cell.source for cell in read(file).cells if cell.cell_type == "code"]
    code = "\n".join(line for cell in cells for line in cell.splitlines() if not line.startswith(("%", "!")))
    named: set[tuple[str, str]] = set()
    for node in ast.walk(ast.parse(code)):
        if isinstance(node, ast.ImportFrom) and (node.module or "").partition(".")[0] == "acmix_nas":
            named.update((str(node.module), name.name) for name in node.names)
        elif isinstance(node, ast.Attribute) and isinstance(node.value, ast.Name) and node.value.id == "acmix_nas":
            named.add(("acmix_nas", node.attr))
    assert named
    for module, name in named:
        assert hasattr(import_module(module), name), f"{module}.{name}"


@pytest.mark.slow
@every_notebook
def test_it_runs(file: Path, tmp_path: Path) -> None:
    notebook = read(file)
    NotebookClient(notebook, timeout=CELL, resources={"metadata": {"path": str(tmp_path)}}).execute()
    assert any(cell.get("outputs") for cell in notebook.cells)

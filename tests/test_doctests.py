"""The examples in docstrings: those of every module that defines a public name, and of the modules that have some."""

from __future__ import annotations

import ast
import doctest
import inspect
from importlib import import_module
from pathlib import Path
from typing import Any

import pytest

import acmix_nas
from acmix_nas.costs.registry import COSTS
from acmix_nas.operators import OPERATORS
from acmix_nas.strategies.base import STRATEGIES
from acmix_nas.training.config import DATA, TASKS
from acmix_nas.util.registry import Registry

ROOT = Path(__file__).parent.parent
FOLDERS = {"acmix_nas": "acmix_nas", "search_spaces": "acmix_nas.search_spaces", "strategies": "acmix_nas.strategies"}
REGISTRIES: tuple[Registry[Any], ...] = (COSTS, DATA, OPERATORS, STRATEGIES, TASKS)
NAMES = sorted(set(acmix_nas.__all__) - {"__version__"})
# What a docstring begins with: a verb in the imperative.
VERBS = {
    "Build", "Fold", "Hold", "Map", "Measure", "Mix", "Read", "Report", "Return", "Say", "Search", "Train", "Turn", "Write",
}  # fmt: skip


def modules() -> list[str]:
    """Return the modules with examples that are not only shown, by name."""
    found = []
    for folder, package in FOLDERS.items():
        for file in sorted((ROOT / folder).rglob("*.py")):
            if any(">>>" in line and "+SKIP" not in line for line in file.read_text().splitlines()):
                parts = file.relative_to(ROOT / folder).with_suffix("").parts
                found.append(".".join((package, *parts)).removesuffix(".__init__"))
    return found


@pytest.mark.parametrize("name", modules())
def test_examples_of(name: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)  # some examples train
    for registry in REGISTRIES:  # some examples register something
        monkeypatch.setattr(registry, "_registered", dict(registry._registered))
    tested = doctest.testmod(import_module(name), optionflags=doctest.NORMALIZE_WHITESPACE)
    assert tested.attempted > 0
    assert tested.failed == 0


@pytest.mark.parametrize("name", NAMES)
def test_a_public_name_is_explained(name: str) -> None:
    thing = getattr(acmix_nas, name)
    text = inspect.cleandoc(thing.__doc__)
    assert text.split()[0] in VERBS
    assert ">>>" in text
    definition = ast.parse(inspect.cleandoc("\n" + inspect.getsource(thing))).body[0]
    if isinstance(definition, ast.FunctionDef):
        given = [*definition.args.args, *definition.args.kwonlyargs, *filter(None, [definition.args.kwarg])]
        for argument in given:
            assert f"{argument.arg}:" in text or f"{argument.arg}, " in text or f", {argument.arg}" in text, argument.arg
        for raised in (node for node in ast.walk(definition) if isinstance(node, ast.Raise) and node.exc is not None):
            assert "Raises:" in text, ast.unparse(raised)

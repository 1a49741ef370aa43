"""Pages of Markdown whose commands and Python run as they are written: what the tests of the README and of docs share.

A page's blocks run in their order, in a folder of their own. Python blocks of a page share one namespace, as in a notebook.
A comment directly before a block says otherwise: `<!-- slow -->`, or `<!-- not run: the reason -->`. A block of text directly
after a block shows what it prints, which must have that form: other numbers and other operators are allowed.
"""

from __future__ import annotations

import os
import re
import shlex
import subprocess
import sys
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from types import ModuleType
from typing import Any

import numpy as np
import pytest
from PIL import Image
from sklearn.datasets import load_digits

from acmix_nas.cli.main import main
from acmix_nas.costs.registry import COSTS
from acmix_nas.operators import OPERATORS
from acmix_nas.strategies.base import STRATEGIES
from acmix_nas.training.config import DATA, TASKS
from acmix_nas.util.registry import Registry
from tests.small import PATIENCE

ROOT = Path(__file__).parent.parent
README = ROOT / "README.md"
PAGES = sorted(page for page in (ROOT / "docs").rglob("*.md") if "_build" not in page.parts)
BLOCK = re.compile(
    r"(?:^<!-- (?P<mark>slow|not run)(?:: (?P<reason>[^\n]+))? -->\n)?"
    r"^```(?P<language>sh|python)\n(?P<text>.*?)^```\n(?:\n```text\n(?P<shown>.*?)^```\n)?",
    re.MULTILINE | re.DOTALL,
)
FENCE = re.compile(r"^```(?:sh|python)$", re.MULTILINE)
MARK = re.compile(r"^<!-- (?:slow|not run)\b.*$", re.MULTILINE)
REGISTRIES: tuple[Registry[Any], ...] = (OPERATORS, COSTS, DATA, STRATEGIES, TASKS)
OURS = ("acmix-nas ", "python -m acmix_nas ")
SHELL = re.compile(r"[|&;<>$]")
OPERATOR = re.compile(r"\b(?:acmix_)?(?:local|window|global|patchwise)\b|\bconv\b")


@dataclass(frozen=True)
class Block:
    """Commands or Python on a page.

    Attributes:
        mark: "slow", "not run", or "" for a block that always runs.
        shown: the output that the page shows; "" where it shows none.
        line: of the page, at which the text begins.
    """

    language: str
    text: str
    mark: str
    reason: str
    shown: str
    line: int

    @property
    def commands(self) -> list[str]:
        """Return the commands of a shell block, without comments."""
        lines = self.text.replace("\\\n", " ").splitlines()
        return [command for line in lines if (command := line.split("  #")[0].strip()) and not command.startswith("#")]


def blocks_of(page: Path) -> list[Block]:
    """Return the blocks of a page. Every mark belongs to one."""
    text = page.read_text(encoding="utf-8")
    found = [
        Block(
            match["language"], match["text"], match["mark"] or "", match["reason"] or "", match["shown"] or "",
            text.count("\n", 0, match.start("text")) + 1,
        )
        for match in BLOCK.finditer(text)
    ]  # fmt: skip
    assert len(found) == len(FENCE.findall(text)), f"{page.name}: a block does not end"
    assert sum(block.mark != "" for block in found) == len(MARK.findall(text)), f"{page.name}: a mark stands before no block"
    return found


def environment(folder: Path) -> dict[str, str]:
    """Return what a user's shell has, with our programs and a home of its own."""
    path = f"{Path(sys.executable).parent}{os.pathsep}{os.environ['PATH']}"
    return {**os.environ, "PATH": path, "HOME": str(folder / "home"), "COLUMNS": "120"}


def shell(command: str, folder: Path) -> str:
    """Run a command line in a folder, and return what it prints."""
    done = subprocess.run(
        command, shell=True, capture_output=True, text=True, check=False, cwd=folder, env=environment(folder), timeout=PATIENCE
    )  # fmt: skip
    assert done.returncode == 0, f"{command}\n{done.stdout}\n{done.stderr}"
    assert "Traceback" not in done.stderr
    return done.stdout


def make_photos(folder: Path) -> None:
    """Write a folder of PNG files, with a folder for each class."""
    digits = load_digits()
    for i, (pixels, label) in enumerate(zip(digits.images[:600], digits.target[:600], strict=True)):
        (folder / str(label)).mkdir(parents=True, exist_ok=True)
        Image.fromarray(np.uint8(pixels * 255 / 16)).resize((40, 32)).save(folder / str(label) / f"{i}.png")


class Reader:
    """A user in a folder, who types what a page says.

    Our own commands run in this process: a process for each would import PyTorch each time, for minutes.
    """

    def __init__(self, folder: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
        self.folder, self._monkeypatch, self._capsys = folder, monkeypatch, capsys
        self._module = ModuleType("page")  # dataclasses and pickles look their module up
        monkeypatch.setitem(sys.modules, "page", self._module)
        monkeypatch.chdir(folder)
        for registry in REGISTRIES:  # a page may register what other tests should not see
            monkeypatch.setattr(registry, "_registered", dict(registry._registered))
        for name in ("HOME", "COLUMNS"):
            monkeypatch.setenv(name, environment(folder)[name])

    def read(self, page: Path, slow: bool = False) -> Iterator[tuple[Block, str]]:
        """Run the blocks of a page in turn, and yield each with what it prints."""
        for block in blocks_of(page):
            if block.mark == "not run" or (block.mark == "slow" and not slow):
                continue
            said = self.run(block, page)
            assert_shown(block, said)
            yield block, said

    def run(self, block: Block, page: Path) -> str:
        """Run one block, and return what it prints."""
        if block.language == "sh":
            return "".join(map(self.command, block.commands))
        code = "\n" * (block.line - 1) + block.text  # so that an error names the line of the page
        exec(compile(code, str(page), "exec"), vars(self._module))
        return self._capsys.readouterr().out

    def command(self, command: str) -> str:
        """Run one command, and return what it prints."""
        if not command.startswith(OURS) or SHELL.search(command):
            return shell(command, self.folder)
        arguments = shlex.split(command.replace("python -m acmix_nas", "acmix-nas", 1))
        self._monkeypatch.setattr(sys, "argv", arguments)
        with pytest.raises(SystemExit) as ended:
            main()
        said = self._capsys.readouterr()
        assert ended.value.code == 0, f"{command}\n{said.out}\n{said.err}"
        assert "Traceback" not in said.err
        assert said.out, f"{command} says nothing"
        return said.out


def form_of(output: str) -> list[str]:
    """Return the lines of an output without frames, numbers and names of operators."""
    lines = (re.sub(r"[\u2500-\u257f\s]+", " ", line).strip() for line in output.splitlines())
    return [re.sub(r"\d[\d.]*", "0", OPERATOR.sub("operator", line)) for line in lines if line]


def assert_shown(block: Block, said: str) -> None:
    """Check that a block prints lines of the form that the page shows; a line of … stands for any."""
    printed = form_of(said)
    for line in form_of(block.shown):
        assert line == "…" or line in printed, f"line {block.line}: {line!r} is not in\n" + "\n".join(printed)

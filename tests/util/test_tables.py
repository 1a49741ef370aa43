"""Tables for the terminal and for Markdown."""

from __future__ import annotations

import io

from rich.console import Console

from acmix_nas.util.tables import markdown, screen


def test_markdown_escapes_what_would_end_a_cell() -> None:
    assert markdown(["a", "b"], [["x|y", "1"]]).splitlines() == ["| a | b |", "| --- | --- |", r"| x\|y | 1 |"]
    assert markdown(["a", "b", "c"], [], right=True).splitlines()[1] == "| --- | ---: | ---: |"


def test_the_terminal_shows_brackets_as_they_are() -> None:
    console = Console(file=io.StringIO(), width=80, record=True, markup=False)
    console.print(screen(["value"], [["1 [red]"]], "a title"))
    text = console.export_text()
    assert "1 [red]" in text
    assert "a title" in text

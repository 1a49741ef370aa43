"""The same rows for a terminal and for a Markdown file."""

from __future__ import annotations

from collections.abc import Sequence

from rich.table import Table

__all__ = ["markdown", "screen"]

Rows = Sequence[Sequence[str]]


def markdown(head: Sequence[str], rows: Rows, right: bool = False) -> str:
    """Return a table of Markdown.

    Args:
        head: titles of the columns.
        rows: cells.
        right: whether all columns but the first are aligned to the right.

    Example:
        >>> print(markdown(["a", "b"], [["x|y", "1"]]))
        | a | b |
        | --- | --- |
        | x\\|y | 1 |
    """
    rule = ["---", *(["---:" if right else "---"] * (len(head) - 1))]
    lines = [head, rule, *rows]
    return "\n".join(f"| {' | '.join(cell.replace('|', chr(92) + '|') for cell in line)} |" for line in lines)


def screen(head: Sequence[str], rows: Rows, title: str | None = None) -> Table:
    """Return a table for the terminal; cells are shown as they are."""
    table = Table(*head, title=title)
    for row in rows:
        table.add_row(*row)
    return table

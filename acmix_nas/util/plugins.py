"""What other packages add: objects behind entry points, loaded when they are asked for."""

from __future__ import annotations

from functools import cache
from importlib.metadata import entry_points

__all__ = ["load_group"]


@cache
def load_group(group: str) -> None:
    """Import everything that installed packages, this one included, declare under a group of entry points."""
    for entry in entry_points(group=group):
        entry.load()

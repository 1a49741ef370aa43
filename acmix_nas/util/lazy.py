"""Names of a package that are imported when they are asked for."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping
from importlib import import_module
from typing import Any

__all__ = ["lazy_names"]


def lazy_names(package: str, modules: Mapping[str, Iterable[str]]) -> tuple[Callable[[str], Any], Callable[[], list[str]]]:
    """Return the `__getattr__` and the `__dir__` of a package whose names lie in its modules.

    Args:
        package: its `__name__`.
        modules: module, from the package on → the names it has.

    Example:
        >>> getattr_, dir_ = lazy_names("os", {"path": ["join"]})
        >>> dir_(), getattr_("join")("a", "b")
        (['join'], 'a/b')
    """
    places = {name: module for module, names in modules.items() for name in names}

    def find(name: str) -> Any:
        if name not in places:
            raise AttributeError(f"module {package!r} has no attribute {name!r}")
        return getattr(import_module(f"{package}.{places[name]}"), name)

    return find, lambda: sorted(places)

"""What can be added from outside: named things, registered by a decorator or by an entry point of another package."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from functools import cache
from importlib.metadata import EntryPoint, entry_points, packages_distributions, version
from typing import Any, Generic, TypeVar

from acmix_nas.util.errors import UserError, one_of

__all__ = ["Registry", "load_group"]

T = TypeVar("T")
C = TypeVar("C")


@cache
def load_group(group: str) -> None:
    """Import everything that installed packages, this one included, declare under a group of entry points."""
    for entry in entry_points(group=group):
        entry.load()


class Registry(Generic[T]):
    """Names and what they stand for; what an entry point names is imported when it is first asked for.

    Args:
        what: what the things are called in messages, such as "strategy".
        group: the group of entry points in which packages declare theirs: `name = module:object`.

    Example:
        >>> colours = Registry[str]("colour", "acmix_nas.doctest")
        >>> _ = colours.register("red")("#ff0000")
        >>> colours.get("red"), colours.names()
        ('#ff0000', ['red'])
    """

    def __init__(self, what: str, group: str) -> None:
        self.what, self.group = what, group
        self._registered: dict[str, T] = {}

    def register(self, name: str) -> Callable[[C], C]:
        """Return a decorator that registers what it decorates under this name.

        Raises:
            UserError: where something else has the name.
        """

        def keep(thing: C) -> C:
            taken = self._registered.get(name)
            if taken is not None and _identity(taken) != _identity(thing):
                raise UserError(f"{self.what} {name!r} is registered already, by {_identity(taken)[0]}; choose another name")
            self._registered[name] = thing  # type: ignore[assignment]
            return thing

        return keep

    def names(self) -> list[str]:
        """Return every name, those of entry points first, without importing any."""
        return list(dict.fromkeys([*self._declared(), *self._registered]))

    def __contains__(self, name: object) -> bool:
        return name in self.names()

    def get(self, name: str) -> T:
        """Return what a name stands for.

        Raises:
            UserError: where there is no such name; the message lists those there are.
        """
        if name not in self._registered:
            declared = self._declared()
            if name not in declared:
                raise one_of(self.what, name, self.names())
            self.register(name)(declared[name].load())
        return self._registered[name]

    def origin(self, name: str) -> str:
        """Return the distribution and its version that a name comes from, or the module where none is installed."""
        module: str = _identity(self.get(name))[0]
        root = module.partition(".")[0]
        distributions = packages_distributions().get(root)
        return f"{distributions[0]} {version(distributions[0])}" if distributions else module

    def origins(self, names: Iterable[str]) -> dict[str, str]:
        """Return name → origin of those among the names that another package registers."""
        ours = __name__.partition(".")[0]
        known = sorted(set(names) & set(self.names()))
        return {name: self.origin(name) for name in known if _identity(self.get(name))[0].partition(".")[0] != ours}

    @cache  # noqa: B019  registries live as long as the program
    def _declared(self) -> dict[str, EntryPoint]:
        return {entry.name: entry for entry in entry_points(group=self.group)}


def _identity(thing: Any) -> tuple[str, str]:
    """Where a class or function was written; a module that is imported twice is the same."""
    kind = thing if hasattr(thing, "__qualname__") else type(thing)
    return kind.__module__, kind.__qualname__

"""What can be added from outside: named things, registered by a decorator or by an entry point of another package."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from functools import cache
from importlib.metadata import EntryPoint, entry_points, packages_distributions, version
from typing import Any, Generic, TypeVar

from acmix_nas.util.errors import UserError, one_of

__all__ = ["Registry", "is_foreign", "load_group", "origin_of"]

T = TypeVar("T")
C = TypeVar("C")
OURS = __name__.partition(".")[0]


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
        default: the name that stands first wherever names are listed.

    Example:
        >>> colours = Registry[str]("colour", "acmix_nas.doctest")
        >>> _ = colours.register("red")("#ff0000")
        >>> colours.get("red"), colours.names()
        ('#ff0000', ['red'])
    """

    def __init__(self, what: str, group: str, default: str = "") -> None:
        self.what, self.group, self.default = what, group, default
        self._registered: dict[str, T] = {}
        self._asked: set[str] = set()  # for what entry points declare

    def register(self, name: str) -> Callable[[C], C]:
        """Return a decorator that registers what it decorates under this name.

        Raises:
            UserError: where something else has the name.
        """

        def keep(thing: C) -> C:
            taken, declared = self._registered.get(name), self._declared().get(name)
            by = None
            if taken is not None and _identity(taken) != _identity(thing):
                by = _identity(taken)[0]
            elif declared is not None and name not in self._asked and declared.module.partition(".")[0] != _root(thing):
                by = declared.module  # which nothing has imported yet
            if by is not None:
                raise UserError(f"{self.what} {name!r} is registered already, by {by}; choose another name")
            self._registered[name] = thing  # type: ignore[assignment]
            return thing

        return keep

    def names(self) -> list[str]:
        """Return every name, the default first, then those of entry points, without importing any."""
        return sorted(dict.fromkeys([*self._declared(), *self._registered]), key=lambda name: name != self.default)

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
            self._asked.add(name)
            self.register(name)(declared[name].load())
        return self._registered[name]

    def name_of(self, thing: T) -> str | None:
        """Return the name under which a thing is registered; None where it has none."""
        return next((name for name, known in self._registered.items() if known is thing), None)

    def origin(self, name: str) -> str:
        """Return the distribution and its version that a name comes from, or the module where none is installed."""
        return origin_of(self.get(name))

    def origins(self, names: Iterable[str]) -> dict[str, str]:
        """Return name → origin of those among the names that another package registers."""
        known = sorted(set(names) & set(self.names()))
        return {name: self.origin(name) for name in known if is_foreign(self.get(name))}

    @cache  # noqa: B019  registries live as long as the program
    def _declared(self) -> dict[str, EntryPoint]:
        return {entry.name: entry for entry in entry_points(group=self.group)}


def origin_of(thing: Any) -> str:
    """Return the distribution and its version that a class or function comes from, or its module where none is installed."""
    distributions = packages_distributions().get(_root(thing))
    return f"{distributions[0]} {version(distributions[0])}" if distributions else _identity(thing)[0]


def is_foreign(thing: Any, *known: str) -> bool:
    """Return whether a class or function comes from neither this package nor one of the known ones."""
    return _root(thing) not in (OURS, *known)


def _root(thing: Any) -> str:
    return _identity(thing)[0].partition(".")[0]


def _identity(thing: Any) -> tuple[str, str]:
    """Return where a class or function was written. A module that is imported twice is the same."""
    thing = getattr(thing, "__wrapped__", thing)
    kind = thing if hasattr(thing, "__qualname__") else type(thing)
    return kind.__module__, kind.__qualname__

"""What can be added from outside: named things, registered by a decorator or by an entry point of another package."""

from __future__ import annotations

import logging
from collections.abc import Callable, Iterable, Iterator
from functools import cache
from importlib.metadata import EntryPoint, entry_points, packages_distributions, version
from typing import Any, Generic, TypeVar

from acmix_nas.util.errors import UserError, one_of

__all__ = ["Registry", "is_foreign", "load_group", "origin_of"]

T = TypeVar("T")
C = TypeVar("C")
OURS = __name__.partition(".")[0]
logger = logging.getLogger(__name__)


@cache
def load_group(group: str) -> None:
    """Import everything that installed packages, this one included, declare under a group of entry points."""
    for entry in entry_points(group=group):
        try:
            _load(entry)
        except UserError as error:
            logger.warning("%s", error)  # whoever asks for its name is told so


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
        self._twice: dict[str, str] = {}  # names that two other packages declare, and what they say

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
            elif declared is not None and name not in self._asked and _package(declared) != _root(thing):
                by = declared.module  # which nothing has imported yet
            again = next((known for known, one in self._registered.items() if one is thing and known != name), None)
            if again is not None:
                raise UserError(f"{self.what} {name!r} is {again!r} already; derive a class for a second name")
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
            if name in self._twice:
                raise UserError(f"{self.what} {name!r} is declared by {self._twice[name]}; uninstall one of them")
            self._asked.add(name)
            self.register(name)(_load(declared[name]))
        return self._registered[name]

    def origin(self, name: str) -> str:
        """Return the distribution and its version that a name comes from, or the module where none is installed."""
        return origin_of(self.get(name))

    def origins(self, names: Iterable[str]) -> dict[str, str]:
        """Return name → origin of those among the names that another package registers."""
        known = sorted(set(names) & set(self.names()))
        return {name: self.origin(name) for name in known if is_foreign(self.get(name))}

    def working(self) -> Iterator[tuple[str, T]]:
        """Yield every name and what it stands for, without what another package declares and cannot be imported."""
        for name in self.names():
            try:
                yield name, self.get(name)
            except UserError as error:
                logger.warning("%s", error)

    @cache  # noqa: B019  registries live as long as the program
    def _declared(self) -> dict[str, EntryPoint]:
        declared: dict[str, EntryPoint] = {}
        for entry in entry_points(group=self.group):
            other = declared.setdefault(entry.name, entry)
            if other.value == entry.value:
                continue
            if OURS not in (_package(other), _package(entry)):
                self._twice[entry.name] = f"{other.value} and {entry.value}"
                continue
            ours, theirs = sorted((other, entry), key=lambda one: _package(one) != OURS)
            logger.warning("%s %r of %s is left out: the name is ours", self.what, entry.name, theirs.value)
            declared[entry.name] = ours
        return declared


def _package(entry: EntryPoint) -> str:
    return entry.module.partition(".")[0]


def _load(entry: EntryPoint) -> Any:
    try:
        return entry.load()
    except (AttributeError, ImportError) as error:
        package = f"{entry.dist.name} {entry.dist.version}" if entry.dist else "a package"
        raise UserError(f"{package} declares {entry.name!r} as {entry.value}, which cannot be imported: {error}") from error


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

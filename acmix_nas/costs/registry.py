"""What can be counted or measured of an architecture: costs, each under a name, also from other packages.

Nothing here needs PyTorch, so that the command line can list them at once.
"""

from __future__ import annotations

import math
import re
from abc import ABC, abstractmethod
from collections.abc import Callable, Mapping
from typing import TYPE_CHECKING, ClassVar, NamedTuple, TypeVar

from acmix_nas.util.errors import one_of
from acmix_nas.util.registry import Registry

if TYPE_CHECKING:
    from acmix_nas.costs.survey import Survey

__all__ = ["COSTS", "NUMBERS", "Cost", "Entries", "cost_named", "register_cost"]

NUMBERS: Mapping[str, float] = {"": 1.0, "k": 1e3, "K": 1e3, "M": 1e6, "G": 1e9}
"""What may stand behind a number → its factor."""


class Entries(NamedTuple):
    """One cost of a backbone: slot → operator → value, and the value of everything that is no slot."""

    operators: Mapping[str, Mapping[str, float]]
    rest: float


class Cost(ABC):
    """Say what an architecture costs: the sum of what its operators cost and of what the rest of the backbone costs.

    Register a subclass with `register_cost`. A package that is not imported by itself declares it, too, as an entry point of
    the group `acmix_nas.costs`. Then budgets, tables, penalties and fronts take it by its name.

    Attributes:
        name: how it is asked for; `register_cost` sets it.
        aliases: other names that a budget may use.
        unit: of its values, as in "ms"; empty for numbers.
        units: what may stand behind a number in a budget → the factor that makes it a value.
        example: of a limit, for messages.
        measured: whether it belongs to the machine at hand; else it is counted, and the same everywhere.

    Example:
        >>> Cost.parse("1.2M"), Cost.show(1.2e6)
        (1200000.0, '1.20 M')
        >>> cost_named("params").name
        'parameters'
    """

    name: ClassVar[str]
    aliases: ClassVar[tuple[str, ...]] = ()
    unit: ClassVar[str] = ""
    units: ClassVar[Mapping[str, float]] = NUMBERS
    example: ClassVar[str] = "1.2M"
    measured: ClassVar[bool] = False

    @abstractmethod
    def table(self, of: Survey) -> Entries:
        """Return the cost of every candidate at every slot of a backbone, and of its rest."""

    @classmethod
    def parse(cls, text: str) -> float:
        """Return the value of a number with its unit; NaN where it is none."""
        match = re.fullmatch(r"([\d.]+(?:[eE][+-]?\d+)?)\s*([a-zA-Z]*)", text.strip())
        try:
            return float(match[1]) * cls.units[match[2]] if match else math.nan
        except (KeyError, ValueError):
            return math.nan

    @classmethod
    def show(cls, value: float) -> str:
        """Return a value for a person: 1.20 M, 26.1 k, 3.21 ms."""
        if cls.unit:
            return f"{value:.3g} {cls.unit}"
        for unit, size in (("G", 1e9), ("M", 1e6), ("k", 1e3)):
            if value >= size:
                return f"{value / size:.2f} {unit}"
        return f"{value:.0f}"

    @classmethod
    def axis(cls) -> str:
        """Return the label of an axis."""
        return f"{cls.name} [{cls.unit}]" if cls.unit else cls.name


COSTS = Registry[type[Cost]]("cost", "acmix_nas.costs", "macs")
C = TypeVar("C", bound=type[Cost])


def register_cost(name: str) -> Callable[[C], C]:
    """Return a decorator that registers a cost under a name.

    Args:
        name: how budgets, tables and penalties ask for it.

    Raises:
        UserError: where another cost has the name.

    Example:
        >>> @register_cost("attending")
        ... class Attending(Cost):
        ...     def table(self, of):
        ...         return Entries({slot.name: {name: name != "conv" for name in slot.candidates} for slot in of.slots}, 0)
        >>> cost_named("attending").name
        'attending'
    """

    def keep(cost: C) -> C:
        cost.name = name
        return COSTS.register(name)(cost)

    return keep


def cost_named(name: str, what: str = "cost") -> type[Cost]:
    """Return the cost of a name or an alias.

    Args:
        name: as the user gives it.
        what: what the message calls the user's argument.

    Raises:
        UserError: where there is none; the message lists those there are.
    """
    if name in COSTS:
        return COSTS.get(name)
    aliases: list[str] = []
    for _, cost in COSTS.working():
        if name in cost.aliases:
            return cost
        aliases += cost.aliases
    raise one_of(what, name, [*COSTS.names(), *aliases])

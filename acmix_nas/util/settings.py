"""Settings by flat names: what the command line, NNI's parameters and Python callers say of nested dataclasses."""

from __future__ import annotations

import dataclasses
import difflib
import types
import typing
from collections.abc import Collection, Iterable, Mapping
from typing import Any

from acmix_nas.util.errors import UserError

__all__ = ["field_type", "flat_fields", "flat_names", "replace_flat", "unknown_setting"]


def flat_fields(group: type) -> dict[str, tuple[type, dataclasses.Field[Any]]]:
    """Return option → (the dataclass that has it, its field), those of nested dataclasses among them.

    A field is called by its own name, or by the `option` in its metadata.

    Example:
        >>> @dataclasses.dataclass
        ... class Recipe:
        ...     epochs: int = 12
        >>> list(flat_fields(Recipe))
        ['epochs']
    """
    found: dict[str, tuple[type, dataclasses.Field[Any]]] = {}
    for field in dataclasses.fields(group):
        kind = field_type(group, field)
        if dataclasses.is_dataclass(kind) and isinstance(kind, type):
            found |= flat_fields(kind)
        else:
            found[_option(field)] = (group, field)
    return found


def field_type(group: type, field: dataclasses.Field[Any]) -> Any:
    """Return the type of a field without None."""
    kind = typing.get_type_hints(group)[field.name]
    if typing.get_origin(kind) in (types.UnionType, typing.Union):
        kinds = [one for one in typing.get_args(kind) if one is not type(None)]
        return kinds[0] if len(kinds) == 1 else str
    return kind


def flat_names(*groups: type) -> set[str]:
    """Return the options of these dataclasses."""
    return {name for group in groups for name in flat_fields(group)}


def replace_flat(values: Mapping[str, Any], *instances: Any, others: Collection[str] = ()) -> list[Any]:
    """Return copies of dataclass instances in which these options have other values.

    Args:
        others: options that may be among the values and belong to something else.

    Raises:
        UserError: for an option that none of them has.
    """
    known = flat_names(*map(type, instances))
    for name in values:
        if name not in known and name not in others:
            raise unknown_setting(name, {*known, *others})
    return [_replaced(instance, values) for instance in instances]


def unknown_setting(name: str, known: Iterable[str]) -> UserError:
    """Return the error for a name that is no setting, with the nearest one that is."""
    near = difflib.get_close_matches(name, list(known), 1)
    hint = f"perhaps {near[0]}" if near else f"the settings are {', '.join(sorted(known))}"
    return UserError(f"{name} is no setting here; {hint}")


def _replaced(instance: Any, values: Mapping[str, Any]) -> Any:
    new: dict[str, Any] = {}
    for field in dataclasses.fields(instance):
        value = getattr(instance, field.name)
        if dataclasses.is_dataclass(value):
            new[field.name] = _replaced(value, values)
        elif _option(field) in values:
            new[field.name] = values[_option(field)]
    return dataclasses.replace(instance, **new)


def _option(field: dataclasses.Field[Any]) -> str:
    return str(field.metadata.get("option", field.name))

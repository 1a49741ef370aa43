"""Command-line options that come from the dataclasses they fill: one definition of each name, type, default and help."""

from __future__ import annotations

import dataclasses
import functools
import inspect
import json
import re
import types
import typing
from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import Annotated, Any

import typer

from acmix_nas.errors import UserError

__all__ = ["fill", "from_parameters", "options", "pairs", "typed"]

RENAMED = {("DataConfig", "name"): "data", ("DataConfig", "root"): "data_root"}


def options(*groups: type) -> Callable[[Callable[..., None]], Callable[..., None]]:
    """Give a typer command the fields of dataclasses as options.

    The command takes each group's instance under the group's name in lower case (`DataConfig` → `dataconfig`), and what
    the user typed as options. Fields that are dataclasses themselves belong to a group of their own.
    """

    def decorate(command: Callable[..., None]) -> Callable[..., None]:
        signature = inspect.signature(command, eval_str=True)
        own = [p for p in signature.parameters.values() if p.name not in {group.__name__.lower() for group in groups}]
        added = {name: (group, field) for group in groups for name, field in _fields(group)}

        @functools.wraps(command)
        def run(**typed: Any) -> None:
            values = {name: typed.pop(name) for name in added}
            built = {
                group.__name__.lower(): fill(group, {k: v for k, v in values.items() if added[k][0] is group})
                for group in groups
            }
            command(**typed, **built)

        parameters = [
            *own,
            *(
                inspect.Parameter(
                    name, inspect.Parameter.KEYWORD_ONLY, default=_default(field), annotation=_annotation(group, field)
                )
                for name, (group, field) in added.items()
            ),
        ]
        run.__signature__ = signature.replace(parameters=parameters)  # type: ignore[attr-defined]
        run.__annotations__ = {p.name: p.annotation for p in parameters}
        return run

    return decorate


def fill(group: type, values: Mapping[str, Any]) -> Any:
    """An instance of a dataclass from what was typed.

    Raises:
        UserError: for a value that cannot be read.
    """
    fields = dict(_fields(group))
    return group(**{fields[name].name: _value(name, fields[name], value) for name, value in values.items()})


def typed(context: typer.Context, group: type) -> set[str]:
    """The fields of a group that the user gave, rather than left at their defaults."""
    sources = {field.name: context.get_parameter_source(name) for name, field in _fields(group)}
    return {name for name, source in sources.items() if source is not None and source.name != "DEFAULT"}


def from_parameters(parameters: Mapping[str, Any], *groups: Any) -> list[Any]:
    """Copies of dataclass instances in which these parameters, by their options' names, have other values.

    Raises:
        UserError: for a parameter that none of them has.
    """
    names = {name for group in groups for name, _ in _fields(type(group))}
    unknown = sorted(set(parameters) - names)
    if unknown:
        raise UserError(f"parameter {unknown[0]!r} is no option of this trial; it has {', '.join(sorted(names))}")
    changed = []
    for group in groups:
        fields = {name: field for name, field in _fields(type(group)) if name in parameters}
        new = {f.name: _value(name, f, parameters[name]) for name, f in fields.items()}
        changed.append(dataclasses.replace(group, **new))
    return changed


def _fields(group: type) -> Iterator[tuple[str, dataclasses.Field[Any]]]:
    for field in dataclasses.fields(group):
        if not _is_group(group, field):
            yield RENAMED.get((group.__name__, field.name), field.name), field


def _type(group: type, field: dataclasses.Field[Any]) -> Any:
    """The field's type without None."""
    kind = typing.get_type_hints(group)[field.name]
    if typing.get_origin(kind) in (types.UnionType, typing.Union):
        kinds = [k for k in typing.get_args(kind) if k is not type(None)]
        return kinds[0] if len(kinds) == 1 else str
    return kind


def _is_group(group: type, field: dataclasses.Field[Any]) -> bool:
    return dataclasses.is_dataclass(_type(group, field))


def _default(field: dataclasses.Field[Any]) -> Any:
    value = field.default if field.default_factory is dataclasses.MISSING else field.default_factory()
    if isinstance(value, Mapping):
        return [f"{k}={json.dumps(v)}" for k, v in value.items()]
    return ",".join(map(str, value)) if isinstance(value, tuple) else value


def _annotation(group: type, field: dataclasses.Field[Any]) -> Any:
    kind = _type(group, field)
    text = _help(group, field.name)
    origin = typing.get_origin(kind) or kind
    if kind in (int, float, bool, str):
        metavar = None
    elif issubclass(origin, Mapping):
        kind, metavar = list[str], "KEY=VALUE"
    else:
        kind, metavar = str, "A,B,…"
    if field.default is None:
        kind = kind | None
    return Annotated[kind, typer.Option(help=text, metavar=metavar, rich_help_panel=_panel(group))]


def _panel(group: type) -> str:
    return {"DataConfig": "Images", "Recipe": "Training", "SearchConfig": "Search"}.get(group.__name__, "Options")


def _help(group: type, name: str) -> str:
    """What the docstring's Args say of a field."""
    text = inspect.getdoc(group) or ""
    match = re.search(rf"^ +{name}: (.+?)(?=\n +\w+: |\n\n|\Z)", text, re.MULTILINE | re.DOTALL)
    return " ".join(match.group(1).split()) if match else ""


def _value(name: str, field: dataclasses.Field[Any], value: Any) -> Any:
    """What was typed, as what the field holds; what is no text came from Python and stays."""
    kind = str(field.type)
    try:
        if name == "heads" and isinstance(value, str):
            return _heads(value)
        if isinstance(value, list) and "Mapping" in kind:
            return pairs(f"--{name.replace('_', '-')}", value)
        if isinstance(value, str) and ("tuple" in kind or "Sequence" in kind):
            parts = [part.strip() for part in value.split(",") if part.strip()]
            return tuple(float(part) for part in parts) if "float" in kind else tuple(parts)
    except ValueError as error:
        raise UserError(f"--{name.replace('_', '-')}: {error}") from None
    return tuple(value) if isinstance(value, Sequence) and not isinstance(value, str) else value


def pairs(option: str, texts: Sequence[str]) -> dict[str, Any]:
    """What was typed as key=value; a value that is JSON is read as such.

    Raises:
        UserError: for a text without an equals sign.
    """
    found: dict[str, Any] = {}
    for text in texts:
        key, equals, value = text.partition("=")
        if not equals:
            raise UserError(f"{option} must be key=value, as in channels=[16,32]; got {text!r}")
        try:
            found[key] = json.loads(value)
        except json.JSONDecodeError:
            found[key] = value
    return found


def _heads(text: str) -> int | dict[str, int] | None:
    if text.isdigit():
        return int(text)
    pairs = [part.partition("=") for part in text.split(",")]
    if not all(equals and number.isdigit() for _, equals, number in pairs):
        raise ValueError(f"must be a number, or globs of slots with numbers, as in layer1.*=2,layer2.*=4; got {text!r}")
    return {glob: int(number) for glob, _, number in pairs}

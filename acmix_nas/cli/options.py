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
from pathlib import Path
from typing import Annotated, Any

import typer
import yaml

from acmix_nas.util.errors import UserError

__all__ = ["BackboneArgs", "fill", "from_parameters", "names", "options", "pairs", "typed"]

RENAMED = {("DataConfig", "name"): "data", ("DataConfig", "root"): "data_root"}


def _over_file(context: typer.Context, parameter: typer.CallbackParam, typed: list[str] | None) -> list[str]:
    """Pairs that were typed, after those of the recipe: a key stands over the file's, and the file's others stay."""
    return [*(context.default_map or {}).get(parameter.name or "", []), *(typed or [])]


BackboneArgs = Annotated[
    list[str] | None,
    typer.Option(help="more for timm, as in drop_path_rate=0.1", metavar="KEY=VALUE", callback=_over_file),
]
"""The option of commands that have no group with a field of this name."""


def options(*groups: type) -> Callable[[Callable[..., None]], Callable[..., None]]:
    """Give a typer command the fields of dataclasses as options.

    The command takes each group's instance under the group's name in lower case (`DataConfig` → `dataconfig`), and what
    the user typed as options. The fields of a field that is a dataclass itself are options beside the others. `--recipe FILE`
    reads a YAML file of the same options, which stands over the defaults and under what is typed.
    """

    def decorate(command: Callable[..., None]) -> Callable[..., None]:
        signature = inspect.signature(command, eval_str=True)
        own = [p for p in signature.parameters.values() if p.name not in {group.__name__.lower() for group in groups}]
        added = {name: (owner, field) for group in groups for name, owner, field in _fields(group)}
        kinds = {
            name: list[str] if field.metadata.get("repeated") else _type(owner, field) for name, (owner, field) in added.items()
        }
        kinds |= {p.name: Mapping for p in own if p.annotation == BackboneArgs}

        def read_file(context: typer.Context, file: Path | None) -> None:
            if file is not None:
                context.default_map = _read_recipe(file, kinds)

        @functools.wraps(command)
        def run(**typed: Any) -> None:
            typed.pop("recipe_file")
            values = {name: typed.pop(name) for name in added}
            command(**typed, **{group.__name__.lower(): fill(group, values) for group in groups})

        parameters = [
            *own,
            *(
                inspect.Parameter(
                    name, inspect.Parameter.KEYWORD_ONLY, default=_default(field), annotation=_annotation(owner, field)
                )
                for name, (owner, field) in added.items()
            ),
            inspect.Parameter(
                "recipe_file",
                inspect.Parameter.KEYWORD_ONLY,
                default=None,
                annotation=Annotated[
                    Path | None,
                    typer.Option(
                        "--recipe",
                        metavar="FILE",
                        help="YAML file of these options; what is typed stands over it",
                        is_eager=True,
                        callback=read_file,
                        rich_help_panel="Training",
                    ),
                ],
            ),
        ]
        run.__signature__ = signature.replace(parameters=parameters)  # type: ignore[attr-defined]
        run.__annotations__ = {p.name: p.annotation for p in parameters}
        return run

    return decorate


def fill(group: type, values: Mapping[str, Any]) -> Any:
    """An instance of a dataclass from what was typed; what belongs to others is left to them.

    Raises:
        UserError: for a value that cannot be read.
    """
    given: dict[str, Any] = {}
    for field in dataclasses.fields(group):
        name = _name(group, field)
        if _is_group(group, field):
            given[field.name] = fill(_type(group, field), values)
        elif name in values:
            given[field.name] = _value(name, field, values[name])
    return group(**given)


def typed(context: typer.Context, group: type) -> set[str]:
    """The fields of a group that the user gave, typed or in a recipe, rather than left at their defaults."""
    sources = {field.name: context.get_parameter_source(name) for name, _, field in _fields(group)}
    return {name for name, source in sources.items() if source is not None and source.name != "DEFAULT"}


def from_parameters(parameters: Mapping[str, Any], *groups: Any) -> list[Any]:
    """Copies of dataclass instances in which these parameters, by their options' names, have other values.

    Raises:
        UserError: for a parameter that none of them has.
    """
    known = names(*map(type, groups))
    unknown = sorted(set(parameters) - known)
    if unknown:
        raise UserError(f"parameter {unknown[0]!r} is no option of this trial; it has {', '.join(sorted(known))}")
    return [_changed(group, parameters) for group in groups]


def _changed(group: Any, parameters: Mapping[str, Any]) -> Any:
    kind, new = type(group), dict[str, Any]()
    for field in dataclasses.fields(group):
        name = _name(kind, field)
        if _is_group(kind, field):
            new[field.name] = _changed(getattr(group, field.name), parameters)
        elif name in parameters:
            new[field.name] = _value(name, field, parameters[name])
    return dataclasses.replace(group, **new)


def names(*groups: type) -> set[str]:
    """The options that these dataclasses give a command."""
    return {name for group in groups for name, _, _ in _fields(group)}


def _read_recipe(file: Path, kinds: Mapping[str, Any]) -> dict[str, Any]:
    """The options in a YAML file, as they would be typed.

    Args:
        kinds: option → type, of those that the command has.

    Raises:
        UserError: naming the file, and the key that is unknown or has a value of another type.
    """
    where = f"recipe {str(file)!r}"
    try:
        content = yaml.safe_load(file.read_text(encoding="utf-8"))
    except (FileNotFoundError, IsADirectoryError):
        raise UserError(f"{where}: no such file") from None
    except (UnicodeDecodeError, yaml.YAMLError) as error:
        raise UserError(f"{where} is not YAML: {' '.join(str(error).split())}") from None
    if not isinstance(content, dict):
        raise UserError(f"{where} must map options to values, as in lr: 0.1; it holds a {type(content).__name__}")
    found: dict[str, Any] = {}
    for key, value in content.items():
        name = str(key).replace("-", "_")
        if name not in kinds:
            raise UserError(f"{where}: {key!r} is no option of this command; it has {', '.join(sorted(kinds))}")
        if name in found:
            raise UserError(f"{where}: {name!r} is there twice; say it once")
        try:
            found[name] = _as_typed(kinds[name], value)
        except ValueError as error:
            raise UserError(f"{where}: {key} must be {error}; got {value!r}") from None
    return found


def _as_typed(kind: Any, value: Any) -> Any:
    """A value of a file as the command line has it; raises a ValueError that says what it must be."""
    origin = typing.get_origin(kind) or kind
    if kind is bool:
        right, expected = isinstance(value, bool), "true or false"
    elif kind is int:
        right, expected = isinstance(value, int) and not isinstance(value, bool), "a whole number"
    elif kind is float:
        right, expected = _is_number(value), "a number"
    elif kind is str:
        right, expected = isinstance(value, str | int) and not isinstance(value, bool), "a text"
    elif issubclass(origin, Mapping):
        right, expected = isinstance(value, dict), "a mapping"
    elif float in typing.get_args(kind):
        right, expected = isinstance(value, list) and all(map(_is_number, value)), "a list of numbers"
    else:
        right, expected = isinstance(value, list) and all(isinstance(entry, str) for entry in value), "a list of texts"
    if not right:
        raise ValueError(expected)
    if isinstance(value, dict):
        return [f"{key}={json.dumps(entry)}" for key, entry in value.items()]
    return ",".join(map(str, value)) if isinstance(value, list) and origin is not list else value


def _is_number(value: Any) -> bool:
    try:
        float(value)  # YAML takes 1e-3, without a point, for a text
    except (TypeError, ValueError):
        return False
    return not isinstance(value, bool)


def _fields(group: type) -> Iterator[tuple[str, type, dataclasses.Field[Any]]]:
    """(option, the dataclass that has it, its field), those of fields that are dataclasses too."""
    for field in dataclasses.fields(group):
        if _is_group(group, field):
            yield from _fields(_type(group, field))
        else:
            yield _name(group, field), group, field


def _name(group: type, field: dataclasses.Field[Any]) -> str:
    return RENAMED.get((group.__name__, field.name), field.name)


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
    if isinstance(value, tuple):
        return list(value) if field.metadata.get("repeated") else ",".join(map(str, value))
    return value


def _annotation(group: type, field: dataclasses.Field[Any]) -> Any:
    kind, callback = _type(group, field), None
    text = _help(group, field.name)
    origin = typing.get_origin(kind) or kind
    if kind in (int, float, bool, str):
        metavar = None
    elif issubclass(origin, Mapping):
        kind, metavar, callback = list[str], "KEY=VALUE", _over_file
    elif field.metadata.get("repeated"):
        kind, metavar = list[str], "A,B,…"
    else:
        kind, metavar = str, "A,B,…"
    if field.default is None:
        kind = kind | None
    return Annotated[kind, typer.Option(help=text, metavar=metavar, callback=callback, rich_help_panel=_panel(group))]


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
        if value is not None and ("tuple" in kind or "Sequence" in kind):
            texts = [value] if isinstance(value, str) else value
            parts = [part.strip() for text in texts for part in str(text).split(",") if part.strip()]
            if field.metadata.get("repeated"):  # the later of two stands over the earlier, as with all options
                parts = list({part.partition("=")[0]: part for part in parts}.values())
            return tuple(float(part) for part in parts) if "float" in kind else tuple(parts)
    except ValueError as error:
        raise UserError(f"--{name.replace('_', '-')}: {error}") from None
    return value


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

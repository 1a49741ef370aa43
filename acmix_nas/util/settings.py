"""Settings: the fields of nested dataclasses as one flat list of names, with their types, defaults and help.

The command line, config files, the parameters of NNI's trials and keyword arguments all give settings by these flat names.
The metadata of a field may say:

- `option`: its flat name, where this is not the field's own name;
- `panel`: its subject in help, where this is not the class's `PANEL`;
- `variants` and `by`: the field holds an instance of one of the dataclasses in the registry `variants`; the field named `by`
  chooses which. An option that several of these dataclasses have is one option;
- `names`: the registry of which the field holds a name, for help.
"""

from __future__ import annotations

import dataclasses
import types
import typing
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import MISSING, dataclass
from functools import cache
from typing import Any

from acmix_nas.util.errors import UserError, did_you_mean
from acmix_nas.util.reading import Mismatch, read

__all__ = ["Setting", "flat_names", "flat_values", "replace_flat", "settings_of", "there_are"]


@dataclass(frozen=True)
class Setting:
    """One field of a dataclass, as an option.

    Attributes:
        name: its flat name.
        kind: its type.
        path: the names of the fields that lead to it, its own included.
        default: its default; where variants differ, a mapping from their names to their defaults.
        help: what the docstring of its class says about it.
        panel: its subject.
        variants: the names of the variants that have it; empty where it does not depend on a variant.
        group: the dataclass at the root of the path.
        names: what is registered for it; empty where it names nothing that is.
    """

    name: str
    kind: Any
    path: tuple[str, ...]
    default: Any
    help: str
    panel: str
    variants: tuple[str, ...] = ()
    group: type | None = None
    names: tuple[str, ...] = ()

    def read(self, value: Any, what: str) -> Any:
        """Return a value, which may be a text, as one of this setting's type.

        Raises:
            UserError: where it cannot be read; it begins with `what`.
        """
        try:
            return read(self.kind, value)
        except Mismatch as error:
            raise UserError(f"{what} must be {error}; got {value!r}") from None


def settings_of(*groups: type) -> dict[str, Setting]:
    """Return the settings of dataclasses by flat name, those of nested dataclasses included.

    Raises:
        TypeError: where two fields have the same flat name.
    """
    found: dict[str, Setting] = {}
    for group in groups:
        for setting in _settings(group):
            if setting.name in found:
                raise TypeError(f"two settings are called {setting.name!r}, in {found[setting.name].group} and {group}")
            found[setting.name] = setting
    return found


def flat_names(*groups: type) -> set[str]:
    """Return the flat names of the settings of dataclasses.

    Example:
        >>> @dataclass
        ... class Images:
        ...     size: int = 32
        >>> flat_names(Images)
        {'size'}
    """
    return set(settings_of(*groups))


def flat_values(*instances: Any) -> dict[str, Any]:
    """Return the values of dataclass instances by flat name; of a field with variants, those of the variant it holds."""
    found: dict[str, Any] = {}
    for instance in instances:
        for field, kind in _fields(type(instance)):
            value = getattr(instance, field.name)
            if "variants" in field.metadata or dataclasses.is_dataclass(kind):
                found |= flat_values(value)
            else:
                found[_name(field)] = value
    return found


def replace_flat(values: Mapping[str, Any], *instances: Any) -> list[Any]:
    """Return copies of dataclass instances in which the settings of these flat names have other values.

    A variant that is chosen anew keeps what was set of the settings that both variants have.

    Raises:
        UserError: for a name that no instance has, a value that cannot be read, or one that its dataclass refuses.
    """
    settings = settings_of(*map(type, instances))
    for name in values:
        if name not in settings:
            raise UserError(f"parameter {name!r} is no option here{did_you_mean(name, settings) or there_are(settings)}")
    ready = {name: settings[name].read(value, name) for name, value in values.items()}
    return [_replaced(instance, ready) for instance in instances]


def there_are(names: Iterable[str]) -> str:
    """Return the end of a message about a name that is near to none of these."""
    return f"; there are {', '.join(sorted(names))}"


def _settings(group: type, path: tuple[str, ...] = (), root: type | None = None) -> Iterator[Setting]:
    root = root or group
    for field, kind in _fields(group):
        here = (*path, field.name)
        if "variants" in field.metadata:
            yield from _variants(field, here, root)
        elif dataclasses.is_dataclass(kind):
            yield from _settings(typing.cast(type, kind), here, root)
        else:
            default = field.default if field.default_factory is MISSING else field.default_factory()
            text, panel = _help(group).get(field.name, ""), field.metadata.get("panel", getattr(group, "PANEL", "settings"))
            registry = field.metadata.get("names")
            names = tuple(registry.names()) if registry else ()
            yield Setting(_name(field), kind, here, default, text, panel, group=root, names=names)


def _variants(field: dataclasses.Field[Any], path: tuple[str, ...], root: type) -> Iterator[Setting]:
    """Yield the settings of every variant, each once, with the names of the variants that have it."""
    registry = field.metadata["variants"]
    having: dict[str, dict[str, Setting]] = {}
    for variant, kind in registry.working():
        for setting in _settings(kind, path, root):
            having.setdefault(setting.name, {})[variant] = setting
    for name, found in having.items():
        first, names = next(iter(found.values())), tuple(found)
        if any(setting.kind != first.kind for setting in found.values()):
            raise TypeError(f"setting {name!r} must have one type in {', '.join(names)}")
        defaults = {variant: setting.default for variant, setting in found.items()}
        same = all(default == first.default for default in defaults.values())
        panel = f"{field.metadata['by']} {', '.join(names)}"
        yield dataclasses.replace(first, default=first.default if same else defaults, panel=panel, variants=names)


def _replaced(instance: Any, values: Mapping[str, Any]) -> Any:
    new: dict[str, Any] = {}
    for field, kind in _fields(type(instance)):
        if "variants" in field.metadata:
            continue
        if dataclasses.is_dataclass(kind):
            new[field.name] = _replaced(getattr(instance, field.name), values)
        elif _name(field) in values:
            new[field.name] = values[_name(field)]
    for field, _ in _fields(type(instance)):
        if "variants" in field.metadata:
            chosen = new.get(field.metadata["by"], getattr(instance, field.metadata["by"]))
            new[field.name] = _variant(field, chosen, getattr(instance, field.name), values)
    return dataclasses.replace(instance, **new)


def _variant(field: dataclasses.Field[Any], chosen: str, old: Any, values: Mapping[str, Any]) -> Any:
    registry, by = field.metadata["variants"], field.metadata["by"]
    kind = registry.get(chosen)
    own = flat_names(kind)
    for setting in _variants(field, (), kind):
        if setting.name in values and setting.name not in own:
            raise UserError(f"{setting.name} needs {by} {' or '.join(setting.variants)}; got {by}={chosen!r}")
    start = kind()
    if type(old) is kind:
        start = old
    elif old is not None:
        default = flat_values(type(old)())
        kept = {name: value for name, value in flat_values(old).items() if name in own and value != default[name]}
        start = _replaced(start, kept)
    return _replaced(start, {name: value for name, value in values.items() if name in own})


def _fields(group: type) -> Iterator[tuple[dataclasses.Field[Any], Any]]:
    hints = _hints(group)
    for field in dataclasses.fields(group):
        if field.init:
            yield field, hints[field.name]


@cache
def _hints(group: type) -> dict[str, Any]:
    """Return the types of the fields. A field of a nested dataclass or None gives the dataclass."""
    found = typing.get_type_hints(group)
    for name, kind in found.items():
        if typing.get_origin(kind) in (types.UnionType, typing.Union):
            nested = [member for member in typing.get_args(kind) if dataclasses.is_dataclass(member)]
            found[name] = nested[0] if len(nested) == 1 else kind
    return found


def _name(field: dataclasses.Field[Any]) -> str:
    return str(field.metadata.get("option", field.name))


@cache
def _help(group: type) -> dict[str, str]:
    """Return the help of the fields, from the docstrings of a class and of its base classes."""
    from docstring_parser import parse

    entries = [entry for kind in reversed(group.__mro__) for entry in parse(kind.__dict__.get("__doc__") or "").params]
    return {entry.arg_name: " ".join((entry.description or "").split()) for entry in entries}

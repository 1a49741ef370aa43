"""Config files: the options of a command in YAML, flat or in sections, read and written."""

from __future__ import annotations

from collections.abc import Collection, Mapping, Sequence
from pathlib import Path
from typing import Any

import yaml

from acmix_nas.util.errors import UserError, did_you_mean
from acmix_nas.util.files import check_format
from acmix_nas.util.reading import is_mapping
from acmix_nas.util.settings import Setting, flat_values, there_are

__all__ = ["overlaid", "read_config", "written"]


def read_config(file: Path, settings: Mapping[str, Setting], sections: Mapping[str, type]) -> dict[str, Any]:
    """Return the options in a YAML file, by flat name.

    A section is a mapping under the name of a dataclass field, as in `recipe: {epochs: 3}`; in it a key may be an option or
    the field's own name. It may say its format and version, as files do that `--print-config` prints.

    Args:
        settings: the options of the command.
        sections: more names of sections, and their dataclasses.

    Raises:
        UserError: naming the file, and the key that is unknown, there twice, or of another type.
    """
    where = f"config {str(file)!r}"
    try:
        content = yaml.safe_load(file.read_text(encoding="utf-8"))
    except (FileNotFoundError, IsADirectoryError):
        raise UserError(f"{where}: no such file") from None
    except (UnicodeDecodeError, yaml.YAMLError) as error:
        raise UserError(f"{where} is not YAML: {' '.join(str(error).split())}") from None
    if not isinstance(content, dict):
        raise UserError(f"{where} must map options to values, as in lr: 0.1; it holds a {type(content).__name__}")
    if "format" in content:
        check_format(content.pop("format"), content.pop("version", None), "config", where)
    places = _places(settings, sections)
    found: dict[str, Any] = {}
    _read(content, (), where, settings, places, found)
    return found


def overlaid(settings: Mapping[str, Setting], file: Mapping[str, Any], typed: Mapping[str, Any]) -> dict[str, Any]:
    """Return the options of a file under the typed ones. Mappings are merged key by key."""
    both = {
        name: {**file[name], **value}
        for name, value in typed.items()
        if is_mapping(settings[name].kind) and isinstance(file.get(name), Mapping)
    }
    return {**file, **typed, **both}


def written(
    settings: Mapping[str, Setting], own: Mapping[str, Any], instances: Sequence[Any], undecided: Collection[str] = ()
) -> str:
    """Return all options, after the format and the version, as YAML that `read_config` reads back, in a block for each subject.

    Args:
        own: values of a command's own options.
        instances: its dataclasses.
        undecided: options whose default lies elsewhere; they are written as comments.
    """
    values = {**flat_values(*instances), **own}
    blocks: dict[str, list[str]] = {}
    for name, value in values.items():
        line = f"{name}: {_line(value)}\n"
        blocks.setdefault(settings[name].panel, []).append(f"# {line}" if name in undecided else line)
    return "format: acmix-nas config\nversion: 1\n\n" + "\n".join(
        f"# {panel}\n{''.join(lines)}" for panel, lines in blocks.items()
    )


Places = Mapping[tuple[str, ...], Mapping[str, str]]
"""Section, as a path of names → the fields and options in it → flat name."""


def _places(settings: Mapping[str, Setting], sections: Mapping[str, type]) -> Places:
    places: dict[tuple[str, ...], dict[str, str]] = {(): {name: name for name in settings}}
    for name, setting in settings.items():
        paths = [setting.path] + [(section, *setting.path) for section, kind in sections.items() if kind is setting.group]
        for path in paths:
            for depth in range(1, len(path)):
                place = places.setdefault(path[:depth], {})
                place[name] = name
                if depth == len(path) - 1:
                    place[path[-1]] = name
    return places


def _read(
    content: Mapping[Any, Any], path: tuple[str, ...], where: str,
    settings: Mapping[str, Setting], places: Places, found: dict[str, Any],
) -> None:  # fmt: skip
    for key, value in content.items():
        field = str(key).replace("-", "_")
        if isinstance(value, Mapping) and (*path, field) in places:
            _read(value, (*path, field), where, settings, places, found)
            continue
        if field not in places[path]:
            known = {*places[path], *(place[len(path)] for place in places if place[:-1] == path and place)}
            raise UserError(f"{where}: {key!r} is no option of this command{did_you_mean(field, known) or there_are(known)}")
        name = places[path][field]
        if name in found:
            raise UserError(f"{where}: {name!r} is there twice; say it once")
        found[name] = settings[name].read(value, f"{where}: {key}")


def _line(value: Any) -> str:
    """Return a value as YAML, on one line."""
    return str(yaml.safe_dump([_plain(value)], default_flow_style=True, allow_unicode=True, width=10**6)).strip()[1:-1]


def _plain(value: Any) -> Any:
    """Return a value as YAML holds it."""
    if isinstance(value, Mapping):
        return {key: _plain(entry) for key, entry in value.items()}
    if isinstance(value, list | tuple):
        return [_plain(entry) for entry in value]
    return str(value) if isinstance(value, Path) else value

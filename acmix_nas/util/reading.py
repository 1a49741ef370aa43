"""Values by type: what a person typed, or what a file or another program holds, as what a field holds."""

from __future__ import annotations

import json
import re
import types
import typing
from collections.abc import Callable, Mapping, Sequence
from numbers import Integral, Real
from pathlib import Path
from typing import Any

__all__ = ["Mismatch", "accumulates", "is_mapping", "is_union", "pairs", "read"]

PYTHON = {"True": True, "False": False, "None": None}
"""As Python writes them; JSON has small letters."""
SIZES = {"": 1, "k": 1_000, "K": 1_000, "M": 1_000_000}


class Mismatch(ValueError):  # noqa: N818  it says what was expected, and its catcher says of what
    """A value that does not fit a type; the message says what would."""


def read(kind: Any, value: Any) -> Any:
    """Return a value as one of this type: a text is taken apart, other values are checked.

    A whole number may end in k or M; a list may be a text with commas; a mapping may be a text of KEY=VALUE, and several
    with commas where its values have a type of their own.

    Raises:
        Mismatch: where this is not possible.

    Example:
        >>> read(int, "2k"), read(tuple[float, float], "0.5,1"), read(int | Mapping[str, int], "a.*=2,*=4")
        (2000, (0.5, 1.0), {'a.*': 2, '*': 4})
    """
    if kind is Any:
        return value
    if is_union(kind):
        return _union(kind, value)
    origin = typing.get_origin(kind) or kind
    if origin is typing.Literal:
        if value in typing.get_args(kind):
            return value
        raise Mismatch(f"one of {', '.join(map(str, typing.get_args(kind)))}")
    if is_mapping(kind):
        return _mapping(kind, value)
    if origin in (list, tuple) or (isinstance(origin, type) and issubclass(origin, Sequence) and origin is not str):
        return _sequence(kind, value)
    if origin in _SIMPLE:
        return _SIMPLE[origin](value)
    if isinstance(value, origin):
        return value
    raise Mismatch(f"a {origin.__name__}")


def pairs(texts: Sequence[str]) -> dict[str, Any]:
    """Return texts such as KEY=VALUE as a mapping; a value that is JSON, or Python's True, False or None, is read as such.

    Raises:
        Mismatch: for a text without an equals sign.
    """
    found: dict[str, Any] = {}
    for text in texts:
        key, equals, value = text.partition("=")
        if not equals:
            raise Mismatch("KEY=VALUE, as in channels=[16,32]")
        try:
            found[key.strip()] = PYTHON[value.strip()] if value.strip() in PYTHON else json.loads(value)
        except json.JSONDecodeError:
            found[key.strip()] = value.strip()
    return found


def is_mapping(kind: Any) -> bool:
    """Return whether a type is a mapping, or a mapping or None."""
    origin = typing.get_origin(kind) or kind
    if is_union(kind):
        members = [member for member in typing.get_args(kind) if member is not types.NoneType]
        return len(members) == 1 and is_mapping(members[0])
    return isinstance(origin, type) and issubclass(origin, Mapping)


def accumulates(kind: Any) -> bool:
    """Return whether an option of this type is added to when it is given again: a mapping, or a list of texts."""
    return is_mapping(kind) or (typing.get_origin(kind) is not None and typing.get_args(kind) in ((str,), (str, ...)))


def is_union(kind: Any) -> bool:
    """Return whether a value of this type may be of several types, or None."""
    return typing.get_origin(kind) in (types.UnionType, typing.Union)


def _union(kind: Any, value: Any) -> Any:
    if value is None and types.NoneType in typing.get_args(kind):
        return None
    expected = []
    for member in typing.get_args(kind):
        if member is types.NoneType:
            continue
        try:
            return read(member, value)
        except Mismatch as error:
            expected.append(str(error))
    raise Mismatch(" or ".join(expected))


def _mapping(kind: Any, value: Any) -> dict[Any, Any]:
    inner = (typing.get_args(kind) or (str, Any))[1]
    if isinstance(value, str) or (isinstance(value, list) and all(isinstance(text, str) for text in value)):
        texts = [value] if isinstance(value, str) else value
        if inner is Any:
            return pairs(texts)
        parts = [part.partition("=") for text in texts for part in text.split(",") if part.strip()]
        value = {key: entry for key, _, entry in parts} if all(equals for _, equals, _ in parts) else None
    if not isinstance(value, Mapping):
        raise Mismatch("KEY=VALUE, or a mapping")
    try:
        return {key.strip() if isinstance(key, str) else key: read(inner, entry) for key, entry in value.items()}
    except Mismatch as error:
        raise Mismatch(f"KEY=VALUE with {error} each, as in a=…,b=…") from None


def _sequence(kind: Any, value: Any) -> tuple[Any, ...]:
    inner = (typing.get_args(kind) or (Any,))[0]
    if isinstance(value, str):
        value = [part.strip() for part in value.split(",") if part.strip()]
    elif isinstance(value, bytes | Mapping) or not hasattr(value, "__iter__"):
        value = [value] if inner is str and isinstance(value, int) else None
    if value is None:
        raise Mismatch(_plural(inner))
    try:
        return tuple(read(inner, part) for part in value)
    except Mismatch:
        raise Mismatch(_plural(inner)) from None


def _plural(inner: Any) -> str:
    names = {str: "texts", float: "numbers", int: "whole numbers"}
    return f"a list of {names.get(inner, 'values')}, as in A,B"


def _bool(value: Any) -> bool:
    if not isinstance(value, bool):
        raise Mismatch("true or false")
    return value


def _int(value: Any) -> int:
    match = re.fullmatch(r"([+-]?\d+)([kKM]?)", value.strip()) if isinstance(value, str) else None
    if match:
        return int(match[1]) * SIZES[match[2]]
    if isinstance(value, Integral) and not isinstance(value, bool):
        return int(value)
    if isinstance(value, Real) and float(value).is_integer() and not isinstance(value, bool):
        return int(float(value))  # as NNI's quniform gives them
    raise Mismatch("a whole number")


def _float(value: Any) -> float:
    if not isinstance(value, str | Real) or isinstance(value, bool):
        raise Mismatch("a number")
    try:
        return float(value)  # YAML takes 1e-3, without a point, for a text
    except ValueError:
        raise Mismatch("a number") from None


def _str(value: Any) -> str:
    if not isinstance(value, str | int) or isinstance(value, bool):
        raise Mismatch("a text")
    return str(value)


def _path(value: Any) -> Path:
    if not isinstance(value, str | Path):
        raise Mismatch("a path")
    return Path(value)


_SIMPLE: dict[Any, Callable[[Any], Any]] = {bool: _bool, int: _int, float: _float, str: _str, Path: _path}

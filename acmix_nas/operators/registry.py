"""The attentions that there are: a new one is a subclass of `Path` in one file, here or in another package."""

from __future__ import annotations

import re
from collections.abc import Callable
from typing import Any, TypeVar

from acmix_nas.operators.stage import Path
from acmix_nas.util.errors import UserError
from acmix_nas.util.registry import Registry

__all__ = ["OPERATORS", "attention_path", "register_operator"]

Kind = TypeVar("Kind", bound=type[Path])
TAKEN = ("conv", "home", "acmix")


class Operators(Registry[type[Path]]):
    """The registry of attentions. What is registered as `axial` may stand at a slot as `axial` and as `acmix_axial`."""

    def register(self, name: str) -> Callable[[Kind], Kind]:  # type: ignore[override]
        """Return a decorator that registers a subclass of `Path` under this name.

        Raises:
            UserError: where something else has the name, or the name cannot be part of an operator's.
        """
        if not re.fullmatch("[a-z][a-z0-9]*", name) or name in TAKEN:
            raise UserError(
                f"name of an operator must be of small letters and digits, and not {', '.join(TAKEN)}; got {name!r}"
            )
        keep = super().register(name)

        def named(path: Kind) -> Kind:
            keep(path)
            path.kind = name
            return path

        return named


OPERATORS = Operators("attention", "acmix_nas.operators")


def register_operator(name: str) -> Callable[[Kind], Kind]:
    """Return a decorator that makes a subclass of `Path` an operator; see `Path` for what it may say of itself.

    A package whose operators should be known without being imported declares them as entry points, too, under
    "acmix_nas.operators": `axial = its_module:AxialPath`.

    Args:
        name: small letters and digits; the operator may stand at a slot as `name` and as `acmix_name`.

    Raises:
        UserError: where something else has the name, or the name cannot be part of an operator's.

    Example:
        >>> @register_operator("centre")
        ... class CentrePath(Path):
        ...     def forward(self, maps):
        ...         return maps[:, 2 * self.channels :, :: self.stride, :: self.stride]
        >>> attention_path("centre", channels=8, heads=2).name
        'centre'
    """
    return OPERATORS.register(name)


def attention_path(kind: str, channels: int, heads: int, **offered: Any) -> Path:
    """Build the attention path of this kind; what a kind has no use for (a border, a window, a position) it ignores.

    Raises:
        UserError: for an unknown kind, or heads that do not divide the channels.
    """
    return OPERATORS.get(kind).make(channels, heads, **offered)

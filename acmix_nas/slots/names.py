"""Names of operators: what may stand at a slot, and what a name says about it."""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from acmix_nas.operators import OPERATORS, Path
from acmix_nas.util.errors import UserError, did_you_mean

__all__ = ["AT_CONVOLUTIONS", "DEFAULT_CANDIDATES", "OperatorName", "check_candidates", "kind_in"]

HOME = "home"
"""Among candidates: the attention that a slot has at home."""
AT_CONVOLUTIONS = "local"
"""What HOME stands for in the place of a convolution."""
DEFAULT_CANDIDATES = ("conv", HOME, f"acmix_{HOME}")
MIXED = "acmix_"
DIGITS = 3
"""A setting in a name has no more: a window of a thousand pixels is a slip of the pen, and fills the memory."""


def kind_in(text: str) -> str:
    """Return the kind in an operator's name: `local` of `acmix_local_k3`. It need not exist."""
    return text.removeprefix(MIXED).partition("_")[0]


@dataclass(frozen=True)
class OperatorName:
    """A name such as `conv`, `local`, `local_k3`, `global_r2` or `acmix_window`, taken apart.

    Attributes:
        text: the name as it stands.
        attention: the name of its attention, without `acmix_`; None for `conv`.
        kind: what its attention is registered as, such as "local"; None for `conv`.
        mixed: whether it is an ACmix.
        settings: what the name says about the attention, {"window": 3} or {"reduction": 2}.
    """

    text: str
    attention: str | None
    kind: str | None
    mixed: bool
    settings: Mapping[str, int]

    @classmethod
    def parse(cls, text: str) -> OperatorName:
        """Take a name apart.

        Raises:
            UserError: where it names no operator.
        """
        if text == "conv":
            return cls(text, None, None, False, {})
        if isinstance(text, str) and (kind := kind_in(text)) in OPERATORS:
            attention = text.removeprefix(MIXED)
            settings = _settings(attention.removeprefix(kind), OPERATORS.get(kind).settings)
            if settings is not None:
                return cls(text, attention, kind, text != attention, settings)
        attentions = OPERATORS.names()
        forms = ", ".join(f"{name}_{letter}3" for name, kind in OPERATORS.working() for letter in kind.settings)
        raise UserError(
            f"operator must be conv, {', '.join(attentions)}, one of these attentions after {MIXED}, "
            f"or with a setting as in {forms}; got {text!r}"
            f"{did_you_mean(str(text), ['conv', *attentions, *(MIXED + name for name in attentions)])}"
        )

    @property
    def path(self) -> type[Path] | None:
        """Return the class of its attention. None for `conv`."""
        return None if self.kind is None else OPERATORS.get(self.kind)


def _settings(said: str, known: Mapping[str, str]) -> dict[str, int] | None:
    """Return {"window": 3} for `_k3`, where k is a known letter for window; None for what is no text of settings."""
    found = re.findall("_([a-z]+)([0-9]+)", said)
    if "".join(f"_{letter}{value}" for letter, value in found) != said or not {letter for letter, _ in found} <= known.keys():
        return None
    if any(len(value) > DIGITS for _, value in found):
        return None
    settings = {known[letter]: int(value) for letter, value in found}
    return settings if len(settings) == len(found) else None


def check_candidates(candidates: Sequence[str], home: str = AT_CONVOLUTIONS) -> tuple[str, ...]:
    """Return the candidates, with the name of the attention at home put in.

    Raises:
        UserError: for an unknown operator, one named twice, or none at all.
    """
    if isinstance(candidates, str):
        raise UserError(f"candidates must be a list of operators, as in ['conv', 'local']; got the text {candidates!r}")
    named = {HOME: home, f"acmix_{HOME}": f"acmix_{home}"}
    names = [named.get(name, name) for name in candidates]
    for name in names:
        OperatorName.parse(name)
    if not names:
        raise UserError("candidates must name at least one operator; got none")
    twice = {name for name in names if names.count(name) > 1}
    if twice:
        raise UserError(f"candidates must differ; got {', '.join(sorted(twice))} twice")
    return tuple(names)

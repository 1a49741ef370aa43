"""The one exception that stands for a mistake of the user's."""

from __future__ import annotations

import difflib
from collections.abc import Iterable

__all__ = ["UserError", "did_you_mean", "first_line", "one_of"]


class UserError(ValueError):
    """Report a mistake of the user's: one line with what was expected, what came and what to do.

    The command line prints the line and exits with status 2.

    Example:
        >>> raise UserError("lr must be positive; got lr=-1")
        Traceback (most recent call last):
        acmix_nas.util.errors.UserError: lr must be positive; got lr=-1
    """


def one_of(what: str, got: object, allowed: Iterable[object]) -> UserError:
    """Return the error for a word that is not among the allowed ones."""
    known = [str(one) for one in allowed]
    return UserError(f"{what} must be one of {', '.join(known)}; got {got!r}{did_you_mean(str(got), known)}")


def did_you_mean(name: str, known: Iterable[str]) -> str:
    """Return the end of a message about an unknown name, with the nearest known one; nothing where none is near.

    Example:
        >>> did_you_mean("penality", ["lr", "penalty"])
        "; did you mean 'penalty'?"
        >>> did_you_mean("depth", ["lr", "penalty"])
        ''
    """
    near = difflib.get_close_matches(name, sorted(known), n=1)
    return f"; did you mean {near[0]!r}?" if near else ""


def first_line(error: BaseException) -> str:
    """Return what another library's error says, for one line of ours, or its kind where it says nothing."""
    return str(error).strip().partition("\n")[0] or type(error).__name__

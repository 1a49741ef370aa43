"""history.csv, what a run observed: one row per candidate, slot and epoch."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from acmix_nas.bias.observation import Observation
from acmix_nas.util.errors import UserError
from acmix_nas.util.files import read_csv, write_csv

__all__ = ["HISTORY", "append_history", "fields", "read_history"]

HISTORY = "history.csv"


def fields(row: Sequence[str | float | None]) -> list[str | float | None]:
    """Return a row as a file has it: six digits of a number, and None for an empty field."""
    return [f"{value:.6g}" if isinstance(value, float) else value for value in row]


def append_history(path: Path, observations: Sequence[Observation]) -> None:
    """Add the observations of an epoch to a history, which need not exist yet.

    Rows of this epoch and of later ones are dropped first, so a resumed run holds no epoch twice. The file is replaced
    as a whole: a crash leaves the old one.

    Raises:
        UserError: where the file is not a history.
    """
    if not observations:
        return
    first = min(o.epoch for o in observations)
    kept = [o for o in read_history(path) if o.epoch < first] if path.exists() else []
    write_csv(path, "history", Observation._fields, map(fields, [*kept, *observations]))


def read_history(path: Path) -> list[Observation]:
    """Read the observations of a run, as they were written.

    Raises:
        UserError: where there is no such file, or it is not a history.
    """
    (_, header), *rows = read_csv(path, "history") or [(0, [])]
    if tuple(header) != Observation._fields:
        expected = ",".join(Observation._fields)
        raise UserError(f"history {str(path)!r} must have the header {expected}; got {','.join(header)!r}")
    observations = []
    for line, row in rows:
        try:
            epoch, slot, operator, *numbers = row
            probability, alpha, beta = (float(number) if number else None for number in numbers)
            observations.append(Observation(int(epoch), slot, operator, probability, alpha, beta))
        except ValueError:
            expected = "an epoch, a slot, an operator and three numbers or empty fields"
            raise UserError(f"history {str(path)!r}, line {line}: expected {expected}; got {','.join(row)!r}") from None
    return observations

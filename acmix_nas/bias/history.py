"""history.csv, what a run observed: one row per candidate, slot and epoch."""

from __future__ import annotations

import csv
import io
from collections.abc import Iterable, Sequence
from pathlib import Path

from acmix_nas.bias.observation import Observation
from acmix_nas.util.errors import UserError
from acmix_nas.util.files import command_line, write_text

__all__ = ["HISTORY", "append_history", "read_history", "write_table"]

HISTORY = "history.csv"


def write_table(path: Path, header: Sequence[str], rows: Iterable[Sequence[str | float | None]]) -> Path:
    """Write a CSV file whose first line says which command made it; None is an empty field."""
    table = io.StringIO()
    table.write(f"# made by: {' '.join(command_line().split())}\n")
    writer = csv.writer(table, lineterminator="\n")
    writer.writerow(header)
    writer.writerows([f"{value:.6g}" if isinstance(value, float) else value for value in row] for row in rows)
    return write_text(path, table.getvalue())


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
    write_table(path, Observation._fields, [*kept, *observations])


def read_history(path: Path) -> list[Observation]:
    """The observations of a run, as they were written.

    Raises:
        UserError: where there is no such file, or it is not a history.
    """
    try:
        lines = path.read_text(encoding="utf-8").splitlines()
    except (FileNotFoundError, IsADirectoryError, NotADirectoryError):
        raise UserError(f"history: no file {str(path)!r}; expected the {HISTORY} of a run") from None
    except UnicodeDecodeError:
        raise UserError(f"history {str(path)!r} must be a CSV file in UTF-8; its bytes are something else") from None
    comments = 1 if lines and lines[0].startswith("#") else 0  # not for the CSV reader: a command may hold quotes
    reader = csv.reader(lines[comments:])
    header = next(reader, [])
    if tuple(header) != Observation._fields:
        expected = ",".join(Observation._fields)
        raise UserError(f"history {str(path)!r} must have the header {expected}; got {','.join(header)!r}")
    observations = []
    for row in reader:
        try:
            epoch, slot, operator, *numbers = row
            probability, alpha, beta = (float(number) if number else None for number in numbers)
            observations.append(Observation(int(epoch), slot, operator, probability, alpha, beta))
        except ValueError:
            expected = "an epoch, a slot, an operator and three numbers or empty fields"
            line = reader.line_num + comments
            raise UserError(f"history {str(path)!r}, line {line}: expected {expected}; got {','.join(row)!r}") from None
    return observations

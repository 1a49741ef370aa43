"""The figures and the table of finished runs."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path

from acmix_nas.bias.figures import figure5, heat_map, probability_figure, save
from acmix_nas.bias.history import HISTORY, fields, read_history
from acmix_nas.bias.observation import Observation, acmix_of, last_epoch, log_ratio, with_probability
from acmix_nas.util.errors import UserError
from acmix_nas.util.files import write_csv

__all__ = ["report"]

COLUMNS = ("run", *Observation._fields, "abs_alpha", "abs_beta", "log_ratio")


def report(runs: Mapping[str, Path], output: Path) -> list[Path]:
    """Read the history of each run folder and write what there is to see into the folder `output`.

    `figure5.png` for the runs that have an ACmix, `heat_map_<run>.png` and `probabilities_<run>.png` for those that
    searched, and `bias.csv`, the last epoch of every run. Nothing is written before every history has been read.

    Args:
        runs: name → run folder; the names go into the figures, the table and the names of files.

    Returns:
        The files written.

    Raises:
        UserError: for a name that no file can have, a run folder without a history, a history with neither ACmix nor
            probabilities, and an output folder that is not empty.
    """
    if not runs:
        raise UserError("runs must name at least one run folder; got none")
    for run in runs:
        if not run or Path(run).name != run:
            raise UserError(f"runs: a name must be fit for a file name; got {run!r}")
    if output.exists() and (not output.is_dir() or any(output.iterdir())):
        raise UserError(f"output must be a new or an empty folder; {str(output)!r} exists, choose another")
    histories = {run: _history(folder) for run, folder in runs.items()}
    mixed = {run: history for run, history in histories.items() if acmix_of(history)}
    searched = {run: history for run, history in histories.items() if with_probability(last_epoch(history))}
    drawn = {"figure5.png": figure5(mixed)} if mixed else {}
    drawn |= {f"heat_map_{run}.png": heat_map(history) for run, history in searched.items()}
    drawn |= {f"probabilities_{run}.png": probability_figure(history) for run, history in searched.items()}

    output.mkdir(parents=True, exist_ok=True)
    rows = [fields(_row(run, o)) for run, history in histories.items() for o in last_epoch(history)]
    return [
        *(save(figure, output / name) for name, figure in drawn.items()),
        write_csv(output / "bias.csv", "bias", COLUMNS, rows),
    ]


def _history(folder: Path) -> list[Observation]:
    history = read_history(folder / HISTORY)
    if not acmix_of(history) and not with_probability(last_epoch(history)):
        raise UserError(f"run {str(folder)!r}: its {HISTORY} has neither α and β nor probabilities at the last epoch")
    return history


def _row(run: str, o: Observation) -> tuple[str | float | None, ...]:
    alpha, beta = (None if value is None else abs(value) for value in (o.alpha, o.beta))
    return (run, *o, alpha, beta, log_ratio(o.alpha, o.beta))

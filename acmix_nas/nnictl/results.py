"""What the trials of an experiment wrote, which is what later steps read, never NNI's own records."""

from __future__ import annotations

import math
import os
from collections.abc import Sequence
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from types import NoneType
from typing import Any

from rich.table import Table

from acmix_nas.util.errors import UserError
from acmix_nas.util.files import read_document, read_json

__all__ = ["TrialResult", "find_experiment", "link_for_web_page", "read_results", "table"]


def link_for_web_page(output_dir: Path) -> None:
    """Let the TensorBoard button of NNI's web page find what a trial logs in `output_dir`/tensorboard.

    The button reads <experiment>/trials/<id>/output/tensorboard; trials write below <experiment>/environments. Outside that
    layout nothing happens, and a trial does not fail for want of a link.
    """
    output_dir = output_dir.absolute()
    trial, folders = output_dir.name, output_dir.parents
    if len(folders) < 4 or folders[0].name != "trials" or folders[2].name != "environments":
        return
    logs, link = output_dir / "tensorboard", folders[3] / "trials" / trial / "output" / "tensorboard"
    with suppress(OSError):
        logs.mkdir(parents=True, exist_ok=True)  # the button fails on a link to nothing
        link.parent.mkdir(parents=True, exist_ok=True)
        if link.is_dir() and not link.is_symlink():
            link.rmdir()  # the button makes an empty folder where it finds none; a filled one is kept
        link.symlink_to(os.path.relpath(logs, link.parent), target_is_directory=True)


def find_experiment(name: str | Path) -> Path:
    """Return the folder of an experiment: a folder itself, or the id of an experiment that NNI has a record of.

    Raises:
        UserError: for neither; the message lists the ids that exist.
    """
    if Path(name).is_dir():
        return Path(name)
    home = Path.home() / "nni-experiments"
    known = {folder.name: folder for folder in home.glob("[!._]*") if folder.is_dir()}
    if (home / ".experiment").is_file():
        for key, entry in read_json(home / ".experiment", "NNI's list of experiments").items():
            folder = Path(entry.get("logDir") or home, key)
            if folder.is_dir():
                known[key] = folder
    if str(name) not in known:
        raise UserError(f"no experiment or folder {str(name)!r}; the experiments are: {', '.join(sorted(known)) or 'none yet'}")
    return known[str(name)]


@dataclass(frozen=True)
class TrialResult:
    """What one trial wrote to its result.json; `metric` is higher for better. A search without NNI is no trial: None."""

    folder: Path
    trial: str | None
    sequence: int
    parameters: dict[str, Any]
    metric: float
    seconds: float
    architecture: Path


FIELDS: dict[str, Any] = {
    "trial": (str, NoneType), "sequence": int, "parameters": dict,
    "metric": (int, float), "seconds": (int, float), "architecture": str,
}  # fmt: skip


def read_results(experiment: Path) -> list[TrialResult]:
    """Read the results below a folder, best metric first. A metric that is not a number comes last.

    Raises:
        UserError: where there is none, or a file holds something else.
    """
    results = []
    for path in sorted(experiment.rglob("result.json")):
        search = path.parents[2] if len(path.parents) > 2 else path.parent
        if path.parent.parent.name == "race" and (search / "search.json").exists():
            continue  # a finalist's, which is no trial
        content = read_document(path, "result")
        for field, kind in FIELDS.items():
            if not isinstance(content.get(field), kind) or isinstance(content[field], bool):
                raise UserError(f"{path} is no trial's result: its {field!r} is {content.get(field)!r}; run that trial again")
        values = {field: content[field] for field in FIELDS}
        results.append(TrialResult(folder=path.parent, **values | {"architecture": path.parent / content["architecture"]}))
    if not results:
        raise UserError(f"no result.json below {str(experiment)!r}; give an experiment with at least one finished trial")
    return sorted(results, key=lambda result: (not math.isnan(result.metric), result.metric), reverse=True)


def table(results: Sequence[TrialResult], files: Sequence[Path] = ()) -> Table:
    """Return the trials as a table, best first.

    Args:
        files: one more column: where each was written.
    """
    shown = Table("rank", "trial", "metric", "parameters of the trial", *(["file"] if files else []))
    for index, result in enumerate(results):
        said = ", ".join(f"{name}={value}" for name, value in result.parameters.items() if "." not in name)
        shown.add_row(str(index + 1), str(result.sequence), f"{result.metric:.4f}", said, *map(str, files[index : index + 1]))
    return shown

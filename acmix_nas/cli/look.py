"""The command that draws what runs have learned about their slots."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path

from acmix_nas.cli.shared import Output, folder_for, name_of, out
from acmix_nas.util.errors import UserError


def bias(run: Path, /, *runs: Path, output: Output = None) -> None:
    """Draw where networks lean to convolution and where to attention: Figure 5 of the paper, a heat map, and a table.

    Of an experiment, the trials of each backbone are drawn together, in a folder of their own where there are several.

    Args:
        run: folder of a search or retraining, or of an experiment.
        runs: more folders of searches and retrainings.
    """
    draw([run, *runs], output)


def draw(runs: list[Path], output: Path | None) -> None:
    """Draw runs together; of one experiment, its trials."""
    from acmix_nas.bias import report
    from acmix_nas.bias.history import HISTORY

    # A run has its result in it, an experiment has those of its trials below.
    if len(runs) == 1 and not (runs[0] / HISTORY).exists() and any(runs[0].glob("*/**/result.json")):
        groups = trials_of(runs[0])
    else:
        groups = {"": {name_of(path, runs).replace("/", "_"): path for path in runs}}
    folder = folder_for(output, "bias")
    for backbone, named in groups.items():
        for file in report(named, folder / backbone if len(groups) > 1 else folder):
            out.print(str(file), soft_wrap=True)


def trials_of(experiment: Path) -> dict[str, dict[str, Path]]:
    """Return backbone → what tells a trial apart → its folder, of the trials that have a history, in their order."""
    from acmix_nas.architecture import Architecture
    from acmix_nas.bias.history import HISTORY
    from acmix_nas.nnictl.results import read_results

    groups: dict[str, dict[str, Path]] = {}
    for trial in sorted(read_results(experiment), key=lambda trial: trial.sequence):
        if not (trial.folder / HISTORY).exists():
            continue  # a network without ACmix, such as one of Table 6
        named = groups.setdefault(str(Architecture.load(trial.architecture).backbone), {})
        # Of a mapping, such as a backbone with its arguments, the first value is its name.
        words = [
            str(next(iter(value.values()), name)) if isinstance(value, Mapping) else f"{name}={value}"
            for name, value in trial.parameters.items()
        ]
        label = "-".join(words).replace("/", "_")
        named[f"{label}-{trial.sequence}" if not label or label in named else label] = trial.folder
    if not groups:
        raise UserError(f"no trial of {str(experiment)!r} has a {HISTORY}: none of their networks has an ACmix or was searched")
    return groups

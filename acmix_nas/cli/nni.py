"""Commands around experiments of NNI: run one, take its results, and be one of its trials."""

from __future__ import annotations

import shlex
import shutil
from collections.abc import Mapping
from pathlib import Path
from typing import Annotated, Any

from cyclopts import Parameter

from acmix_nas.cli.options import command
from acmix_nas.cli.search import SHOWN as OF_A_SEARCH
from acmix_nas.cli.shared import Output, folder_for, out
from acmix_nas.cli.train import SHOWN as OF_A_TRAINING
from acmix_nas.searching.config import SearchConfig
from acmix_nas.training.config import TASKS, DataConfig
from acmix_nas.training.recipe import Recipe
from acmix_nas.util.errors import UserError
from acmix_nas.util.files import unused


def experiment(
    config: Path,
    /,
    *,
    port: int | None = None,
    timeout: float | None = None,
    working_directory: Path | None = None,
    data: str | None = None,
    trial_options: Annotated[str, Parameter(allow_leading_hyphen=True)] = "",
) -> None:
    """Check a config of nnictl, run its experiment to the end, and stop it.

    Args:
        config: a config of nnictl, such as experiments/digits-darts.yml.
        port: port of NNI's page; by default a free one.
        timeout: seconds after which it is stopped; by default only when nothing in it moves any more.
        working_directory: where NNI keeps experiments; by default what the config says, or ~/nni-experiments.
        data: other images for every trial; by default those of the config.
        trial_options: more options for every trial, as in "--image-size 64 --epochs 30".
    """
    from acmix_nas.nnictl.experiment import launch

    if data is not None:
        images = Path(data).expanduser()  # trials run in another folder
        trial_options = f"--data {shlex.quote(str(images.resolve()) if images.is_dir() else data)} {trial_options}"
    folder = launch(config, port=port, timeout=timeout, working_directory=working_directory, trial_options=trial_options)
    out.print(f"experiment {folder}\nnext: acmix-nas export {folder}")


def export(experiment: str, /, *, top: int = 1, output: Output = None) -> None:
    """Take the best architectures, and the weights they inherit, out of an experiment or a search.

    Args:
        experiment: id or folder of an NNI experiment, or the folder of a search.
        top: how many architectures, best first.
    """
    from acmix_nas.architecture import Architecture
    from acmix_nas.nnictl.results import find_experiment, read_results, table

    if top < 1:
        raise UserError(f"--top must be at least 1; got {top}")
    results = read_results(find_experiment(experiment))
    folder = folder_for(output, "export")
    unused(*folder.glob("architecture*.json"))
    targets = []
    for rank, result in enumerate(results[:top], start=1):
        number = "" if top == 1 else f"-{rank}"
        targets.append(folder / f"architecture{number}.json")
        Architecture.load(result.architecture).save(targets[-1])
        weights = result.folder / "network.pt"
        if weights.exists():
            shutil.copyfile(weights, folder / f"network{number}.pt")
    out.print(table(results[:top], targets))
    out.print(f"next: acmix-nas retrain {targets[0]}")


@command(shown=(*OF_A_SEARCH, "output", "check"))
def trial_search(config: SearchConfig, *, output: Path | None = None, check: Path | None = None) -> None:
    """Run one search. NNI's parameters are options of it, such as seed and strategy.

    Args:
        output: folder to write into; by default NNI's, or a new runs/trial-N.
        check: only check the options and this search space (a JSON file), and stop.
    """
    from acmix_nas.nnictl import trial

    trial.search_one(config, output, check)


@command(shown=(*OF_A_SEARCH, "supernet", "output", "check"))
def trial_evaluate(
    config: SearchConfig, *, supernet: Path | None = None, output: Path | None = None, check: Path | None = None
) -> None:
    """Evaluate one architecture with the weights of a supernet. NNI's parameters are the operators by slot.

    The supernet is trained by uniform sampling of single paths; the options say how.

    Args:
        supernet: folder of the supernet, which the first trial trains; by default beside the trials.
        output: folder to write into; by default NNI's, or a new runs/trial-N.
        check: only check the options and this search space (a JSON file), and stop.
    """
    from acmix_nas.nnictl import trial

    trial.evaluate_one(config, supernet, output, check)


@command(shown=(*OF_A_TRAINING, "backbone", "backbone_args", "output", "check"))
def trial_train(
    data: DataConfig, recipe: Recipe, *, backbone: str = "resnet26_acmix",
    backbone_args: Mapping[str, Any] = {}, task: Annotated[str, TASKS] = "classification",
    output: Path | None = None, check: Path | None = None,
) -> None:  # fmt: skip
    """Train one network from scratch. NNI's parameters are options, such as seed, or else arguments of the backbone.

    A parameter whose value is a mapping stands for what is in it, such as a backbone with its own arguments. The folder is
    that of a retraining. The metric is the score of the validation part; that of the test part is only written down.

    Args:
        backbone: a name that timm knows.
        backbone_args: more arguments for timm's create_model, as in drop_path_rate=0.1.
        task: what the network is trained for, a registered name.
        output: folder to write into; by default NNI's, or a new runs/trial-N.
        check: only check the options and this search space (a JSON file), and stop.
    """
    from acmix_nas.nnictl import trial

    trial.train_one(backbone, backbone_args, data, recipe, output, check, task)

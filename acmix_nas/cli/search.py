"""Commands that choose an architecture."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

from cyclopts import Parameter

from acmix_nas.cli.options import command, with_names
from acmix_nas.cli.shared import Devices, Output, costs_table, folder_for, out, resumable, slots_table
from acmix_nas.costs.registry import COSTS
from acmix_nas.searching.config import SearchConfig

SHOWN = (
    "backbone", "backbone_args", "candidates", "strategy", "budget", "finalists", "data", "image_size", "epochs", "seed",
)  # fmt: skip
"""The options of a search that its help shows first."""
LIMIT = "limit, as in macs=1.2M, params=300k, latency=3ms; may be given several times"
SWEPT = "sweep this cost and write the Pareto front"


@command(shown=(*SHOWN, "output", "resume"))
def search(config: SearchConfig, devices: Devices, *, output: Path | None = None, resume: bool = False) -> None:
    """Search for an architecture without NNI's server: train a supernet and choose from it.

    Args:
        output: folder to write into; by default a new one under runs/.
        resume: continue the unfinished run in --output.
    """
    from acmix_nas.costs.budget import show
    from acmix_nas.research.benchmark.spaces import Space
    from acmix_nas.searching.run import run_search
    from acmix_nas.training.images import ImageData
    from acmix_nas.training.loop import first_process

    images = ImageData(config.data, config.recipe.seed)
    if first_process():
        out.print(costs_table(Space(str(config.backbone), config, images.num_classes, config.limits)))
    folder = folder_for(output, "search", resume)
    with resumable(folder):
        found = run_search(config, folder, data=images, resume=resume, trainer_kwargs=devices.trainer_kwargs)
    out.print(slots_table(found.architecture))
    for note in found.notes.values():
        out.print(note["said"], soft_wrap=True)  # one line, however wide
    macs = f"{show('macs', found.costs['macs'])} MACs"
    raced = len(found.finalists) > 1 or not config.method.supernet
    trained = f"in a {'warm ' if config.warm else ''}race of {len(found.finalists)}" if raced else "with inherited weights"
    warm = f" --warm --epochs {config.race_recipe.epochs} --lr {config.race_recipe.lr:g}" if config.warm else ""
    after = f"evaluate {folder}" if raced else f"retrain {folder}{warm}"
    out.print(
        f"validation score {found.score:.2%} {trained}, {macs}, "
        f"in {found.seconds:.0f} s{' since it was resumed' if found.resumed else ''}\n"
        f"written to {folder}\nnext: acmix-nas {after}",
        soft_wrap=True,
    )


def derive(
    saved: Path,
    /,
    *,
    budget: Annotated[list[str] | None, Parameter(help=with_names(LIMIT, COSTS.names()), negative=())] = None,
    pareto: Annotated[str | None, Parameter(help=with_names(SWEPT, COSTS.names()))] = None,
    output: Output = None,
) -> None:
    """Choose again among the architectures that a search has ranked: under other budgets, or for every budget at once.

    Args:
        saved: folder of a search, or its architecture.json.
    """
    from acmix_nas.costs.budget import parse_budget, show
    from acmix_nas.searching import front as fronts
    from acmix_nas.searching.again import FinishedSearch
    from acmix_nas.util.files import unused

    limits = parse_budget(budget or [])
    finished = FinishedSearch.load(saved, [*limits, *([pareto] if pareto else [])])
    points = finished.front(pareto, limits) if pareto else [finished.best(limits)]
    folder = folder_for(output, "derive")
    if pareto:
        fronts.write(points, pareto, folder)
        out.print(fronts.table_of(points, pareto))
    for number, point in enumerate(points, start=1):
        file = folder / (f"architecture-{number}.json" if pareto else "architecture.json")
        unused(file)
        finished.architecture(point.choice, limits).save(file)
    if not pareto:
        out.print(slots_table(finished.architecture(points[0].choice, limits)))
        costs = finished.table.of_architecture(points[0].choice)
        out.print(", ".join(f"{name} {show(name, value)}" for name, value in costs.items()))
    out.print(f"written to {folder}\nnext: acmix-nas retrain {file}")

"""Commands behind the figures of the docs: the paper's tables, speed, what a strategy is worth, the demo."""

from __future__ import annotations

import dataclasses
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

from cyclopts import Parameter

from acmix_nas.cli.look import draw
from acmix_nas.cli.shared import Flag, Output, costs_table, folder_for, out
from acmix_nas.util.errors import UserError

if TYPE_CHECKING:
    from acmix_nas.research.benchmark.spaces import Space


def paper(what: str, experiment: str | None = None, /, *, output: Output = None) -> None:
    """Show the paper's tables beside what is counted here, and beside what an experiment found; Figure 5 of an experiment.

    Args:
        what: models, table1, table6, table7, table8 or fig5.
        experiment: id or folder of an experiment of experiments/paper-….yml, for table6, table7 and fig5.
    """
    from acmix_nas.nnictl.results import find_experiment
    from acmix_nas.research.paper import tables

    trials = None if experiment is None else find_experiment(experiment)
    if what != "fig5":
        out.print(tables(what, trials))
        return
    if trials is None:
        raise UserError("fig5 needs the folder of an experiment: acmix-nas experiment experiments/paper-bias.yml gives one")
    draw([trials], output)


def bench(
    what: str,
    /,
    *,
    device: str = "cpu",
    dtype: str = "float32",
    threads: int = 2,
    repeats: int = 20,
    output: Output = None,
) -> None:
    """Measure speed and memory against plain baselines, in turn in one process, with targets beside the ratios.

    Args:
        what: operators, supernet, search or deploy.
        device: cpu or cuda.
        dtype: float32, bfloat16 or float64.
        threads: threads of PyTorch on the CPU.
        repeats: rounds that are kept, after those that warm up.
    """
    from acmix_nas.research.speed import run as run_bench

    folder = folder_for(output, "bench")
    run_bench(what, output=folder, device=device, dtype=dtype, threads=threads, repeats=repeats)
    out.print(f"written to {folder}")


def tabulate(
    *,
    space: str = "cued",
    seeds: int = 3,
    sample: int | None = None,
    epochs: int | None = None,
    workers: int = 2,
    latency: Flag = False,
    seconds: Flag = False,
    output: Path = Path("table.json"),
) -> None:
    """Train every architecture of a space alone, and write the table that searches are measured by.

    Args:
        space: cued, cued-shapes, or the folder of a search, whose space and recipe are taken.
        seeds: trainings of each architecture.
        sample: so many random architectures instead of all.
        epochs: epochs of each training; by default those of the space.
        workers: processes, of one thread each.
        latency: measure the latency of every operator on this machine too.
        seconds: measure the seconds of what is there anew.
        output: the file; the same one again goes on with what is missing.
    """
    from acmix_nas.research.benchmark import space_of
    from acmix_nas.research.benchmark import tabulate as run_tabulation

    chosen = space_of(space)
    chosen = chosen if epochs is None else trained_for(chosen, epochs)
    out.print(costs_table(chosen))
    table = run_tabulation(chosen, output, seeds, sample, workers, latency=latency, seconds=seconds)
    best = table.best()
    out.print(
        f"{len(table.choices)} architectures, {len(table.seeds)} seeds; best {' '.join(best)}: {table.accuracy(best):.2%}; "
        f"noise ceiling (Kendall τ between seeds) {table.ceiling()}\nwritten to {output}"
    )


def assess(
    *,
    strategy: Annotated[list[str], Parameter(negative=())],
    seeds: int = 8,
    space: str = "cued",
    table: Path | None = None,
    sample: int | None = None,
    warm: int = 0,
    workers: int = 2,
    output: Path = Path("assessment"),
) -> None:
    """Measure what a strategy is worth on a space: regret beside random search's, ranks, agreement, time.

    Args:
        strategy: single_path, darts, darts_second_order, darts_perturbation, gumbel or proxyless; may be given often.
        seeds: searches of each strategy.
        space: cued, cued-shapes, or the folder of a search, whose space is taken.
        table: a table of acmix-nas tabulate; by default that of the package, for cued.
        sample: without a table: train so many random architectures first.
        warm: so many random architectures are trained on from each supernet, to measure its ranking by.
        workers: processes, of one thread each.
        output: folder; the same one again goes on with what is missing.
    """
    from acmix_nas.research.benchmark import Table, shipped, space_of
    from acmix_nas.research.benchmark import tabulate as run_tabulation
    from acmix_nas.research.benchmark.assess import assess as run_assessment
    from acmix_nas.research.benchmark.assess import check_budget, check_strategies, report
    from acmix_nas.research.benchmark.spaces import NAMED

    chosen = space_of(space)
    check_strategies(strategy, chosen)
    folder = folder_for(output, "assessment")
    if table is not None:
        trained = Table.load(table)
        trained = trained.of(trained_for(chosen, trained.space.config.race_epochs))
    elif space in NAMED:
        trained = shipped(space)
    else:
        check_budget(chosen, chosen.choices(sample))
        trained = run_tabulation(chosen, folder / "table.json", seeds=2, sample=sample, workers=workers)
    outcomes = run_assessment(trained, strategy, seeds, folder / "assessment.json", workers, warm)
    for screen in report(trained, outcomes, folder / "assessment.md"):
        out.print(screen)
    out.print(f"written to {folder}")


def trained_for(space: Space, epochs: int) -> Space:
    """Return the space, whose trainings from scratch take so many epochs."""
    return dataclasses.replace(space, config=dataclasses.replace(space.config, race_epochs=epochs))


def queries(*, runs: int = 100, output: Path = Path("queries.md")) -> None:
    """Count the trainings that multi-trial strategies, ours and NNI's, need until they find the best of the cued table.

    Args:
        runs: searches of each strategy.
        output: the Markdown file.
    """
    from acmix_nas.research.benchmark import shipped
    from acmix_nas.research.benchmark.trials import report
    from acmix_nas.util.files import unused

    if runs < 1:
        raise UserError(f"runs must be at least 1; got runs={runs}")
    unused(output)
    out.print(report(shipped("cued"), runs, output))
    out.print(f"written to {output}")


def demo(*, output: Output = None, minutes: float = 15.0, seeds: int | None = None) -> None:
    """Run the whole road, in a clone of the project: a search by experiments/cued.yml, baselines, profile, pictures.

    Args:
        minutes: how long it may take; a slow machine gets fewer epochs.
        seeds: how often each network is trained; by default 2, or 1 where time is short.
    """
    from acmix_nas.research.demo import demo as run_demo

    run_demo(folder_for(output, "demo"), minutes, seeds)

"""The command line: each step reads files, writes files, and says what comes next."""

from __future__ import annotations

import atexit
import dataclasses
import os
import shlex
import shutil
from collections.abc import Iterable, Iterator, Mapping
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Annotated

import timm
import torch
import typer
from rich.console import Console
from rich.table import Table

from acmix_nas import __version__
from acmix_nas.architecture import Architecture, build
from acmix_nas.benchmark.spaces import NAMED, Space
from acmix_nas.bias import report
from acmix_nas.bias.history import HISTORY
from acmix_nas.budget import parse_budget, show
from acmix_nas.classification import Recipe
from acmix_nas.config import SearchConfig
from acmix_nas.data import DataConfig, ImageData
from acmix_nas.errors import UserError
from acmix_nas.files import new_folder, unused
from acmix_nas.fusion import Fusion, fuse
from acmix_nas.options import BackboneArgs, options, pairs, typed
from acmix_nas.retrain import data_of, sized
from acmix_nas.retrain import retrain as run_training
from acmix_nas.terminal import app, console, run
from acmix_nas.train import first_process

__all__ = ["main"]

out = Console()
cli = app("Where should a vision backbone convolve, and where attend? Search, retrain, profile, export.")

Output = Annotated[Path | None, typer.Option(help="folder to write into; a new one under runs/ by default")]
Resume = Annotated[bool, typer.Option(help="continue the unfinished run in --output")]
Devices = Annotated[int, typer.Option(help="how many devices of this machine")]
Accelerator = Annotated[str, typer.Option(help="auto, cpu, gpu, …: Lightning's names")]
Parallel = Annotated[str, typer.Option(help="how several devices work together, auto, ddp, …: Lightning's strategies")]
SAVED = "architecture.json, the folder of a search or retraining that holds one, or a name that timm knows"
Saved = Annotated[Path, typer.Argument(help=SAVED)]
Weights = Annotated[Path | None, typer.Option(help="state dict; network.pt beside the architecture by default")]
Fused = Annotated[bool, typer.Option("--fused", help="in its fastest exact form, measured on this machine")]
ImageSize = Annotated[int | None, typer.Option(help="side of the images; that of the search by default")]


CHOSEN = "ACMIX_NAS_OUTPUT"
"""Tells the other processes of a training, which run the same command line, which new folder the first one chose."""


def print_version(wanted: bool) -> None:
    """Print the version and end."""
    if wanted:
        out.print(f"acmix-nas {__version__}", highlight=False)
        raise typer.Exit


@cli.callback()
def of_no_command(
    version: Annotated[
        bool, typer.Option("--version", callback=print_version, is_eager=True, help="print the version")
    ] = False,
) -> None:
    """Take the options that belong to no command."""


def folder_for(output: Path | None, name: str, resume: bool = False) -> Path:
    """The folder that was asked for, or a new one."""
    if output is not None:
        if output.exists() and not output.is_dir():
            raise UserError(f"--output must be a folder; {str(output)!r} is a file")
        return output
    if resume:
        raise UserError("--resume needs --output, the folder of the unfinished run")
    if first_process():
        folder = new_folder(Path("runs"), name)
        os.environ[CHOSEN] = str(folder)
        atexit.register(remove_if_empty, folder)
    return Path(os.environ[CHOSEN])


@contextmanager
def resumable(folder: Path) -> Iterator[None]:
    """Where what happens here is interrupted, says how it goes on, if there is something to go on from."""
    try:
        yield
    except KeyboardInterrupt:
        if first_process() and any(folder.rglob("last.ckpt")):
            console.print(
                f"interrupted: the same command with --resume --output {folder} goes on", markup=False, soft_wrap=True
            )
        raise


def remove_if_empty(folder: Path) -> None:
    """Take back a new folder that a mistake left without content."""
    with suppress(OSError):
        folder.rmdir()


def opened(saved: Path, weights: Path | None = None) -> tuple[Architecture, Path | None]:
    """The architecture in a file or a folder, or of a backbone as it stands, and its weights, where there are any."""
    if not saved.exists():
        if not timm.is_model(str(saved)):
            raise UserError(f"architecture: no file or folder {str(saved)!r}, and timm knows no network of this name")
        return Architecture(str(saved), slots={}, candidates=()), weights
    file = saved / "architecture.json" if saved.is_dir() else saved
    beside = file.with_name(file.name.replace("architecture", "network")).with_suffix(".pt")
    return Architecture.load(file), weights or (beside if beside.exists() else None)


def size_for(architectures: Iterable[Architecture], image_size: int | None) -> int:
    """The side of the images: the one given, or else that of the first architecture that says one."""
    said = (architecture.data["image_size"] for architecture in architectures if "image_size" in architecture.data)
    size = image_size or next(said, None)
    if size is None:
        raise UserError("--image-size must be given: the architecture does not say on what images it was searched")
    return int(size)


def slots_table(architecture: Architecture) -> Table:
    """Slot by slot: the operator, and how likely it was."""
    table = Table("slot", "operator", "probability")
    for slot, operator in architecture.slots.items():
        probability = architecture.probabilities.get(slot, {}).get(operator)
        table.add_row(slot, operator, "–" if probability is None else f"{probability:.3f}")
    return table


@cli.command()
@options(SearchConfig)
def search(
    searchconfig: SearchConfig, output: Output = None, resume: Resume = False,
    devices: Devices = 1, accelerator: Accelerator = "auto", parallel: Parallel = "auto",
) -> None:  # fmt: skip
    """A one-shot search without NNI's server: trains a supernet and derives an architecture."""
    from acmix_nas.search import search as run_search

    config = searchconfig
    space = Space(config.backbone, config, ImageData(config.data).num_classes, config.limits)
    if first_process():
        out.print(costs_table(space))
    folder = folder_for(output, "search", resume)
    trainer = {"devices": devices, "accelerator": accelerator, "strategy": parallel}
    with resumable(folder):
        result = run_search(config, folder, resume=resume, trainer_kwargs=trainer)
    if not first_process():
        return
    architecture = Architecture.load(folder / "architecture.json")
    out.print(slots_table(architecture))
    for what in ("decision", "collapse"):
        if what in result:
            out.print(result[what]["said"], soft_wrap=True)  # one line, however wide
    macs = f"{show('macs', result['costs']['macs'])} MACs"
    raced = len(result["finalists"]) > 1 or config.strategy == "random"
    trained = f"in a {'warm ' if config.warm else ''}race of {len(result['finalists'])}" if raced else "with inherited weights"
    warm = f" --warm --epochs {config.race.epochs} --lr {config.race.lr:g}" if config.warm else ""
    after = f"evaluate {folder}" if raced else f"retrain {folder}{warm}"
    out.print(
        f"search-validation accuracy {result['metric']:.2%} {trained}, {macs}, "
        f"in {result['seconds']:.0f} s{' since it went on' if result['resumed'] else ''}\n"
        f"written to {folder}\nnext: acmix-nas {after}"
    )


@cli.command()
def experiment(
    config: Annotated[Path, typer.Argument(help="a config of nnictl, such as experiments/digits-darts.yml")],
    port: Annotated[int | None, typer.Option(help="of NNI's page; a free one by default")] = None,
    timeout: Annotated[float, typer.Option(help="seconds after which it is stopped")] = 86400.0,
    working_directory: Annotated[
        Path | None, typer.Option(help="where NNI keeps experiments; what the config says, or ~/nni-experiments, by default")
    ] = None,
    data: Annotated[str | None, typer.Option(help="other images for every trial; those of the config by default")] = None,
    trial_options: Annotated[str, typer.Option(help="more for every trial, as in '--image-size 64 --epochs 30'")] = "",
) -> None:
    """Checks a config of nnictl, runs its experiment to the end, and stops it."""
    from acmix_nas.experiment import launch

    if data is not None:
        images = Path(data).expanduser()  # trials run in another folder
        trial_options = f"--data {shlex.quote(str(images.resolve()) if images.is_dir() else data)} {trial_options}"
    folder = launch(config, port=port, timeout=timeout, working_directory=working_directory, trial_options=trial_options)
    out.print(f"experiment {folder}\nnext: acmix-nas export {folder}")


@cli.command()
def export(
    experiment: Annotated[str, typer.Argument(help="id or folder of an NNI experiment, or the folder of a search")],
    top: Annotated[int, typer.Option(help="how many architectures, best first")] = 1,
    output: Output = None,
) -> None:
    """Takes the best architectures, and the weights they inherit, out of an experiment or a search."""
    from acmix_nas.results import find_experiment, read_results

    if top < 1:
        raise UserError(f"--top must be at least 1; got {top}")
    results = read_results(find_experiment(experiment))
    folder = folder_for(output, "export")
    unused(*folder.glob("architecture*.json"))
    table = Table("rank", "trial", "metric", "parameters of the trial", "file")
    for rank, result in enumerate(results[:top], start=1):
        number = "" if top == 1 else f"-{rank}"
        target = folder / f"architecture{number}.json"
        Architecture.load(result.architecture).save(target)
        weights = result.folder / "network.pt"
        if weights.exists():
            shutil.copyfile(weights, folder / f"network{number}.pt")
        said = ", ".join(f"{name}={value}" for name, value in result.parameters.items() if "." not in name)
        table.add_row(str(rank), str(result.sequence), f"{result.metric:.4f}", said, str(target))
    out.print(table)
    first = folder / ("architecture.json" if top == 1 else "architecture-1.json")
    out.print(f"next: acmix-nas retrain {first}")


@cli.command()
def derive(
    saved: Annotated[Path, typer.Argument(help="folder of a search, or its architecture.json")],
    budget: Annotated[list[str] | None, typer.Option(help="limit, as in macs=1.2M, params=300k, latency=3ms; several")] = None,
    pareto: Annotated[str | None, typer.Option(help="sweep this cost: macs, parameters or latency; writes the front")] = None,
    output: Output = None,
) -> None:
    """Chooses anew among what a search has ranked: under other budgets, or for every budget at once."""
    from acmix_nas import pareto as fronts
    from acmix_nas.finished import FinishedSearch

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


@cli.command()
@options(DataConfig, Recipe)
def retrain(
    ctx: typer.Context, saved: Saved, dataconfig: DataConfig, recipe: Recipe, output: Output = None, resume: Resume = False,
    warm: Annotated[bool, typer.Option(help="start from the weights that the search left, instead of from scratch")] = False,
    weights: Weights = None,
    backbone_args: BackboneArgs = None,
    devices: Devices = 1, accelerator: Accelerator = "auto", parallel: Parallel = "auto",
) -> None:  # fmt: skip
    """Trains an architecture, on the search's images unless you say others; the test part is seen once, at the end."""
    architecture, found = opened(saved, weights)
    folder = folder_for(output, "retrain", resume)
    trainer = {"devices": devices, "accelerator": accelerator, "strategy": parallel}
    if warm and found is None:
        raise UserError(f"--warm needs weights: there is no network.pt beside {str(saved)!r}; give --weights")
    arguments = pairs("--backbone-args", backbone_args or [])
    data = data_of(architecture, dataconfig, typed(ctx, DataConfig))
    with resumable(folder):
        result = run_training(
            architecture, data, recipe, folder,
            weights=found if warm else None, backbone_args=arguments, resume=resume, trainer_kwargs=trainer,
        )  # fmt: skip
    if not first_process():
        return
    out.print(
        f"test accuracy {result['test_accuracy']:.2%} (validation {result['val_accuracy']:.2%}) "
        f"after {result['epochs']} epochs in {result['train_seconds']:.0f} s\nwritten to {folder}\n"
        f"next: acmix-nas profile {folder}, acmix-nas export-onnx {folder}, tensorboard --logdir {folder}"
    )


@cli.command()
def evaluate(
    folder: Annotated[Path, typer.Argument(help="folder of a retraining")],
    part: Annotated[str, typer.Option(help="test or validation")] = "test",
    data: Annotated[str | None, typer.Option(help="other images of the same classes; those of the training by default")] = None,
) -> None:
    """Measures the accuracy of a retrained network again."""
    from acmix_nas.train import evaluate as run_evaluation

    architecture, weights = opened(folder)
    if weights is None:
        raise UserError(f"{str(folder)!r} holds no network.pt; retrain first")
    config = data_of(architecture)
    images = ImageData(dataclasses.replace(config, name=data, data_seed=0) if data else config)
    classes = architecture.data.get("num_classes")
    if images.num_classes != classes:
        raise UserError(f"--data has {images.num_classes} classes, and the network {classes}; give images of the same classes")
    found = run_evaluation(build(architecture, weights=weights), images, part, progress=True)
    out.print(f"{part} accuracy {found['accuracy']:.2%}, loss {found['loss']:.4f}, of {found['images']} images")


@cli.command()
def profile(
    saved: Annotated[list[Path], typer.Argument(help=f"each {SAVED}")],
    image_size: ImageSize = None,
    batch_size: Annotated[int, typer.Option(help="the batch that is timed beside single images")] = 8,
    device: Annotated[str | None, typer.Option(help="cpu, cuda, …; the GPU by default, where there is one")] = None,
    fused: Fused = False,
    output: Output = None,
) -> None:
    """Counts parameters and multiply-adds, and measures latency and memory, of networks side by side."""
    from acmix_nas import profile as profiling

    architectures = {name_of(path, saved): opened(path)[0] for path in saved}
    size = size_for(architectures.values(), image_size)
    architectures = {name: sized(architecture, size) for name, architecture in architectures.items()}
    networks = {name: build(architecture) for name, architecture in architectures.items()}
    counts = {name: profiling.count(architecture, size) for name, architecture in architectures.items()}
    folder = folder_for(output, "profile")
    unused(*profiling.files(folder))
    if fused:
        images = torch.randn(batch_size, 3, size, size, device=profiling.device_of(device))
        networks |= {f"{name}, fused": fuse(network.to(images.device), images).network for name, network in networks.items()}
    profiles = profiling.profile(networks, size, batch_size, device=device, counts=counts)
    out.print(profiling.table(profiles))
    profiling.report(profiles, folder)
    out.print(f"written to {folder}")


def costs_table(space: Space) -> Table:
    """The least, the middle and the largest of each cost over the space, and how much of the space is within its budget."""
    table = Table("cost", "least", "middle", "largest", "budget")
    for name, ends in space.ends().items():
        table.add_row(
            name, *(show(name, value) for value in ends), show(name, space.budget[name]) if name in space.budget else "–"
        )
    table.caption = f"{space.size} architectures of {space.name}"
    return table


def name_of(path: Path, among: list[Path]) -> str:
    """A short name that tells the paths apart; the name of a network of timm's stays."""
    if among.count(path) > 1:
        raise UserError(f"{str(path)!r} is named twice; name it once")
    if not path.exists():
        return str(path)
    folders = [(p if p.is_dir() else p.parent).resolve() for p in among if p.exists()]
    here = (path if path.is_dir() else path.parent).resolve()
    return here.name if [folder.name for folder in folders].count(here.name) == 1 else str(path)


@cli.command()
def bias(
    runs: Annotated[list[Path], typer.Argument(help="folders of searches or retrainings, or one of an experiment")],
    output: Output = None,
) -> None:
    """Draws where networks lean to convolution and where to attention: Figure 5 of the paper, a heat map, and a table.

    Of an experiment, the trials of each backbone are drawn together, in a folder of their own where there are several.
    """
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
    """Backbone → what tells a trial apart → its folder, of the trials that have a history, in their order."""
    from acmix_nas.results import read_results

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


@cli.command()
def paper(
    what: Annotated[str, typer.Argument(help="models, table1, table6, table7, table8 or fig5")],
    experiment: Annotated[
        str | None, typer.Argument(help="id or folder of an experiment of experiments/paper-….yml, for table6, table7, fig5")
    ] = None,
    output: Output = None,
) -> None:
    """The paper's tables beside what is counted here, and beside what an experiment found; Figure 5 of an experiment."""
    from acmix_nas.paper import tables
    from acmix_nas.results import find_experiment

    trials = None if experiment is None else find_experiment(experiment)
    if what != "fig5":
        out.print(tables(what, trials))
        return
    if trials is None:
        raise UserError("fig5 needs the folder of an experiment: acmix-nas experiment experiments/paper-bias.yml gives one")
    bias([trials], output)


@cli.command("export-onnx")
def export_onnx(
    saved: Saved,
    file: Annotated[Path, typer.Argument(help="the .onnx file to write")],
    weights: Weights = None,
    image_size: ImageSize = None,
    fused: Fused = False,
) -> None:
    """Writes a network as ONNX, and checks it against PyTorch with onnxruntime."""
    from acmix_nas.export import export_onnx as run_export

    architecture, found = opened(saved, weights)
    size = size_for([architecture], image_size)
    network = build(sized(architecture, size), weights=found)
    if fused:
        fusion = fuse(network, torch.randn(1, 3, size, size))
        out.print(fusion_table(fusion))
        network = fusion.network
    difference = run_export(network, file, size)
    out.print(f"{file}: differs from PyTorch by {difference:.1e} of the output's scale")


def fusion_table(fusion: Fusion) -> Table:
    """Slot by slot: what was chosen, and milliseconds of what was tried."""
    table = Table("slot", "operator", "form", "ms")
    for slot in fusion.slots:
        tried = ", ".join(f"{form} {time:.2f}" for form, time in slot.milliseconds.items())
        table.add_row(slot.slot, slot.operator, slot.form, tried)
    layout = "in channels_last" if fusion.channels_last else "as they were"
    table.caption = (
        f"{fusion.folded} batch norms folded, {fusion.linear} linear layers as convolutions, "
        f"{fusion.packed} convolutions with packed weights, weights {layout}"
    )
    return table


@cli.command()
def bench(
    what: Annotated[str, typer.Argument(help="operators, supernet, search or deploy")],
    device: Annotated[str, typer.Option(help="cpu or cuda")] = "cpu",
    dtype: Annotated[str, typer.Option(help="float32, bfloat16 or float64")] = "float32",
    threads: Annotated[int, typer.Option(help="of PyTorch on the CPU")] = 2,
    repeats: Annotated[int, typer.Option(help="rounds that are kept, after those that warm up")] = 20,
    output: Output = None,
) -> None:
    """Measures speed and memory against plain baselines, in turn in one process, with targets beside the ratios."""
    from acmix_nas.bench import run as run_bench

    folder = folder_for(output, "bench")
    run_bench(what, output=folder, device=device, dtype=dtype, threads=threads, repeats=repeats)
    out.print(f"written to {folder}")


@cli.command("latency")
def check_latency(
    space: Annotated[str, typer.Argument(help="cued, cued-shapes, or the folder of a search, whose space is taken")],
    number: Annotated[int, typer.Option(help="random whole networks")] = 30,
    device: Annotated[str | None, typer.Option(help="cpu, cuda, …; the GPU by default, where there is one")] = None,
    output: Output = None,
) -> None:
    """Whether latencies add up: every operator measured alone, beside random whole networks in their fused form."""
    from acmix_nas.benchmark import space_of
    from acmix_nas.benchmark.additive import additive

    chosen, folder = space_of(space), folder_for(output, "latency")
    found, screen = additive(chosen, folder, number, device)
    out.print(screen)
    out.print(f"Spearman {found.spearman:.3f}, error {found.error:.1%} (worst {found.worst:.1%})\nwritten to {folder}")


def trained_for(space: Space, epochs: int) -> Space:
    """The space, whose trainings from scratch take so many epochs."""
    return dataclasses.replace(space, config=dataclasses.replace(space.config, race_epochs=epochs))


@cli.command()
def tabulate(
    space: Annotated[
        str, typer.Option(help="cued, cued-shapes, or the folder of a search, whose space and recipe are taken")
    ] = "cued",
    seeds: Annotated[int, typer.Option(help="trainings of each architecture")] = 3,
    sample: Annotated[int | None, typer.Option(help="so many random architectures instead of all")] = None,
    epochs: Annotated[int | None, typer.Option(help="of each training; those of the space by default")] = None,
    workers: Annotated[int, typer.Option(help="processes, of one thread each")] = 2,
    latency: Annotated[bool, typer.Option("--latency", help="measure what every operator takes on this machine too")] = False,
    seconds: Annotated[bool, typer.Option("--seconds", help="measure the seconds of what is there anew")] = False,
    output: Annotated[Path, typer.Option(help="the file; the same one again goes on with what is missing")] = Path(
        "table.json"
    ),
) -> None:
    """Trains every architecture of a space alone, and writes the table that searches are judged by."""
    from acmix_nas.benchmark import space_of
    from acmix_nas.benchmark import tabulate as run_tabulation

    chosen = space_of(space)
    chosen = chosen if epochs is None else trained_for(chosen, epochs)
    out.print(costs_table(chosen))
    table = run_tabulation(chosen, output, seeds, sample, workers, latency=latency, seconds=seconds)
    best = table.best()
    out.print(
        f"{len(table.choices)} architectures, {len(table.seeds)} seeds; best {' '.join(best)}: {table.accuracy(best):.2%}; "
        f"noise ceiling (Kendall τ between seeds) {table.ceiling()}\nwritten to {output}"
    )


@cli.command()
def assess(
    strategy: Annotated[
        list[str],
        typer.Option(
            help="single_path, darts, darts_second_order, darts_perturbation, gumbel or proxyless; may be given often"
        ),
    ],
    seeds: Annotated[int, typer.Option(help="searches of each strategy")] = 8,
    space: Annotated[str, typer.Option(help="cued, cued-shapes, or the folder of a search, whose space is taken")] = "cued",
    table: Annotated[
        Path | None, typer.Option(help="of trainings alone, by acmix-nas tabulate; that of the package for cued by default")
    ] = None,
    sample: Annotated[int | None, typer.Option(help="without a table: train so many random architectures first")] = None,
    warm: Annotated[
        int, typer.Option(help="so many random architectures are trained on from each supernet, to judge its ranking by")
    ] = 0,
    workers: Annotated[int, typer.Option(help="processes, of one thread each")] = 2,
    output: Annotated[Path, typer.Option(help="folder; the same again goes on with what is missing")] = Path("assessment"),
) -> None:
    """What a strategy is worth on a space: regret beside random search's, ranks, agreement, time."""
    from acmix_nas.benchmark import Table, shipped, space_of, tabulate
    from acmix_nas.benchmark.assess import assess as run_assessment
    from acmix_nas.benchmark.assess import check_budget, check_strategies, report

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
        trained = tabulate(chosen, folder / "table.json", seeds=2, sample=sample, workers=workers)
    outcomes = run_assessment(trained, strategy, seeds, folder / "assessment.json", workers, warm)
    for screen in report(trained, outcomes, folder / "assessment.md"):
        out.print(screen)
    out.print(f"written to {folder}")


@cli.command()
def queries(
    runs: Annotated[int, typer.Option(help="searches of each strategy")] = 100,
    output: Annotated[Path, typer.Option(help="the Markdown file")] = Path("queries.md"),
) -> None:
    """How many trainings multi-trial strategies need, ours and NNI's, until they have found the best of the cued table."""
    from acmix_nas.benchmark import shipped
    from acmix_nas.benchmark.trials import report

    if runs < 1:
        raise UserError(f"runs must be at least 1; got runs={runs}")
    unused(output)
    out.print(report(shipped("cued"), runs, output))
    out.print(f"written to {output}")


@cli.command()
def demo(
    output: Output = None,
    seeds: Annotated[int, typer.Option(help="how often each network is trained")] = 2,
    timeout: Annotated[float, typer.Option(help="seconds for the experiment")] = 900.0,
) -> None:
    """The whole road, in a clone of the project: a search by experiments/cued.yml, references, profile, pictures."""
    from acmix_nas.demo import EXPERIMENT
    from acmix_nas.demo import demo as run_demo
    from acmix_nas.experiment import check

    check(EXPERIMENT)
    run_demo(folder_for(output, "demo"), seeds, timeout)


def main() -> None:
    """The console script."""
    run(cli)

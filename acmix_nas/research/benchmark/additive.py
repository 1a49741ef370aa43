"""Do latencies add up? The table of operators beside whole fused networks: terminal, JSON, Markdown and a scatter plot."""

from __future__ import annotations

from pathlib import Path

import torch
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure
from rich.table import Table as Screen

from acmix_nas.costs.table import CostTable
from acmix_nas.deploy.latency import Agreement, check
from acmix_nas.research.benchmark.spaces import Space
from acmix_nas.util.files import provenance, unused, write_document, write_text
from acmix_nas.util.tables import markdown, screen
from acmix_nas.util.timing import device_name, device_of

__all__ = ["additive"]


def additive(space: Space, folder: Path, number: int = 30, device: str | None = None) -> tuple[Agreement, Screen]:
    """Measure the latency of every operator at every slot, then random whole networks, and write how far they agree.

    Args:
        folder: gets latency.json, latency.md and latency.png.
        number: of whole networks.
        device: "cpu" or "cuda"; CUDA where there is one by default.

    Returns:
        The agreement, and the table slot × operator in milliseconds.

    Raises:
        UserError: where the folder holds such files already.
    """
    files = [folder / f"latency.{suffix}" for suffix in ("json", "md", "png")]
    unused(*files)
    table = space.latencies(device)
    found = check(table, space.backbone, space.slots, space.input_size, number, device=device)
    names = list(dict.fromkeys(name for row in table.costs.values() for name in row))
    head, body = ["slot", *names], _cells(table, names)
    said = (
        f"{number} random architectures of {space.name}, batch 1, {device_name(device_of(device))}, "
        f"{torch.get_num_threads()} threads: sums of the table and whole fused networks agree with Spearman ρ = "
        f"{found.spearman:.3f} (two halves of the measurements with each other: {found.ceiling:.3f}); relative error "
        f"{found.error:.1%} in the median, {found.worst:.1%} at worst. Milliseconds of an operator alone, in its fused form; "
        f"{table.rest['latency']:.3f} ms are the rest of the network:"
    )
    made = provenance()
    costs = {slot: {name: values["latency"] for name, values in row.items()} for slot, row in table.costs.items()}
    about = {"space": space.name, "device": device_name(device_of(device)), "threads": torch.get_num_threads(), "batch": 1}
    write_document(files[0], "latency", {**made, **about, **found._asdict(), "operators": costs, "rest": table.rest["latency"]})
    write_text(files[1], f"<!-- {made['made_by']}, {made['date']} -->\n\n{said}\n\n{markdown(head, body)}\n")
    _draw(found, files[2])
    return found, screen(head, body, said)


def _cells(table: CostTable, names: list[str]) -> list[list[str]]:
    return [
        [slot, *(f"{row[name]['latency']:.3f}" if name in row else "–" for name in names)] for slot, row in table.costs.items()
    ]


def _draw(found: Agreement, file: Path) -> None:
    figure = Figure(figsize=(5, 5), layout="constrained")
    FigureCanvasAgg(figure)
    axes = figure.add_subplot()
    axes.axline((found.measured[0],) * 2, slope=1, color="#9aa5b1")
    axes.plot(found.measured, found.summed, "o", color="#1f5fa8")
    axes.set_xlabel("whole fused network [ms]")
    axes.set_ylabel("sum of the table [ms]")
    axes.set_title(f"Spearman ρ = {found.spearman:.3f}")
    figure.savefig(file, dpi=150)

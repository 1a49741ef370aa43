"""The figures: Figure 5 of the paper, and the probabilities of the candidates."""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping, Sequence
from graphlib import CycleError, TopologicalSorter
from itertools import pairwise
from pathlib import Path
from typing import Any

import numpy as np
from matplotlib import colormaps
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.ticker import MaxNLocator

from acmix_nas.bias.observation import (
    Observation,
    acmix_of,
    by_slot,
    last_epoch,
    log_ratio,
    stage_of,
    with_probability,
)
from acmix_nas.util.errors import UserError
from acmix_nas.util.files import command_line

__all__ = ["figure5", "heat_map", "probability_figure", "save"]

# Okabe and Ito's colours, which colour-blind readers tell apart, without the yellow that white paper swallows.
COLOURS = ("#0072B2", "#D55E00", "#009E73", "#CC79A7", "#E69F00", "#56B4E9", "#000000")
MARKERS = ("o", "s", "^", "D", "v", "P", "X")
DASHES = ("-", "--", ":")
GREY, LIGHT = "#666666", "#DDDDDD"
SMALL = 8  # points: tick labels, and what stands in cells
LETTER = 0.068  # inches: a letter of that size, on average


def figure5(runs: Mapping[str, Sequence[Observation]]) -> Figure:
    """Draw |α|, |β| and log|α/β| over depth at the last epoch, one line per run.

    Of a slot with several ACmix candidates the most probable is drawn. A line passes over the slots where its run has no
    ACmix; runs without any are left out.

    Raises:
        UserError: where no run has an ACmix, or the runs disagree about the order of their slots.
    """
    mixed = {run: found for run, observations in runs.items() if (found := acmix_of(observations))}
    if not mixed:
        raise UserError(f"figure 5 needs α and β; none of the runs {', '.join(runs)} has an ACmix at its last epoch")
    slots = depth_order(mixed.values())
    position = {slot: i for i, slot in enumerate(slots)}
    size = max(7.0, 3.0 + 0.2 * len(slots)), 6.5 + LETTER * longest(slots)
    figure = Figure(figsize=size, layout="constrained")
    panels: Sequence[Axes] = figure.subplots(3, 1, sharex=True)
    for index, (run, found) in enumerate(mixed.items()):
        x = [position[slot] for slot in found]
        lines = (
            [abs(o.alpha or 0.0) for o in found.values()],
            [abs(o.beta or 0.0) for o in found.values()],
            [np.nan if (r := log_ratio(o.alpha, o.beta)) is None else r for o in found.values()],
        )
        for panel, y in zip(panels, lines, strict=True):
            panel.plot(x, y, label=run, markersize=4, linewidth=1.3, marker=MARKERS[index % len(MARKERS)], **style(index))
    for panel, label in zip(panels, ("|α|  (attention)", "|β|  (convolution)", "log |α/β|"), strict=True):
        panel.set_ylabel(label)
        tidy(panel)
        panel.grid(axis="y", color=LIGHT, linewidth=0.6)
        for i, (before, after) in enumerate(pairwise(slots)):
            if stage_of(before) != stage_of(after):
                panel.axvline(i + 0.5, color=LIGHT, linewidth=1.2, zorder=0)
    for panel in panels[:2]:
        panel.set_ylim(0, 1.08 * max(0.1, panel.dataLim.ymax))  # a margin of nearly equal values would cut their marks
    ratio = panels[2]
    limit = 1.1 * max(0.1, *np.abs(ratio.get_ylim()))
    ratio.set_ylim(-limit, limit)
    ratio.axhline(0, color="black", linewidth=1)
    ratio.text(1.01, 0.75, "↑ attention", transform=ratio.transAxes, color=GREY, va="center")
    ratio.text(1.01, 0.25, "↓ convolution", transform=ratio.transAxes, color=GREY, va="center")
    ratio.set_xlim(-0.5, len(slots) - 0.5)
    ratio.set_xticks(range(len(slots)), slots, rotation=90)
    ratio.set_xlabel("slot, by depth")
    panels[0].legend(loc="upper left", bbox_to_anchor=(1, 1), frameon=False)
    return figure


def heat_map(observations: Sequence[Observation]) -> Figure:
    """Draw the probability of every operator at every slot, at the last epoch. The most probable of a slot is in bold.

    A cell is empty where the operator is no candidate.

    Raises:
        UserError: where there are no probabilities, as in a derived network: there is nothing left to choose.
    """
    slots = by_slot(searched(last_epoch(observations)))
    operators = operators_of(observations)
    values = np.full((len(slots), len(operators)), np.nan)
    for row, candidates in enumerate(slots.values()):
        for o in candidates:
            values[row, operators.index(o.operator)] = o.probability
    size = 1.4 + LETTER * longest(slots) + 0.6 * len(operators), 1.0 + LETTER * longest(operators) + 0.22 * len(slots)
    figure = Figure(figsize=size, layout="constrained")
    axes = figure.subplots()
    colours = colormaps["Blues"].with_extremes(bad="#F2F2F2")
    image = axes.imshow(values, cmap=colours, vmin=0, vmax=1, aspect="auto")
    for (row, column), value in np.ndenumerate(values):
        if not np.isnan(value):
            weight = "bold" if value == np.nanmax(values[row]) else "normal"
            colour = "white" if value > 0.55 else "black"
            axes.text(column, row, f"{value:.2f}", ha="center", va="center", size=SMALL, weight=weight, color=colour)
    tidy(axes)
    axes.set_xticks(range(len(operators)), operators, rotation=45, ha="left", rotation_mode="anchor")
    axes.xaxis.tick_top()
    axes.set_yticks(range(len(slots)), list(slots))
    axes.set_xlabel(f"epoch {max(o.epoch for o in observations)}", size=SMALL)
    axes.tick_params(length=0)
    axes.spines[:].set_visible(False)
    for row, (before, after) in enumerate(pairwise(slots)):
        if stage_of(before) != stage_of(after):
            axes.axhline(row + 0.5, color=GREY, linewidth=0.8)
    bar = figure.colorbar(image, ax=axes, aspect=30, shrink=min(1.0, 8 / len(slots)), anchor=(0, 1))
    bar.set_label("probability", size=SMALL)
    bar.ax.tick_params(labelsize=SMALL)
    bar.outline.set_visible(False)
    return figure


def probability_figure(observations: Sequence[Observation]) -> Figure:
    """Draw the probabilities of each slot over the epochs: small multiples in the order of depth, row by row.

    Raises:
        UserError: where there are no probabilities.
    """
    slots = by_slot(searched(observations))
    operators = operators_of(observations)
    columns = min(len(slots), 4 if len(slots) <= 16 else 6)
    rows = -(-len(slots) // columns)
    size = 1.5 + columns * max(1.75, 0.1 + LETTER * longest(slots)), 0.9 + 1.35 * rows
    figure = Figure(figsize=size, layout="constrained")
    grid = figure.subplots(rows, columns, sharex=True, sharey=True, squeeze=False).flatten()
    lines = {}
    for axes, (slot, found) in zip(grid, slots.items(), strict=False):
        for index, operator in enumerate(operators):
            course = [(o.epoch, o.probability) for o in found if o.operator == operator]
            if course:
                marker = "o" if len(course) == 1 else ""
                lines[operator] = axes.plot(*zip(*course, strict=True), marker=marker, markersize=4, **style(index))[0]
        axes.set_title(slot, size=SMALL)
        axes.grid(color=LIGHT, linewidth=0.6)
        tidy(axes)
    grid[0].set_ylim(-0.02, 1.02)
    grid[0].xaxis.set_major_locator(MaxNLocator(4, integer=True, min_n_ticks=1))
    for i, axes in enumerate(grid):
        axes.set_visible(i < len(slots))
        axes.tick_params(labelbottom=i + columns >= len(slots))  # also above the places that the last row leaves empty
    figure.supxlabel("epoch", size="medium")
    figure.supylabel("probability", size="medium")
    handles = [lines[operator] for operator in operators]
    figure.legend(handles, operators, loc="outside right upper", frameon=False)
    return figure


def save(figure: Figure, path: Path) -> Path:
    """Write a PNG, which says which command made it, under a temporary name and rename it."""
    temporary = path.with_name(f".{path.name}")
    figure.savefig(temporary, format="png", dpi=150, metadata={"Description": f"made by: {command_line()}"})
    return temporary.replace(path)


def searched(observations: Sequence[Observation]) -> list[Observation]:
    """Return the observations with a probability. There must be one."""
    found = with_probability(observations)
    if not found:
        raise UserError("there are no probabilities to draw: the observations are of a network without candidates")
    return found


def operators_of(observations: Sequence[Observation]) -> list[str]:
    """Return the operators with a probability, in the order of their first appearance."""
    return list(dict.fromkeys(o.operator for o in with_probability(observations)))


def depth_order(runs: Iterable[Iterable[str]]) -> list[str]:
    """Return the slots of all runs, each run's order kept.

    Derived networks have their ACmix at different slots, so what no run orders goes by name, numbers as numbers.

    Raises:
        UserError: where two runs contradict each other.
    """
    sorter: TopologicalSorter[str] = TopologicalSorter()
    for run in runs:
        slots = list(run)
        for slot in slots:
            sorter.add(slot)
        for before, after in pairwise(slots):
            sorter.add(after, before)
    try:
        sorter.prepare()
    except CycleError as error:
        raise UserError(f"runs must be of networks with the same order of slots; they disagree on {error.args[1]}") from None
    order: list[str] = []
    ready: list[str] = []
    while sorter.is_active():
        ready = sorted([*ready, *sorter.get_ready()], key=by_number)
        slot = ready.pop(0)
        order.append(slot)
        sorter.done(slot)
    return order


def by_number(slot: str) -> list[tuple[str, int]]:
    """Return a sorting key under which layer10 follows layer2."""
    return [(word, int(number or -1)) for word, number in re.findall(r"(\D*)(\d*)", slot)]


def longest(names: Iterable[str]) -> int:
    """Count the letters of the longest name."""
    return max(map(len, names))


def style(index: int) -> dict[str, Any]:
    """Return colour and dashes of the index-th line."""
    return {"color": COLOURS[index % len(COLOURS)], "linestyle": DASHES[index // len(COLOURS) % len(DASHES)]}


def tidy(axes: Axes) -> None:
    """Give the axes the look that all share."""
    axes.spines[["top", "right"]].set_visible(False)
    axes.tick_params(labelsize=SMALL)

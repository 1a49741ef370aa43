"""Observations as TensorBoard shows them: scalars, a layout of charts by stage, and figures."""

from __future__ import annotations

import re
from collections.abc import Iterable, Sequence

from torch.utils.tensorboard import SummaryWriter

from acmix_nas.bias.figures import figure5, heat_map
from acmix_nas.bias.observation import (
    Observation,
    acmix_of,
    by_slot,
    entropy,
    log_ratio,
    stage_of,
    with_probability,
)

__all__ = ["write_figures", "write_layout", "write_scalars"]


def write_scalars(writer: SummaryWriter, observations: Sequence[Observation], epoch: int) -> None:
    """Write one scalar `<what>/<slot>/<operator>` for each number, and `entropy/<slot>` for the searched slots.

    `log_ratio` is left out where α or β is exactly zero.
    """
    for o in observations:
        numbers = {
            "probability": o.probability,
            "alpha": o.alpha,
            "beta": o.beta,
            "abs_alpha": None if o.alpha is None else abs(o.alpha),
            "abs_beta": None if o.beta is None else abs(o.beta),
            "log_ratio": log_ratio(o.alpha, o.beta),
        }
        for what, number in numbers.items():
            if number is not None:
                writer.add_scalar(f"{what}/{o.slot}/{o.operator}", number, epoch)
    for slot, candidates in by_slot(with_probability(observations)).items():
        writer.add_scalar(f"entropy/{slot}", entropy(o.probability or 0.0 for o in candidates), epoch)


def write_layout(writer: SummaryWriter, observations: Sequence[Observation]) -> None:
    """Write the layout of the custom scalars page: a category per stage.

    A category holds the α and β, the log ratios and the entropies of the stage, then the probabilities of each slot.
    A chart finds its lines by one regular expression, since TensorBoard sends one request for each.
    """
    stages: dict[str, dict[str, list[object]]] = {}
    for stage, members in _by_stage(observations).items():
        charts = stages.setdefault(stage, {})
        mixed = dict.fromkeys(o.slot for o in members if o.alpha is not None)
        searched = dict.fromkeys(o.slot for o in with_probability(members))
        if mixed:
            charts["α (attention) and β (convolution)"] = _chart("(alpha|beta)", mixed)
            charts["log|α/β|: above 0 attention, below convolution"] = _chart("log_ratio", mixed)
        if searched:
            charts["entropy in nats: 0 when the choice is made"] = _chart("entropy", searched, operators="")
        for slot in searched:
            charts[f"probability: {slot}"] = _chart("probability", [slot])
    writer.add_custom_scalars(stages)


def _by_stage(observations: Iterable[Observation]) -> dict[str, list[Observation]]:
    stages: dict[str, list[Observation]] = {}
    for o in observations:
        stages.setdefault(stage_of(o.slot), []).append(o)
    return stages


def _chart(what: str, slots: Iterable[str], operators: str = "/[^/]+") -> list[object]:
    return ["Multiline", [f"^{what}/({'|'.join(map(re.escape, slots))}){operators}$"]]


def write_figures(writer: SummaryWriter, observations: Sequence[Observation], epoch: int) -> None:
    """Write Figure 5 and the heat map as images of this epoch, each where there is something to draw."""
    if acmix_of(observations):
        writer.add_figure("figure 5", figure5({"this run": observations}), epoch)
    if with_probability(observations):
        writer.add_figure("probabilities", heat_map(observations), epoch)

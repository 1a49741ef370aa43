"""Latency as a cost: every operator at every slot's shape, in its fused form, on the machine at hand."""

from __future__ import annotations

import copy
import hashlib
import os
import random
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from functools import partial
from importlib import metadata
from pathlib import Path
from statistics import median
from typing import NamedTuple

import numpy as np
import torch
from scipy.stats import spearmanr
from torch import Tensor, nn

from acmix_nas.costs.registry import Cost, Entries, register_cost
from acmix_nas.costs.survey import Survey
from acmix_nas.costs.table import CostTable
from acmix_nas.deploy.fusion import fuse
from acmix_nas.operators import kernels
from acmix_nas.slots.finding import Slot
from acmix_nas.slots.making import make_operator, put
from acmix_nas.util.errors import UserError
from acmix_nas.util.files import read_document, write_document
from acmix_nas.util.timing import device_name, device_of, interleaved

__all__ = ["Agreement", "Latency", "check"]

CACHE = "latency cache"
REPEATS = 40
WHOLE = 12
"""Networks that are measured whole, for the latency of what is no slot."""
QUIET = 0.25
"""Which quantile over turns counts: other work on the machine only adds to a time, and seldom reaches down to this one."""


def cache_file() -> Path:
    """Return the file that keeps measured latencies."""
    return Path(os.environ.get("XDG_CACHE_HOME", "~/.cache")).expanduser() / "acmix-nas" / "latency.json"


@register_cost("latency")
@dataclass(frozen=True)
class Latency(Cost):
    """Milliseconds of a batch, in the fused form, measured on the machine at hand.

    Operators are measured alone, in turns. Equal slots on equal maps are measured once. What is no slot gets what is left of a
    few whole networks on average. All is kept in `cache_file` by device, threads, versions, kernels, batch and shape. So a
    search under a budget goes on with the numbers that it began with.

    Args:
        batch: images in a forward.
        device: "cpu" or "cuda"; CUDA where there is one by default.
        repeats: turns; see `_interleaved`.
    """

    unit = "ms"
    units = {"": 1.0, "ms": 1.0, "us": 1e-3, "s": 1e3}
    example = "3ms"
    measured = True

    batch: int = 1
    device: str | None = None
    repeats: int = REPEATS

    def table(self, of: Survey) -> Entries:
        place, batch = device_of(self.device), self.batch
        where = {
            (slot.name, name): _key(place, batch, slot, name, of.sizes[slot.name])
            for slot in of.slots
            for name in slot.candidates
        }
        known = _cached()
        unknown: dict[str, tuple[nn.Module, Tensor]] = {}
        for slot in of.slots:
            x = torch.randn(batch, slot.in_channels, *of.sizes[slot.name], device=place)
            for name in slot.candidates:
                key = where[slot.name, name]
                if key not in known and key not in unknown:
                    unknown[key] = (fuse(make_operator(slot, name, device=place), x).network, x)
        if unknown:
            known |= zip(unknown, _typical(_interleaved(list(unknown.values()), self.repeats)), strict=True)
            write_document(cache_file(), CACHE, {"milliseconds": {**_cached(), **known}})
        operators = {slot.name: {name: known[where[slot.name, name]] for name in slot.candidates} for slot in of.slots}
        rest = _rest_key(place, batch, of)
        if rest not in known:
            choices = _drawn(of.slots, WHOLE, seed=0)
            whole = _typical(_whole(of.network, of.slots, choices, of.input_size, batch, place, self.repeats))
            summed = (sum(operators[slot][name] for slot, name in choice.items()) for choice in choices)
            known[rest] = median(ms - known_part for ms, known_part in zip(whole, summed, strict=True))
            write_document(cache_file(), CACHE, {"milliseconds": {**_cached(), **known}})
        return Entries(operators, known[rest])


class Agreement(NamedTuple):
    """How well a table's sums foretell the latencies of whole fused networks.

    Attributes:
        spearman: rank correlation.
        ceiling: rank correlation of what the odd turns measured with what the even ones did: nothing can be expected to
            exceed it by much.
        error: median of the relative errors' absolute values.
        worst: the largest of them.
        measured: milliseconds of each whole network.
        summed: milliseconds by the table.
        choices: slot → operator of each.
    """

    spearman: float
    ceiling: float
    error: float
    worst: float
    measured: tuple[float, ...]
    summed: tuple[float, ...]
    choices: tuple[dict[str, str], ...]


def check(
    table: CostTable,
    network: nn.Module,
    slots: Sequence[Slot],
    input_size: Sequence[int],
    number: int = 30,
    batch: int = 1,
    device: str | None = None,
    repeats: int = REPEATS,
) -> Agreement:
    """Measure random architectures whole, in turns, and compare; network, slots and input size are those of the table.

    Args:
        number: of whole networks.
        batch, device, repeats: those of `Latency`.

    Raises:
        UserError: where the table has no latencies, or there are fewer than three architectures to compare.
    """
    table.check("latency")
    if number < 3:
        raise UserError(f"number must be at least 3, for a rank correlation; got {number}")
    choices = _drawn(slots, number, seed=1)
    times = _whole(network, slots, choices, input_size, batch, device_of(device), repeats)
    measured = _typical(times)
    summed = [table.total(choice, "latency") for choice in choices]
    errors = [abs(a - b) / b for a, b in zip(summed, measured, strict=True)]
    spearman, ceiling = _spearman(measured, summed), _spearman(_typical(times[:, ::2]), _typical(times[:, 1::2]))
    return Agreement(spearman, ceiling, float(np.median(errors)), max(errors), tuple(measured), tuple(summed), tuple(choices))


def _spearman(first: Sequence[float], second: Sequence[float]) -> float:
    return float(spearmanr(first, second).statistic)


def _drawn(slots: Sequence[Slot], number: int, seed: int) -> list[dict[str, str]]:
    generator = random.Random(seed)
    return [{slot.name: generator.choice(slot.candidates) for slot in slots} for _ in range(number)]


def _whole(
    network: nn.Module, slots: Sequence[Slot], choices: Sequence[Mapping[str, str]], input_size: Sequence[int],
    batch: int, place: torch.device, repeats: int,
) -> np.ndarray:  # fmt: skip
    """Measure the milliseconds of whole fused networks, (networks, turns)."""
    x = torch.randn(batch, *input_size, device=place)
    networks = []
    for choice in choices:
        built = copy.deepcopy(network).to(place).eval()
        for slot in slots:
            put(built, slot.name, make_operator(slot, choice[slot.name], device=place))
        networks.append((fuse(built, x).network, x))
    return _interleaved(networks, repeats)


@torch.inference_mode()
def _interleaved(modules: Sequence[tuple[nn.Module, Tensor]], repeats: int) -> np.ndarray:
    """Measure milliseconds, (modules, turns). Each module first runs once, untimed, so that its weights are near."""
    forwards = [partial(module, x) for module, x in modules]
    return interleaved(forwards, modules[0][1].device, repeats, discard=1, before=forwards)


def _typical(times: np.ndarray) -> list[float]:
    """Estimate the milliseconds of each on a quiet machine, from (modules, turns).

    A machine that others use is slow for a while and fast again, so a time is first compared with the same turn's median.
    Of 30 whole networks of the same ResNet, halves of 15 turns agree with ρ = 0.82 by medians, and with 0.90 this way.
    """
    pace = np.median(times, axis=0)
    share = np.quantile(times / pace, QUIET, axis=1)
    return [float(value) for value in share * np.quantile(pace, QUIET)]


def _key(place: torch.device, batch: int, slot: Slot, operator: str, size: tuple[int, int]) -> str:
    """Return a key of everything that a latency depends on."""
    shape = replace(slot, name="", candidates=(operator,))
    return f"{_conditions(place, batch)}, {size}: {shape}"


def _rest_key(place: torch.device, batch: int, of: Survey) -> str:
    """Return a key of everything that the rest of the network depends on, and nothing of what stands at the slots."""
    code = hashlib.sha256(f"{of.rest} {[*of.slots]}".encode()).hexdigest()[:16]
    return f"{_conditions(place, batch)}, {of.input_size}: the rest of {type(of.network).__name__} {code}"


def _conditions(place: torch.device, batch: int) -> str:
    versions = f"torch {torch.__version__}, acmix-nas {metadata.version('acmix-nas')}, kernels {kernels.build()}"
    return f"{device_name(place)}, {torch.get_num_threads()} threads, {versions}, batch {batch}"


def _cached() -> dict[str, float]:
    """Return the latencies that were measured before. A file that cannot be read counts as none, and is written anew."""
    try:
        kept = read_document(cache_file(), CACHE).get("milliseconds", {})
    except UserError:
        return {}
    return {key: ms for key, ms in kept.items() if isinstance(ms, float)} if isinstance(kept, dict) else {}

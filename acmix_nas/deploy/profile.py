"""What a network costs: counted (parameters, MACs) and measured (latency, throughput, memory). Nothing here needs NNI."""

from __future__ import annotations

import copy
import math
import weakref
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import torch
from rich.console import Console
from rich.progress import track
from rich.table import Table
from torch import Tensor, nn
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves

from acmix_nas.architecture import Architecture, skeleton
from acmix_nas.bias import stage_of
from acmix_nas.costs.counted import OperatorCounts, module_counts
from acmix_nas.costs.survey import survey
from acmix_nas.slots.finding import find_slots, places
from acmix_nas.slots.making import make_operator
from acmix_nas.util import tables
from acmix_nas.util.errors import UserError
from acmix_nas.util.files import provenance, unused, write_document, write_text
from acmix_nas.util.intervals import Quartiles, quartiles
from acmix_nas.util.timing import allocated_peak, device_name, device_of, interleaved

__all__ = ["Conditions", "Counts", "Profile", "as_json", "count", "markdown", "profile", "report", "stages", "table"]

Extra = Mapping[str, Mapping[str, str]] | None
"""Columns of the caller's own: header → network → cell."""

ABSENT = "–"


@dataclass(frozen=True)
class Counts:
    """What an architecture costs on paper, per image.

    Attributes:
        stage1: MACs of Stage I and of plain convolutions at the slots.
        stage2: MACs of Stage II at the slots.
        rest: MACs of everything that is no slot.
        stages: stage of the network, such as `layer2` → cost of its slots.
    """

    parameters: int
    stage1: int
    stage2: int
    rest: int
    stages: Mapping[str, OperatorCounts]

    @property
    def macs(self) -> int:
        return self.stage1 + self.stage2 + self.rest


def count(
    architecture: Architecture, input_size: int | Sequence[int], num_classes: int | None = None,
    backbone: nn.Module | None = None,
) -> Counts:  # fmt: skip
    """Count an architecture. Nothing is computed.

    Of a backbone as it is, without slots, the stages are those of the convolutions and attentions that could be slots.

    Args:
        input_size: (channels, height, width) of an image, or the side of a square one.
        num_classes, backbone: see `build`. The backbone is not changed.

    Raises:
        UserError: as `build` does.
    """
    plain, slots = skeleton(architecture, num_classes, copy.deepcopy(backbone), pretrained=False)
    chosen = {slot.name: make_operator(slot, architecture.slots[slot.name], device="meta") for slot in slots}
    if not slots and places(plain):
        slots = find_slots(plain)
        chosen = {slot.name: plain.get_submodule(slot.name) for slot in slots}
    found = survey(plain, slots, full_size(input_size, plain))
    stages: dict[str, OperatorCounts] = {}
    for slot in slots:
        cost = module_counts(chosen[slot.name], *found.sizes[slot.name])
        stage = stage_of(slot.name)
        so_far = stages.get(stage, OperatorCounts(0, 0, 0))
        stages[stage] = OperatorCounts(*map(sum, zip(so_far, cost, strict=True)))
    stage1, stage2 = (round(sum(getattr(cost, name) for cost in stages.values())) for name in ("stage1", "stage2"))
    parameters = round(sum(cost.parameters for cost in stages.values()))
    return Counts(parameters + round(found.rest_parameters), stage1, stage2, round(found.rest_macs), stages)


@dataclass(frozen=True)
class Conditions:
    """Under which networks were measured: `input_size` is that of an image, `threads` are those of PyTorch on the CPU."""

    device: str
    threads: int
    input_size: tuple[int, ...]
    batch_size: int
    repeats: int


@dataclass(frozen=True)
class Profile:
    """What one network costs.

    Attributes:
        counts: where the caller gave them.
        latency: batch size → milliseconds of one forward; 1 and the batch size of the conditions.
        memory: bytes, see `profile`.
    """

    name: str
    parameters: int
    counts: Counts | None
    latency: Mapping[int, Quartiles]
    memory: int
    conditions: Conditions

    @property
    def images_per_second(self) -> float:
        """Return the images per second at the batch size of the conditions, by the median."""
        batch = self.conditions.batch_size
        return batch / self.latency[batch].median * 1e3


def full_size(size: int | Sequence[int], network: nn.Module) -> tuple[int, ...]:
    """Return (channels, height, width) of an image, where the side of a square one is enough.

    The channels are then those of the network's first convolution, or three.
    """
    if not isinstance(size, int):
        return tuple(size)
    return next((part.in_channels for part in network.modules() if isinstance(part, nn.Conv2d)), 3), size, size


def profile(
    networks: Mapping[str, nn.Module], input_size: int | Sequence[int], batch_size: int = 8, repeats: int = 30, warmup: int = 5,
    device: str | torch.device | None = None, counts: Mapping[str, Counts] | None = None, progress: bool = True,
) -> list[Profile]:  # fmt: skip
    """Measure networks side by side, in float32 and evaluation mode; the networks themselves are not changed.

    They take turns, so that a drift of the machine hits all alike. The first forward of a turn is not timed: the caches
    still hold another network (1.3 ms in place of the 1.0 ms that a small ResNet-26 takes on its own). On CUDA a
    forward starts on an idle device and is timed by events, so launching counts.

    Memory is the peak of one forward at `batch_size` above weights and images. On the CPU it is that of the tensors that
    operators return, the same in every run; what a kernel allocates within itself is not seen. On CUDA it is that of the
    allocator, workspaces included.

    Args:
        networks: name → network.
        input_size: (channels, height, width) of an image, or the side of a square one.
        batch_size: of the second latency, the throughput and the memory; the first latency is at 1.
        repeats: timed forwards of each network and batch size.
        warmup: forwards of each network and batch size before any is timed.
        device: "cpu" or "cuda"; CUDA where there is one by default.
        counts: name → what `count` says, for the networks that have it.
        progress: whether a bar is shown.

    Returns:
        One profile for each network, in their order.

    Raises:
        UserError: for an argument out of range, a device that is not there, or counts of another network.

    Example:
        >>> network = nn.Sequential(nn.Flatten(), nn.Linear(48, 2))
        >>> (one,) = profile({"linear": network}, 4, repeats=2, progress=False)
        >>> one.name, one.parameters, one.latency[8].median > 0
        ('linear', 98, True)
    """
    for name, value, least in (("batch_size", batch_size, 1), ("repeats", repeats, 1), ("warmup", warmup, 0)):
        if value < least:
            raise UserError(f"{name} must be at least {least}; got {value}")
    place, counts = device_of(device), counts or {}
    parameters = {name: sum(p.numel() for p in network.parameters()) for name, network in networks.items()}
    for name, counted in counts.items():
        if counted.parameters != parameters.get(name):
            raise UserError(f"counts of {name!r} have {counted.parameters} parameters, its network {parameters.get(name)}")
    copies = {name: copy.deepcopy(network).to(place).eval() for name, network in networks.items()}
    size = full_size(input_size, next(iter(networks.values())))
    images = {batch: torch.randn(batch, *size).to(place) for batch in sorted({1, batch_size})}

    calls = {(batch, name): partial(network, images[batch]) for batch in images for name, network in copies.items()}
    with torch.inference_mode():
        for call in calls.values():
            for _ in range(warmup):
                call()
        forwards = list(calls.values())
        turns = [
            interleaved(forwards, place, 1, before=forwards)
            for _ in track(range(repeats), "timing", console=Console(stderr=True), transient=True, disable=not progress)
        ]
    times = dict(zip(calls, np.concatenate(turns, axis=1), strict=True))
    conditions = Conditions(device_name(place), torch.get_num_threads(), size, batch_size, repeats)
    profiles = []
    for name, network in copies.items():
        latency = {batch: quartiles(times[batch, name]) for batch in images}
        memory = peak_memory(network, images[batch_size])
        profiles.append(Profile(name, parameters[name], counts.get(name), latency, memory, conditions))
    return profiles


def peak_memory(network: nn.Module, images: Tensor) -> int:
    """Measure the peak memory of one forward in bytes, above what was there before. See `profile`."""
    if images.device.type != "cuda":
        with torch.no_grad(), TensorMemory([images, *network.parameters(), *network.buffers()]) as memory:
            network(images)
        peak: int = memory.peak
        return peak
    with torch.inference_mode():
        return allocated_peak(partial(network, images), images.device)


class TensorMemory(TorchDispatchMode):
    """Follows the storages that operators return, from their first sight to their end.

    PyTorch's profiler finds the same peak to 1 KiB, but writes lines of its own to the terminal.
    """

    def __init__(self, known: Sequence[Tensor]) -> None:
        super().__init__()  # type: ignore[no-untyped-call]  # PyTorch leaves it without types
        self.alive = {tensor.untyped_storage().data_ptr() for tensor in known}
        self.bytes = self.peak = 0

    def __torch_dispatch__(self, function: Any, _types: Any, args: Any = (), kwargs: Any = None) -> Any:
        result = function(*args, **(kwargs or {}))
        for tensor in tree_leaves(result):
            if not isinstance(tensor, Tensor):
                continue
            storage = tensor.untyped_storage()
            pointer, size = storage.data_ptr(), storage.nbytes()
            if pointer not in self.alive:
                self.alive.add(pointer)
                self.bytes += size
                weakref.finalize(storage, self._end, pointer, size)
        self.peak = max(self.peak, self.bytes)
        return result

    def _end(self, pointer: int, size: int) -> None:
        self.alive.discard(pointer)
        self.bytes -= size


def table(profiles: Sequence[Profile], extra: Extra = None) -> Table:
    """Show the networks side by side, a column each, which fits a terminal.

    Args:
        extra: more figures in front, such as {"test accuracy": {"found": "97.2 ± 0.3 %"}}.

    Raises:
        UserError: for no profiles, profiles of several runs of `profile`, or an extra cell of an unknown network.
    """
    return _rich(_columns(profiles, extra))


def stages(profiles: Sequence[Profile]) -> Table:
    """Show MACs of the slots by stage of the network, Stage I + Stage II."""
    return _rich(_stage_columns(profiles))


def markdown(profiles: Sequence[Profile], extra: Extra = None) -> str:
    """Write both tables and their explanation as Markdown. Arguments and errors are those of `table`."""
    c = _conditions(profiles)
    *_, height, width = c.input_size
    lines = [
        _markdown(_columns(profiles, extra)), "",
        f"MACs are multiply-adds of one image of {height}×{width} pixels. Latencies are medians (quartiles) of "
        f"{c.repeats} forwards in float32, the networks in turn; b is the batch size. Memory is the peak of one forward at "
        f"batch {c.batch_size}, above weights and images.",
    ]  # fmt: skip
    if any(p.counts for p in profiles):
        lines += [
            "",
            "MACs of the slots by stage of the network, Stage I + Stage II:",
            "",
            _markdown(_stage_columns(profiles)),
        ]
    return "\n".join(lines) + "\n"


def as_json(profiles: Sequence[Profile]) -> dict[str, Any]:
    """Return everything that was measured: latencies in ms, memory in bytes. Errors are those of `table`."""
    networks = {}
    for p in profiles:
        latency = {str(batch): latency._asdict() for batch, latency in p.latency.items()}
        counts = p.counts and {**asdict(p.counts), "stages": {name: cost._asdict() for name, cost in p.counts.stages.items()}}
        networks[p.name] = {
            "parameters": p.parameters, "counts": counts, "latency": latency,
            "images_per_second": p.images_per_second, "memory": p.memory,
        }  # fmt: skip
    return {"conditions": asdict(_conditions(profiles)), "networks": networks}


def files(folder: Path) -> list[Path]:
    """Return the files that a report writes."""
    return [folder / "profile.md", folder / "profile.json"]


def report(profiles: Sequence[Profile], folder: str | Path, extra: Extra = None) -> list[Path]:
    """Write profile.md and profile.json.

    Raises:
        UserError: where one of them exists, and as `table` does.
    """
    names = files(Path(folder))
    unused(*names)
    c, made = _conditions(profiles), provenance()
    head = f"Made by `{made['made_by']}` on {c.device}, {c.threads} CPU threads, {made['date']}.\n\n"
    text, content = head + markdown(profiles, extra), {**made, **as_json(profiles), "extra": extra or {}}
    return [write_text(names[0], text), write_document(names[1], "profile", content)]


def _conditions(profiles: Sequence[Profile]) -> Conditions:
    if len({p.conditions for p in profiles}) != 1:
        raise UserError("profiles must come from one run of profile(), so that they compare; profile the networks together")
    return profiles[0].conditions


def _columns(profiles: Sequence[Profile], extra: Extra) -> dict[str, list[str]]:
    conditions, names = _conditions(profiles), [p.name for p in profiles]
    for header, cells in (extra or {}).items():
        for name in cells.keys() - set(names):
            raise UserError(f"extra {header!r} has a cell for {name!r}, which was not profiled; profiled: {', '.join(names)}")
    columns = {"network": names}
    columns |= {header: [cells.get(name, ABSENT) for name in names] for header, cells in (extra or {}).items()}
    columns["parameters"] = [_short(p.parameters) for p in profiles]
    for part, attribute in (("Stage I", "stage1"), ("Stage II", "stage2"), ("rest", "rest"), ("total", "macs")):
        columns[f"MACs {part}"] = [_short(getattr(p.counts, attribute)) if p.counts else ABSENT for p in profiles]
    for batch in profiles[0].latency:
        columns[f"latency b{batch} [ms]"] = ["{} ({}–{})".format(*map(_digits, p.latency[batch])) for p in profiles]
    columns["images/s"] = [_digits(p.images_per_second) for p in profiles]
    columns[f"memory b{conditions.batch_size} [MiB]"] = [_digits(p.memory / 2**20) for p in profiles]
    return columns


def _stage_columns(profiles: Sequence[Profile]) -> dict[str, list[str]]:
    counted = {p.name: p.counts.stages for p in profiles if p.counts}
    columns = {"network": list(counted)}
    for stage in dict.fromkeys(stage for row in counted.values() for stage in row):
        costs = [row.get(stage) for row in counted.values()]
        columns[stage] = [f"{_short(cost.stage1)} + {_short(cost.stage2)}" if cost else ABSENT for cost in costs]
    return columns


def _rich(columns: Mapping[str, Sequence[str]]) -> Table:
    shown = Table("")
    for name in columns["network"]:
        shown.add_column(name, justify="right")
    for header, cells in columns.items():
        if header != "network":
            shown.add_row(header, *cells)
    return shown


def _markdown(columns: Mapping[str, Sequence[str]]) -> str:
    return tables.markdown(list(columns), list(zip(*columns.values(), strict=True)), right=True)


def _digits(value: float) -> str:
    """Format a value with three significant digits, or all before the point."""
    decimals = max(0, 2 - math.floor(math.log10(float(f"{value:.3g}")))) if value > 0 else 0
    return f"{value:.{decimals}f}"


def _short(value: float) -> str:
    """Format a number with k, M or G."""
    for unit, name in ((1e9, "G"), (1e6, "M"), (1e3, "k")):
        if value >= 0.9995 * unit:
            return f"{_digits(value / unit)} {name}"
    return f"{value:.0f}"

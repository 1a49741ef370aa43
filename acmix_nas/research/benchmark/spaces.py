"""Spaces whose answers are known, or can be found by training: what may stand where, on which images, by which recipe."""

from __future__ import annotations

import itertools
import json
import random
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, field, replace
from functools import cached_property
from pathlib import Path
from statistics import median
from typing import Any

from torch import nn

from acmix_nas.architecture import Architecture
from acmix_nas.costs.registry import COSTS
from acmix_nas.costs.table import COUNTED, CostTable
from acmix_nas.deploy.latency import Latency
from acmix_nas.research import cued
from acmix_nas.searching.config import SearchConfig
from acmix_nas.slots.backbones import open_backbone
from acmix_nas.slots.finding import Slot
from acmix_nas.strategies.differentiable import DifferentiableSearch
from acmix_nas.training.config import DataConfig
from acmix_nas.training.images import ImageData, reader_of
from acmix_nas.training.recipe import Recipe
from acmix_nas.util.errors import UserError
from acmix_nas.util.settings import replace_flat

__all__ = ["CUED", "CUED_SHAPES", "NAMED", "VARIANTS", "Choice", "Space", "space_of"]

SETTINGS = ("backbone", "backbone_args", "candidates", "slots", "heads", "data", "recipe")
MANY = 10_000
VARIANTS: Mapping[str, Mapping[str, Any]] = {
    "darts_second_order": {"strategy": "darts", "darts_order": 2},
    "darts_perturbation": {"strategy": "darts", "selection": "perturbation"},
}
"""Strategies in a form that is assessed by a name of its own."""
Choice = tuple[str, ...]
"""The operator of every slot, in the order of the slots."""


@dataclass(frozen=True)
class Space:
    """A search's settings, read as a space: how it trains a finalist from scratch is how one architecture is trained alone.

    Attributes:
        name: what the command line calls it.
        config: how it is searched.
        num_classes: of the images.
        budget: cost → the largest allowed, fixed before anything was trained.
        epochs: strategy → epochs of its supernet, where they are not those of the settings.
        arc_learning_rate: of strategies that train a distribution.
    """

    name: str
    config: SearchConfig
    num_classes: int
    budget: Mapping[str, float] = field(default_factory=dict)
    epochs: Mapping[str, int] = field(default_factory=dict)
    arc_learning_rate: float = 1e-2

    @property
    def backbone(self) -> nn.Module:
        """Return the backbone before anything is chosen, made anew."""
        return self._open()[0]

    @property
    def input_size(self) -> tuple[int, int, int]:
        """Return (channels, height, width) of an image."""
        return (3, self.config.data.image_size, self.config.data.image_size)

    @cached_property
    def slots(self) -> list[Slot]:
        """Return the slots, in order."""
        return self._open()[1]

    def _open(self) -> tuple[nn.Module, list[Slot]]:
        config = self.config
        arguments = {**config.arguments(config.data.image_size), "num_classes": self.num_classes}
        return open_backbone(str(config.backbone), arguments, config.slots, config.heads, config.candidates)

    @cached_property
    def costs(self) -> CostTable:
        """Count every operator at every slot: multiply-adds, parameters, and what else the budget names, if it is counted."""
        counted = [name for name in self.budget if not COSTS.get(name).measured]
        return CostTable.of(self.backbone, self.slots, self.input_size, [*COUNTED, *counted])

    def latencies(self, device: str | None = None) -> CostTable:
        """Measure latencies of single images on this machine. See `acmix_nas.deploy.latency.Latency`."""
        return CostTable.of(self.backbone, self.slots, self.input_size, [Latency(device=device)])

    @property
    def settings(self) -> dict[str, Any]:
        """Return what the trainings depend on, as JSON holds it."""
        content = json.loads(json.dumps({**asdict(self.config), "recipe": asdict(self.config.alone_recipe)}))
        return {name: content[name] for name in SETTINGS}

    @property
    def size(self) -> int:
        """Return how many architectures there are."""
        number = 1
        for slot in self.slots:
            number *= len(slot.candidates)
        return number

    def choices(self, sample: int | None = None, seed: int = 0) -> list[Choice]:
        """Return every architecture, the first slot varying slowest, or so many different ones, drawn uniformly.

        Raises:
            UserError: where more are asked for than there are.
        """
        if sample is None:
            return list(itertools.product(*(slot.candidates for slot in self.slots)))
        if not 1 <= sample <= self.size:
            raise UserError(f"sample must be from 1 to {self.size}, the architectures of {self.name}; got sample={sample}")
        generator, drawn = random.Random(seed), dict[Choice, None]()
        while len(drawn) < sample:
            drawn[tuple(generator.choice(slot.candidates) for slot in self.slots)] = None
        return list(drawn)

    def by_slot(self, choice: Sequence[str]) -> dict[str, str]:
        """Return slot → operator."""
        return {slot.name: operator for slot, operator in zip(self.slots, choice, strict=True)}

    def in_order(self, slots: Mapping[str, str]) -> Choice:
        """Return the operators of an architecture, in the order of the slots."""
        return tuple(slots[slot.name] for slot in self.slots)

    def cost(self, choice: Sequence[str]) -> dict[str, float]:
        """Return every cost that is counted, of the whole network."""
        return self.costs.of_architecture(self.by_slot(choice))

    def ends(self) -> dict[str, tuple[float, float, float]]:
        """Return cost → its least, middle and largest. The middle is the median, of 10,000 random architectures at most.

        The ends are exact: a cost is a sum over slots.
        """
        drawn = self.choices(None if self.size <= MANY else MANY)
        found = {}
        for name in self.costs.measures:
            middle = median(self.costs.total(self.by_slot(choice), name) for choice in drawn)
            found[name] = (self.costs.least(name), middle, self.costs.most(name))
        return found

    def architecture(self, choice: Sequence[str]) -> Architecture:
        """Return an architecture as a file holds it."""
        config = self.config
        data = {"name": config.data.name, "num_classes": self.num_classes, "image_size": config.data.image_size}
        return Architecture(
            config.backbone,
            self.by_slot(choice),
            config.candidates,
            config.arguments(config.data.image_size),
            config.slots,
            config.heads,
            data=data,
        )

    def images(self, seed: int) -> DataConfig:
        """Return the images under a seed, which draws them where they are drawn at all."""
        data = self.config.data
        return replace(data, data_seed=seed) if reader_of(data).drawn else data

    def alone(self, seed: int) -> Recipe:
        """Return how one architecture is trained."""
        return replace(self.config.alone_recipe, seed=seed)

    def search(self, strategy: str, seed: int) -> SearchConfig:
        """Return how the space is searched by a strategy, or one of `VARIANTS`."""
        form = VARIANTS.get(strategy, {"strategy": strategy})
        epochs = self.epochs.get(form["strategy"], self.config.recipe.epochs)
        shared = {} if form["strategy"] == "single_path" else {"arc_learning_rate": self.arc_learning_rate}
        other = replace(self.config, data=self.images(seed))
        config: SearchConfig
        (config,) = replace_flat({**form, **shared, "epochs": epochs, "seed": seed}, other)
        return config


CUED = Space(
    "cued",
    SearchConfig(
        backbone="cued_net",
        candidates=("conv", "global", "acmix_global"),
        slots=("blocks.*.slot",),
        heads={"blocks.0.slot": 2, "*": 4},  # of 8 channels
        data=DataConfig(name="cued-digits", image_size=cued.SIDE),
        recipe=Recipe(epochs=40, lr=4e-3, weight_decay=1e-2, min_lr=0.0, label_smoothing=0.0, clip_grad=5.0),
    ),
    len(cued.CUED["cued-digits"].classes),
    {"macs": 1.2e6},
    {"darts": 6, "proxyless": 24, "gumbel": 24},
)
"""Four slots, three candidates, 81 architectures, on `cued-digits`."""

CUED_SHAPES = replace(
    CUED,
    name="cued-shapes",
    config=replace(CUED.config, data=replace(CUED.config.data, name="cued-shapes")),
    num_classes=len(cued.CUED["cued-shapes"].classes),
)
"""The same networks, recipe, budget and searches on `cued-shapes`, for which nothing was tuned."""

NAMED = {space.name: space for space in (CUED, CUED_SHAPES)}


def space_of(text: str) -> Space:
    """Return the space of this name, or of the settings of a search, given by its folder.

    Raises:
        UserError: where it is neither.
    """
    if text in NAMED:
        return NAMED[text]
    folder = Path(text)
    if not folder.is_dir():
        raise UserError(f"space must be {', '.join(NAMED)}, or the folder of a search; got {text!r}")
    config = SearchConfig.load(folder)
    counted = {name: limit for name, limit in config.limits.items() if not COSTS.get(name).measured}
    rate = getattr(config.method, "arc_learning_rate", DifferentiableSearch.arc_learning_rate)
    return Space(folder.resolve().name, config, ImageData(config.data).num_classes, counted, arc_learning_rate=rate)

"""What is searched, how, and on which images. Nothing here needs NNI."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, field, replace
from pathlib import Path
from typing import Any, ClassVar

from acmix_nas.training.config import DataConfig
from acmix_nas.training.recipe import Recipe
from acmix_nas.util.errors import UserError, one_of
from acmix_nas.util.files import provenance, read_json, write_json

__all__ = ["STRATEGIES", "SearchConfig", "check_temperature"]

STRATEGIES = ("single_path", "darts", "gumbel", "proxyless", "random")
DIFFERENTIABLE = ("darts", "gumbel", "proxyless")
SELECTIONS = ("argmax", "perturbation")
STARTS = ("inherited", "scratch")
WARM_SHARE = 0.25
SETTINGS = "search.json"
DEFAULT_CANDIDATES = ("conv", "home", "acmix_home")
STRATEGY = {"panel": "strategy"}

Heads = int | Mapping[str, int] | None


def check_temperature(temperature: Sequence[float]) -> tuple[float, float]:
    """The temperatures of the first and the last epoch.

    Raises:
        UserError: where they are not two positive numbers, or rise.
    """
    if len(temperature) != 2 or not temperature[0] >= temperature[1] > 0:
        got = ", ".join(map(str, temperature))
        raise UserError(f"temperature must be two positive numbers, the second no larger, as in 10,0.1; got {got}")
    return float(temperature[0]), float(temperature[1])


@dataclass(frozen=True)
class SearchConfig:
    """What is searched, how, and on which images.

    Args:
        backbone: a name that timm knows.
        backbone_args: what timm's create_model takes for it.
        candidates: the operators of every slot; "home" is the attention that stands there, `local` in place of a convolution.
        slots: globs of module paths that choose the slots.
        heads: of every slot, or globs of slots with numbers; None keeps those of an attention
            and adapts to the channels of a convolution.
        share: what stands on the shared Stage I, "all", "attention" (conv keeps its own kernel) or "none".
        strategy: "single_path": a supernet of uniformly sampled paths ranks the architectures; "darts", "gumbel" and
            "proxyless": a distribution over them is trained with the supernet; "random": no supernet, a race alone.
        penalty: weight of the expected cost, of darts.
        cost: what the penalty counts, "macs", "parameters" or "latency" (measured on the machine at hand).
        darts_order: 1 moves the architecture by the weights as they are; 2 by what they will be after their next step, for
            the price of three more gradients.
        temperature: of gumbel, in the first and in the last epoch.
        arc_learning_rate: of the architecture's parameters.
        arc_warmup: epochs in which the architecture does not move, since what learns fastest would win, 1 by default; of
            "single_path", those that train all candidates as one mixture, by default a third.
        selection: what an operator of darts is worth: "argmax" goes by its probability; "perturbation" by what the mixture
            loses without it, slot by slot, for one evaluation per candidate.
        watch: whether a search by "darts", "gumbel" or "proxyless" says at its end how decided it is: its entropy, the share of
            slots where one operator is first, and the slots that are coin flips, which another seed turns over.
        patience: epochs in a row with a search-validation accuracy clearly below the best after which such a search has
            collapsed: it stops, and its last good distribution counts; 0 lets it go on.
        samples: architectures that "single_path" judges by the supernet: all, where there are no more, or else by evolution.
        budget: limits that the architecture must meet, as in "macs=1.2M", "params=300k", "latency=3ms".
        finalists: so many architectures within the budget are trained, each by itself, and the best of them is taken; 1 trusts
            the supernet. The first half are those that it likes best.
        apart: slots in which each finalist of the second half differs from all before it, at least, or half of the slots where
            these are few. A supernet that is wrong about an architecture is wrong about those like it.
        race_start: of those trainings, "inherited" weights of the supernet, or "scratch"; by default the former of
            "single_path", where every path has worked alone, and scratch of the others.
        race_epochs: of those trainings from scratch, by the same recipe.
        race_cut: so many of the finalists are trained on after half of their epochs; 0 trains all of them to the end.
        warm_epochs: of those trainings from inherited weights.
        warm_lr: learning rate at its peak from inherited weights, by default a quarter of the recipe's.
        data: the images.
        recipe: how the weights are trained; its seed is the search's.

    Raises:
        UserError: where a value has no meaning; the message names it.
    """

    PANEL: ClassVar[str] = "search"

    backbone: str = "resnet26"
    backbone_args: Mapping[str, Any] = field(default_factory=dict)
    candidates: Sequence[str] = DEFAULT_CANDIDATES
    slots: Sequence[str] = ("*",)
    heads: Heads = None
    share: str = "all"
    strategy: str = "single_path"
    penalty: float = field(default=0.0, metadata=STRATEGY)
    cost: str = field(default="macs", metadata=STRATEGY)
    darts_order: int = field(default=1, metadata=STRATEGY)
    temperature: Sequence[float] = field(default=(10.0, 0.1), metadata=STRATEGY)
    arc_learning_rate: float = field(default=3e-2, metadata=STRATEGY)
    arc_warmup: int | None = field(default=None, metadata=STRATEGY)
    selection: str = field(default="argmax", metadata=STRATEGY)
    watch: bool = field(default=True, metadata=STRATEGY)
    patience: int = field(default=3, metadata=STRATEGY)
    samples: int = field(default=100, metadata=STRATEGY)
    budget: Sequence[str] = field(default=())
    finalists: int = 1
    apart: int = 2
    race_start: str | None = None
    race_epochs: int = 12
    race_cut: int = 3
    warm_epochs: int = 4
    warm_lr: float | None = None
    data: DataConfig = field(default_factory=DataConfig)
    recipe: Recipe = field(default_factory=Recipe)

    def __post_init__(self) -> None:
        from acmix_nas.costs.table import MEASURES

        for name in ("candidates", "slots", "budget"):  # lists, where they come from a file
            object.__setattr__(self, name, tuple(getattr(self, name)))
        try:
            object.__setattr__(self, "backbone_args", json.loads(json.dumps(dict(self.backbone_args))))
        except (TypeError, ValueError) as error:
            raise UserError(f"backbone_args must be plain values that JSON can hold; {error}") from None
        if "num_classes" in self.backbone_args:
            raise UserError("backbone_args must not say num_classes: the images do")
        if self.strategy not in STRATEGIES:
            raise one_of("strategy", self.strategy, STRATEGIES)
        if not self.penalty >= 0:
            raise UserError(f"penalty must be a number of 0 or more; got {self.penalty!r}")
        if self.penalty and self.strategy != "darts":
            raise UserError(f"penalty needs strategy darts, whose cost has a gradient; got strategy={self.strategy!r}")
        if self.darts_order not in (1, 2):
            raise one_of("darts_order", self.darts_order, (1, 2))
        if self.darts_order == 2 and self.strategy != "darts":
            raise UserError(f"darts_order 2 needs strategy darts; got strategy={self.strategy!r}")
        if self.darts_order == 2 and self.recipe.precision != "32-true":
            raise UserError(f"darts_order 2 needs precision 32-true: it takes differences; got {self.recipe.precision!r}")
        if self.cost not in MEASURES:
            raise one_of("cost", self.cost, MEASURES)
        if self.differentiable and self.recipe.precision == "16-mixed" and self.recipe.clip_grad:
            raise UserError(
                f"clip_grad must be left out with strategy {self.strategy} in 16-mixed, whose gradients are scaled when "
                f"they are clipped; got {self.recipe.clip_grad}; or take bf16-mixed"
            )
        if self.selection not in SELECTIONS:
            raise one_of("selection", self.selection, SELECTIONS)
        if self.selection != "argmax" and self.strategy != "darts":
            raise UserError(f"selection {self.selection} needs strategy darts, which has a mixture; got {self.strategy!r}")
        object.__setattr__(self, "temperature", check_temperature(self.temperature))
        if self.recipe.ema_decay:
            raise UserError("ema_decay must be 0 in a search: the supernet keeps no average of its weights")
        if self.strategy != "random" and not 0 <= self.warmup < self.recipe.epochs:
            raise UserError(f"arc_warmup must be from 0 to below epochs={self.recipe.epochs}; got arc_warmup={self.arc_warmup}")
        if not self.arc_learning_rate > 0:
            raise UserError(f"arc_learning_rate must be positive; got arc_learning_rate={self.arc_learning_rate}")
        for name in ("patience", "race_cut"):
            if getattr(self, name) < 0:
                raise UserError(f"{name} must be 0 or more; got {name}={getattr(self, name)}")
        if self.race_start not in (None, *STARTS):
            raise one_of("race_start", self.race_start, STARTS)
        if self.race_start == "inherited" and self.strategy == "random":
            raise UserError("race_start must be scratch with strategy random, which has no supernet; got race_start=inherited")
        if self.warm_lr is not None and not self.warm_lr > 0:
            raise UserError(f"warm_lr must be positive; got warm_lr={self.warm_lr}")
        for name in ("samples", "finalists", "apart", "race_epochs", "warm_epochs"):
            if getattr(self, name) < 1:
                raise UserError(f"{name} must be at least 1; got {name}={getattr(self, name)}")
        if self.strategy == "random" and self.finalists < 2:
            raise UserError("finalists must be at least 2 with strategy random, which has nothing else to choose by; got 1")
        _ = self.limits  # which is read, to be refused here

    @property
    def limits(self) -> dict[str, float]:
        """The budget: cost → the largest allowed."""
        from acmix_nas.costs.budget import parse_budget

        return parse_budget(self.budget)

    @property
    def arguments(self) -> dict[str, Any]:
        """What timm's create_model takes for the backbone, at the size of the images."""
        from acmix_nas.slots.backbones import for_size

        return for_size(self.backbone, self.backbone_args, self.data.image_size)

    @property
    def differentiable(self) -> bool:
        """Whether the search-validation part trains a distribution over architectures."""
        return self.strategy in DIFFERENTIABLE

    @property
    def warmup(self) -> int:
        """Epochs before the architecture moves, or paths are single."""
        if self.arc_warmup is not None:
            return self.arc_warmup
        return self.recipe.epochs // 3 if self.strategy == "single_path" else min(1, self.recipe.epochs - 1)

    @property
    def alone(self) -> Recipe:
        """How one architecture is trained from scratch: a finalist, or each one of a table."""
        return self._for(self.race_epochs, self.recipe.lr)

    @property
    def warm(self) -> bool:
        """Whether finalists begin with the weights that they inherit."""
        return self.race_start == "inherited" or (self.race_start is None and self.strategy == "single_path")

    @property
    def race(self) -> Recipe:
        """How finalists are trained."""
        if not self.warm:
            return self.alone
        return self._for(self.warm_epochs, WARM_SHARE * self.recipe.lr if self.warm_lr is None else self.warm_lr)

    def _for(self, epochs: int, lr: float) -> Recipe:
        recipe = self.recipe
        warmup, least = min(recipe.warmup_epochs, epochs), min(recipe.min_lr, lr)
        return replace(recipe, epochs=epochs, lr=lr, warmup_epochs=warmup, min_lr=least)

    def distance(self, slots: int) -> int:
        """In how many of so many slots a finalist of the second half differs from all before it."""
        return max(1, min(self.apart, slots // 2))

    @property
    def half_time(self) -> int:
        """Epochs after which a race is cut; 0 where it is not."""
        return self.race.epochs // 2 if 0 < self.race_cut < self.finalists else 0

    def save(self, folder: Path) -> Path:
        """Write what a search in this folder is begun with."""
        return write_json(folder / SETTINGS, {**provenance(), "search": asdict(self)})

    @classmethod
    def load(cls, folder: Path) -> SearchConfig:
        """What a search in this folder was begun with.

        Raises:
            UserError: where no search was, or by another version.
        """
        content = read_json(folder / SETTINGS, "search")["search"]
        try:
            data, recipe = DataConfig(**content.pop("data")), Recipe(**content.pop("recipe"))
            return cls(**content, data=data, recipe=recipe)
        except (KeyError, TypeError) as error:
            raise UserError(f"search {str(folder / SETTINGS)!r} was written by another version: {error}") from None

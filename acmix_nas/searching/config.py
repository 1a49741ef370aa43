"""What is searched, how, and on which images. Nothing here needs PyTorch, so that the command line can show it at once."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, field, replace
from pathlib import Path
from typing import Any, ClassVar, cast

from acmix_nas.costs.registry import COSTS
from acmix_nas.strategies.base import STRATEGIES, SearchStrategy
from acmix_nas.training.config import TASKS, DataConfig
from acmix_nas.training.recipe import Recipe
from acmix_nas.util.errors import UserError, one_of
from acmix_nas.util.files import read_document, write_document
from acmix_nas.util.registry import Registry

__all__ = ["SETTINGS", "SearchConfig"]

SHARING = ("all", "attention", "none")
STARTS = ("inherited", "scratch")
WARM_SHARE = 0.25
SETTINGS = "search.json"
CANDIDATES = ("conv", "home", "acmix_home")
ATTENTIONS = Registry[Any]("operator", "acmix_nas.operators")
"""Their names alone, for help; `OPERATORS` needs PyTorch."""


@dataclass(frozen=True)
class SearchConfig:
    """Say what is searched, how, and on which images.

    Args:
        backbone: a name that timm knows. A module of your own is searched from Python, and this is None then.
        backbone_args: what timm's create_model takes for it.
        candidates: the operators of every slot: "conv", an attention, or an ACmix of one, as "acmix_local"; "home" is the
            attention that stands there, `local` in place of a convolution.
        slots: globs of module paths that choose the slots.
        heads: of every slot, or globs of slots with numbers; None keeps those of an attention and adapts to the channels of a
            convolution.
        share: what stands on the shared Stage I, "all", "attention" (conv keeps its own kernel) or "none".
        strategy: how finalists are found, a registered name.
        method: the strategy with its settings, which are settings of the search, too; made from `strategy` by default.
        budget: limits that the architecture must meet, as in "macs=1.2M", "params=300k", "latency=3ms".
        finalists: so many architectures within the budget are trained, each by itself, and the best is taken; 1 trusts the
            supernet. The first half are the best-ranked ones.
        apart: slots in which each finalist of the second half differs from all before it, at least, or half of the slots where
            these are few. A supernet that is wrong about an architecture is wrong about those like it.
        race_start: "inherited" weights of the supernet, or "scratch"; by default what suits the strategy.
        race_epochs: of each finalist's training from scratch.
        race_cut: so many of the finalists are trained on after half of their epochs; 0 trains all of them to the end.
        warm_epochs: of each finalist's training from inherited weights.
        warm_lr: learning rate at its peak from inherited weights, by default a quarter of the recipe's.
        task: what the networks are trained for, a registered name.
        data: the images.
        recipe: how the weights are trained; its seed is the search's.

    Raises:
        UserError: where a value has no meaning; the message names it.

    Example:
        >>> config = SearchConfig("resnet18", budget=["macs=60M"], finalists=8)
        >>> config.method.warmup(epochs=12), config.race_recipe.epochs
        (4, 4)
    """

    PANEL: ClassVar[str] = "search"

    backbone: str | None = "resnet26"
    backbone_args: Mapping[str, Any] = field(default_factory=dict)
    candidates: Sequence[str] = field(default=CANDIDATES, metadata={"names": ATTENTIONS})
    slots: Sequence[str] = ("*",)
    heads: int | Mapping[str, int] | None = None
    share: str = "all"
    strategy: str = field(default="single_path", metadata={"names": STRATEGIES})
    method: SearchStrategy = field(default=cast("SearchStrategy", None), metadata={"variants": STRATEGIES, "by": "strategy"})
    budget: Sequence[str] = field(default=(), metadata={"names": COSTS})
    finalists: int = 1
    apart: int = 2
    race_start: str | None = None
    race_epochs: int = 12
    race_cut: int = 3
    warm_epochs: int = 4
    warm_lr: float | None = None
    task: str = field(default="classification", metadata={"names": TASKS})
    data: DataConfig = field(default_factory=DataConfig)
    recipe: Recipe = field(default_factory=Recipe)

    def __post_init__(self) -> None:
        kind = STRATEGIES.get(self.strategy)
        if self.method is None:
            object.__setattr__(self, "method", kind())
        if type(self.method) is not kind:
            raise UserError(f"method must be of strategy {self.strategy!r}; got {self.method!r}")
        for name in ("candidates", "slots", "budget"):  # lists, where they come from a file
            object.__setattr__(self, name, tuple(getattr(self, name)))
        try:
            object.__setattr__(self, "backbone_args", json.loads(json.dumps(dict(self.backbone_args))))
        except (TypeError, ValueError) as error:
            raise UserError(f"backbone_args must be plain values that JSON can hold; {error}") from None
        if "num_classes" in self.backbone_args:
            raise UserError("backbone_args must not say num_classes: the images do")
        if self.share not in SHARING:
            raise one_of("share", self.share, SHARING)
        if self.recipe.ema_decay:
            raise UserError("ema_decay must be 0 in a search: the supernet keeps no average of its weights")
        if self.race_cut < 0:
            raise UserError(f"race_cut must be 0 or more; got race_cut={self.race_cut}")
        if self.race_start not in (None, *STARTS):
            raise one_of("race_start", self.race_start, STARTS)
        if self.race_start == "inherited" and not self.method.supernet:
            raise UserError(f"race_start must be scratch with strategy {self.strategy}, which has no supernet; got inherited")
        if self.warm_lr is not None and not self.warm_lr > 0:
            raise UserError(f"warm_lr must be positive; got warm_lr={self.warm_lr}")
        for name in ("finalists", "apart", "race_epochs", "warm_epochs"):
            if getattr(self, name) < 1:
                raise UserError(f"{name} must be at least 1; got {name}={getattr(self, name)}")
        self.method.check(self.recipe, self.finalists)
        if self.budget:
            _ = self.limits  # mistakes show where they are made

    @property
    def limits(self) -> dict[str, float]:
        """Return the budget: cost → the largest allowed."""
        from acmix_nas.costs.budget import parse_budget  # which needs PyTorch

        return parse_budget(self.budget)

    def arguments(self, image_size: int | tuple[int, int]) -> dict[str, Any]:
        """Return what timm's create_model takes for the backbone, at this side of images, or (height, width)."""
        from acmix_nas.slots.backbones import for_size

        return for_size(self.backbone, self.backbone_args, image_size) if self.backbone else dict(self.backbone_args)

    @property
    def warm(self) -> bool:
        """Return whether finalists begin with the weights that they inherit."""
        return self.race_start == "inherited" or (self.race_start is None and self.method.warm_race)

    @property
    def alone_recipe(self) -> Recipe:
        """Return how one architecture is trained from scratch: a finalist, or each one of a table."""
        return self._for(self.race_epochs, self.recipe.lr)

    @property
    def race_recipe(self) -> Recipe:
        """Return how finalists are trained."""
        if not self.warm:
            return self.alone_recipe
        return self._for(self.warm_epochs, WARM_SHARE * self.recipe.lr if self.warm_lr is None else self.warm_lr)

    def _for(self, epochs: int, lr: float) -> Recipe:
        recipe = self.recipe
        warmup, least = min(recipe.warmup_epochs, epochs), min(recipe.min_lr, lr)
        return replace(recipe, epochs=epochs, lr=lr, warmup_epochs=warmup, min_lr=least)

    def distance(self, slots: int) -> int:
        """Return in how many of so many slots a finalist of the second half differs from all before it."""
        return max(1, min(self.apart, slots // 2))

    @property
    def half_time(self) -> int:
        """Return the epochs after which a race is cut; 0 where it is not."""
        return self.race_recipe.epochs // 2 if 0 < self.race_cut < self.finalists else 0

    @property
    def content(self) -> dict[str, Any]:
        """Return the settings as a file has them."""
        return asdict(self)

    def save(self, folder: Path, **beside: Any) -> Path:
        """Write what a search in this folder is begun with, and what tells its data, task and backbone from others."""
        return write_document(folder / SETTINGS, "search", {"search": self.content, **beside})

    @classmethod
    def load(cls, folder: Path) -> SearchConfig:
        """Read what a search in this folder was begun with.

        Raises:
            UserError: where no search was, or by another version.
        """
        content = read_document(folder / SETTINGS, "search")["search"]
        try:
            return cls.of(content)
        except (KeyError, TypeError) as error:
            raise UserError(f"search {str(folder / SETTINGS)!r} was written by another version: {error}") from None

    @classmethod
    def of(cls, content: Mapping[str, Any]) -> SearchConfig:
        """Return what `content` gave."""
        given = dict(content)
        for name, kind in (("data", DataConfig), ("recipe", Recipe)):
            if name in given:
                given[name] = kind(**given[name])
        if "method" in given:
            given["method"] = STRATEGIES.get(given["strategy"])(**given["method"])
        return cls(**given)

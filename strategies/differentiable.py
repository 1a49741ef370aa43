"""Strategies that train a distribution over architectures with the supernet: DARTS, Gumbel and Proxyless."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

from acmix_nas.costs.registry import COSTS
from acmix_nas.strategies.base import OperatorScores, SearchStrategy, Shortlist, Supernet, check_warmup, register_strategy
from acmix_nas.util.errors import UserError, one_of

if TYPE_CHECKING:
    import pytorch_lightning as pl
    from nni.nas.oneshot.pytorch.strategy import OneShotStrategy

    from acmix_nas.costs.table import CostTable
    from acmix_nas.training.recipe import Recipe
    from acmix_nas.training.task import Task

__all__ = ["DARTSSearch", "DifferentiableSearch", "GumbelSearch", "ProxylessSearch"]

SELECTIONS = ("argmax", "perturbation")


@dataclass(frozen=True, kw_only=True)
class DifferentiableSearch(SearchStrategy):
    """Train a distribution over architectures, and choose by the probabilities of its operators.

    Args:
        arc_learning_rate: learning rate of the architecture's parameters.
        arc_warmup: epochs in which the architecture does not move, since what learns fastest would win; by default 1.
        watch: whether the end of the search says how decided it is: its entropy, the share of slots where one operator is
            first, and the slots that are coin flips, which another seed turns over.
        patience: epochs in a row with a validation score clearly below the best, after which the search has collapsed. It
            stops, and the distribution of its last good epoch counts; 0 lets it go on.

    Raises:
        UserError: where a value has no meaning; the message names it.
    """

    alternating = True

    arc_learning_rate: float = 3e-2
    arc_warmup: int | None = None
    watch: bool = True
    patience: int = 3

    def __post_init__(self) -> None:
        if not self.arc_learning_rate > 0:
            raise UserError(f"arc_learning_rate must be positive; got arc_learning_rate={self.arc_learning_rate}")
        if self.patience < 0:
            raise UserError(f"patience must be 0 or more; got patience={self.patience}")

    def check(self, recipe: Recipe, finalists: int) -> None:  # noqa: ARG002
        check_warmup(self.warmup(recipe.epochs), recipe, self.arc_warmup)
        if recipe.precision == "16-mixed" and recipe.clip_grad:
            raise UserError(
                f"clip_grad must be left out with strategy {self.name} in 16-mixed, whose gradients are scaled when "
                f"they are clipped; got {recipe.clip_grad}; or take bf16-mixed"
            )

    def warmup(self, epochs: int) -> int:
        return min(1, epochs - 1) if self.arc_warmup is None else self.arc_warmup

    def shared(self, recipe: Recipe) -> dict[str, Any]:
        """Return what NNI's differentiable strategies take."""
        return {
            "arc_learning_rate": self.arc_learning_rate, "warmup_epochs": self.warmup(recipe.epochs),
            "gradient_clip_val": recipe.clip_grad,
        }  # fmt: skip

    def callbacks(self, task: Task) -> list[pl.Callback]:
        from acmix_nas.strategies.oneshot.guard import Guard

        return [Guard(self.patience, f"val_{task.metric}", task.clear_drop)] if self.patience else []

    def score_operators(self, supernet: Supernet) -> OperatorScores:
        from acmix_nas.search_spaces import MixedSlot

        slots = [module for module in supernet.space.modules() if isinstance(module, MixedSlot)]
        return OperatorScores(
            {slot.label: dict(zip(slot.candidates.names, slot.probabilities().tolist(), strict=True)) for slot in slots}
        )

    def shortlist(self, supernet: Supernet, count: int, apart: int) -> Shortlist:
        from acmix_nas.bias.decision import Decision
        from acmix_nas.costs.choose import finalists_within, log_probabilities

        found = self.score_operators(supernet)
        scores = found.scores or log_probabilities(found.probabilities)
        choices = finalists_within(scores, supernet.table, supernet.budget, count, apart)
        notes = {"decision": Decision.of(found.probabilities).as_json()} if self.watch else {}
        return Shortlist(choices, found, notes=notes)


@register_strategy("darts")
@dataclass(frozen=True, kw_only=True)
class DARTSSearch(DifferentiableSearch):
    """Train a softmax mixture of all candidates (DARTS, Liu et al. 2019). The quickest strategy.

    Args:
        penalty: weight of the expected cost in the loss of the architecture.
        cost: which cost the penalty counts; a latency is measured on the machine at hand.
        darts_order: 1 moves the architecture by the weights as they are; 2 by what they will be after their next step, for
            the price of three more gradients.
        selection: how an operator is scored: "argmax" by its probability; "perturbation" by what the mixture loses without
            it, slot by slot, for one evaluation per candidate.

    Example:
        >>> DARTSSearch(penalty=0.1).darts_order
        1
    """

    penalty: float = 0.0
    cost: str = field(default="macs", metadata={"names": COSTS})
    darts_order: int = 1
    selection: str = "argmax"

    def __post_init__(self) -> None:
        super().__post_init__()
        if isinstance(self.penalty, bool) or not self.penalty >= 0:
            raise UserError(f"penalty must be a number of 0 or more; got {self.penalty!r}")
        if self.darts_order not in (1, 2):
            raise one_of("darts_order", self.darts_order, (1, 2))
        if self.selection not in SELECTIONS:
            raise one_of("selection", self.selection, SELECTIONS)
        if self.penalty:
            from acmix_nas.costs.registry import COSTS  # which needs PyTorch

            COSTS.get(self.cost)

    @property
    def measures(self) -> tuple[str, ...]:
        return (self.cost,) if self.penalty else ()

    def check(self, recipe: Recipe, finalists: int) -> None:
        super().check(recipe, finalists)
        if self.darts_order == 2 and recipe.precision != "32-true":
            raise UserError(f"darts_order 2 needs precision 32-true: it takes differences; got {recipe.precision!r}")

    def one_shot(self, recipe: Recipe, table: CostTable | None) -> OneShotStrategy:
        from acmix_nas.strategies.oneshot.darts import DARTS

        return DARTS(penalty=self.penalty, cost=self.cost, table=table, order=self.darts_order, **self.shared(recipe))

    def score_operators(self, supernet: Supernet) -> OperatorScores:
        found = super().score_operators(supernet)
        if self.selection == "argmax":
            return found
        from acmix_nas.supernet.perturbation import Perturbation

        judge = Perturbation.of(supernet.space.backbone, supernet.space.slots, supernet.data, supernet.task)
        return OperatorScores(found.probabilities, judge.scores(found.probabilities, supernet.progress))


@register_strategy("gumbel")
@dataclass(frozen=True, kw_only=True)
class GumbelSearch(DifferentiableSearch):
    """Train a distribution through one sampled path at a time (GDAS, Dong and Yang 2019).

    Args:
        temperature: of the samples, in the first and in the last epoch.
    """

    temperature: Sequence[float] = (10.0, 0.1)

    def __post_init__(self) -> None:
        super().__post_init__()
        object.__setattr__(self, "temperature", check_temperature(self.temperature))

    def one_shot(self, recipe: Recipe, table: CostTable | None) -> OneShotStrategy:  # noqa: ARG002
        from acmix_nas.strategies.oneshot.gumbel import Gumbel

        return Gumbel(temperature=self.temperature, **self.shared(recipe))


@register_strategy("proxyless")
@dataclass(frozen=True, kw_only=True)
class ProxylessSearch(DifferentiableSearch):
    """Train binary gates over sampled candidates (ProxylessNAS, Cai et al. 2019)."""

    def one_shot(self, recipe: Recipe, table: CostTable | None) -> OneShotStrategy:  # noqa: ARG002
        from acmix_nas.strategies.oneshot.proxyless import Proxyless

        return Proxyless(**self.shared(recipe))


def check_temperature(temperature: Sequence[float]) -> tuple[float, float]:
    """Return the temperatures of the first and the last epoch.

    Raises:
        UserError: where they are not two positive numbers, or rise.
    """
    if len(temperature) != 2 or not temperature[0] >= temperature[1] > 0:
        got = ", ".join(map(str, temperature))
        raise UserError(f"temperature must be two positive numbers, the second no larger, as in 10,0.1; got {got}")
    return float(temperature[0]), float(temperature[1])

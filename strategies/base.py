"""What a search asks of a strategy. Nothing here needs PyTorch or NNI, so that the command line shows it at once."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, ClassVar, TypeVar

from acmix_nas.util.errors import UserError
from acmix_nas.util.registry import Registry

if TYPE_CHECKING:
    import pytorch_lightning as pl
    from nni.nas.oneshot.pytorch.strategy import OneShotStrategy

    from acmix_nas.costs.table import CostTable
    from acmix_nas.search_spaces import HybridSpace
    from acmix_nas.training.data import Data
    from acmix_nas.training.recipe import Recipe
    from acmix_nas.training.task import Task

__all__ = ["STRATEGIES", "OperatorScores", "SearchStrategy", "Shortlist", "Supernet", "register_strategy"]

Choice = dict[str, str]
"""Slot → operator."""


@dataclass(frozen=True)
class Supernet:
    """What a strategy chooses from: a trained supernet, and all that its networks are judged by.

    Attributes:
        space: turned into a supernet and trained; as it was made, where the strategy trains none.
        table: the costs of its operators.
        budget: cost → the largest allowed.
        seed: of whatever is drawn.
        progress: whether bars are shown.
    """

    space: HybridSpace
    data: Data
    task: Task
    table: CostTable
    budget: Mapping[str, float] = field(default_factory=dict)
    seed: int = 0
    progress: bool = False

    @property
    def candidates(self) -> dict[str, tuple[str, ...]]:
        """Return slot → its operators."""
        return {slot.name: slot.candidates for slot in self.space.slots}


@dataclass(frozen=True)
class OperatorScores:
    """What a distribution over architectures says of each operator.

    Attributes:
        probabilities: slot → operator → probability.
        scores: slot → operator → what it adds to the score of an architecture, where that is not its log-probability.
    """

    probabilities: Mapping[str, Mapping[str, float]]
    scores: Mapping[str, Mapping[str, float]] = field(default_factory=dict)


@dataclass(frozen=True)
class Shortlist:
    """What a strategy likes best.

    Attributes:
        choices: the finalists, best first.
        operators: what it says of single operators, where it trains a distribution.
        ranking: (architecture, score with inherited weights), best first, where it judges architectures one by one.
        notes: what result.json says beside, each with a line "said".
    """

    choices: list[Choice]
    operators: OperatorScores | None = None
    ranking: Sequence[tuple[Choice, float]] = ()
    notes: Mapping[str, Any] = field(default_factory=dict)


@dataclass(frozen=True, kw_only=True)
class SearchStrategy:
    """Say how a search finds its finalists. The fields of a subclass are its settings.

    They are options of the command line, parameters of NNI's, and arguments of `search`. A strategy of your own is a frozen
    dataclass with `one_shot` and `shortlist`, under `@register_strategy("name")`.

    Attributes:
        name: under which it is registered.
        supernet: whether a supernet is trained.
        alternating: whether the validation part trains the architecture, in turn with the weights.
        warm_race: whether finalists begin with inherited weights by default.

    Example:
        >>> STRATEGIES.get("single_path")().warmup(epochs=12)
        4
        >>> STRATEGIES.get("darts")(penalty=0.1).measures
        ('macs',)
    """

    name: ClassVar[str] = ""
    supernet: ClassVar[bool] = True
    alternating: ClassVar[bool] = False
    warm_race: ClassVar[bool] = False

    @property
    def measures(self) -> tuple[str, ...]:
        """Return the costs that the table must have, beside those of the budget."""
        return ()

    def check(self, recipe: Recipe, finalists: int) -> None:
        """Check the settings beside the recipe of the supernet and the number of finalists.

        Raises:
            UserError: naming the setting that does not fit.
        """

    def warmup(self, epochs: int) -> int:  # noqa: ARG002
        """Return the epochs of the supernet that come before the strategy's own."""
        return 0

    def one_shot(self, recipe: Recipe, table: CostTable | None) -> OneShotStrategy:
        """Return NNI's strategy that trains the supernet; a fresh one, since it remembers the space it changed."""
        raise NotImplementedError

    def callbacks(self, task: Task) -> list[pl.Callback]:  # noqa: ARG002
        """Return what watches the training of the supernet."""
        return []

    def score_operators(self, supernet: Supernet) -> OperatorScores | None:  # noqa: ARG002
        """Return what the trained distribution says; None where there is none."""
        return None

    def shortlist(self, supernet: Supernet, count: int, apart: int) -> Shortlist:
        """Return so many finalists within the budget, of which the second half differ from all before in `apart` slots.

        Raises:
            UserError: where nothing is within the budget.
        """
        raise NotImplementedError


STRATEGIES = Registry[type[SearchStrategy]]("strategy", "acmix_nas.strategies", "single_path")
S = TypeVar("S", bound=type[SearchStrategy])


def register_strategy(name: str) -> Callable[[S], S]:
    """Return a decorator that registers a `SearchStrategy` under a name.

    Args:
        name: how `search` and `--strategy` ask for it.

    Raises:
        UserError: where another strategy has the name.

    Example:
        >>> @register_strategy("first")
        ... @dataclass(frozen=True, kw_only=True)
        ... class FirstSearch(SearchStrategy):
        ...     supernet = False
        ...     def shortlist(self, supernet, count, apart):
        ...         return Shortlist([{slot: names[0] for slot, names in supernet.candidates.items()}])
        >>> STRATEGIES.get("first").name
        'first'
    """

    def keep(strategy: S) -> S:
        strategy.name = name
        return STRATEGIES.register(name)(strategy)

    return keep


def check_warmup(warmup: int, recipe: Recipe, given: int | None) -> None:
    """Check that epochs are left after the warm-up.

    Raises:
        UserError: where there are none.
    """
    if not 0 <= warmup < recipe.epochs:
        raise UserError(f"arc_warmup must be from 0 to below epochs={recipe.epochs}; got arc_warmup={given}")

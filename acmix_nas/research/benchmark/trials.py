"""Multi-trial strategies and tuners on a table: NNI's and ours run unchanged, and a trial is a look into it. Needs NNI."""

from __future__ import annotations

import logging
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager, suppress
from pathlib import Path
from statistics import median

import nni
import numpy as np
from nni.algorithms.hpo.tpe_tuner import TpeTuner
from nni.nas.evaluator import Evaluator
from nni.nas.execution import SequentialExecutionEngine
from nni.nas.space import SimplifiedModelSpace
from nni.nas.strategy import Random, RegularizedEvolution
from nni.nas.strategy.base import Strategy
from nni.tuner import Tuner
from rich.table import Table as Screen

from acmix_nas.research.benchmark.assess import named
from acmix_nas.research.benchmark.spaces import Choice
from acmix_nas.research.benchmark.table import Table
from acmix_nas.search_spaces import HybridSpace
from acmix_nas.strategies import EvolutionTuner
from acmix_nas.util.files import provenance, write_text
from acmix_nas.util.intervals import Interval, bootstrap
from acmix_nas.util.tables import markdown, screen

__all__ = ["STRATEGIES", "TableEvaluator", "queries", "queries_of", "report"]

PROPOSALS = 2000
"""After so many a search has not found it."""


class Found(Exception):  # noqa: N818  no error
    """The best was asked for: there is nothing left to measure."""


class TableEvaluator(Evaluator):
    """Answers every trial of an NNI strategy from a table: mean validation accuracy over seeds, 0 over the budget.

    Attributes:
        trained: the different architectures within the budget that were asked for, in order: what a search would have had
            to train. What is over the budget is known from its cost, and what was trained before from before.
    """

    def __init__(self, table: Table, budget: Mapping[str, float] | None = None, until: Choice | None = None) -> None:
        self.table, self.budget, self.until = table, dict(budget or {}), until
        self.trained: dict[Choice, float] = {}

    def evaluate(self, model: object) -> float:  # noqa: ARG002
        """Report the accuracy of the trial's architecture (NNI's hook)."""
        accuracy = self.accuracy(nni.get_current_parameter().sample)
        nni.report_final_result(accuracy)
        return accuracy

    def accuracy(self, slots: Mapping[str, str]) -> float:
        """Return the accuracy of slot → operator."""
        choice = self.table.space.in_order(slots)
        if not self.table.fits(choice, self.budget):
            return 0.0
        self.trained[choice] = self.table.accuracy(choice, "validation")
        if choice == self.until:
            raise Found
        return self.trained[choice]


def _ours(table: Table, budget: Mapping[str, float], seed: int) -> Tuner:
    return EvolutionTuner(seed=seed, feasible=lambda slots: table.fits(table.space.in_order(slots), budget))


STRATEGIES: Mapping[str, Callable[[Table, Mapping[str, float], int], Strategy | Tuner]] = {
    "NNI's Random": lambda _, __, seed: Random(seed=seed),
    "NNI's TPE": lambda _, __, seed: TpeTuner(optimize_mode="maximize", seed=seed),
    "NNI's RegularizedEvolution": lambda _, __, seed: RegularizedEvolution(population_size=8, sample_size=4, seed=seed),
    "the same, mutation_prob=0.25": lambda _, __, seed: RegularizedEvolution(
        population_size=8, sample_size=4, mutation_prob=0.25, seed=seed
    ),
    "EvolutionTuner": _ours,
}
"""Evolution of the same population in all three, NNI's by its own rate of mutation and by one slot of four."""


def queries(table: Table, strategy: Strategy | Tuner, budget: Mapping[str, float]) -> int | None:
    """Count trainings until the best architecture within the budget is asked for. Return None where it never is.

    The best is that of the highest validation accuracy.
    """
    evaluator = TableEvaluator(table, budget, until=table.best(budget, "validation"))
    with suppress(Found, nni.NoMoreTrialError):
        if isinstance(strategy, Tuner):
            strategy.update_search_space(
                {slot.name: {"_type": "choice", "_value": list(slot.candidates)} for slot in table.space.slots}
            )
            for number in range(PROPOSALS):
                slots = strategy.generate_parameters(number)
                strategy.receive_trial_result(number, slots, evaluator.accuracy(slots))
        else:
            strategy(SimplifiedModelSpace.from_model(_space(table), evaluator), SequentialExecutionEngine(PROPOSALS))
    return len(evaluator.trained) if evaluator.until in evaluator.trained else None


def _space(table: Table) -> HybridSpace:
    config = table.space.config
    arguments = {**config.arguments(config.data.image_size), "num_classes": table.space.num_classes}
    return HybridSpace(str(config.backbone), config.candidates, config.slots, config.heads, config.share, arguments)


@contextmanager
def quiet_nni() -> Iterator[None]:
    """Silence NNI, which takes the end of a search for a failure, and says what it does about duplicates."""
    logger = logging.getLogger("nni")
    level = logger.level
    logger.setLevel(logging.CRITICAL)
    try:
        yield
    finally:
        logger.setLevel(level)


def report(table: Table, runs: int, path: Path) -> Screen:
    """Write how many trainings every strategy needs, as Markdown, and give it as a table for the terminal."""
    head = ["strategy", "budget", "trainings until the best is found, median", "never found"]
    body = []
    for budget in [{}, table.space.budget] if table.space.budget else [{}]:
        for name in STRATEGIES:
            needed, never = queries_of(table, name, budget, runs)
            body.append([name, named(budget), f"{needed.value:g} [{needed.low:g}, {needed.high:g}]", f"{never} of {runs}"])
    write_text(path, f"<!-- {provenance()['made_by']}, {provenance()['date']} -->\n\n{markdown(head, body)}\n")
    return screen(head, body)


def queries_of(table: Table, name: str, budget: Mapping[str, float], runs: int = 100) -> tuple[Interval, int]:
    """Return the median number of trainings over so many seeds, and how many runs never found the best.

    The interval is a bootstrap's.

    A run that never did counts as all architectures within the budget and one more.
    """
    worst = len(table.within(budget)) + 1
    with quiet_nni():
        found = [queries(table, STRATEGIES[name](table, budget, seed), budget) for seed in range(runs)]
    counts = [worst if one is None else one for one in found]
    return bootstrap(lambda values: float(median(np.asarray(values).tolist())), counts), found.count(None)

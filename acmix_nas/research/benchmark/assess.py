"""What a strategy is worth on a space: its searches, under several seeds, against trainings alone."""

from __future__ import annotations

import itertools
import random
from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass, field, replace
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import numpy as np
from rich.table import Table as Screen

from acmix_nas.costs.budget import within
from acmix_nas.costs.choose import finalists_of, log_probabilities
from acmix_nas.research.benchmark.spaces import VARIANTS, Choice, Space
from acmix_nas.research.benchmark.table import Table, kendall
from acmix_nas.research.benchmark.tabulate import spent
from acmix_nas.searching.config import SearchConfig
from acmix_nas.strategies.base import STRATEGIES
from acmix_nas.training.images import ImageData
from acmix_nas.util.errors import UserError, one_of
from acmix_nas.util.files import provenance, read_document, write_document, write_text
from acmix_nas.util.intervals import Interval, bootstrap
from acmix_nas.util.tables import markdown, screen
from acmix_nas.util.terminal import console
from acmix_nas.util.workers import each

__all__ = ["Outcome", "Row", "assess", "outcome_of", "rows"]

SEEDS_APART = 100
"""Searches draw other images than the trainings of the table did."""
DRAWS = 2000
FINALISTS = 8
NO_BUDGET = "none"
RANDOM = "random search, as long as the next"
ALONE, RACE, WARM = "", " + race", " + warm race"
WAYS = (ALONE, RACE, WARM)
"""What is done with a strategy's best: the first is taken, or they are trained, from scratch or from what they inherit."""
SEARCHED = (*(name for name in STRATEGIES.names() if name != "random"), *VARIANTS)


@dataclass(frozen=True)
class Handed:
    """What a search hands over at the end of a race from inherited weights.

    Attributes:
        choice: the architecture.
        validation: accuracy by which it won.
        test: accuracy of its network, which is trained.
        seconds: of the race.
    """

    choice: Choice
    validation: float
    test: float
    seconds: float


@dataclass(frozen=True)
class Outcome:
    """One search.

    Attributes:
        strategy: its name.
        seed: of its images, weights and samples.
        scores: by which it would choose, of every architecture of the table, in the table's order.
        inherited: accuracy of every architecture with the supernet's weights and batch norms of its own, likewise.
        gap: of the architecture it likes best, step by step: "mixture" (where there is one), "inherited" (discrete),
            "recalibrated" (with batch norms of its own); validation accuracy.
        seconds: of training the supernet and scoring, as `spent` counts them.
        handed: budget, in words → what a race from inherited weights ends with, where the search's races start from them.
        warm: index of an architecture in the table → test accuracy of its network, trained on from the weights that it
            inherits; of a random sample, the same for all searches.
    """

    strategy: str
    seed: int
    scores: tuple[float, ...]
    inherited: tuple[float, ...]
    gap: Mapping[str, float]
    seconds: float
    handed: Mapping[str, Handed] = field(default_factory=dict)
    warm: Mapping[int, float] = field(default_factory=dict)

    @classmethod
    def of_json(cls, content: Mapping[str, Any]) -> Outcome:
        """Read what `asdict` gave."""
        handed = {name: Handed(**{**one, "choice": tuple(one["choice"])}) for name, one in content.get("handed", {}).items()}
        scores, inherited = (tuple(content[name]) for name in ("scores", "inherited"))
        warm = {int(i): accuracy for i, accuracy in content.get("warm", {}).items()}
        return cls(**{**content, "scores": scores, "inherited": inherited, "handed": handed, "warm": warm})


def outcome_of(table: Table, strategy: str, seed: int, warm: int = 0) -> Outcome:
    """Search once, and train so many random architectures on from what they inherit. Needs NNI."""
    from acmix_nas.searching.race import race, train_finalist
    from acmix_nas.searching.supernets import make_supernet, train_supernet
    from acmix_nas.supernet.ranking import Ranker
    from acmix_nas.training.loop import measure

    config = table.space.search(strategy, SEEDS_APART + seed)
    data = ImageData(config.data, config.recipe.seed)
    by_slot = [table.space.by_slot(choice) for choice in table.choices]
    start = spent()
    supernet = make_supernet(config, data)
    space = supernet.space
    with TemporaryDirectory() as folder:
        train_supernet(config, supernet, Path(folder))
    gap: dict[str, float] = {}
    operators = config.method.score_operators(supernet)
    if operators is not None:
        worth = operators.scores or log_probabilities(operators.probabilities)
        scores = [sum(worth[slot][name] for slot, name in choice.items()) for choice in by_slot]
    trained = spent() - start
    if config.strategy == "darts":
        gap["mixture"] = measure(space, data, "validation").score
    start = spent()
    ranker = Ranker.of(space.backbone, space.slots, data)
    found = {tuple(choice.values()): ranker.score(choice) for choice in ranker.in_tree_order(by_slot)}
    inherited = [found[tuple(choice.values())] for choice in by_slot]
    judging = spent() - start
    if operators is None:
        scores = inherited
    best = by_slot[int(np.argmax(scores))]
    gap["inherited"] = Ranker.of(space.backbone, space.slots, data, recalibrated=False).score(best)
    gap["recalibrated"] = inherited[int(np.argmax(scores))]
    seconds = trained if operators is not None else trained + judging
    handed = {}
    for budget in budgets(table) if config.warm else []:
        start = spent()
        finalists = best_of(table, scores, budget, FINALISTS, config.distance(len(space.slots)))
        slots = [table.space.by_slot(choice) for choice in finalists]
        with TemporaryDirectory() as folder:
            i, ended = race(replace(config, finalists=len(slots)), supernet, slots, Path(folder))
        assert ended.test is not None
        handed[named(budget)] = Handed(finalists[i], ended.validation, ended.test, round(spent() - start, 1))
    trained_on = {}
    inheriting = replace(config, race_start="inherited")
    for i in random.Random(0).sample(range(len(by_slot)), len(by_slot))[:warm]:  # the fewer are among the more
        with TemporaryDirectory() as folder:
            test = train_finalist(inheriting, supernet, by_slot[i], Path(folder)).test
        assert test is not None
        trained_on[i] = test
    return Outcome(strategy, seed, tuple(scores), tuple(inherited), gap, round(seconds, 1), handed, trained_on)


def budgets(table: Table) -> list[Mapping[str, float]]:
    """Return the budgets under which searches are compared: none, and the space's own."""
    return [{}, table.space.budget] if table.space.budget else [{}]


def check_strategies(names: Sequence[str], space: Space) -> None:
    """Check that these can be assessed on a space.

    Raises:
        UserError: naming the one that cannot; random search needs no name, since every table has it.
        ModuleNotFoundError: where NNI, which every strategy needs, is not installed.
    """
    import nni  # noqa: F401

    for name in names:
        if name not in SEARCHED:
            raise one_of("strategy", name, SEARCHED)
        space.search(name, 0)


def check_budget(space: Space, choices: Sequence[Choice]) -> None:
    """Check that any of the architectures to train is within the space's budget.

    Raises:
        UserError: where none is.
    """
    if not any(within(space.costs, space.budget, space.by_slot(choice)) for choice in choices):
        raise UserError(f"budget of {space.name} is met by none of {len(choices)} architectures: take a larger sample")


def assess(
    table: Table, strategies: Sequence[str], seeds: int, path: Path, workers: int = 2, warm: int = 0,
    search: Callable[[Table, str, int, int], Outcome] = outcome_of,
) -> list[Outcome]:  # fmt: skip
    """Search with every strategy under every seed; the file is written anew after each, and the same call goes on.

    Args:
        table: what architectures are worth when they are trained alone.
        strategies: names of `SearchConfig`, but for "random", which is computed from the table.
        seeds: 0 to seeds − 1.
        path: the JSON file.
        workers: processes, of one thread each, as the table's trainings had.
        warm: so many random architectures are trained on from what each search's supernet gives them, to measure its ranking.

    Raises:
        UserError: where the file is of another space, or a number has no meaning.
        BrokenRun: where a worker was killed.
    """
    for name, value, least in (("seeds", seeds, 1), ("workers", workers, 1), ("warm", warm, 0)):
        if value < least:
            raise UserError(f"{name} must be at least {least}; got {name}={value}")
    warm = min(warm, len(table.choices))
    searches = {name: _shape(table.space.search(name, 0)) for name in strategies}
    of = {"space": table.space.name, "settings": table.space.settings}
    outcomes: dict[tuple[str, int], Outcome] = {}
    if path.exists():
        content = read_document(path, "assessment")
        searched = {one["strategy"] for one in content["outcomes"]}
        begun = {name: shape for name, shape in content.get("searches", {}).items() if name in searched}
        other = any(begun.get(name, shape) != shape for name, shape in searches.items())
        if other or {key: content.get(key) for key in of} != of:
            raise UserError(f"assessment {str(path)!r} is of another space, or of other settings; take another file")
        searches = {**begun, **searches}
        outcomes = {(one["strategy"], one["seed"]): Outcome.of_json(one) for one in content["outcomes"]}
    asked = [(name, seed) for seed in range(seeds) for name in strategies]
    missing = [one for one in asked if one not in outcomes or len(outcomes[one].warm) < warm]
    for outcome in each(search, [(table, *one, warm) for one in missing], workers):
        outcomes[outcome.strategy, outcome.seed] = outcome
        content = {**of, "searches": searches, "outcomes": [asdict(one) for one in outcomes.values()]}
        write_document(path, "assessment", content)
        console.print(f"{outcome.strategy}, seed {outcome.seed}: {outcome.seconds:.0f} s")
    return [outcomes[one] for one in asked]


def _shape(config: SearchConfig) -> dict[str, Any]:
    """Return the epochs of a search and of its warm-up, and the settings of its warm race."""
    shape: dict[str, Any] = {"epochs": config.recipe.epochs, "warmup": config.method.warmup(config.recipe.epochs)}
    if config.warm:
        race = {"epochs": config.race_recipe.epochs, "lr": config.race_recipe.lr, "cut": config.race_cut, "apart": config.apart}
        shape["race"] = {"finalists": FINALISTS, **race}
    return shape


@dataclass(frozen=True)
class Row:
    """What a way to search is worth under a budget; intervals are bootstraps over searches.

    Attributes:
        method: a strategy, with or without a race among its best, or `RANDOM`.
        budget: of the architectures.
        accuracy: test accuracy of what is found, trained alone: the mean over the table's seeds; of a warm race that of the
            network that it hands over.
        regret: the same, taken from the accuracy of the best within the budget from scratch: below 0 that is beaten.
        trainings: time of the search, in trainings of the dearest architecture.
        agreement: share of slots on which two searches agree, mean over pairs.
        found: share of the searches that found each architecture, most often first.
    """

    method: str
    budget: str
    accuracy: Interval
    regret: Interval
    trainings: float
    agreement: float
    found: Mapping[str, float]


def rows(table: Table, outcomes: Sequence[Outcome], finalists: int = FINALISTS) -> list[Row]:
    """Compare every strategy with random search, without a budget and under the space's own. Random search comes first.

    A strategy stands there alone, with a race from scratch, and with a warm race where it had one. A warm race counts with the
    network that it hands over, and the random search beside it with the network that it has trained. Each random search has
    the mean time of the strategy below it. A race from scratch is read from the table: the validation accuracy of one of its
    seeds decides, and its seconds are counted.
    """
    made = []
    distance = table.space.config.distance(len(table.space.slots))
    strategies = dict.fromkeys(outcome.strategy for outcome in outcomes)
    for budget, way in itertools.product(budgets(table), WAYS):
        best = table.accuracy(table.best(budget))
        for strategy in strategies:
            mine = [one for one in outcomes if one.strategy == strategy and (way != WARM or named(budget) in one.handed)]
            if not mine:
                continue
            found, accuracies, seconds = [], [], []
            for outcome in mine:
                if way == WARM:
                    handed = outcome.handed[named(budget)]
                    choice, accuracy, took = handed.choice, handed.test, handed.seconds
                else:
                    count = finalists if way == RACE else 1
                    shortlist = best_of(table, outcome.scores, budget, count, distance)
                    choice, took = race_from_table(table, shortlist, outcome.seed)
                    accuracy = table.accuracy(choice)
                found.append(choice)
                accuracies.append(accuracy)
                seconds.append(outcome.seconds + took)
            mean = float(np.mean(seconds))
            drawn = random_searches(table, budget, mean)
            # Beside networks that are handed over stand those that random search has trained, not their architectures' means.
            by_chance = [table.accuracy(choice, seed=seed if way == WARM else None) for choice, seed in drawn]
            for method, values, choices in (
                (RANDOM, interval_of(by_chance, len(found)), [choice for choice, _ in drawn]),
                (strategy + way, bootstrap(lambda values: float(np.mean(values)), accuracies), found),
            ):
                regret = Interval(best - values.value, best - values.high, best - values.low)
                worth = mean / dearest(table), agreement(choices), shares(choices)
                made.append(Row(method, named(budget), values, regret, *worth))
    return made


def best_of(table: Table, scores: Sequence[float], budget: Mapping[str, float], count: int, apart: int = 1) -> list[Choice]:
    """Return the architectures within the budget that score highest, and differ in so many slots."""
    met = [(score, choice) for score, choice in zip(scores, table.choices, strict=True) if table.fits(choice, budget)]
    ranking = (table.space.by_slot(choice) for _, choice in sorted(met, key=lambda pair: -pair[0]))
    return [table.space.in_order(slots) for slots in finalists_of(ranking, count, apart)]


def race_from_table(table: Table, choices: Sequence[Choice], seed: int) -> tuple[Choice, float]:
    """Return the best of several by the validation accuracy of one training each, and the seconds of these trainings.

    The trainings are cut at half-time, as a search's race is. One architecture alone is not trained.
    """
    if len(choices) == 1:
        return choices[0], 0.0
    trained = table.seeds[seed % len(table.seeds)]
    epochs, running = len(table.runs[0].test), list(choices)
    config = replace(table.space.config, finalists=len(choices), race_start="scratch", race_epochs=epochs)
    half = config.half_time
    seconds = 0.0
    if half:
        seconds = sum(map(table.seconds, running)) * half / epochs
        running.sort(key=lambda choice: -table.accuracy(choice, "validation", trained, half - 1))
        running = running[: config.race_cut]
    seconds += sum(map(table.seconds, running)) * (epochs - half) / epochs
    return max(running, key=lambda choice: table.accuracy(choice, "validation", trained)), seconds


def random_searches(table: Table, budget: Mapping[str, float], seconds: float) -> list[tuple[Choice, int]]:
    """Return what many random searches find: architectures within the budget, drawn once each, trained until the time is up.

    At least one is trained. The best is taken by its validation accuracy under one seed, which is given too.
    """
    generator = random.Random(0)
    met = table.within(budget)
    cost = {choice: table.seconds(choice) for choice in met}
    validation = {seed: table.accuracies("validation", seed) for seed in table.seeds}
    found = []
    for _ in range(DRAWS):
        left, trained = seconds, list[Choice]()
        for choice in generator.sample(met, len(met)):
            left -= cost[choice]
            if left < 0 and trained:
                break
            trained.append(choice)
        seed = generator.choice(table.seeds)
        found.append((max(trained, key=validation[seed].__getitem__), seed))
    return found


def interval_of(values: Sequence[float], searches: int) -> Interval:
    """Return the mean, and the interval of 95 % of the means of so many of the values."""
    generator = random.Random(0)
    means = [float(np.mean(generator.choices(values, k=searches))) for _ in range(DRAWS)]
    return Interval.of(float(np.mean(values)), means)


def dearest(table: Table) -> float:
    """Return the seconds of the longest training."""
    return max(map(table.seconds, table.choices))


def agreement(found: Sequence[Choice]) -> float:
    """Compute the share of slots on which two searches agree, mean over pairs. One search gives NaN."""
    pairs = len(found) * (len(found) - 1)
    equal = [sum(times * (times - 1) for times in Counter(column).values()) for column in zip(*found, strict=True)]
    return float(np.mean(equal)) / pairs if pairs else float("nan")


def shares(found: Sequence[Choice]) -> dict[str, float]:
    """Return how often each was found, most often first."""
    return {" ".join(choice): times / len(found) for choice, times in Counter(found).most_common()}


def named(budget: Mapping[str, float]) -> str:
    """Return a budget, in words."""
    return ", ".join(f"{name} ≤ {limit:,.0f}" for name, limit in budget.items()) or NO_BUDGET


@dataclass(frozen=True)
class Ranks:
    """How well a strategy orders the space: Kendall's τ with the table's mean test accuracy, intervals over seeds.

    Attributes:
        scores: of what the strategy chooses by.
        inherited: of the accuracies with the supernet's weights and batch norms of their own.
        top: of the scores, within the table's best third.
        warm: of the scores with the accuracies of architectures that were trained on from what they inherit, where they were.
        at_random: mean accuracy of these, which were drawn at random: what a network of the supernet has whoever chose it.
        gap: mean accuracies, step by step, "alone" last: the table's validation accuracy of the same architectures.
    """

    strategy: str
    scores: Interval
    inherited: Interval
    top: Interval
    warm: Interval | None
    at_random: float | None
    gap: Mapping[str, float]


def ranks(table: Table, outcomes: Sequence[Outcome]) -> list[Ranks]:
    """Return the ranks of every strategy."""
    truth = [table.accuracy(choice) for choice in table.choices]
    top = [table.choices.index(choice) for choice in table.top()]
    best = [truth[i] for i in top]

    def mean(values: Any) -> float:
        return float(np.mean(values))

    made = []
    for strategy in dict.fromkeys(outcome.strategy for outcome in outcomes):
        mine = [outcome for outcome in outcomes if outcome.strategy == strategy]
        steps = {step: mean([outcome.gap[step] for outcome in mine]) for step in mine[0].gap}
        liked = [table.choices[int(np.argmax(outcome.scores))] for outcome in mine]
        steps["alone"] = mean([table.accuracy(choice, "validation") for choice in liked])
        warm = [kendall([one.scores[i] for i in one.warm], list(one.warm.values())) for one in mine if len(one.warm) > 1]
        made.append(
            Ranks(
                strategy,
                bootstrap(mean, [kendall(outcome.scores, truth) for outcome in mine]),
                bootstrap(mean, [kendall(outcome.inherited, truth) for outcome in mine]),
                bootstrap(mean, [kendall([outcome.scores[i] for i in top], best) for outcome in mine]),
                bootstrap(mean, warm) if warm else None,
                mean([accuracy for one in mine for accuracy in one.warm.values()]) if warm else None,
                steps,
            )
        )
    return made


def report(table: Table, outcomes: Sequence[Outcome], path: Path) -> list[Screen]:
    """Write the assessment as Markdown, and give it as tables for the terminal; random search stands above every strategy."""
    seeds = len({outcome.seed for outcome in outcomes})
    first = ["search", "budget", "accuracy", "regret", "trainings", "agreement", "found (share of searches)"]
    second = [
        "search",
        "τ of scores",
        "τ of inherited accuracy",
        "τ in the best third",
        "τ, trained on",
        "step by step (validation)",
    ]
    found = [
        [row.method, row.budget, points(row.accuracy), points(row.regret), f"{row.trainings:.1f}", f"{row.agreement:.0%}",
         ", ".join(f"{name} ({share:.0%})" for name, share in list(row.found.items())[:3])]
        for row in rows(table, outcomes)
    ]  # fmt: skip
    ranked = [
        [one.strategy, str(one.scores), str(one.inherited), str(one.top), trained_on(one),
         " → ".join(f"{step} {value:.1%}" for step, value in one.gap.items())]
        for one in ranks(table, outcomes)
    ]  # fmt: skip
    said = (
        f"{seeds} seeds. {len(table.choices)} architectures, {len(table.seeds)} trainings each. A training alone strays by "
        f"{100 * table.noise():.2f} points. Noise ceiling of τ: {table.ceiling()}, "
        f"in the best third {table.ceiling(among=table.top())}. The dearest training takes {dearest(table):.0f} s. "
        f"A race is among {FINALISTS}. Accuracy (test part) and regret are in points."
    )
    parts = [f"<!-- {provenance()['made_by']}, {provenance()['date']} -->", said]
    parts += [markdown(first, found), markdown(second, ranked)]
    write_text(path, "\n\n".join(parts) + "\n")
    return [screen(first, found, said), screen(second, ranked)]


def trained_on(ranks: Ranks) -> str:
    """Return what is known of trainings that go on from inherited weights."""
    return "–" if ranks.warm is None else f"{ranks.warm}; {ranks.at_random:.1%} at random"


def points(interval: Interval) -> str:
    """Format an interval in hundredths."""
    value, low, high = (round(100 * number, 2) + 0.0 for number in interval)  # no −0.00
    return f"{value:.2f} [{low:.2f}, {high:.2f}]"

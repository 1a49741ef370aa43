"""What a supernet loses without an operator, as the operator's worth. Nothing here needs NNI."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from typing import Any

from rich.console import Console
from rich.progress import track
from torch import Tensor, nn

from acmix_nas.slots.finding import Slot
from acmix_nas.slots.making import put
from acmix_nas.supernet.candidates import Candidates
from acmix_nas.supernet.ranking import Judge
from acmix_nas.training.task import Task

__all__ = ["Perturbation"]

LEAST = 1e-12
"""A weight below which another is none: what is left must have weights to scale up."""
TIE = 0.5
"""Images that a probability is worth: less than one, so that it decides between equals alone."""


class Weighted(nn.Module):
    """The mean of some candidates of a slot, weighted; the others do not run."""

    def __init__(self, candidates: Candidates, weights: Mapping[str, float]) -> None:
        super().__init__()
        self.candidates, self.weights = candidates, weights

    def forward(self, x: Tensor) -> Tensor:
        total = sum(self.weights.values())
        outputs = self.candidates.outputs(x, list(self.weights))
        first, *others = (outputs[name] * (weight / total) for name, weight in self.weights.items())
        for other in others:
            first = first + other
        return first


class Perturbation(Judge):
    """DARTS-PT (Wang et al. 2021): the operator whose removal hurts the mixture most is worth most.

    A probability says how much of an operator the mixture wants beside the others. That need not be what it cannot do without.
    Slot by slot in the order of depth, each candidate is left out in turn, with the weights of the others scaled up to 1. Then
    the slot keeps only the best, and the next is judged in what has become of the network. The paper trains the supernet for
    some epochs after every slot. Here its weights stay as they are, which takes seconds, and batch norms get statistics of
    their own for every measurement.

    Args: see `Judge`.
    """

    def __init__(
        self,
        backbone: nn.Module,
        slots: Sequence[Slot],
        calibration: Tensor | None,
        batches: Iterable[Any],
        task: Task | None = None,
    ) -> None:
        super().__init__(backbone, slots, calibration, batches, task)
        self.mixtures = {slot.name: Weighted(self.candidates_at(slot), {}) for slot in slots}
        for name, mixture in self.mixtures.items():
            put(self.network, name, mixture)

    def scores(self, probabilities: Mapping[str, Mapping[str, float]], progress: bool = False) -> dict[str, dict[str, float]]:
        """Return slot → operator → share of the images that the network gets wrong without it. The probability breaks ties.

        Args:
            probabilities: slot → operator → weight in the mixture.
        """
        for name, mixture in self.mixtures.items():
            mixture.weights = dict(probabilities[name])
        tie = TIE / sum(len(self.task.inputs(batch)) for batch in self.batches)
        scores: dict[str, dict[str, float]] = {}
        console = Console(stderr=True)
        for name, mixture in track(
            self.mixtures.items(), "perturbing", console=console, disable=not progress, transient=True
        ):  # fmt: skip
            row = {operator: max(p, LEAST) for operator, p in probabilities[name].items()}
            scores[name] = {operator: 1.0 + tie * p for operator, p in row.items()}  # all is lost with the only one
            for operator in row if len(row) > 1 else ():
                mixture.weights = {other: p for other, p in row.items() if other != operator}
                scores[name][operator] -= self.measure()
            best = max(row, key=lambda operator: scores[name][operator])
            mixture.weights = {best: 1.0}
        return scores

"""What an operator is worth by its absence: where the answer is known, in which order slots are decided, and what runs."""

from __future__ import annotations

from typing import Any

import pytest
import torch

from acmix_nas.supernet.candidates import Candidates
from acmix_nas.supernet.perturbation import Perturbation, Weighted
from tests.small import at
from tests.supernet.test_ranking import SLOTS, Mixture, batches, supernet

TIE = 0.5 / 71  # half of an image
NAMES = ("conv", "local", "acmix_local")
FIRST, SECOND, THIRD = (slot.name for slot in SLOTS)


def perturbation(monkeypatch: pytest.MonkeyPatch, accuracy: Any) -> tuple[Perturbation, list[dict[str, dict[str, float]]]]:
    """Make a perturbation whose accuracy is a function of the weights at the slots.

    Return it, and a list of the weights that it asks for.
    """
    asked: list[dict[str, dict[str, float]]] = []

    def measure(self: Perturbation) -> float:
        asked.append({name: dict(mixture.weights) for name, mixture in self.mixtures.items()})
        found: float = accuracy(asked[-1])
        return found

    monkeypatch.setattr(Perturbation, "measure", measure)
    return Perturbation(supernet(), SLOTS, None, batches()), asked


def probabilities(judge: Perturbation) -> dict[str, dict[str, float]]:
    return {name: dict(zip(mixture.candidates.names, (0.5, 0.3, 0.2), strict=True)) for name, mixture in judge.mixtures.items()}


def test_what_hurts_most_when_it_is_missing_is_worth_most(monkeypatch: pytest.MonkeyPatch) -> None:
    names: list[str]
    judge, _ = perturbation(monkeypatch, lambda weights: 0.9 if names[1] in weights[FIRST] else 0.4)
    weights = probabilities(judge)
    names = list(weights[FIRST])
    scores = judge.scores(weights)
    expected = [0.1 + TIE * 0.5, 0.6 + TIE * 0.3, 0.1 + TIE * 0.2]
    assert scores[FIRST] == pytest.approx(dict(zip(names, expected, strict=True)))


def test_a_slot_is_decided_before_the_next_is_judged(monkeypatch: pytest.MonkeyPatch) -> None:
    names: list[str]
    judge, asked = perturbation(monkeypatch, lambda weights: 0.9 if names[2] in weights[FIRST] else 0.4)
    weights = probabilities(judge)
    names = list(weights[FIRST])
    scores = judge.scores(weights)
    assert len(asked) == 9
    assert asked[0] == {**weights, FIRST: {names[1]: 0.3, names[2]: 0.2}}
    assert all(one[FIRST] == {names[2]: 1.0} for one in asked[3:])
    # Without a difference the more likely one is taken.
    assert all(one[SECOND] == {names[0]: 1.0} for one in asked[6:])
    assert max(scores[THIRD], key=lambda name: scores[THIRD][name]) == names[0]


def test_what_is_left_is_scaled_up_and_what_is_left_out_does_not_run() -> None:
    candidates = Candidates(at(SLOTS[0], NAMES)).eval()
    weighted = Weighted(candidates, {"conv": 0.5, "acmix_local": 0.2})
    x = torch.randn(2, SLOTS[0].in_channels, 6, 6)
    torch.testing.assert_close(weighted(x), candidates(x, torch.tensor([5 / 7, 0.0, 2 / 7])))
    candidates.attentions["local"].register_forward_hook(lambda *_: pytest.fail("local ran"))
    weighted.weights = {"conv": 1.0}
    torch.testing.assert_close(weighted(x), candidates.outputs(x, ["conv"])["conv"])


def test_it_is_measured_as_it_stands_and_a_decided_slot_leaves_something_to_measure() -> None:
    judge = Perturbation(supernet(), SLOTS, torch.randn(40, 3, 12, 12), batches())
    decided = {name: {**dict.fromkeys(row, 0.0), next(iter(row)): 1.0} for name, row in probabilities(judge).items()}
    scores = judge.scores(decided)
    assert all(0 < score <= 1 + TIE for row in scores.values() for score in row.values())
    again = Perturbation(supernet(), SLOTS, torch.randn(40, 3, 12, 12), batches())
    names = list(decided[FIRST])
    for name, mixture in again.mixtures.items():
        mixture.weights = decided[name]
    again.mixtures[FIRST].weights = dict.fromkeys(names[1:], 1e-12)
    again.calibration = judge.calibration
    assert scores[FIRST][names[0]] == pytest.approx(1 - again.measure() + TIE)


def test_a_slot_without_a_choice_is_not_perturbed(monkeypatch: pytest.MonkeyPatch) -> None:
    judge, asked = perturbation(monkeypatch, lambda _: 0.5)
    weights = {name: {next(iter(row)): 1.0} for name, row in probabilities(judge).items()}
    assert all(list(row.values()) == [1 + TIE] for row in judge.scores(weights).values())
    assert asked == []


def test_the_supernet_stays_as_it_was() -> None:
    network = supernet()
    before = {key: value.clone() for key, value in network.state_dict().items()}
    judge = Perturbation(network, SLOTS, torch.randn(40, 3, 12, 12), batches())
    judge.scores(probabilities(judge))
    assert all(torch.equal(before[key], value) for key, value in network.state_dict().items())
    assert isinstance(network.get_submodule(FIRST), Mixture)

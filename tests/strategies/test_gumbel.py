"""Gumbel samples: what runs, what the architecture is told, how often each candidate is drawn, and mistakes."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import pytest
import torch

from acmix_nas import hybridize
from acmix_nas.operators import ConvolutionPath
from acmix_nas.search_spaces import GumbelSlot, HybridSpace
from acmix_nas.strategies import Gumbel
from acmix_nas.supernet.candidates import Candidates
from acmix_nas.util.errors import UserError
from tests.searching.test_run import config, trained
from tests.small import RESNET, SLOTS, images

NAMES = ["conv", "local", "global"]


def supernet() -> tuple[HybridSpace, list[GumbelSlot]]:
    space = hybridize(**RESNET, candidates=NAMES)
    Gumbel().mutate_model(space)
    slots = [module for module in space.modules() if isinstance(module, GumbelSlot)]
    assert len(slots) == len(SLOTS)
    return space.train(), slots


def test_only_what_was_sampled_runs(monkeypatch: pytest.MonkeyPatch) -> None:
    space, slots = supernet()
    ran: list[str] = []
    convolve = ConvolutionPath.on

    def watched(path: ConvolutionPath, *arguments: Any) -> torch.Tensor:
        ran.append("conv")
        return convolve(path, *arguments)

    monkeypatch.setattr(ConvolutionPath, "on", watched)
    for name in NAMES[1:]:
        for slot in slots:
            slot.candidates.attentions[name].register_forward_hook(lambda *_, name=name: ran.append(name))
    seen = set()
    for _ in range(6):
        sample: dict[str, Any] = {}
        for slot in slots:
            sample.update(slot.resample(sample))
        ran.clear()
        space(images())
        assert ran == [sample[name] for name in SLOTS]
        seen |= set(ran)
    assert seen == set(NAMES)


def test_the_output_is_the_candidates_and_the_gradient_that_of_the_formula() -> None:
    _, slots = supernet()
    slot = slots[0]
    slot.temperature = 2.0
    with torch.no_grad():
        slot._arch_alpha.copy_(torch.tensor([0.5, -0.3, 0.2]))
    sampled = slot.resample({})[slot.label]
    k = NAMES.index(sampled)
    x, upstream = torch.randn(2, 8, 6, 6), torch.randn(2, 8, 6, 6)
    out = slot(x)
    expected = slot.candidates.outputs(x, [sampled])[sampled].detach()
    assert torch.equal(out, expected)
    out.backward(upstream)
    assert slot._noise is not None
    p = ((slot._arch_alpha.detach().log_softmax(0) + slot._noise) / 2.0).softmax(0)
    assert k == int(p.argmax())
    # ∂p_k/∂α_i = p_k (δ_ik − p_i) / τ: the log-softmax differs from α by what all candidates share.
    gradient = (upstream * expected).sum() * p[k] * (torch.eye(3)[k] - p) / 2.0
    torch.testing.assert_close(slot._arch_alpha.grad, gradient, atol=1e-4, rtol=1e-4)


def test_candidates_are_drawn_in_proportion_to_their_probability() -> None:
    _, slots = supernet()
    slot = slots[0]
    with torch.no_grad():
        slot._arch_alpha.copy_(torch.tensor([0.6, 0.3, 0.1]).log())
    for temperature in (10.0, 0.1):  # of which the draws do not depend
        slot.temperature = temperature
        drawn = [slot.resample({})[slot.label] for _ in range(4000)]
        for name, p in zip(NAMES, (0.6, 0.3, 0.1), strict=True):
            assert drawn.count(name) / 4000 == pytest.approx(p, abs=0.03)


def test_a_forward_before_a_sample_is_refused() -> None:
    _, slots = supernet()
    with pytest.raises(RuntimeError, match=r"resample\(\) must be called before"):
        slots[0](torch.randn(1, 8, 6, 6))


def test_it_cools_down_linearly(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    settings = config(strategy="gumbel", epochs=3, temperature=(4.0, 1.0))
    seen: list[float] = []
    run = GumbelSlot.forward

    def watched(slot: GumbelSlot, x: torch.Tensor) -> torch.Tensor:
        seen.append(slot.temperature)
        out: torch.Tensor = run(slot, x)
        return out

    monkeypatch.setattr(GumbelSlot, "forward", watched)
    trained(settings, tmp_path)
    assert list(dict.fromkeys(seen)) == [4.0, 2.5, 1.0]


def test_a_step_asks_a_slot_for_one_candidate(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    settings = config(strategy="gumbel", arc_warmup=0)
    asked: list[int] = []
    run = Candidates.outputs

    def watched(candidates: Candidates, x: torch.Tensor, names: Sequence[str] | None = None) -> dict[str, torch.Tensor]:
        asked.append(len(names if names is not None else candidates.names))
        return run(candidates, x, names)

    monkeypatch.setattr(Candidates, "outputs", watched)
    trained(settings, tmp_path)
    assert set(asked) == {1}


@pytest.mark.parametrize("temperature", [(0.1, 10.0), (1.0, 0.0), (1.0,)])
def test_temperatures_that_rise_or_are_not_positive_are_refused(temperature: tuple[float, ...]) -> None:
    with pytest.raises(UserError, match="temperature must be two positive numbers"):
        Gumbel(temperature=temperature)

"""What the strategies that train a distribution have in common: warm-up, held α and β, and what they log."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import pytorch_lightning as pl
import torch

from acmix_nas import hybridize
from acmix_nas.operators import Mixing
from acmix_nas.search_spaces import GumbelSlot, MixedSlot, ProxylessSlot
from acmix_nas.searching.supernets import make_supernet, train_supernet
from acmix_nas.strategies.oneshot.differentiable import SearchModule
from acmix_nas.training.images import ImageData
from tests.searching.test_run import config, trained
from tests.small import RESNET

pytestmark = pytest.mark.usefixtures("few_digits")
DIFFERENTIABLE = ("darts", "gumbel", "proxyless")


class Seen(pl.Callback):
    """The architecture's parameters and what was logged, after every epoch."""

    def __init__(self) -> None:
        self.alphas: list[torch.Tensor] = []
        self.logged: list[set[str]] = []

    def on_train_epoch_end(self, trainer: pl.Trainer, pl_module: Any) -> None:
        self.alphas.append(torch.cat([p.detach().clone() for p in pl_module.arch_parameters()]))
        self.logged.append(set(trainer.callback_metrics))


@pytest.mark.parametrize("warmup", [0, 2])
@pytest.mark.parametrize("strategy", DIFFERENTIABLE)
def test_the_architecture_rests_while_it_warms_up_and_moves_afterwards(strategy: str, warmup: int, tmp_path: Path) -> None:
    settings = config(strategy=strategy, epochs=3, arc_warmup=warmup)
    seen, supernet = Seen(), make_supernet(settings, ImageData(settings.data, 0))
    weight = next(parameter for name, parameter in supernet.space.named_parameters() if "conv1" in name)
    before = weight.detach().clone()
    train_supernet(settings, supernet, tmp_path, callbacks=[seen])
    moved = [not torch.equal(a, b) for a, b in zip(seen.alphas, seen.alphas[1:], strict=False)]
    assert moved == ([False, True] if warmup else [True, True])
    assert not torch.equal(weight, before)
    assert all("entropy" in logged for logged in seen.logged)
    assert ["val_accuracy" in logged for logged in seen.logged] == [epoch >= warmup for epoch in range(3)]


@pytest.mark.parametrize("strategy", DIFFERENTIABLE)
def test_the_architectures_step_computes_no_gradient_of_the_weights(
    strategy: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    step, seen = SearchModule.architecture_step, []

    def watched(module: SearchModule, batch: dict[str, Any], batch_idx: int) -> None:
        architecture = set(module.arch_parameters())
        weights = [p for p in module.parameters() if p.requires_grad and p not in architecture]
        for weight in weights:
            weight.grad = None
        step(module, batch, batch_idx)
        assert all(weight.grad is None and weight.requires_grad for weight in weights)
        seen.append(sum(p.grad is not None for p in architecture) / len(architecture))

    monkeypatch.setattr(SearchModule, "architecture_step", watched)
    settings = config(strategy=strategy, epochs=1, arc_warmup=0)
    trained(settings, tmp_path)
    assert set(seen) == {1.0}


@pytest.mark.parametrize("running", [False, True])
@pytest.mark.parametrize(("strategy", "kind"), [("gumbel", GumbelSlot), ("proxyless", ProxylessSlot)])
def test_behind_a_batch_norm_only_running_statistics_say_what_the_sampled_candidate_is_worth(
    strategy: str, kind: type[MixedSlot], running: bool, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The cosine of its output and the loss's gradient in the architecture's steps, which is as good as none without them."""
    if not running:
        monkeypatch.setattr("acmix_nas.strategies.oneshot.differentiable._BatchNorm", ())
    cosines: list[float] = []
    run = kind.forward

    def watched(slot: MixedSlot, x: torch.Tensor) -> torch.Tensor:
        out: torch.Tensor = run(slot, x)
        if not next(slot.candidates.parameters()).requires_grad:
            value = out.detach().flatten()
            out.register_hook(lambda g: cosines.append(float(torch.cosine_similarity(g.flatten(), value, dim=0).abs())))
        return out

    monkeypatch.setattr(kind, "forward", watched)
    backbone_args = {"channels": [8, 8, 16, 16], "zero_init_last": False}  # so that every slot matters from the start
    settings = config(strategy=strategy, arc_warmup=0, epochs=1, backbone_args=backbone_args)
    space = trained(settings, tmp_path).space
    assert (max(cosines) > 1e-2) == running
    assert all(norm.training for norm in space.modules() if isinstance(norm, torch.nn.BatchNorm2d))


@pytest.mark.parametrize("strategy", DIFFERENTIABLE)
def test_alpha_and_beta_are_held(strategy: str) -> None:
    space = hybridize(**RESNET, candidates=["conv", "local", "acmix_local"])
    settings = config(strategy=strategy)
    settings.method.one_shot(settings.recipe, None).mutate_model(space)
    mixings = [module for module in space.modules() if isinstance(module, Mixing)]
    assert mixings
    assert not any(parameter.requires_grad for mixing in mixings for parameter in mixing.parameters())


@pytest.mark.parametrize("strategy", DIFFERENTIABLE)
def test_the_most_likely_operator_is_exported(strategy: str) -> None:
    space = hybridize(**RESNET, candidates=["conv", "local", "acmix_local"])
    settings = config(strategy=strategy)
    settings.method.one_shot(settings.recipe, None).mutate_model(space)
    for slot in (module for module in space.modules() if isinstance(module, MixedSlot)):
        with torch.no_grad():
            slot._arch_alpha.copy_(torch.tensor([0.1, 0.3, 0.2]))
        assert {slot.export({})[slot.label] for _ in range(20)} == {"local"}

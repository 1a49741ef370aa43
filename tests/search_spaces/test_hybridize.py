"""Any backbone becomes a space on which NNI's own strategies run, and what they choose can be taken out of it."""

from __future__ import annotations

from typing import Any

import pytest
import timm
import torch
from nni.mutable import SampleValidationError
from nni.nas.space import model_context
from nni.nas.strategy import DARTS, GumbelDARTS, Proxyless, RandomOneShot
from torch import nn

from acmix_nas import hybridize
from acmix_nas.derive import inherit
from acmix_nas.errors import UserError
from acmix_nas.search_spaces import HybridSlot, HybridSpace, MixedSlot, ProxylessSlot, SampledSlot, SupernetSlot
from acmix_nas.supernet import SHARING
from tests.small import RESNET, SEVEN, SLOTS, images, train_briefly

FORMS = {DARTS: MixedSlot, GumbelDARTS: MixedSlot, Proxyless: ProxylessSlot, RandomOneShot: SampledSlot}
CHOICE = dict(zip(SLOTS, ["conv", "acmix_local", "window", "acmix_global"], strict=True))


def resample(space: HybridSpace) -> dict[str, str]:
    memo: dict[str, str] = {}
    for module in space.modules():
        if isinstance(module, SupernetSlot):
            memo.update(module.resample(memo))
    return memo


def choose(space: HybridSpace, choice: dict[str, str]) -> None:
    """Make the choice inside the supernet: one-hot weights, or the sampled path."""
    for module in space.modules():
        if isinstance(module, SampledSlot):
            module.activate(choice[module.label])
        elif isinstance(module, MixedSlot):
            with torch.no_grad():
                module._arch_alpha.fill_(-1e4)
                module._arch_alpha[module.candidates.names.index(choice[module.label])] = 1e4
            module.resample({})


@pytest.mark.parametrize("backbone", ["resnet18", "vgg11_bn", "densenet121", "hrnet_w18_small", "dla34", "regnetx_002",
                                      "resnext50d_32x4d", "efficientnetv2_rw_t"])  # fmt: skip
def test_backbones_by_name(backbone: str) -> None:
    space = hybridize(backbone, num_classes=3, candidates=["conv", "local_k3", "acmix_global_r4"])
    assert len(space.slots) == len([m for m in space.modules() if isinstance(m, HybridSlot)])
    with torch.no_grad():
        assert space.eval()(images(1, 64)).shape == (1, 3)
    choice = {slot.name: ["conv", "local_k3", "acmix_global_r4"][i % 3] for i, slot in enumerate(space.slots)}
    with torch.no_grad():
        assert inherit(space, choice)(images(1, 64)).shape == (1, 3)


def test_a_module_of_the_users_is_copied() -> None:
    backbone = nn.Sequential(nn.Conv2d(3, 8, 3, padding=1), nn.ReLU())
    space = hybridize(backbone)
    assert type(backbone[0]) is nn.Conv2d
    assert type(space.backbone[0]) is HybridSlot


@pytest.mark.parametrize("strategy", FORMS)
@pytest.mark.parametrize("share", SHARING)
def test_the_derived_network_equals_the_supernet_with_that_choice_made(strategy: Any, share: str) -> None:
    space = hybridize(**RESNET, candidates=SEVEN, share=share)
    strategy().mutate_model(space)
    assert {type(m) for m in space.modules() if isinstance(m, SupernetSlot)} == {FORMS[strategy]}
    train_briefly(space, resample=lambda: resample(space))
    choose(space, CHOICE)
    x = images()
    network = inherit(space, CHOICE).eval()
    expected = space(x)
    assert expected.std() > 0.01  # the slots do matter
    torch.testing.assert_close(network(x), expected, atol=1e-5, rtol=1e-5)
    assert type(network.get_submodule(SLOTS[0])) is nn.Conv2d


def test_the_derived_network_differs_with_the_choice() -> None:
    space = hybridize(**RESNET, candidates=SEVEN)
    RandomOneShot().mutate_model(space)
    train_briefly(space, resample=lambda: resample(space))
    x = images()
    other = inherit(space, {**CHOICE, SLOTS[1]: "local"})
    assert not torch.allclose(inherit(space, CHOICE).eval()(x), other.eval()(x), atol=1e-3)


def test_finetuning_the_derived_network_leaves_the_supernet_alone() -> None:
    space = hybridize(**RESNET)
    DARTS().mutate_model(space)
    before = {name: value.clone() for name, value in space.state_dict().items()}
    train_briefly(inherit(space, dict.fromkeys(SLOTS, "acmix_local")))
    for name, value in space.state_dict().items():
        assert torch.equal(value, before[name]), name


@pytest.mark.parametrize("strategy", FORMS)
def test_freezing_works_on_the_space_and_on_the_supernet(strategy: Any) -> None:
    space = hybridize(**RESNET, candidates=SEVEN)
    assert sorted(space.simplify()) == SLOTS
    network = space.freeze(CHOICE)
    assert network(images()).shape == (2, 5)
    strategy().mutate_model(space)
    assert sorted(space.simplify()) == SLOTS
    assert space.freeze(CHOICE)(images()).shape == (2, 5)


def test_a_network_of_a_known_sample_is_built_directly() -> None:
    with model_context(CHOICE):
        network = HybridSpace("resnet14t", SEVEN, "layer*", backbone_args={"channels": (8, 8, 16, 16)})
    assert not any(isinstance(m, HybridSlot) for m in network.modules())
    assert type(network.backbone.get_submodule(SLOTS[0])) is nn.Conv2d
    assert network(images()).shape == (2, 1000)


def test_shared_attention_keeps_pretrained_weights() -> None:
    backbone = timm.create_model("resnet14t", channels=(8, 8, 16, 16))
    space = hybridize(backbone, slots="layer*", share="attention")
    for name in SLOTS:
        kept = space.backbone.get_submodule(name).candidates.alone["conv"].weight
        assert torch.equal(kept, backbone.get_submodule(name).weight)


def test_proxyless_gradient_is_that_of_the_binary_gates() -> None:
    space = hybridize(**RESNET, candidates=["conv", "local", "global"])
    Proxyless().mutate_model(space)
    space.train()
    memo = resample(space)
    assert set(memo) == set(SLOTS)
    slot = space.backbone.get_submodule(SLOTS[0])
    assert isinstance(slot, ProxylessSlot)
    x, upstream = torch.randn(2, 8, 6, 6), torch.randn(2, 8, 6, 6)
    slot(x).backward(upstream)
    with torch.no_grad():
        inner = torch.stack([(upstream * out).sum() for out in slot.candidates.outputs(x).values()])
        p = slot.probabilities()
        expected = p * (inner - (p * inner).sum())
    torch.testing.assert_close(slot._arch_alpha.grad, expected, atol=1e-3, rtol=1e-3)


def test_unknown_operators_and_missing_slots_are_refused() -> None:
    space = hybridize(**RESNET)
    with pytest.raises(SampleValidationError, match="axial"):
        inherit(space, {**CHOICE, SLOTS[0]: "axial"})
    with pytest.raises(SampleValidationError, match="layer4"):
        inherit(space, dict.fromkeys(SLOTS[:3], "conv"))


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"backbone": "resnet1O"}, "backbone must be a name that timm knows.*got 'resnet1O'"),
        ({"backbone": "resnet18", "depth": 3}, "backbone 'resnet18' does not take these arguments: .*depth"),
        ({"backbone": "vit_tiny_patch16_224"}, "no dense 3×3 convolution"),
        ({"backbone": "resnet18", "share": "some"}, "share must be one of all, attention, none"),
        ({"backbone": "resnet18", "candidates": ["cnov"]}, "operator must be conv.*'cnov'"),
        ({"backbone": "resnet18", "heads": 7}, "slot 'layer1.0.conv1' has 64 channels, which heads=7 do not divide"),
    ],
)
def test_mistakes_are_named(arguments: dict[str, Any], message: str) -> None:
    with pytest.raises(UserError, match=message):
        hybridize(**arguments)

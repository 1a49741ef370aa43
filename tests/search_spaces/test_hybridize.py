"""Any backbone becomes a space on which NNI's own strategies run, and what they choose can be taken out of it."""

from __future__ import annotations

import copy
from pathlib import Path
from typing import Any

import pytest
import timm
import torch
from nni.mutable import SampleValidationError
from nni.nas.space import model_context
from nni.nas.strategy import DARTS, GumbelDARTS, Proxyless, RandomOneShot
from torch import nn

from acmix_nas import hybridize
from acmix_nas.architecture import Architecture, build
from acmix_nas.operators import Mixing
from acmix_nas.search_spaces import GumbelSlot, HybridSlot, HybridSpace, MixedSlot, ProxylessSlot, SampledSlot, SupernetSlot
from acmix_nas.slots.names import DEFAULT_CANDIDATES
from acmix_nas.strategies import Gumbel
from acmix_nas.supernet.candidates import SHARING
from acmix_nas.util.errors import UserError
from tests.small import EVERY, RESNET, SEVEN, SLOTS, images, known, part, train_briefly

FORMS = {
    DARTS: MixedSlot, GumbelDARTS: MixedSlot, Gumbel: GumbelSlot, Proxyless: ProxylessSlot, RandomOneShot: SampledSlot
}  # fmt: skip
CHOICE = dict(zip(SLOTS, ["conv", "acmix_local", "window", "acmix_global"], strict=True))
# Two stages of two blocks each, on maps of 14 × 14 and 7 × 7; and a ViT on a map of 3 × 3.
SWIN: dict[str, Any] = {
    "backbone": "swin_tiny_patch4_window7_224", "img_size": 56, "embed_dim": 24, "depths": (2, 2), "num_heads": (2, 4),
    "num_classes": 5,
}  # fmt: skip
VIT: dict[str, Any] = {
    "backbone": "vit_tiny_patch16_224", "img_size": 48, "embed_dim": 24, "depth": 4, "num_heads": 4, "num_classes": 5,
    "class_token": False, "global_pool": "avg",
}  # fmt: skip
TRANSFORMERS = {"swin": (SWIN, 56), "vit": (VIT, 48)}


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
        assert space.inherit(choice)(images(1, 64)).shape == (1, 3)


def test_a_module_of_the_users_is_copied() -> None:
    backbone = nn.Sequential(nn.Conv2d(3, 8, 3, padding=1), nn.ReLU())
    space = hybridize(backbone)
    assert type(backbone[0]) is nn.Conv2d
    assert type(space.backbone.get_submodule("0")) is HybridSlot


@pytest.mark.parametrize("strategy", FORMS)
@pytest.mark.parametrize("share", SHARING)
def test_the_derived_network_equals_the_supernet_with_that_choice_made(strategy: Any, share: str) -> None:
    space = hybridize(**RESNET, candidates=EVERY, share=share)
    strategy().mutate_model(space)
    assert {type(m) for m in space.modules() if isinstance(m, SupernetSlot)} == {FORMS[strategy]}
    train_briefly(space, resample=lambda: resample(space))
    choose(space, CHOICE)
    x = images()
    network = space.inherit(CHOICE).eval()
    expected = space(x)
    assert expected.std() > 0.01  # the slots do matter
    torch.testing.assert_close(network(x), expected, atol=1e-5, rtol=1e-5)
    assert type(network.get_submodule(SLOTS[0])) is nn.Conv2d


def test_the_derived_network_differs_with_the_choice() -> None:
    space = hybridize(**RESNET, candidates=SEVEN)
    RandomOneShot().mutate_model(space)
    train_briefly(space, resample=lambda: resample(space))
    x = images()
    other = space.inherit({**CHOICE, SLOTS[1]: "local"})
    assert not torch.allclose(space.inherit(CHOICE).eval()(x), other.eval()(x), atol=1e-3)


def test_finetuning_the_derived_network_leaves_the_supernet_alone() -> None:
    space = hybridize(**RESNET)
    DARTS().mutate_model(space)
    before = {name: value.clone() for name, value in space.state_dict().items()}
    train_briefly(space.inherit(dict.fromkeys(SLOTS, "acmix_local")))
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
        kept = space.backbone.get_parameter(f"{name}.candidates.alone.conv.weight")
        assert torch.equal(kept, backbone.get_parameter(f"{name}.weight"))


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
        space.inherit({**CHOICE, SLOTS[0]: "axial"})
    with pytest.raises(SampleValidationError, match="layer4"):
        space.inherit(dict.fromkeys(SLOTS[:3], "conv"))


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


@pytest.mark.parametrize("share", SHARING)
@pytest.mark.parametrize("name", TRANSFORMERS)
def test_a_transformer_is_searched_and_derived(name: str, share: str) -> None:
    arguments, side = TRANSFORMERS[name]
    space = hybridize(**arguments, candidates=EVERY, share=share)
    DARTS().mutate_model(space)
    space(images(2, side)).square().mean().backward()
    mixed = [module for module in space.modules() if isinstance(module, MixedSlot)]
    assert len(mixed) == 4
    assert all(known(slot._arch_alpha.grad).abs().min() > 0 for slot in mixed)
    assert [n for n, p in space.named_parameters() if p.requires_grad and p.grad is None] == []
    train_transformer(space, side)
    x = images(2, side)
    for first in (0, 3, 7):  # four of the twelve at a time
        choice = {slot.label: EVERY[(first + i) % len(EVERY)] for i, slot in enumerate(mixed)}
        choose(space, choice)
        expected = space(x)
        assert expected.std() > 0.01
        torch.testing.assert_close(space.inherit(choice).eval()(x), expected, atol=1e-4, rtol=1e-4)


def train_transformer(space: HybridSpace, side: int) -> None:
    """Train as `train_briefly` does, with images that the transformer takes, and values that make its attentions matter."""
    with torch.no_grad():
        for name, parameter in space.named_parameters():
            if "candidates" in name and parameter.ndim <= 1:
                parameter.uniform_(0.2, 1.5)
    space.train()(images(4, side))
    space.eval()


@pytest.mark.parametrize("name", TRANSFORMERS)
def test_a_transformer_becomes_what_its_file_says(name: str, tmp_path: Path) -> None:
    arguments, side = TRANSFORMERS[name]
    space = hybridize(**arguments)
    choice = {slot.name: slot.candidates[i % 3] for i, slot in enumerate(space.slots)}
    network = space.inherit(choice).eval()
    torch.save(network.state_dict(), tmp_path / "network.pt")
    backbone_args = {key: value for key, value in arguments.items() if key != "backbone"}
    Architecture(arguments["backbone"], choice, DEFAULT_CANDIDATES, backbone_args).save(tmp_path / "architecture.json")
    built = build(tmp_path / "architecture.json", weights=tmp_path / "network.pt").eval()
    x = images(2, side)
    assert torch.equal(built(x), network(x))


@pytest.mark.parametrize("share", SHARING)
@pytest.mark.parametrize("name", TRANSFORMERS)
def test_a_transformer_starts_from_the_attention_at_home(name: str, share: str) -> None:
    arguments, side = TRANSFORMERS[name]
    backbone = timm.create_model(arguments["backbone"], **{k: v for k, v in arguments.items() if k != "backbone"})
    for key, parameter in backbone.named_parameters():
        if parameter.ndim < 2 or "table" in key:
            nn.init.normal_(parameter, std=0.5)
    space = hybridize(backbone, share=share)
    for slot in space.slots:
        home = part(backbone, f"{slot.name}.qkv", nn.Linear)
        candidates = space.backbone.get_submodule(f"{slot.name}.candidates")
        for operator in slot.candidates[1:]:
            stage1 = part(candidates, f"alone.{operator}.projection.qkv" if share == "none" else "projection.qkv", nn.Conv2d)
            assert torch.equal(stage1.weight.flatten(1), home.weight)
            assert torch.equal(known(stage1.bias), home.bias)
    x = images(2, side)
    at_home = space.inherit({slot.name: slot.candidates[1] for slot in space.slots}).eval()
    # The normalisation behind each attention starts as none, to its ε.
    torch.testing.assert_close(at_home(x), backbone.eval()(x), atol=1e-3, rtol=1e-3)


def test_a_network_built_without_a_search_starts_from_the_attention_at_home() -> None:
    backbone = timm.create_model(SWIN["backbone"], **{key: value for key, value in SWIN.items() if key != "backbone"})
    names = [slot.name for slot in hybridize(backbone).slots]
    architecture = Architecture(None, dict.fromkeys(names, "acmix_window"), DEFAULT_CANDIDATES)
    network = build(architecture, backbone=copy.deepcopy(backbone))
    for name in names:
        stage1 = network.get_parameter(f"{name}.operator.projection.qkv.weight")
        assert torch.equal(stage1.flatten(1), backbone.get_parameter(f"{name}.qkv.weight"))


def test_a_vit_with_a_class_token_says_what_it_needs() -> None:
    with pytest.raises(UserError, match=r"a ViT needs class_token=False and global_pool='avg'") as error:
        hybridize("vit_tiny_patch16_224", embed_dim=24, depth=1, num_heads=2)
    assert "\n" not in str(error.value)


@pytest.mark.parametrize("strategy", FORMS)
def test_stock_strategies_that_weigh_candidates_hold_alpha_and_beta(strategy: Any) -> None:
    space = hybridize(**RESNET, candidates=["conv", "local", "acmix_local"])
    strategy().mutate_model(space)
    learned = {p.requires_grad for module in space.modules() if isinstance(module, Mixing) for p in module.parameters()}
    assert learned == {strategy is RandomOneShot}


def test_a_module_that_was_evaluated_is_searched_in_training_mode() -> None:
    module = nn.Sequential(nn.Conv2d(3, 8, 3, padding=1), nn.BatchNorm2d(8)).eval()
    space = hybridize(module)
    assert all(part.training for part in space.modules())
    assert not module.training

"""What SAN and PVT have from the pyramid and `test_contract.py` does not ask of every network: stages, one by one."""

from __future__ import annotations

from typing import Any

import pytest
import timm
import torch
from torch import Tensor, nn

from acmix_nas.models.pyramid import Pyramid, Stage, one_per_stage
from acmix_nas.util.errors import UserError
from tests.models.test_contract import NAMES, float64, images, parameters, small

EXACT = {
    "pvt_small": 24_484_840, "pvt_small_acmix": 24_823_587, "pvt_tiny": 13_228_264, "pvt_tiny_acmix": 13_395_032,
    "san10_acmix": 11_994_612, "san10_patchwise": 11_841_124, "san15_acmix": 16_414_134, "san15_patchwise": 16_181_310,
    "san19_acmix": 20_829_278, "san19_patchwise": 20_518_470,
}  # fmt: skip
# One of each family and operator; small variants have three stages.
PYRAMIDS = ["pvt_tiny", "pvt_tiny_acmix", "san10_patchwise", "san10_acmix"]


def stages(network: Pyramid) -> list[Stage]:
    found = [network.get_submodule(info["module"]) for info in network.feature_info]
    return [stage for stage in found if isinstance(stage, Stage)]


def outputs(network: Pyramid, x: Tensor) -> list[Tensor]:
    """Return the map of every stage, as a forward pass makes it, before the last normalisation."""
    maps: list[Tensor] = []
    hooks = [stage.register_forward_hook(lambda *call: maps.append(call[-1])) for stage in stages(network)]
    network(x)
    for hook in hooks:
        hook.remove()
    return maps


def test_every_pyramid_is_counted() -> None:
    assert EXACT.keys() == {name for name in NAMES if isinstance(timm.create_model(name, device="meta"), Pyramid)}


@pytest.mark.parametrize("name", EXACT)
def test_parameters(name: str) -> None:
    assert parameters(timm.create_model(name, device="meta")) == EXACT[name]


@pytest.mark.parametrize("name", PYRAMIDS)
@pytest.mark.parametrize(("height", "width"), [(1, 1), (3, 18), (20, 28), (37, 22)])
def test_maps_have_the_size_that_feature_info_says(name: str, height: int, width: int) -> None:
    network = float64(name).eval()
    x = images(height, width)
    final, maps = network.forward_intermediates(x)
    reductions = [info["reduction"] for info in network.feature_info]
    sizes = [(-(-height // reduction), -(-width // reduction)) for reduction in reductions]
    assert [tuple(m.shape[2:]) for m in maps] == sizes
    assert [m.shape[1] for m in maps] == [info["num_chs"] for info in network.feature_info]
    assert torch.equal(final, network.forward_features(x))


@pytest.mark.parametrize("name", PYRAMIDS)
def test_the_head_averages_the_last_map(name: str) -> None:
    network = float64(name).eval()
    x = images()
    features = network.forward_features(x)
    assert torch.equal(features, network.norm(outputs(network, x)[-1]))
    torch.testing.assert_close(network.forward_head(features, pre_logits=True), features.mean((2, 3)))


@pytest.mark.parametrize("name", PYRAMIDS)
@pytest.mark.parametrize(("pool", "expected"), [(None, "avg"), ("max", "max"), ("", "")])
def test_the_pooling_stays_unless_another_is_named(name: str, pool: str | None, expected: str) -> None:
    network = small(name)
    network.reset_classifier(0, pool)
    assert network.global_pool == expected
    assert network.head.global_pool.pool_type == expected


@pytest.mark.parametrize("name", PYRAMIDS)
@pytest.mark.parametrize(("indices", "taken"), [(None, [0, 1, 2]), (1, [2]), ([0, 1], [0, 1]), ([-2], [1])])
@pytest.mark.parametrize("stop_early", [False, True])
def test_intermediates(name: str, indices: Any, taken: list[int], stop_early: bool) -> None:
    network = float64(name).eval()
    x = images()
    every = outputs(network, x)
    final, maps = network.forward_intermediates(x, indices, stop_early=stop_early)
    assert len(maps) == len(taken)
    assert all(torch.equal(found, every[stage]) for found, stage in zip(maps, taken, strict=True))
    reached = max(taken) if stop_early else 2
    assert torch.equal(final, every[reached] if reached < 2 else network.norm(every[2]))
    alone = network.forward_intermediates(x, indices, stop_early=stop_early, intermediates_only=True)
    assert all(torch.equal(found, wanted) for found, wanted in zip(alone, maps, strict=True))


@pytest.mark.parametrize("name", PYRAMIDS)
def test_the_last_map_is_normalised_on_request(name: str) -> None:
    network = float64(name).eval()
    x = images()
    plain = network.forward_intermediates(x, intermediates_only=True)
    final, normalised = network.forward_intermediates(x, norm=True)
    same = [torch.equal(a, b) for a, b in zip(plain, normalised, strict=True)]
    assert same == [True, True, isinstance(network.norm, nn.Identity)]
    assert torch.equal(normalised[-1], final)


@pytest.mark.parametrize("name", PYRAMIDS)
def test_maps_come_in_one_format(name: str) -> None:
    with pytest.raises(UserError, match="output_fmt must be one of NCHW; got 'NHWC'"):
        small(name).forward_intermediates(images(), output_fmt="NHWC")


@pytest.mark.parametrize("name", PYRAMIDS)
@pytest.mark.parametrize(("indices", "left"), [((0, 1), 2), ((-2,), 2), ((0,), 1), ((0, 1, 2), 3)])
def test_a_pyramid_of_features_has_the_stages_it_needs(name: str, indices: tuple[int, ...], left: int) -> None:
    network = small(name, features_only=True, out_indices=indices).model
    assert sum(isinstance(module, Stage) for module in network.modules()) == left
    assert isinstance(network.norm, nn.Identity)
    assert isinstance(network.get_classifier(), nn.Identity)


@pytest.mark.parametrize("name", PYRAMIDS)
def test_pruning_takes_the_classifier_only_with_the_stages_it_reads(name: str) -> None:
    network = float64(name).eval()
    x = images(20, 28)
    logits, first = network(x), outputs(network, x)[0]
    assert network.prune_intermediate_layers([-1], prune_head=False) == [2]
    assert torch.equal(network(x), logits)
    assert network.prune_intermediate_layers([0], prune_head=False) == [0]
    assert network.num_classes == 0
    assert network.num_features == network.head_hidden_size == first.shape[1]
    assert torch.equal(network(x), first)


@pytest.mark.parametrize("name", PYRAMIDS)
def test_pruning_takes_the_last_normalisation_on_request(name: str) -> None:
    network = float64(name).eval()
    x = images()
    last = outputs(network, x)[-1]
    network.prune_intermediate_layers([-1], prune_norm=True, prune_head=False)
    assert torch.equal(network.forward_features(x), last)
    assert network.num_classes == 5


@pytest.mark.parametrize("name", PYRAMIDS)
def test_checkpointing_is_of_every_stage(name: str) -> None:
    network = small(name)
    for enable in (True, False):
        network.set_grad_checkpointing(enable)
        assert [stage.grad_checkpointing for stage in stages(network)] == [enable] * 3


def test_a_size_for_every_stage() -> None:
    one_per_stage("depths", 2, widths=(8, 12), heads=(1, 3))
    with pytest.raises(UserError, match=r"^heads must have one number for each of the 2 stages of depths; got \[1, 3, 5\]$"):
        one_per_stage("depths", 2, widths=(8, 12), heads=(1, 3, 5))

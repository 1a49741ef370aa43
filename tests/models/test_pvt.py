"""PVT: what it is made of, what it costs, and timm's contract."""

from __future__ import annotations

from typing import Any

import pytest
import timm
import torch
from timm.models._manipulate import group_parameters
from timm.optim import param_groups_weight_decay
from torch import nn
from torch.nn import functional as F

from acmix_nas.errors import UserError
from acmix_nas.models.pvt import PatchEmbedding, PVTBlock, PVTStage, make_operator
from acmix_nas.operators import ACmix, ConvolutionPath, GlobalPath, Projection, ReducedProjection
from tests.models.test_san import parameters, total_macs

SMALL: dict[str, Any] = {
    "depths": (1, 2, 1), "embed_dims": (8, 12, 20), "num_heads": (1, 3, 2), "mlp_ratios": (3, 2, 2.5), "reductions": (3, 2, 1),
    "img_size": (20, 28), "num_classes": 5,
}  # fmt: skip
NAMES = ["pvt_tiny", "pvt_small", "pvt_tiny_acmix", "pvt_small_acmix"]


def small(name: str = "pvt_tiny_acmix", **arguments: Any) -> Any:
    return timm.create_model(name, **{**SMALL, **arguments})


@pytest.mark.parametrize(
    ("name", "number", "published"),
    [
        ("pvt_tiny", 13_228_264, None),
        ("pvt_small", 24_484_840, None),
        ("pvt_tiny_acmix", 13_395_032, 13),
        ("pvt_small_acmix", 24_823_587, 25),
    ],
)
def test_parameters_are_those_of_the_paper(name: str, number: int, published: int | None) -> None:
    found = parameters(timm.create_model(name, device="meta"))
    assert found == number
    assert published is None or round(found / 1e6) == published


@pytest.mark.parametrize(("name", "published"), [("pvt_tiny_acmix", 2.0e9), ("pvt_small_acmix", 3.9e9)])
def test_macs_are_those_of_the_paper(name: str, published: float) -> None:
    assert abs(total_macs(timm.create_model(name, device="meta"), 224) / published - 1) < 0.05


@pytest.mark.parametrize("name", NAMES)
def test_the_stages_are_those_of_table_11(name: str) -> None:
    network: Any = timm.create_model(name, device="meta")
    assert [info["reduction"] for info in network.feature_info] == [4, 8, 16, 32]
    assert [info["num_chs"] for info in network.feature_info] == [64, 128, 320, 512]
    assert all(isinstance(network.get_submodule(info["module"]), PVTStage) for info in network.feature_info)
    assert [stage.patch_embed.patch_size for stage in network.stages] == [4, 2, 2, 2]
    assert [tuple(stage.pos_embed.shape[1:3]) for stage in network.stages] == [(56, 56), (28, 28), (14, 14), (7, 7)]
    assert [{block.mlp.fc1.out_features for block in stage.blocks} for stage in network.stages] == [
        {512},
        {1024},
        {1280},
        {2048},
    ]
    paths = [[m for m in stage.modules() if isinstance(m, GlobalPath)] for stage in network.stages]
    assert [{(path.heads, path.reduction, path.position) for path in stage} for stage in paths] == [
        {(1, 8, None)}, {(2, 4, None)}, {(5, 2, None)}, {(8, 1, None)},
    ]  # fmt: skip


def test_without_reduction_stage_one_is_a_plain_projection() -> None:
    assert [type(make_operator(12, 3, reduction).projection) for reduction in (1, 2, 5)] == [
        Projection, ReducedProjection, ReducedProjection,
    ]  # fmt: skip


@pytest.mark.parametrize("acmix", [False, True])
@pytest.mark.parametrize("reduction", [1, 3])
def test_a_block_is_the_operator_and_an_mlp_each_behind_a_normalisation(acmix: bool, reduction: int) -> None:
    block = PVTBlock(12, make_operator(12, 3, reduction, acmix), mlp_ratio=1.5).double()
    for norm in (block.norm1, block.norm2):
        nn.init.normal_(norm.weight)
        nn.init.normal_(norm.bias)
    x = torch.randn(2, 7, 4, 12, dtype=torch.float64)

    def normalise(x: torch.Tensor, norm: nn.LayerNorm) -> torch.Tensor:
        centred = x - x.mean(-1, keepdim=True)
        return centred / (centred.square().mean(-1, keepdim=True) + 1e-6).sqrt() * norm.weight + norm.bias

    middle = x + torch.einsum("bchw->bhwc", block.attn(torch.einsum("bhwc->bchw", normalise(x, block.norm1))))
    hidden = F.gelu(normalise(middle, block.norm2) @ block.mlp.fc1.weight.T + block.mlp.fc1.bias)
    assert hidden.shape[-1] == 18
    torch.testing.assert_close(block(x), middle + hidden @ block.mlp.fc2.weight.T + block.mlp.fc2.bias)


@pytest.mark.parametrize(("height", "width", "patch"), [(8, 12, 4), (7, 9, 4), (1, 5, 2), (6, 4, 3)])
def test_patches_beyond_the_border_see_zeros(height: int, width: int, patch: int) -> None:
    embedding = PatchEmbedding(3, 6, patch).double()
    x = torch.randn(2, 3, height, width, dtype=torch.float64)
    rows, columns = -(-height // patch), -(-width // patch)
    padded = torch.zeros(2, 3, rows * patch, columns * patch, dtype=torch.float64)
    padded[:, :, :height, :width] = x
    patches = padded.view(2, 3, rows, patch, columns, patch)
    expected = torch.einsum("bcipjq,ocpq->bijo", patches, embedding.proj.weight) + embedding.proj.bias
    torch.testing.assert_close(embedding(x), F.layer_norm(expected, (6,), eps=1e-6))


def test_positions_are_untouched_at_their_own_size() -> None:
    stage = PVTStage(3, 6, 2, (4, 5), nn.Identity, 1, drop_paths=()).double()
    x = torch.randn(2, 3, 7, 10, dtype=torch.float64)
    expected = stage.patch_embed(x) + stage.pos_embed
    assert torch.equal(stage(x), expected.permute(0, 3, 1, 2))


@pytest.mark.parametrize(("height", "width"), [(8, 10), (3, 5), (2, 9)])
def test_positions_are_interpolated_to_other_sizes(height: int, width: int) -> None:
    stage = PVTStage(3, 6, 2, (4, 5), nn.Identity, 1, drop_paths=())
    grid = torch.stack(torch.meshgrid(torch.arange(4.0), torch.arange(5.0), indexing="ij"), dim=-1)
    nn.init.zeros_(stage.pos_embed)
    with torch.no_grad():
        stage.pos_embed[0, ..., :2] = grid
    x = torch.randn(1, 3, 2 * height, 2 * width)
    found = stage(x) - stage.patch_embed(x).permute(0, 3, 1, 2)
    for axis, (size, made) in enumerate(((height, 4), (width, 5))):
        line = found[0, axis].mean(1 - axis)
        torch.testing.assert_close(found[0, axis], line.unsqueeze(1 - axis).expand_as(found[0, axis]), atol=1e-5, rtol=0)
        assert (line.diff() > 0).all()
        torch.testing.assert_close(line.mean(), torch.tensor((made - 1) / 2), atol=1e-4, rtol=0)
        assert line.shape == (size,)


@pytest.mark.parametrize("name", ["pvt_tiny", "pvt_tiny_acmix"])
@pytest.mark.parametrize(("height", "width"), [(20, 28), (1, 1), (3, 18), (37, 22)])
def test_images_of_any_size(name: str, height: int, width: int) -> None:
    network = small(name).eval()
    x = torch.randn(2, 3, height, width)
    final, maps = network.forward_intermediates(x)
    sizes = [(-(-height // info["reduction"]), -(-width // info["reduction"])) for info in network.feature_info]
    assert [tuple(m.shape) for m in maps] == [(2, c, *size) for c, size in zip(SMALL["embed_dims"], sizes, strict=True)]
    torch.testing.assert_close(final, network.forward_features(x))
    assert network(x).shape == (2, 5)


def test_the_head_averages_the_normalised_map() -> None:
    network = small().eval()
    nn.init.normal_(network.norm.weight)
    x = torch.randn(2, 3, 20, 28)
    features = network.forward_features(x)
    last = network.stages(x).permute(0, 2, 3, 1)
    expected = F.layer_norm(last, (20,), network.norm.weight, network.norm.bias, 1e-6).permute(0, 3, 1, 2)
    torch.testing.assert_close(features, expected)
    pooled = network.forward_head(features, pre_logits=True)
    torch.testing.assert_close(pooled, expected.mean((2, 3)))
    torch.testing.assert_close(network(x), network.get_classifier()(pooled))
    assert network.num_features == network.head_hidden_size == 20


@pytest.mark.parametrize(
    ("classes", "pool", "shape"), [(7, None, (2, 7)), (3, "max", (2, 3)), (0, None, (2, 20)), (0, "", (2, 20, 2, 2))]
)
def test_another_classifier(classes: int, pool: str | None, shape: tuple[int, ...]) -> None:
    network = small().eval()
    network.reset_classifier(classes, pool)
    assert network(torch.randn(2, 3, 20, 28)).shape == shape
    assert network.num_classes == classes
    assert network.global_pool == ("avg" if pool is None else pool)


@pytest.mark.parametrize(("indices", "taken"), [(None, [0, 1, 2]), (1, [2]), ([0, 1], [0, 1]), ([-2], [1])])
@pytest.mark.parametrize("stop_early", [False, True])
def test_intermediates(indices: Any, taken: list[int], stop_early: bool) -> None:
    network = small().eval()
    x = torch.randn(1, 3, 20, 28)
    every = [x]
    for stage in network.stages:
        every.append(stage(every[-1]))
    maps = network.forward_intermediates(x, indices, stop_early=stop_early, intermediates_only=True)
    assert len(maps) == len(taken)
    for found, stage in zip(maps, taken, strict=True):
        assert torch.equal(found, every[stage + 1])
    final, _ = network.forward_intermediates(x, indices, stop_early=stop_early)
    reached = max(taken) if stop_early else 2
    assert torch.equal(final, every[reached + 1] if reached < 2 else network.norm(every[-1]))


def test_the_last_map_is_normalised_on_request() -> None:
    network = small().eval()
    nn.init.normal_(network.norm.weight)
    x = torch.randn(1, 3, 20, 28)
    plain = network.forward_intermediates(x, intermediates_only=True)
    final, normalised = network.forward_intermediates(x, norm=True)
    assert [torch.equal(a, b) for a, b in zip(plain, normalised, strict=True)] == [True, True, False]
    assert torch.equal(normalised[-1], final)


@pytest.mark.parametrize("indices", [(0, 1), (-1,), (0, 1, 2)])
def test_a_pyramid_of_features_has_the_stages_it_needs(indices: tuple[int, ...]) -> None:
    network = small().eval()
    pyramid: Any = small(features_only=True, out_indices=indices).eval()
    names = {name.removeprefix("model.") for name in pyramid.state_dict()}
    pyramid.model.load_state_dict({name: value for name, value in network.state_dict().items() if name in names})
    x = torch.randn(1, 3, 21, 18)
    expected = network.forward_intermediates(x, list(indices), intermediates_only=True)
    maps = pyramid(x)
    assert [m.shape[1] for m in maps] == pyramid.feature_info.channels()
    for found, wanted in zip(maps, expected, strict=True):
        assert torch.equal(found, wanted)
    assert len(pyramid.model.stages) == max(i % 3 for i in indices) + 1
    assert isinstance(pyramid.model.norm, nn.Identity)


def test_pruning_takes_the_classifier_only_with_the_stages_it_reads() -> None:
    network = small().eval()
    assert network.prune_intermediate_layers([-1], prune_head=False) == [2]
    assert network.num_classes == 5
    assert not isinstance(network.norm, nn.Identity)
    assert network.prune_intermediate_layers([0], prune_head=False) == [0]
    assert network.num_classes == 0
    assert network(torch.randn(1, 3, 20, 28)).shape == (1, network.num_features, 5, 7)


@pytest.mark.parametrize("name", NAMES)
def test_every_block_has_its_alpha_and_beta(name: str) -> None:
    network: Any = timm.create_model(name, device="meta")
    acmixes = [module for module in network.modules() if isinstance(module, ACmix)]
    blocks = [module for module in network.modules() if isinstance(module, PVTBlock)]
    assert len(acmixes) == ("acmix" in name) * len(blocks)
    assert sum(key.endswith((".alpha", ".beta")) for key, _ in network.named_parameters()) == 2 * len(acmixes)


@pytest.mark.parametrize(
    ("mixing", "learned"), [("learned", 2), ("alpha", 1), ("sum", 0), ("attention", 0), ("convolution", 0)]
)
def test_mixing_reaches_every_block(mixing: str, learned: int) -> None:
    network = small(mixing=mixing)
    assert sum(key.endswith((".alpha", ".beta")) for key, _ in network.named_parameters()) == 4 * learned
    assert {block.attn.mixing.mixing for stage in network.stages for block in stage.blocks} == {mixing}
    assert network.eval()(torch.randn(1, 3, 20, 28)).isfinite().all()


@pytest.mark.parametrize("kernel", [3, 5])
def test_the_shift_kernels_are_shifts_in_the_whole_network(kernel: int) -> None:
    paths = [module for module in small(kernel_size=kernel).modules() if isinstance(module, ConvolutionPath)]
    assert len(paths) == 4
    for path in paths:
        assert path.shift is not None
        assert torch.equal(path.shift.flatten(2), torch.eye(kernel**2).expand(path.channels, -1, -1))


def test_other_shifts_reach_every_block() -> None:
    paths = [module for module in small(shifts="tensor").modules() if isinstance(module, ConvolutionPath)]
    assert [path.shift for path in paths] == [None] * 4


@pytest.mark.parametrize("name", ["pvt_tiny", "pvt_tiny_acmix"])
def test_checkpointing_changes_no_gradient(name: str) -> None:
    network = small(name, dtype=torch.float64)
    x = torch.randn(3, 3, 20, 28, dtype=torch.float64)
    network(x).square().sum().backward()
    kept = {key: parameter.grad for key, parameter in network.named_parameters()}
    network.zero_grad()
    network.set_grad_checkpointing()
    assert all(stage.grad_checkpointing for stage in network.stages)
    network(x).square().sum().backward()
    for key, parameter in network.named_parameters():
        assert parameter.grad is not None, key
        torch.testing.assert_close(parameter.grad, kept[key])


def test_positions_and_linear_layers_start_small() -> None:
    network = small(embed_dims=(32, 48, 80))
    linear = [module for module in network.modules() if isinstance(module, nn.Linear)]
    assert len(linear) == 2 * 4 + 1
    for weight in [stage.pos_embed for stage in network.stages] + [layer.weight for layer in linear]:
        assert weight.std().item() == pytest.approx(0.02, rel=0.15)
    assert not any(layer.bias.any() for layer in linear)


def test_positions_do_not_decay() -> None:
    network = small()
    names = {id(parameter): name for name, parameter in network.named_parameters()}
    kept, decaying = param_groups_weight_decay(network, 0.05, no_weight_decay_list=network.no_weight_decay())
    assert (kept["weight_decay"], decaying["weight_decay"]) == (0, 0.05)
    free = {names[id(p)] for p in kept["params"]}
    assert {name for name in names.values() if "pos_embed" in name} == {name for name in free if "pos_embed" in name}
    assert "stages.0.patch_embed.proj.weight" in {names[id(p)] for p in decaying["params"]}


def test_groups_follow_the_depth() -> None:
    network = small()
    depth = group_parameters(network, network.group_matcher(), reverse=True)
    order = ["stages.0.pos_embed", "stages.0.blocks.0.mlp.fc1.weight", "stages.1.pos_embed", "stages.1.blocks.1.norm1.weight"]
    order += ["stages.2.patch_embed.proj.weight", "head.fc.weight"]
    assert [depth[name] for name in order] == list(range(len(order)))
    assert depth["stages.1.blocks.0.norm1.weight"] == depth["stages.1.pos_embed"]
    assert depth["norm.weight"] == depth["stages.2.blocks.0.norm1.weight"]
    coarse = group_parameters(network, network.group_matcher(coarse=True), reverse=True)
    assert [coarse[name] for name in ("stages.0.pos_embed", "stages.0.blocks.0.norm1.weight", "stages.2.pos_embed")] == [
        0,
        1,
        3,
    ]


def test_deeper_blocks_are_skipped_more_often() -> None:
    network = small(drop_path_rate=0.3)
    blocks = [block for stage in network.stages for block in stage.blocks]
    assert [block.drop_path1.drop_prob for block in blocks] == pytest.approx([0, 0.1, 0.2, 0.3])
    assert [block.drop_path2.drop_prob for block in blocks] == pytest.approx([0, 0.1, 0.2, 0.3])


def test_a_skipped_block_leaves_its_input() -> None:
    block = PVTBlock(12, make_operator(12, 3, 2), drop_path=1 - 1e-9).train()
    x = torch.randn(2, 5, 6, 12)
    assert torch.equal(block(x), x)


def test_constructors_take_device_and_type() -> None:
    network = small(device="meta", dtype=torch.float16)
    assert {(p.device.type, p.dtype) for p in network.parameters()} == {("meta", torch.float16)}
    network.reset_classifier(4)
    assert (network.get_classifier().weight.device.type, network.get_classifier().weight.dtype) == ("meta", torch.float16)


@pytest.mark.parametrize(
    ("arguments", "names"),
    [
        ({"embed_dims": (8, 12)}, ["embed_dims", "3 stages", "[8, 12]"]),
        ({"reductions": (8, 4, 2, 1)}, ["reductions", "3 stages", "[8, 4, 2, 1]"]),
        ({"num_heads": (1, 5, 2)}, ["out_channels=12", "heads=5"]),
        ({"reductions": (3, 2, 0)}, ["reduction=0"]),
        ({"mixing": "both"}, ["mixing", "'both'"]),
        ({"shifts": "none"}, ["shifts", "'none'"]),
    ],
)
def test_errors_name_the_argument(arguments: dict[str, Any], names: list[str]) -> None:
    with pytest.raises(UserError) as error:
        small(**arguments)
    message = str(error.value)
    assert "\n" not in message
    assert all(name in message for name in names), message


def test_maps_come_in_one_format() -> None:
    with pytest.raises(UserError, match="output_fmt must be one of NCHW; got 'NHWC'"):
        small().forward_intermediates(torch.randn(1, 3, 20, 28), output_fmt="NHWC")

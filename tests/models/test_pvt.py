"""PVT: what it is made of, how it starts, and how its parameters are grouped."""

from __future__ import annotations

from typing import Any

import pytest
import timm
import torch
from timm.models._manipulate import group_parameters
from timm.optim import param_groups_weight_decay
from torch import nn
from torch.nn import functional as F

from acmix_nas.models.pvt import PatchEmbedding, PVTBlock, PVTStage, make_operator
from acmix_nas.operators import GlobalPath, Projection, ReducedProjection
from acmix_nas.util.errors import UserError
from tests.small import known

SMALL: dict[str, Any] = {
    "depths": (1, 2, 1), "embed_dims": (8, 12, 20), "num_heads": (1, 3, 2), "mlp_ratios": (3, 2, 2.5), "reductions": (3, 2, 1),
    "img_size": (20, 28), "num_classes": 5,
}  # fmt: skip
NAMES = ["pvt_tiny", "pvt_small", "pvt_tiny_acmix", "pvt_small_acmix"]


def small(name: str = "pvt_tiny_acmix", **arguments: Any) -> Any:
    return timm.create_model(name, **{**SMALL, **arguments})


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
    hidden = F.gelu(normalise(middle, block.norm2) @ block.mlp.fc1.weight.T + known(block.mlp.fc1.bias))
    assert hidden.shape[-1] == 18
    torch.testing.assert_close(block(x), middle + hidden @ block.mlp.fc2.weight.T + known(block.mlp.fc2.bias))


@pytest.mark.parametrize(("height", "width", "patch"), [(8, 12, 4), (7, 9, 4), (1, 5, 2), (6, 4, 3)])
def test_patches_beyond_the_border_see_zeros(height: int, width: int, patch: int) -> None:
    embedding = PatchEmbedding(3, 6, patch).double()
    x = torch.randn(2, 3, height, width, dtype=torch.float64)
    rows, columns = -(-height // patch), -(-width // patch)
    padded = torch.zeros(2, 3, rows * patch, columns * patch, dtype=torch.float64)
    padded[:, :, :height, :width] = x
    patches = padded.view(2, 3, rows, patch, columns, patch)
    expected = torch.einsum("bcipjq,ocpq->bijo", patches, embedding.proj.weight) + known(embedding.proj.bias)
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


def test_the_last_map_is_normalised() -> None:
    network = small().eval()
    nn.init.normal_(network.norm.weight)
    x = torch.randn(2, 3, 20, 28)
    features = network.forward_features(x)
    last = network.stages(x).permute(0, 2, 3, 1)
    expected = F.layer_norm(last, (20,), network.norm.weight, network.norm.bias, 1e-6).permute(0, 3, 1, 2)
    torch.testing.assert_close(features, expected)


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


@pytest.mark.parametrize(
    ("arguments", "names"),
    [
        ({"embed_dims": (8, 12)}, ["embed_dims", "3 stages", "[8, 12]"]),
        ({"reductions": (8, 4, 2, 1)}, ["reductions", "3 stages", "[8, 4, 2, 1]"]),
        ({"num_heads": (1, 5, 2)}, ["out_channels=12", "heads=5"]),
        ({"reductions": (3, 2, 0)}, ["reduction=0"]),
    ],
)
def test_errors_name_the_argument(arguments: dict[str, Any], names: list[str]) -> None:
    with pytest.raises(UserError) as error:
        small(**arguments)
    message = str(error.value)
    assert "\n" not in message
    assert all(name in message for name in names), message

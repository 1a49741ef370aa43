"""SAN: what it is made of, how it starts, and how its parameters are grouped."""

from __future__ import annotations

from typing import Any

import pytest
import timm
import torch
from timm.models._manipulate import group_parameters
from torch import Tensor, nn
from torch.nn import functional as F

from acmix_nas.models.san import SANBlock, SANStage, make_operator
from acmix_nas.util.errors import UserError
from tests.small import known

SMALL: dict[str, Any] = {
    "layers": (1, 0, 2), "channels": (16, 24, 40), "windows": (3, 5, 7), "heads": 2, "stem_channels": 6, "num_classes": 5,
}  # fmt: skip
NAMES = [f"san{size}_{operator}" for size in (10, 15, 19) for operator in ("patchwise", "acmix")]


def small(name: str = "san10_acmix", **arguments: Any) -> Any:
    return timm.create_model(name, **{**SMALL, **arguments})


@pytest.mark.parametrize("name", NAMES)
def test_the_first_window_is_3_and_the_others_are_7(name: str) -> None:
    network: Any = timm.create_model(name, device="meta")
    windows = [
        {(block.attn.attention if "acmix" in name else block.attn.path).window for block in s.blocks} for s in network.layers
    ]
    assert windows == [{3}, {7}, {7}, {7}, {7}]


@pytest.mark.parametrize("acmix", [False, True])
@pytest.mark.parametrize(("height", "width"), [(1, 1), (2, 5), (9, 7)])
def test_a_block_is_the_operator_between_two_normalisations_and_a_convolution(acmix: bool, height: int, width: int) -> None:
    block = SANBlock(24, lambda inside, outside: make_operator(inside, outside, 3, 5, acmix)).double().eval()
    norms = [module for module in block.modules() if isinstance(module, nn.BatchNorm2d)]
    for tensor in (t for norm in norms for t in (norm.weight, norm.bias, norm.running_mean, norm.running_var)):
        nn.init.uniform_(known(tensor), 0.5, 1.5)
    x = torch.randn(2, 24, height, width, dtype=torch.float64)

    def normalise(x: Tensor, norm: nn.BatchNorm2d) -> Tensor:
        mean, variance, weight, bias = (
            t[:, None, None] for t in (norm.running_mean, norm.running_var, norm.weight, norm.bias) if t is not None
        )
        return ((x - mean) / (variance + norm.eps).sqrt() * weight + bias).clamp(min=0)

    inner = normalise(block.attn(normalise(x, block.norm1)), block.norm2)
    assert inner.shape == (2, 6, height, width)
    assert block.conv.bias is not None
    expected = x + torch.einsum("oi,bihw->bohw", block.conv.weight[..., 0, 0], inner) + block.conv.bias[:, None, None]
    torch.testing.assert_close(block(x), expected)


def test_a_transition_pools_before_it_convolves() -> None:
    stage = SANStage(5, 12, make_operator, drop_paths=()).eval()
    x = torch.randn(2, 5, 7, 4)
    pooled = F.max_pool2d(F.pad(x, (0, 0, 0, 1), value=-torch.inf), 2)
    expected = F.conv2d(pooled, stage.conv.weight) / (1 + stage.norm.eps) ** 0.5
    torch.testing.assert_close(stage(x), expected.relu())


def test_the_stages_read_rectified_features_of_single_pixels() -> None:
    network = small().eval()
    x = torch.randn(2, 3, 6, 5)
    stem = torch.einsum("oi,bihw->bohw", network.conv_in.weight[..., 0, 0], x) / (1 + network.norm_in.eps) ** 0.5
    torch.testing.assert_close(network.forward_features(x), network.layers(stem.clamp(min=0)))


def test_the_plain_convolutions_start_as_he_proposed() -> None:
    for conv in (SANBlock(512, make_operator).conv, SANStage(128, 512, make_operator, ()).conv):
        assert conv.weight.std().item() == pytest.approx((2 / 128) ** 0.5, rel=0.02)


def test_the_stages_halve_the_map() -> None:
    network: Any = timm.create_model("san10_acmix", device="meta")
    assert [info["reduction"] for info in network.feature_info] == [2, 4, 8, 16, 32]
    assert [info["num_chs"] for info in network.feature_info] == [64, 256, 512, 1024, 2048]
    assert all(isinstance(network.get_submodule(info["module"]), SANStage) for info in network.feature_info)


def test_groups_follow_the_depth() -> None:
    network = small()
    depth = group_parameters(network, network.group_matcher(), reverse=True)
    order = [
        "norm_in",
        "layers.0.blocks.0.conv",
        "layers.1.conv",
        "layers.2.blocks.0.conv",
        "layers.2.blocks.1.conv",
        "head.fc",
    ]
    assert [depth[f"{name}.weight"] for name in order] == list(range(len(order)))
    for first, second in (("layers.2.conv", "layers.2.blocks.0.conv"), ("layers.2.norm", "layers.2.blocks.1.conv")):
        assert depth[f"{first}.weight"] == depth[f"{second}.weight"]
    coarse = group_parameters(network, network.group_matcher(coarse=True), reverse=True)
    assert [coarse[f"{name}.weight"] for name in ("conv_in", "layers.0.norm", "layers.2.conv", "head.fc")] == [0, 1, 3, 4]


def test_deeper_blocks_are_skipped_more_often() -> None:
    network = small(drop_path_rate=0.3)
    rates = [block.drop_path.drop_prob for stage in network.layers for block in stage.blocks]
    assert rates == pytest.approx([0, 0.15, 0.3])


def test_a_skipped_block_leaves_its_input() -> None:
    block = SANBlock(16, make_operator, drop_path=1 - 1e-9).train()
    x = torch.randn(2, 16, 6, 6)
    assert torch.equal(block(x), x)


@pytest.mark.parametrize(
    ("arguments", "names"),
    [
        ({"channels": (16, 24)}, ["channels", "3 stages", "[16, 24]"]),
        ({"windows": (3,)}, ["windows", "3 stages", "[3]"]),
        ({"channels": (16, 20, 40)}, ["channels=20", "heads=2"]),
        ({"heads": 0}, ["heads=0"]),
        ({"windows": (3, 7, 4)}, ["window=4"]),
    ],
)
def test_errors_name_the_argument(arguments: dict[str, Any], names: list[str]) -> None:
    with pytest.raises(UserError) as error:
        small(**arguments)
    message = str(error.value)
    assert "\n" not in message
    assert all(name in message for name in names), message

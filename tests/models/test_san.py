"""SAN: what it is made of, what it costs, and timm's contract."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest
import timm
import torch
from timm.models._manipulate import group_parameters
from torch import Tensor, nn
from torch.nn import functional as F

from acmix_nas.errors import UserError
from acmix_nas.models.san import SANBlock, SANStage, make_operator
from acmix_nas.operators import ACmix, ConvolutionPath, Operator, Path

SMALL: dict[str, Any] = {
    "layers": (1, 0, 2), "channels": (16, 24, 40), "windows": (3, 5, 7), "heads": 2, "stem_channels": 6, "num_classes": 5,
}  # fmt: skip
NAMES = [f"san{size}_{operator}" for size in (10, 15, 19) for operator in ("patchwise", "acmix")]


def small(name: str = "san10_acmix", **arguments: Any) -> Any:
    return timm.create_model(name, **{**SMALL, **arguments})


def total_macs(network: nn.Module, side: int) -> float:
    """Multiply-adds of every convolution, linear layer and operator, which are not run."""
    macs: list[float] = []

    def stand_in(operator: Any) -> Callable[[Tensor], Tensor]:
        channels = next(path.channels for path in operator.modules() if isinstance(path, Path))

        def forward(x: Tensor) -> Tensor:
            macs.append(operator.macs(*x.shape[-2:]).total)
            return x.new_empty(len(x), channels, *x.shape[-2:])

        return forward

    def count(module: Any, inputs: tuple[Tensor], output: Tensor) -> None:
        outputs = output[0, 0].numel() if isinstance(module, nn.Conv2d) else inputs[0].numel() // module.in_features
        macs.append(module.weight.numel() * outputs)

    for module in network.modules():
        if isinstance(module, Operator | ACmix):
            module.forward = stand_in(module)
        elif isinstance(module, nn.Conv2d | nn.Linear):
            module.register_forward_hook(count)
    network.eval()(torch.empty(1, 3, side, side, device="meta"))
    return sum(macs)


def parameters(network: nn.Module) -> int:
    return sum(parameter.numel() for parameter in network.parameters())


@pytest.mark.parametrize(
    ("name", "number", "published"),
    [
        ("san10_patchwise", 11_841_124, None),
        ("san15_patchwise", 16_181_310, None),
        ("san19_patchwise", 20_518_470, None),
        ("san10_acmix", 11_994_612, 12.1e6),
        ("san15_acmix", 16_414_134, 16.6e6),
        ("san19_acmix", 20_829_278, 21.2e6),
    ],
)
def test_parameters_are_those_of_the_paper(name: str, number: int, published: float | None) -> None:
    found = parameters(timm.create_model(name, device="meta"))
    assert found == number
    assert published is None or abs(found / published - 1) < 0.02


@pytest.mark.parametrize(("name", "published"), [("san10_acmix", 1.9e9), ("san15_acmix", 2.7e9), ("san19_acmix", 3.4e9)])
def test_macs_are_those_of_the_paper(name: str, published: float) -> None:
    assert abs(total_macs(timm.create_model(name, device="meta"), 224) / published - 1) < 0.05


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
        nn.init.uniform_(tensor, 0.5, 1.5)
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


@pytest.mark.parametrize("name", ["san10_patchwise", "san10_acmix"])
@pytest.mark.parametrize(("height", "width"), [(1, 1), (3, 2), (17, 30), (24, 24)])
def test_images_of_any_size(name: str, height: int, width: int) -> None:
    network = small(name).eval()
    x = torch.randn(2, 3, height, width)
    final, maps = network.forward_intermediates(x)
    sizes = [(-(-height // info["reduction"]), -(-width // info["reduction"])) for info in network.feature_info]
    assert [tuple(m.shape) for m in maps] == [(2, c, *size) for c, size in zip(SMALL["channels"], sizes, strict=True)]
    assert torch.equal(final, maps[-1])
    assert torch.equal(final, network.forward_features(x))
    assert network(x).shape == (2, 5)


def test_the_stages_halve_the_map() -> None:
    network: Any = timm.create_model("san10_acmix", device="meta")
    assert [info["reduction"] for info in network.feature_info] == [2, 4, 8, 16, 32]
    assert [info["num_chs"] for info in network.feature_info] == [64, 256, 512, 1024, 2048]
    assert all(isinstance(network.get_submodule(info["module"]), SANStage) for info in network.feature_info)


def test_the_head() -> None:
    network = small().eval()
    x = torch.randn(2, 3, 9, 11)
    features = network.forward_features(x)
    pooled = network.forward_head(features, pre_logits=True)
    torch.testing.assert_close(pooled, features.mean((2, 3)))
    torch.testing.assert_close(network.forward_head(features), network.get_classifier()(pooled))
    assert network.num_features == network.head_hidden_size == pooled.shape[1]


@pytest.mark.parametrize(
    ("classes", "pool", "shape"), [(7, None, (2, 7)), (3, "max", (2, 3)), (0, None, (2, 40)), (0, "", (2, 40, 2, 2))]
)
def test_another_classifier(classes: int, pool: str | None, shape: tuple[int, ...]) -> None:
    network = small().eval()
    network.reset_classifier(classes, pool)
    assert network(torch.randn(2, 3, 9, 11)).shape == shape
    assert network.num_classes == classes
    assert network.global_pool == ("avg" if pool is None else pool)


@pytest.mark.parametrize(("indices", "taken"), [(None, [0, 1, 2]), (1, [2]), ([0, 1], [0, 1]), ([-2], [1])])
@pytest.mark.parametrize("stop_early", [False, True])
def test_intermediates(indices: Any, taken: list[int], stop_early: bool) -> None:
    network = small().eval()
    x = torch.randn(1, 3, 13, 13)
    _, every = network.forward_intermediates(x)
    maps = network.forward_intermediates(x, indices, stop_early=stop_early, intermediates_only=True)
    assert len(maps) == len(taken)
    for found, stage in zip(maps, taken, strict=True):
        assert torch.equal(found, every[stage])
    final, _ = network.forward_intermediates(x, indices, stop_early=stop_early)
    assert torch.equal(final, every[max(taken) if stop_early else -1])


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
    assert len(pyramid.model.layers) == max(i % 3 for i in indices) + 1


def test_pruning_takes_the_classifier_only_with_the_stages_it_reads() -> None:
    network = small().eval()
    assert network.prune_intermediate_layers([-1], prune_head=False) == [2]
    assert network.num_classes == 5
    assert network.prune_intermediate_layers([0], prune_head=False) == [0]
    assert network.num_classes == 0
    assert network(torch.randn(1, 3, 8, 8)).shape == (1, network.num_features, 4, 4)


@pytest.mark.parametrize("name", NAMES)
def test_every_block_has_its_alpha_and_beta(name: str) -> None:
    network: Any = timm.create_model(name, device="meta")
    acmixes = [module for module in network.modules() if isinstance(module, ACmix)]
    blocks = [module for module in network.modules() if isinstance(module, SANBlock)]
    assert len(acmixes) == ("acmix" in name) * len(blocks)
    assert sum(key.endswith((".alpha", ".beta")) for key, _ in network.named_parameters()) == 2 * len(acmixes)


@pytest.mark.parametrize(
    ("mixing", "learned"), [("learned", 2), ("alpha", 1), ("sum", 0), ("attention", 0), ("convolution", 0)]
)
def test_mixing_reaches_every_block(mixing: str, learned: int) -> None:
    network = small(mixing=mixing)
    assert sum(key.endswith((".alpha", ".beta")) for key, _ in network.named_parameters()) == 3 * learned
    assert {block.attn.mixing.mixing for stage in network.layers for block in stage.blocks} == {mixing}
    assert network.eval()(torch.randn(1, 3, 8, 8)).isfinite().all()


@pytest.mark.parametrize("kernel", [3, 5])
def test_the_shift_kernels_are_shifts_in_the_whole_network(kernel: int) -> None:
    paths = [module for module in small(kernel_size=kernel).modules() if isinstance(module, ConvolutionPath)]
    assert len(paths) == 3
    for path in paths:
        assert path.shift is not None
        assert torch.equal(path.shift.flatten(2), torch.eye(kernel**2).expand(path.channels, -1, -1))


def test_other_shifts_reach_every_block() -> None:
    paths = [module for module in small(shifts="tensor").modules() if isinstance(module, ConvolutionPath)]
    assert [path.shift for path in paths] == [None, None, None]


@pytest.mark.parametrize("name", ["san10_patchwise", "san10_acmix"])
def test_checkpointing_changes_no_gradient(name: str) -> None:
    network = small(name, dtype=torch.float64)
    x = torch.randn(3, 3, 12, 12, dtype=torch.float64)
    network(x).square().sum().backward()
    kept = {key: parameter.grad for key, parameter in network.named_parameters()}
    network.zero_grad()
    network.set_grad_checkpointing()
    assert all(stage.grad_checkpointing for stage in network.layers)
    network(x).square().sum().backward()
    for key, parameter in network.named_parameters():
        assert parameter.grad is not None, key
        torch.testing.assert_close(parameter.grad, kept[key])


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


def test_constructors_take_device_and_type() -> None:
    network = small(device="meta", dtype=torch.float16)
    assert {(p.device.type, p.dtype) for p in network.parameters()} == {("meta", torch.float16)}
    network.reset_classifier(4)
    assert (network.get_classifier().weight.device.type, network.get_classifier().weight.dtype) == ("meta", torch.float16)


@pytest.mark.parametrize(
    ("arguments", "names"),
    [
        ({"channels": (16, 24)}, ["channels", "3 stages", "[16, 24]"]),
        ({"windows": (3,)}, ["windows", "3 stages", "[3]"]),
        ({"channels": (16, 20, 40)}, ["channels=20", "heads=2"]),
        ({"heads": 0}, ["heads=0"]),
        ({"windows": (3, 7, 4)}, ["window=4"]),
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
        small().forward_intermediates(torch.randn(1, 3, 8, 8), output_fmt="NHWC")

"""What all operators have in common: shapes, errors, types, cost."""

from __future__ import annotations

from typing import Any

import pytest
import torch

from acmix_nas.operators import (
    ACmix,
    Convolution,
    GlobalAttention,
    GlobalPath,
    LocalAttention,
    LocalPath,
    Operator,
    Output,
    Projection,
    ReducedProjection,
    WindowAttention,
    WindowPath,
    strided,
)
from acmix_nas.util.errors import UserError


def WithOutput(in_channels: int, out_channels: int, heads: int, stride: int = 1, **like: Any) -> Operator:  # noqa: N802
    """Make window attention as in a block of Swin: a table, and an output projection."""
    path = WindowPath(out_channels, heads, stride=stride, shift=True, position="table", **like)
    return Operator(Projection(in_channels, 3 * out_channels, **like), Output(path, **like))


def Reduced(_: int, channels: int, heads: int, stride: int = 1, **like: Any) -> Operator:  # noqa: N802
    """Make global attention as in a block of PVT, where as many channels come out as go in."""
    path = GlobalPath(channels, heads, stride, reduction=2, position="none", **like)
    return Operator(ReducedProjection(channels, 2, **like), Output(path, **like))


CLASSES = [Convolution, LocalAttention, WindowAttention, GlobalAttention, ACmix, WithOutput]
ALL = [*CLASSES, Reduced]


@pytest.mark.parametrize("cls", CLASSES)
@pytest.mark.parametrize("stride", [1, 2, 3])
@pytest.mark.parametrize("side", [1, 4, 7, 10])
def test_output_size_is_that_of_a_padded_convolution(cls: Any, stride: int, side: int) -> None:
    out = cls(6, 8, heads=2, stride=stride)(torch.randn(1, 6, side, side))
    expected = torch.nn.functional.conv2d(torch.randn(1, 1, side, side), torch.ones(1, 1, 3, 3), stride=stride, padding=1)
    assert out.shape == (1, 8, *expected.shape[2:])


@pytest.mark.parametrize("cls", ALL)
@pytest.mark.parametrize("training", [True, False])
def test_autocast_to_bfloat16_stays_close(cls: Any, training: bool) -> None:
    torch.manual_seed(0)
    operator = cls(16, 16, heads=4).train(training)
    x = torch.randn(2, 16, 9, 9, requires_grad=True)
    with torch.autocast("cpu", dtype=torch.bfloat16):
        out = operator(x)
    out.float().square().sum().backward()
    assert x.grad is not None
    assert x.grad.isfinite().all()
    torch.testing.assert_close(out.float(), operator(x), atol=0.05, rtol=0.05)


@pytest.mark.parametrize("cls", ALL)
def test_every_parameter_has_a_gradient(cls: Any) -> None:
    operator = cls(8, 8, heads=2)
    operator(torch.randn(2, 8, 8, 8)).square().sum().backward()
    without = [name for name, p in operator.named_parameters() if p.grad is None]
    assert without == []


@pytest.mark.parametrize("cls", ALL)
def test_memory_format_does_not_matter(cls: Any) -> None:
    operator = cls(8, 8, heads=2)
    x = torch.randn(2, 8, 6, 5)
    torch.testing.assert_close(operator(x), operator(x.contiguous(memory_format=torch.channels_last)))


@pytest.mark.parametrize("cls", ALL)
def test_one_image_does_not_see_another(cls: Any) -> None:
    operator = cls(8, 8, heads=2)
    x = torch.randn(3, 8, 9, 9)
    torch.testing.assert_close(operator(x)[1:2], operator(x[1:2]), atol=1e-5, rtol=1e-5)


@pytest.mark.parametrize("cls", ALL)
def test_constructors_take_device_and_type(cls: Any) -> None:
    operator = cls(8, 8, heads=2, device="meta", dtype=torch.float16)
    assert {(p.device.type, p.dtype) for p in operator.parameters()} == {("meta", torch.float16)}


@pytest.mark.parametrize("cls", ALL)
def test_compiles_to_the_same_output(cls: Any) -> None:
    torch.compiler.reset()  # all operators share one forward, and a process compiles that only so often
    operator = cls(8, 8, heads=2)
    x = torch.randn(1, 8, 6, 6)
    compiled: Any = torch.compile(operator, backend="aot_eager", fullgraph=True)
    torch.testing.assert_close(compiled(x), operator(x), atol=1e-5, rtol=1e-5)


@pytest.mark.gpu
@pytest.mark.parametrize("cls", ALL)
def test_cuda_agrees_with_the_cpu(cls: Any) -> None:
    operator = cls(16, 16, heads=4)
    x = torch.randn(2, 16, 9, 9)
    expected = operator(x)
    torch.testing.assert_close(operator.cuda()(x.cuda()).cpu(), expected, atol=1e-4, rtol=1e-4)


@pytest.mark.parametrize(
    ("arguments", "names"),
    [
        ({"heads": 3}, ["out_channels=8", "heads=3"]),
        ({"heads": 0}, ["heads=0"]),
        ({"window": 4}, ["window=4", "odd"]),
        ({"border": "wrap"}, ["border", "reflect, mask", "'wrap'"]),
        ({"attention": "axial"}, ["attention", "global", "local", "'axial'"]),
        ({"mixing": "none"}, ["mixing", "convex, learned", "'none'"]),
        ({"kernel_size": 2}, ["kernel_size=2"]),
        ({"stride": 0}, ["stride=0"]),
        ({"dilation": 0}, ["dilation=0"]),
        ({"attention": "global", "reduction": 0}, ["reduction=0"]),
        ({"attention": "window", "window": 0}, ["window=0"]),
    ],
)
def test_errors_name_the_argument(arguments: dict[str, Any], names: list[str]) -> None:
    with pytest.raises(UserError) as error:
        ACmix(8, 8, **{"heads": 2, **arguments})
    message = str(error.value)
    assert "\n" not in message
    assert all(name in message for name in names), message


@pytest.mark.parametrize("name", ["acmix_local", "acmix_local_k3", "acmix_window", "acmix_window_k4", "acmix_global_r2"])
def test_an_acmix_knows_its_name(name: str) -> None:
    from acmix_nas.slots.finding import Slot
    from acmix_nas.slots.making import make_operator

    assert make_operator(Slot("x", 8, 8, heads=2), name).get_submodule("operator").name == name


def test_alpha_and_beta_start_at_one_half() -> None:
    operator = ACmix(8, 8, heads=2)
    assert (operator.alpha.item(), operator.beta.item()) == (0.5, 0.5)
    assert operator.alpha.requires_grad
    assert not ACmix(8, 8, heads=2, mixing="sum").alpha.requires_grad


def test_cost_is_that_of_table_1() -> None:
    channels, heads, height, width = 64, 4, 14, 14
    cost = ACmix(channels, channels, heads=heads, position="none", device="meta").macs(height, width)
    area = height * width
    assert cost.stage1 == 3 * channels**2 * area
    assert cost.stage2 == (2 * 7**2 + 3 * 3**2 + 3**4) * channels * area
    assert cost.total == cost.stage1 + cost.stage2


def test_strided_queries_cost_less() -> None:
    full = LocalAttention(8, 8, heads=2, position="none").macs(8, 8)
    strided = LocalAttention(8, 8, heads=2, position="none", stride=2).macs(8, 8)
    assert strided.stage1 == full.stage1
    assert strided.stage2 == full.stage2 / 4


def test_an_output_projection_follows_its_path() -> None:
    path = LocalPath(8, 2, window=3)
    output = Output(path)
    maps = torch.randn(2, 24, 5, 7)
    expected = torch.nn.functional.linear(path(maps).movedim(1, -1), output.proj.weight[:, :, 0, 0], output.proj.bias)
    torch.testing.assert_close(output(maps), expected.movedim(-1, 1))
    assert (output.name, output.channels, output.heads, output.stride) == ("local_k3", 8, 2, 1)


@pytest.mark.parametrize("stride", [1, 2, 3])
def test_an_output_projection_costs_what_comes_out(stride: int) -> None:
    path = LocalPath(8, 2, stride=stride)
    assert Output(path).macs(9, 7) == path.macs(9, 7) + 8 * 8 * strided(9, stride) * strided(7, stride)


@pytest.mark.parametrize("reduction", [1, 2, 4])
def test_a_reduced_projection_costs_queries_the_reduction_and_fewer_keys(reduction: int) -> None:
    area, cells = 9 * 7, strided(9, reduction) * strided(7, reduction)
    expected = 8 * 8 * area + 8 * 8 * reduction**2 * cells + 8 * 16 * cells
    assert ReducedProjection(8, reduction).macs(9, 7) == expected


@pytest.mark.parametrize(("reduction", "size"), [(2, (4, 6)), (3, (5, 7)), (4, (3, 9))])
def test_reduced_keys_and_values_stand_at_all_their_pixels(reduction: int, size: tuple[int, int]) -> None:
    maps = ReducedProjection(6, reduction)(torch.randn(2, 6, *size))
    assert maps.shape == (2, 18, *size)
    for i in range(size[0]):
        for j in range(size[1]):
            corner = maps[:, 6:, i // reduction * reduction, j // reduction * reduction]
            assert torch.equal(maps[:, 6:, i, j], corner)
    assert maps[:, 6:].flatten(2).unique(dim=2).shape[2] == strided(size[0], reduction) * strided(size[1], reduction)

"""Outputs and gradients of every operator agree with the formulas of the paper, in float64, at every kind of size."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import Any

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor, nn

from acmix_nas.operators import (
    POSITIONS,
    ACmix,
    Convolution,
    ConvolutionPath,
    GlobalAttention,
    GlobalPath,
    LinearPosition,
    LocalAttention,
    LocalPath,
    Operator,
    Output,
    Projection,
    ReducedProjection,
    RelativeBias,
    WindowAttention,
    WindowPath,
)
from acmix_nas.operators.patchwise_attention import PatchwisePath
from tests import reference
from tests.small import Tolerance, about, known, part

TOLERANCE: Tolerance = {"atol": 1e-9, "rtol": 1e-9}
SIZES = [(1, 1), (2, 3), (5, 5), (7, 7), (8, 13), (15, 9)]


@pytest.fixture(autouse=True)
def double() -> Iterator[None]:
    torch.manual_seed(0)
    torch.set_default_dtype(torch.float64)
    yield
    torch.set_default_dtype(torch.float32)


def scramble(module: nn.Module) -> None:
    """Give every trained parameter a value of its own, α and β too, so that no term vanishes."""
    for parameter in module.parameters():
        if parameter.requires_grad:
            nn.init.normal_(parameter, std=0.5)


def by_formula(path: Any, q: Tensor, k: Tensor, v: Tensor) -> Tensor:
    if isinstance(path, Output):
        out = by_formula(path.path, q, k, v)
        return torch.einsum("oi,bihw->bohw", path.proj.weight.flatten(1), out) + known(path.proj.bias)[:, None, None]
    if isinstance(path, ConvolutionPath):
        return reference.convolution(q, k, v, path.fc, path.shift, path.stride, path.dilation, path.bias)
    linear = path.position.linear if isinstance(path.position, LinearPosition) else None
    position = None if linear is None else (linear.weight, linear.bias)
    table = path.position.table if isinstance(path.position, RelativeBias) else None
    if isinstance(path, LocalPath):
        return reference.local_attention(
            q, k, v, position, path.window, path.stride, path.dilation, path.border, table
        )  # fmt: skip
    if isinstance(path, WindowPath):
        return reference.window_attention(q, k, v, position, path.window, path.stride, path.shift, table)
    return reference.global_attention(q, k, v, position, path.stride)


def expected(operator: Operator | ACmix, x: Tensor) -> Tensor:
    conv = part(operator, "projection.qkv", nn.Conv2d)
    if isinstance(operator, Operator):
        return by_formula(operator.path, *reference.project(x, conv.weight, conv.bias, operator.path.heads))
    paths = [path for path in (operator.attention, operator.convolution) if path is not None]
    maps = reference.project(x, conv.weight, conv.bias, paths[0].heads)
    if len(paths) == 1:
        return by_formula(paths[0], *maps)
    return operator.alpha * by_formula(paths[0], *maps) + operator.beta * by_formula(paths[1], *maps)


def check(operator: Operator | ACmix, height: int, width: int) -> None:
    scramble(operator)
    x = torch.randn(2, part(operator, "projection.qkv", nn.Conv2d).in_channels, height, width, requires_grad=True)
    compare(operator, x, operator(x), expected(operator, x))


def compare(module: nn.Module, x: Tensor, out: Tensor, oracle: Tensor) -> None:
    """Compare the output, and the gradients of x and of every trained parameter."""
    torch.testing.assert_close(out, oracle, **TOLERANCE)
    cotangent = torch.randn_like(out)
    wanted = [x, *(p for p in module.parameters() if p.requires_grad)]
    names = ["x", *(n for n, p in module.named_parameters() if p.requires_grad)]
    got = torch.autograd.grad(out, wanted, cotangent, allow_unused=True, materialize_grads=True)
    oracle_grads = torch.autograd.grad(oracle, wanted, cotangent, allow_unused=True, materialize_grads=True)
    for name, a, b in zip(names, got, oracle_grads, strict=True):
        torch.testing.assert_close(a, b, **TOLERANCE, msg=about(f"gradient of {name}"))


VARIANTS: dict[str, Callable[[], Operator | ACmix]] = {
    "local": lambda: LocalAttention(3, 8, heads=2),
    "local_k3": lambda: LocalAttention(3, 8, heads=4, window=3),
    "local_k1": lambda: LocalAttention(3, 8, heads=4, window=1),
    "local_stride": lambda: LocalAttention(3, 8, heads=2, stride=2),
    "local_stride3": lambda: LocalAttention(3, 8, heads=2, stride=3, window=5),
    "local_dilation": lambda: LocalAttention(3, 8, heads=2, window=5, dilation=2),
    "local_dilation_stride": lambda: LocalAttention(3, 8, heads=2, window=3, dilation=3, stride=2),
    "local_mask": lambda: LocalAttention(3, 8, heads=2, border="mask"),
    "local_mask_stride_dilation": lambda: LocalAttention(3, 8, heads=2, window=3, border="mask", stride=2, dilation=2),
    "local_no_position": lambda: LocalAttention(3, 8, heads=1, position="none", bias=False),
    "local_table": lambda: LocalAttention(3, 8, heads=2, position="table"),
    "local_table_k1": lambda: LocalAttention(3, 8, heads=4, window=1, position="table"),
    "local_table_stride": lambda: LocalAttention(3, 8, heads=2, window=5, stride=2, position="table"),
    "local_table_stride3_dilation2": lambda: LocalAttention(3, 8, heads=4, window=3, stride=3, dilation=2, position="table"),
    "local_table_mask": lambda: LocalAttention(3, 8, heads=2, border="mask", position="table"),
    "local_table_mask_stride_dilation": lambda: LocalAttention(
        3, 8, heads=2, window=3, border="mask", stride=2, dilation=3, position="table"
    ),
    "window": lambda: WindowAttention(3, 8, heads=2, window=4),
    "window_shift": lambda: WindowAttention(3, 8, heads=2, window=4, shift=True),
    "window_shift_odd": lambda: WindowAttention(3, 8, heads=2, window=3, shift=True, position="none"),
    "window_stride": lambda: WindowAttention(3, 8, heads=2, window=3, shift=True, stride=2),
    "window_table": lambda: WindowAttention(3, 8, heads=2, window=4, position="table"),
    "window_table_shift": lambda: WindowAttention(3, 8, heads=4, shift=True, position="table"),
    "window_table_shift_stride": lambda: WindowAttention(3, 8, heads=2, window=3, shift=True, stride=2, position="table"),
    "window_table_output": lambda: Operator(
        Projection(3, 24), Output(WindowPath(8, 2, window=5, shift=True, position="table"))
    ),
    "global": lambda: GlobalAttention(3, 8, heads=2),
    "global_stride": lambda: GlobalAttention(3, 8, heads=4, stride=2, position="none"),
    "conv": lambda: Convolution(3, 8, heads=2),
    "conv_k5": lambda: Convolution(3, 8, heads=4, kernel_size=5),
    "conv_factored": lambda: Convolution(3, 16, heads=8),
    "conv_stride_dilation": lambda: Convolution(3, 8, heads=2, stride=2, dilation=2),
    "conv_tensor": lambda: Convolution(3, 8, heads=2, shifts="tensor"),
    "conv_tensor_k5_stride_dilation": lambda: Convolution(3, 8, heads=4, kernel_size=5, stride=3, dilation=2, shifts="tensor"),
    "conv_fixed": lambda: Convolution(3, 8, heads=2, shifts="fixed"),
    "conv_random_factored": lambda: Convolution(3, 16, heads=8, shifts="random"),
    "acmix": lambda: ACmix(3, 8, heads=2),
    "acmix_stride": lambda: ACmix(3, 8, heads=4, stride=2),
    "acmix_dilation": lambda: ACmix(3, 8, heads=2, window=3, dilation=2, border="mask"),
    "acmix_window": lambda: ACmix(3, 8, heads=2, attention="window", window=4, shift=True),
    "acmix_global": lambda: ACmix(3, 8, heads=2, attention="global", stride=2),
    "acmix_sum": lambda: ACmix(3, 8, heads=2, window=3, mixing="sum", bias=False),
    "acmix_alpha": lambda: ACmix(3, 8, heads=2, window=3, mixing="alpha", shifts="fixed"),
    "acmix_convex": lambda: ACmix(3, 8, heads=2, attention="window", window=3, mixing="convex", position="table"),
    "acmix_attention": lambda: ACmix(3, 8, heads=2, window=3, mixing="attention", position="table"),
    "acmix_convolution": lambda: ACmix(3, 8, heads=2, mixing="convolution", shifts="tensor"),
    "acmix_local_table": lambda: ACmix(3, 8, heads=4, window=3, stride=2, dilation=2, position="table"),
}
# fc's bias in both forms of the path, whole and where a stride or a dilation reaches over the border.
BIASED: dict[str, Callable[[], ConvolutionPath]] = {
    "merged": lambda: ConvolutionPath(8, 2, bias=True),
    "merged_stride_dilation": lambda: ConvolutionPath(8, 4, stride=2, dilation=3, bias=True),
    "merged_k5": lambda: ConvolutionPath(8, 8, kernel_size=5, stride=3, bias=True),
    "factored": lambda: ConvolutionPath(16, 8, bias=True),
    "factored_stride_dilation": lambda: ConvolutionPath(16, 16, stride=2, dilation=2, bias=True),
    "tensor": lambda: ConvolutionPath(8, 2, shifts="tensor", bias=True),
    "tensor_k5_stride_dilation": lambda: ConvolutionPath(8, 4, 5, 2, 2, shifts="tensor", bias=True),
    "fixed": lambda: ConvolutionPath(8, 4, shifts="fixed", stride=2, bias=True),
}


@pytest.mark.parametrize("size", SIZES, ids=lambda size: f"{size[0]}x{size[1]}")
@pytest.mark.parametrize("variant", VARIANTS)
def test_output_and_gradients(variant: str, size: tuple[int, int]) -> None:
    check(VARIANTS[variant](), *size)


@pytest.mark.parametrize("size", SIZES, ids=lambda size: f"{size[0]}x{size[1]}")
@pytest.mark.parametrize("variant", BIASED)
def test_the_bias_of_fc_passes_through_the_zero_padding(variant: str, size: tuple[int, int]) -> None:
    path = BIASED[variant]()
    check(Operator(Projection(3, 3 * path.channels), path), *size)


@settings(max_examples=60, deadline=None)
@given(
    height=st.integers(1, 17),
    width=st.integers(1, 17),
    window=st.sampled_from([1, 3, 5, 7, 9]),
    stride=st.integers(1, 3),
    dilation=st.integers(1, 3),
    border=st.sampled_from(["reflect", "mask"]),
    position=st.sampled_from(POSITIONS),
)
def test_local_attention_at_any_size(height: int, width: int, **path: Any) -> None:
    check(LocalAttention(2, 4, heads=2, **path), height, width)


@settings(max_examples=60, deadline=None)
@given(
    height=st.integers(1, 17),
    width=st.integers(1, 17),
    window=st.integers(1, 8),
    stride=st.integers(1, 3),
    shift=st.booleans(),
    position=st.sampled_from(POSITIONS),
)
def test_window_attention_at_any_size(height: int, width: int, **path: Any) -> None:
    check(WindowAttention(2, 4, heads=2, **path), height, width)


def test_the_bias_of_the_positional_encoding_has_no_gradient() -> None:
    operator = LocalAttention(3, 8, heads=2)
    scramble(operator)
    operator(torch.randn(1, 3, 6, 6)).square().sum().backward()
    gradient = operator.get_parameter("path.position.linear.bias").grad
    assert gradient is not None
    assert gradient.abs().max() < 1e-12


@pytest.mark.parametrize("reduction", [2, 3])
def test_spatial_reduction_equals_projecting_the_means(reduction: int) -> None:
    operator = GlobalAttention(3, 8, heads=2, reduction=reduction, position="none")
    x = torch.randn(2, 3, 6, 12)
    conv = part(operator, "projection.qkv", nn.Conv2d)
    q, _, _ = reference.project(x, conv.weight, conv.bias, 2)
    means = torch.nn.functional.avg_pool2d(x, reduction)
    _, k, v = reference.project(means, conv.weight, conv.bias, 2)
    weights = (torch.einsum("bndi,bndj->bnij", q.flatten(3), k.flatten(3)) / 2).softmax(dim=-1)
    oracle = torch.einsum("bnij,bndj->bndi", weights, v.flatten(3)).unflatten(3, (6, 12)).flatten(1, 2)
    torch.testing.assert_close(operator(x), oracle, **TOLERANCE)


@pytest.mark.parametrize("size", [(1, 1), (2, 3), (5, 4), (8, 8), (7, 13)], ids=lambda size: f"{size[0]}x{size[1]}")
@pytest.mark.parametrize("reduction", [2, 3, 8])
def test_pvts_projection(reduction: int, size: tuple[int, int]) -> None:
    projection = ReducedProjection(6, reduction)
    scramble(projection)
    x = torch.randn(2, 6, *size, requires_grad=True)
    oracle = reference.project_reduced(x, projection.q, projection.reduce, projection.norm, projection.kv, reduction)
    compare(projection, x, projection(x), torch.cat(oracle, dim=1))


@pytest.mark.parametrize("size", [(4, 6), (5, 7), (9, 2)], ids=lambda size: f"{size[0]}x{size[1]}")
@pytest.mark.parametrize("reduction", [2, 3])
def test_pvts_attention_takes_every_reduced_key_once(reduction: int, size: tuple[int, int]) -> None:
    stage1 = ReducedProjection(6, reduction)
    operator = Operator(stage1, GlobalPath(6, 2, reduction=reduction, position="none"))
    scramble(operator)
    x = torch.randn(2, 6, *size, requires_grad=True)
    q, k, v = reference.project_reduced(x, stage1.q, stage1.reduce, stage1.norm, stage1.kv, reduction)
    q, k, v = (part.unflatten(1, (2, 3)) for part in (q, *(m[..., ::reduction, ::reduction] for m in (k, v))))
    logits = torch.einsum("bndi,bndj->bnij", q.flatten(3), k.flatten(3)) / 3**0.5
    oracle = torch.einsum("bnij,bndj->bndi", logits.softmax(dim=-1), v.flatten(3)).flatten(1, 2).unflatten(2, size)
    compare(operator, x, operator(x), oracle)


@pytest.mark.parametrize("size", [(2, 3), (5, 5), (8, 11)], ids=lambda size: f"{size[0]}x{size[1]}")
@pytest.mark.parametrize("shape", [{}, {"stride": 2}, {"dilation": 2}], ids=["plain", "stride", "dilation"])
@pytest.mark.parametrize("heads", [2, 8, 16])
def test_both_paths_of_patchwise_read_two_maps_and_the_values(heads: int, shape: dict[str, Any], size: tuple[int, int]) -> None:
    operator = ACmix(3, 16, heads=heads, attention="patchwise", window=3, **shape).eval()
    scramble(operator)
    x = torch.randn(2, 3, *size, requires_grad=True)
    head_dim, attention, convolution = 16 // heads, part(operator, "attention", PatchwisePath), known(operator.convolution)
    stage1 = part(operator, "projection.qkv", nn.Conv2d)
    maps = torch.einsum("oi,bihw->bohw", stage1.weight.flatten(1), x) + known(stage1.bias)[:, None, None]
    q, k, v = maps.split((head_dim, head_dim, 16), dim=1)
    attended = reference.patchwise_attention(
        q, k, v, attention.norm1, attention.squeeze.weight.flatten(1), attention.norm2,
        (attention.expand.weight.flatten(1), known(attention.expand.bias)), 3, **shape,
    )  # fmt: skip
    convolved = reference.convolution(
        q[:, None], k[:, None], v.unflatten(1, (heads, head_dim)), convolution.fc, convolution.shift, **shape
    )
    compare(operator, x, operator(x), operator.alpha * attended + operator.beta * convolved)


def test_keys_out_of_every_reach() -> None:
    """A stride as wide as the window leaves pixels at the end of the map that no query sees."""
    check(LocalAttention(2, 4, heads=2, window=3, stride=3), 1, 3)

"""Outputs and gradients of every operator agree with the formulas of the paper, in float64, at every kind of size."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import Any

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor, nn

from acmix_nas.operators import ACmix, Convolution, GlobalAttention, LocalAttention, Operator, WindowAttention
from tests import reference

TOLERANCE = {"atol": 1e-9, "rtol": 1e-9}
SIZES = [(1, 1), (2, 3), (5, 5), (7, 7), (8, 13), (15, 9)]


@pytest.fixture(autouse=True)
def double() -> Iterator[None]:
    torch.manual_seed(0)
    torch.set_default_dtype(torch.float64)
    yield
    torch.set_default_dtype(torch.float32)


def scramble(module: nn.Module) -> None:
    """Give every parameter a value of its own, α and β too, so that no term vanishes."""
    for parameter in module.parameters():
        nn.init.normal_(parameter, std=0.5)


def position_of(path: Any) -> tuple[Tensor, Tensor] | None:
    return None if path.position is None else (path.position.linear.weight, path.position.linear.bias)


def by_formula(path: Any, q: Tensor, k: Tensor, v: Tensor) -> Tensor:
    kind = type(path).__name__
    if kind == "LocalPath":
        return reference.local_attention(
            q, k, v, position_of(path), path.window, path.stride, path.dilation, path.border
        )  # fmt: skip
    if kind == "WindowPath":
        return reference.window_attention(q, k, v, position_of(path), path.window, path.stride, path.shift)
    if kind == "GlobalPath":
        return reference.global_attention(q, k, v, position_of(path), path.stride)
    return reference.convolution(q, k, v, path.fc, path.shift, path.stride, path.dilation)


def expected(operator: Operator | ACmix, x: Tensor) -> Tensor:
    conv = operator.projection.qkv
    if isinstance(operator, ACmix):
        maps = reference.project(x, conv.weight, conv.bias, operator.convolution.heads)
        attention, convolution = by_formula(operator.attention, *maps), by_formula(operator.convolution, *maps)
        return operator.alpha * attention + operator.beta * convolution
    return by_formula(operator.path, *reference.project(x, conv.weight, conv.bias, operator.path.heads))


def check(operator: Operator | ACmix, height: int, width: int) -> None:
    scramble(operator)
    x = torch.randn(2, operator.projection.in_channels, height, width, requires_grad=True)
    out, oracle = operator(x), expected(operator, x)
    torch.testing.assert_close(out, oracle, **TOLERANCE)
    cotangent = torch.randn_like(out)
    wanted = [x, *(p for p in operator.parameters() if p.requires_grad)]
    names = ["x", *(n for n, p in operator.named_parameters() if p.requires_grad)]
    got = torch.autograd.grad(out, wanted, cotangent, allow_unused=True, materialize_grads=True)
    oracle_grads = torch.autograd.grad(oracle, wanted, cotangent, allow_unused=True, materialize_grads=True)
    for name, a, b in zip(names, got, oracle_grads, strict=True):
        torch.testing.assert_close(a, b, **TOLERANCE, msg=lambda text, name=name: f"gradient of {name}: {text}")


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
    "local_no_position": lambda: LocalAttention(3, 8, heads=1, position=False, bias=False),
    "window": lambda: WindowAttention(3, 8, heads=2, window=4),
    "window_shift": lambda: WindowAttention(3, 8, heads=2, window=4, shift=True),
    "window_shift_odd": lambda: WindowAttention(3, 8, heads=2, window=3, shift=True, position=False),
    "window_stride": lambda: WindowAttention(3, 8, heads=2, window=3, shift=True, stride=2),
    "global": lambda: GlobalAttention(3, 8, heads=2),
    "global_stride": lambda: GlobalAttention(3, 8, heads=4, stride=2, position=False),
    "conv": lambda: Convolution(3, 8, heads=2),
    "conv_k5": lambda: Convolution(3, 8, heads=4, kernel_size=5),
    "conv_factored": lambda: Convolution(3, 16, heads=8),
    "conv_stride_dilation": lambda: Convolution(3, 8, heads=2, stride=2, dilation=2),
    "acmix": lambda: ACmix(3, 8, heads=2),
    "acmix_stride": lambda: ACmix(3, 8, heads=4, stride=2),
    "acmix_dilation": lambda: ACmix(3, 8, heads=2, window=3, dilation=2, border="mask"),
    "acmix_window": lambda: ACmix(3, 8, heads=2, attention="window", window=4, shift=True),
    "acmix_global": lambda: ACmix(3, 8, heads=2, attention="global", stride=2),
    "acmix_fixed": lambda: ACmix(3, 8, heads=2, window=3, mixing="fixed", bias=False),
}


@pytest.mark.parametrize("size", SIZES, ids=lambda size: f"{size[0]}x{size[1]}")
@pytest.mark.parametrize("variant", VARIANTS)
def test_output_and_gradients(variant: str, size: tuple[int, int]) -> None:
    check(VARIANTS[variant](), *size)


@settings(max_examples=25, deadline=None)
@given(
    height=st.integers(1, 17),
    width=st.integers(1, 17),
    window=st.sampled_from([1, 3, 5, 7, 9]),
    stride=st.integers(1, 3),
    dilation=st.integers(1, 3),
    border=st.sampled_from(["reflect", "mask"]),
)
def test_local_attention_at_any_size(height: int, width: int, window: int, stride: int, dilation: int, border: str) -> None:
    check(
        LocalAttention(2, 4, heads=2, window=window, stride=stride, dilation=dilation, border=border), height, width
    )  # fmt: skip


@settings(max_examples=25, deadline=None)
@given(height=st.integers(1, 17), width=st.integers(1, 17), window=st.integers(1, 8), shift=st.booleans())
def test_window_attention_at_any_size(height: int, width: int, window: int, shift: bool) -> None:
    check(WindowAttention(2, 4, heads=2, window=window, shift=shift), height, width)


def test_the_bias_of_the_positional_encoding_has_no_gradient() -> None:
    operator = LocalAttention(3, 8, heads=2)
    scramble(operator)
    operator(torch.randn(1, 3, 6, 6)).square().sum().backward()
    gradient = operator.path.position.linear.bias.grad
    assert gradient is not None
    assert gradient.abs().max() < 1e-12


@pytest.mark.parametrize("reduction", [2, 3])
def test_spatial_reduction_equals_projecting_the_means(reduction: int) -> None:
    operator = GlobalAttention(3, 8, heads=2, reduction=reduction, position=False)
    x = torch.randn(2, 3, 6, 12)
    conv = operator.projection.qkv
    q, _, _ = reference.project(x, conv.weight, conv.bias, 2)
    means = torch.nn.functional.avg_pool2d(x, reduction)
    _, k, v = reference.project(means, conv.weight, conv.bias, 2)
    weights = (torch.einsum("bndi,bndj->bnij", q.flatten(3), k.flatten(3)) / 2).softmax(dim=-1)
    oracle = torch.einsum("bnij,bndj->bndi", weights, v.flatten(3)).unflatten(3, (6, 12)).flatten(1, 2)
    torch.testing.assert_close(operator(x), oracle, **TOLERANCE)

"""The convolution path: its start, and the forms that it equals."""

from __future__ import annotations

import pytest
import torch
from torch import nn
from torch.nn import functional as F

from acmix_nas.operators import Convolution, ConvolutionPath
from tests import reference
from tests.small import known, part


@pytest.mark.parametrize("kernel", [3, 5])
def test_starts_as_tensor_shifts(kernel: int) -> None:
    path = ConvolutionPath(8, heads=2, kernel_size=kernel)
    maps = torch.randn(2, 24, 6, 7)
    out = path(maps).unflatten(1, (4, 2))  # (B, D, N, H, W)
    light = torch.einsum("tm,bmdhw->bdthw", path.fc, maps.unflatten(1, (6, 4)))
    for d in range(4):
        oracle = reference.shift_tensors(light[:, d], kernel)
        for head in range(2):
            torch.testing.assert_close(out[:, d, head], oracle, atol=1e-5, rtol=1e-5)


@pytest.mark.parametrize("heads", [1, 2, 4, 8])
@pytest.mark.parametrize("kernel", [1, 3, 5])
def test_merged_and_factored_forms_are_equal(heads: int, kernel: int) -> None:
    operator = Convolution(5, 16, heads=heads, kernel_size=kernel).double()
    nn.init.normal_(known(operator.path.shift))
    x = torch.randn(2, 5, 9, 8, dtype=torch.float64)
    conv = part(operator, "projection.qkv", nn.Conv2d)
    q, k, v = reference.project(x, conv.weight, conv.bias, heads)
    oracle = reference.convolution(q, k, v, operator.path.fc, operator.path.shift)
    torch.testing.assert_close(operator(x), oracle, atol=1e-10, rtol=1e-10)


def test_the_cheaper_form_runs() -> None:
    assert not ConvolutionPath(16, heads=4).factored
    assert ConvolutionPath(16, heads=8).factored
    assert not ConvolutionPath(16, heads=8, kernel_size=5).factored


@pytest.mark.parametrize("stride", [1, 2])
@pytest.mark.parametrize("dilation", [1, 2])
@pytest.mark.parametrize("heads", [2, 8])
def test_collapses_to_a_dense_kernel(stride: int, dilation: int, heads: int) -> None:
    operator = Convolution(5, 16, heads=heads, stride=stride, dilation=dilation, bias=False).double()
    nn.init.normal_(known(operator.path.shift))
    x = torch.randn(2, 5, 9, 8, dtype=torch.float64)
    dense = operator.path.dense(operator.get_parameter("projection.qkv.weight"))
    oracle = F.conv2d(x, dense, stride=stride, padding=dilation, dilation=dilation)
    torch.testing.assert_close(operator(x), oracle, atol=1e-10, rtol=1e-10)


def test_the_start_survives_a_host_that_initialises_every_convolution() -> None:
    operator = Convolution(4, 8, heads=2)
    start = known(operator.path.shift).detach().clone()
    for module in operator.modules():
        if isinstance(module, nn.Conv2d | nn.Linear):
            nn.init.constant_(module.weight, 7.0)
    assert torch.equal(known(operator.path.shift), start)
